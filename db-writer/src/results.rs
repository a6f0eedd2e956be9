//! Results to the aggregate store.
//!
//! A closing is written when its last record was read, figures before progress. Offsets are committed when the store has acknowledged; a repeated write changes nothing, so that
//! a crash between the two does no harm, nor does a writer that lost its partitions without knowing it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::records::{CLICK_RESULTS, Ranking, ResultBody, ResultRecord};
use clickmill_model::{Columns, Minute, Offset, Partition, Revision, SpanKind, Timestamp};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::topology::DB_WRITER;
use clickmill_queue::{
    Committed, Consumer, Fetched, InputCommit, Poll, Producer, Progress, Queue, QueueError, Stage, StageError,
    TopicPartition, Transaction,
};
use clickmill_store::{AggregateStore, ClosedWrite, RankedWrite, StoreError};
use parking_lot::Mutex;

/// How a writer of results runs.
#[derive(Debug, Clone)]
pub struct ResultsConfig {
    /// Stable and unique among the writers of results of a pipeline.
    pub name: String,
    /// How long records are gathered when few come.
    pub linger: Duration,
    /// How long counts are kept, from their arrival.
    pub keep_counts: Duration,
    /// How long rankings are kept, from their arrival.
    pub keep_rankings: Duration,
    /// Where the minutes are noted that had clicks, for the summary of a drain; `None` where nobody asks.
    pub minutes: Option<Arc<Mutex<BTreeSet<Minute>>>>,
}

/// How many bytes of records are read at once, about.
const POLL_BYTES: usize = 8 << 20;

/// How often definitions are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often old figures are deleted.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Closing {
    first: Option<Offset>,
    counts: Vec<(Columns, Option<Timestamp>)>,
}

#[derive(Debug, Default)]
struct Ranks {
    first: Option<Offset>,
    rankings: Vec<(Ranking, Option<Timestamp>)>,
}

#[derive(Debug)]
struct Input {
    next: Offset,
    told: Offset,
    closing: BTreeMap<(Revision, Partition), Closing>,
    ranks: BTreeMap<(Revision, Partition), Ranks>,
}

impl Input {
    /// The first record that is not wholly in the store.
    fn written(&self) -> Offset {
        let counts = self.closing.values().filter_map(|c| c.first);
        let ranks = self.ranks.values().filter_map(|r| r.first);
        counts.chain(ranks).fold(self.next, Offset::min)
    }
}

/// Writes the results of the partitions that its consumer is given.
pub struct ResultsWriter {
    queue: Arc<dyn Queue>,
    store: Arc<dyn AggregateStore>,
    config: ResultsConfig,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    definitions: Definitions,
    definitions_written: usize,
    inputs: BTreeMap<TopicPartition, Input>,
    looked: Option<Timestamp>,
    expired: Option<Timestamp>,
}

impl ResultsWriter {
    /// Joins the group and ends what is left of an earlier writer of this name.
    pub fn start(
        queue: Arc<dyn Queue>,
        store: Arc<dyn AggregateStore>,
        config: ResultsConfig,
    ) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let producer = queue.producer(&format!("db-writer-{}", config.name))?;
        let consumer = queue.consumer(DB_WRITER, &[CLICK_RESULTS])?;
        Ok(Self {
            queue,
            store,
            config,
            producer,
            consumer,
            definitions,
            definitions_written: 0,
            inputs: BTreeMap::new(),
            looked: None,
            expired: None,
        })
    }

    fn look_around(&mut self, now: Timestamp) -> Result<(), StageError> {
        if self.looked.is_some_and(|at| now.since(at) < LOOK_EVERY && now >= at) {
            return Ok(());
        }
        self.looked = Some(now);
        self.definitions.refresh(&*self.queue)?;
        for definition in self.definitions.all().iter().skip(self.definitions_written) {
            self.store.write_definition(definition).map_err(stage_error)?;
        }
        self.definitions_written = self.definitions.all().len();
        if self.expired.is_none_or(|at| now.since(at) >= EXPIRE_EVERY) {
            self.expired = Some(now);
            let counts_before = now.before(self.config.keep_counts);
            let deleted =
                self.store.expire(counts_before, now.before(self.config.keep_rankings)).map_err(stage_error)?;
            if deleted > 0 {
                tracing::info!(deleted, "deleted figures that are past their retention");
            }
        }
        Ok(())
    }

    fn take_in(&mut self, from: &TopicPartition, records: &[Fetched], now: Timestamp) -> Result<(), StageError> {
        for fetched in records {
            let record = ResultRecord::decode(&fetched.record.value)
                .map_err(|error| StageError::Broken(format!("{from}@{}: {error}", fetched.offset)))?;
            let Some(input) = self.inputs.get_mut(from) else { return Ok(()) };
            let revision = record.revision;
            match record.body {
                ResultBody::Counts { partition, oldest_arrival, columns } => {
                    let closing = input.closing.entry((revision, partition)).or_default();
                    closing.first.get_or_insert(fetched.offset);
                    closing.counts.push((columns, oldest_arrival.or(Some(fetched.arrival))));
                }
                ResultBody::Closed { partition, until, filters, .. } => {
                    let counts = input.closing.remove(&(revision, partition)).unwrap_or_default().counts;
                    // Totals of hours and days come with clicks that could be read long before.
                    let minutes = counts.iter().filter(|(columns, _)| columns.span.kind == SpanKind::Minute);
                    let oldest = minutes.filter_map(|(_, arrival)| *arrival).min();
                    let write = ClosedWrite { revision, partition, counts, until, filters };
                    self.store.write_closed(&write).map_err(stage_error)?;
                    if let Some(minutes) = &self.config.minutes {
                        let spans = write.counts.iter().map(|(columns, _)| columns.span);
                        minutes.lock().extend(spans.filter(|s| s.kind == SpanKind::Minute).map(|s| s.start));
                    }
                    observe("counts", revision, now, until, oldest);
                }
                ResultBody::Rankings { partition, oldest_arrival, rankings } => {
                    let ranks = input.ranks.entry((revision, partition)).or_default();
                    ranks.first.get_or_insert(fetched.offset);
                    let arrival = oldest_arrival.or(Some(fetched.arrival));
                    ranks.rankings.extend(rankings.into_iter().map(|ranking| (ranking, arrival)));
                }
                ResultBody::Ranked { partition, until } => {
                    let rankings = input.ranks.remove(&(revision, partition)).unwrap_or_default().rankings;
                    let oldest = rankings.iter().filter_map(|(_, arrival)| *arrival).min();
                    let write = RankedWrite { revision, partition, rankings, until };
                    self.store.write_ranked(&write).map_err(stage_error)?;
                    observe("rankings", revision, now, until, oldest);
                }
            }
            input.next = fetched.offset.next();
        }
        Ok(())
    }

    fn gather(&mut self, now: Timestamp, wait: Duration) -> Result<Vec<TopicPartition>, StageError> {
        let mut wait = wait;
        let mut deadline = None;
        loop {
            match self.consumer.poll(wait, POLL_BYTES)? {
                Poll::Assigned(partitions) => {
                    for (partition, committed) in partitions {
                        let next = match committed {
                            Some(committed) => committed.offset,
                            // The store takes the same figures again without harm.
                            None => self.queue.range(&partition)?.start,
                        };
                        let input = Input { next, told: next, closing: BTreeMap::new(), ranks: BTreeMap::new() };
                        self.inputs.insert(partition, input);
                    }
                }
                Poll::Revoking(partitions) => return Ok(partitions),
                Poll::Lost(partitions) => {
                    for partition in partitions {
                        self.inputs.remove(&partition);
                    }
                }
                Poll::Records { from, records, .. } => {
                    self.take_in(&from, &records, now)?;
                    deadline.get_or_insert_with(|| Instant::now() + self.config.linger);
                }
                Poll::Idle { .. } => {
                    if deadline.is_none_or(|at| Instant::now() >= at) {
                        return Ok(Vec::new());
                    }
                }
            }
            match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return Ok(Vec::new()),
                left => wait = left.unwrap_or(Duration::ZERO),
            }
        }
    }

    /// Commits what is in the store. True where that is anything.
    fn commit(&mut self) -> Result<bool, StageError> {
        let mut transaction = Transaction::default();
        for (partition, input) in &mut self.inputs {
            let offset = input.written();
            if offset > input.told {
                let committed = Committed { offset, metadata: Vec::new() };
                transaction.inputs.push(InputCommit { input: partition.clone(), committed, keep_from: offset });
                input.told = offset;
            }
        }
        if transaction.is_empty() {
            return Ok(false);
        }
        loop {
            match self.producer.commit(&transaction, Some(&*self.consumer)) {
                Ok(_) => return Ok(true),
                Err(QueueError::Full { .. }) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn stage_error(error: StoreError) -> StageError {
    match error {
        StoreError::Unavailable { .. } => StageError::Unavailable(error.to_string()),
        StoreError::Broken(_) => StageError::Broken(error.to_string()),
    }
}

/// How late the stream's figures are. A recalculation's are of clicks that came long ago.
fn observe(kind: &'static str, revision: Revision, now: Timestamp, until: Minute, oldest: Option<Timestamp>) {
    if revision != Revision::STREAM {
        return;
    }
    if let Some(oldest) = oldest {
        metrics::histogram!("clickmill_result_latency_seconds", "kind" => kind)
            .record(now.as_secs_f64() - oldest.as_secs_f64());
    }
    metrics::gauge!("clickmill_written_delay_seconds", "kind" => kind)
        .set(now.as_secs_f64() - until.start().as_secs_f64());
}

impl Stage for ResultsWriter {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        self.look_around(now)?;
        let revoked = self.gather(now, wait)?;
        let worked = self.commit()?;
        for partition in revoked {
            self.inputs.remove(&partition);
            self.consumer.release(&partition)?;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }

    fn stop(mut self: Box<Self>) -> Result<(), StageError> {
        let held: Vec<_> = self.inputs.keys().cloned().collect();
        for partition in held {
            self.consumer.release(&partition)?;
        }
        Ok(())
    }
}
