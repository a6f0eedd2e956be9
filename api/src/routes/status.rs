//! How the pipeline is doing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use clickmill_model::records::{Books, CLICK_PARTIALS, CLICK_RESULTS, LATE_CLICKS, TOP_CANDIDATES};
use clickmill_model::{Definition, Minute, RejectReason, Watermark};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{Committed, Queue, QueueError, TopicPartition, topology};
use clickmill_store::{StoreError, StoreProgress};
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::filters::FilterAnswer;
use super::fresh_json;
use super::reconciled::ReconciliationAnswer;
use super::revision::{RevisionAnswer, revisions};
use crate::app::App;
use crate::board::{RunState, StageState};
use crate::catalog::Definitions;
use crate::http::problem::{Problem, ProblemBody};
use crate::params::NoParameters;
use crate::revised::Revised;

/// How old an answer may be. Any number of pages may ask, the queue is read four times a second.
const FRESH: Duration = Duration::from_millis(250);

/// The last answer.
#[derive(Debug, Default)]
pub(crate) struct StatusCache(Mutex<Option<(Instant, Arc<StatusAnswer>)>>);

/// How the pipeline is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusAnswer {
    /// The time here, RFC 3339.
    #[schema(example = "2021-01-01T00:00:00Z")]
    now: String,
    /// What is counted; null before the pipeline first ran.
    definition: Option<DefinitionAnswer>,
    /// Everything older than this was read, RFC 3339; null where nothing was.
    #[schema(example = "2021-01-01T00:00:00Z")]
    watermark: Option<String>,
    /// The first minute whose counts are not complete; null where none is.
    #[schema(value_type = Option<u64>, example = 202_101_010_000_u64)]
    complete_until: Option<Minute>,
    /// The first minute whose rankings are not complete; null where none is.
    #[schema(value_type = Option<u64>, example = 202_101_010_000_u64)]
    rankings_complete_until: Option<Minute>,
    /// Counts that arrived long ago were deleted: those of minutes before this one are not complete; null where nothing was deleted.
    #[schema(value_type = Option<u64>, example = 202_101_010_000_u64)]
    counts_kept_from: Option<Minute>,
    /// The same for rankings.
    #[schema(value_type = Option<u64>, example = 202_101_010_000_u64)]
    rankings_kept_from: Option<Minute>,
    /// How far the watermark is behind the time, in seconds.
    delay_seconds: Option<f64>,
    /// What became of the lines that were read.
    books: BooksAnswer,
    /// Every stage.
    stages: Vec<StageAnswer>,
    /// Who sends lines.
    sources: Vec<serde_json::Value>,
    /// Recalculations, oldest first; the last 100.
    revisions: Vec<RevisionAnswer>,
    /// The last reconciliation; null where there was none.
    last_reconciliation: Option<ReconciliationAnswer>,
    /// `ok`, or `unavailable`: then what comes from there is null.
    #[schema(example = "ok")]
    store: &'static str,
    /// `ok`, `unavailable`, or `unknown` where this process cannot reach it: then what comes from there is null or 0.
    #[schema(example = "ok")]
    queue: &'static str,
}

/// What is counted.
#[derive(Debug, Serialize, ToSchema)]
struct DefinitionAnswer {
    /// From 1, one higher with each change.
    version: u32,
    /// How many ads a ranking has unless asked otherwise.
    n: u32,
    /// The windows, in minutes.
    windows: Vec<u32>,
    /// The filters.
    filters: Vec<FilterAnswer>,
}

/// What became of the lines: `lines = counted + duplicates + late + rejected`.
#[derive(Debug, Default, Serialize, ToSchema)]
struct BooksAnswer {
    /// Lines read.
    lines: u64,
    /// Clicks counted.
    counted: u64,
    /// Clicks that had been counted already.
    duplicates: u64,
    /// Clicks whose minute was closed when they came.
    late: u64,
    /// Lines that are no click.
    rejected: u64,
    /// Those, by reason.
    rejected_by_reason: BTreeMap<&'static str, u64>,
}

/// A stage of the pipeline.
#[derive(Debug, Serialize, ToSchema)]
struct StageAnswer {
    /// Its name.
    #[schema(example = "mapper")]
    name: String,
    /// What it is doing.
    state: RunState,
    /// Why, or what it waits for.
    detail: String,
    /// Records that wait for it; null where it reads no topic.
    lag_records: Option<u64>,
    /// Since when it has been in this state, RFC 3339; null where that is not known.
    since: Option<String>,
}

/// How the pipeline is doing: how far it has come, what became of the lines, and every stage.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses(
        (status = 200, description = "The status", body = StatusAnswer),
        (status = 429, description = "Too many requests wait", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The status could not be found out in time", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn status(State(app): State<Arc<App>>, _: NoParameters) -> Result<Response, Problem> {
    let reader = Arc::clone(&app);
    let read = move || {
        let mut last = reader.status.0.lock();
        if let Some((at, answer)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(answer));
        }
        let answer = Arc::new(reader.read_status());
        *last = Some((Instant::now(), Arc::clone(&answer)));
        Ok(answer)
    };
    Ok(fresh_json(&*app.queue.run(read).await?))
}

/// What the queue knows.
#[derive(Debug, Default)]
struct FromQueue {
    watermark: Option<Watermark>,
    books: Books,
    lags: BTreeMap<&'static str, u64>,
}

impl App {
    fn read_status(&self) -> StatusAnswer {
        let from_store = self.read_store().inspect_err(|error| tracing::warn!(%error, "the status lacks the store"));
        let (store, (definitions, progress, revised)) = match from_store {
            Ok(found) => ("ok", found),
            Err(_) => ("unavailable", (self.known_definitions(), StoreProgress::default(), self.revisions.known())),
        };
        let verdict = self.store().last_verdict();
        let verdict = verdict.inspect_err(|error| tracing::warn!(%error, "the status lacks the last reconciliation"));
        let verdict = verdict.ok().flatten();
        let newest = definitions.newest();
        let from_queue = self.sources.queue.as_deref().map(|queue| read_queue(queue, &definitions.all));
        let (queue, found) = match from_queue {
            None => ("unknown", FromQueue::default()),
            Some(Ok(found)) => ("ok", found),
            Some(Err(error)) => {
                tracing::warn!(%error, "the status lacks the queue");
                ("unavailable", FromQueue::default())
            }
        };
        let now = self.sources.clock.now();
        let partitions = definitions.partitions();
        let watermark = found.watermark.filter(|watermark| *watermark != Watermark::NONE);
        let behind = |watermark: Watermark| (now.as_micros() as f64 - watermark.time().as_micros() as f64) / 1e6;
        StatusAnswer {
            now: now.to_string(),
            definition: newest.map(|definition| DefinitionAnswer {
                version: definition.version,
                n: definition.n,
                windows: definition.windows.iter().map(|window| window.0).collect(),
                filters: definition.filters.iter().map(|f| FilterAnswer::new(f, &progress.filters)).collect(),
            }),
            watermark: watermark.map(|watermark| watermark.to_string()),
            complete_until: progress.counts_until(partitions),
            rankings_complete_until: progress.rankings_until(partitions),
            counts_kept_from: progress.counts_from,
            rankings_kept_from: progress.rankings_from,
            delay_seconds: watermark.map(behind),
            books: BooksAnswer::new(&found.books),
            stages: stages(self.sources.stages.all(), &found.lags),
            sources: Vec::new(),
            revisions: revisions(&revised.rows),
            last_reconciliation: verdict.map(ReconciliationAnswer::from),
            store,
            queue,
        }
    }

    fn read_store(&self) -> Result<(Arc<Definitions>, StoreProgress, Arc<Revised>), StoreError> {
        Ok((self.definitions()?, self.store().progress()?, self.revised()?))
    }
}

fn read_queue(queue: &dyn Queue, definitions: &[Definition]) -> Result<FromQueue, QueueError> {
    let Some(newest) = definitions.last() else { return Ok(FromQueue::default()) };
    let topics = RawTopics::load(queue, definitions)?;
    let read = topics.read.topics();
    let mut raw: Vec<(&str, u32)> = Vec::new();
    for input in definitions.iter().rev().flat_map(|definition| &definition.inputs) {
        if read.contains(input.topic.as_str()) && raw.iter().all(|(topic, _)| *topic != input.topic) {
            raw.push((&input.topic, input.partitions));
        }
    }
    let n = newest.partitions;
    let mut found = FromQueue::default();
    found.add_mappers(&topics);
    for (group, inputs) in [
        (topology::MAPPER, raw.as_slice()),
        (topology::AGGREGATOR, &[(CLICK_PARTIALS, n)]),
        (topology::REDUCER, &[(TOP_CANDIDATES, n)]),
        (topology::DB_WRITER, &[(CLICK_RESULTS, n)]),
        (topology::RAW_WRITER, raw.as_slice()),
        (topology::LATE_WRITER, &[(LATE_CLICKS, n)]),
    ] {
        let mut lag = 0_u64;
        for (topic, partitions) in inputs {
            let committed: BTreeMap<u32, Committed> =
                queue.committed(group, topic)?.into_iter().map(|(partition, at)| (partition.0, at)).collect();
            for partition in 0..*partitions {
                let range = queue.range(&TopicPartition::new(*topic, partition))?;
                let next = committed.get(&partition).map_or(range.start, |at| at.offset);
                lag = lag.saturating_add(range.end.0.saturating_sub(next.0));
            }
        }
        found.lags.insert(group, lag);
    }
    Ok(found)
}

impl FromQueue {
    /// Takes in what the mappers committed: the books of every topic that ever was an input, the time of those that are read. One that committed nothing has seen nothing.
    fn add_mappers(&mut self, topics: &RawTopics) {
        for checkpoint in topics.committed.values() {
            self.books.add(&checkpoint.books);
        }
        let of = |raw| topics.committed.get(raw).map_or(Watermark::NONE, |checkpoint| checkpoint.watermark);
        self.watermark = topics.read.partitions.iter().map(of).min();
    }
}

impl BooksAnswer {
    fn new(books: &Books) -> Self {
        let reasons = RejectReason::ALL.iter().map(|reason| reason.as_str());
        Self {
            lines: books.lines,
            counted: books.counted,
            duplicates: books.duplicates,
            late: books.late,
            rejected: books.rejected_total(),
            rejected_by_reason: reasons.zip(books.rejected).collect(),
        }
    }
}

/// The stages in the order in which a click meets them, then whatever else the board has.
const ORDER: [&str; 7] = [
    "log-watcher",
    topology::MAPPER,
    topology::AGGREGATOR,
    topology::REDUCER,
    topology::DB_WRITER,
    topology::RAW_WRITER,
    topology::LATE_WRITER,
];

fn stages(board: Vec<(String, StageState)>, lags: &BTreeMap<&'static str, u64>) -> Vec<StageAnswer> {
    let mut board = board;
    let mut answers: Vec<StageAnswer> = Vec::new();
    for name in ORDER {
        let here = board.iter().position(|(known, _)| known == name).map(|place| board.remove(place).1);
        // A stage that is neither here nor reads the queue that this process sees is nothing that it could speak of.
        if here.is_some() || lags.contains_key(name) {
            answers.push(StageAnswer::new(name.to_owned(), here, lags.get(name).copied()));
        }
    }
    answers.extend(board.into_iter().map(|(name, state)| StageAnswer::new(name, Some(state), None)));
    answers
}

impl StageAnswer {
    fn new(name: String, here: Option<StageState>, lag_records: Option<u64>) -> Self {
        match here {
            Some(StageState { state, detail, since }) => {
                Self { name, state, detail, lag_records, since: Some(since.to_string()) }
            }
            None => {
                let detail = "not in this process".to_owned();
                Self { name, state: RunState::Unknown, detail, lag_records, since: None }
            }
        }
    }
}
