//! The latest lines that were set aside.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use clickmill_model::records::{DEAD_LETTERS, LATE_CLICKS, SetAsideBatch};
use clickmill_model::{CodecError, Offset, RejectReason};
use clickmill_queue::{Queue, QueueError, TopicPartition};
use serde::Serialize;
use utoipa::ToSchema;

use super::fresh_json;
use crate::app::App;
use crate::http::problem::{Kind, Problem, ProblemBody};
use crate::params::{MOST_EXAMPLES, Query};

/// How many lines are meant where the request does not say.
const USUAL_EXAMPLES: usize = 50;

/// How much of a line is shown, in bytes.
const MOST_LINE_BYTES: usize = 1024;

/// Records that are read first, counted from the end of a partition; each further attempt goes four times as far back.
const FIRST_REACH: u64 = 16;

/// Records that are read at most, counted from the end of a partition.
const FURTHEST_REACH: u64 = 4096;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// A line that was set aside.
#[derive(Debug, Serialize, ToSchema)]
struct LineAnswer {
    /// The topic that it came in through.
    #[schema(example = "ad-clicks")]
    topic: String,
    /// The partition of the topic.
    partition: u32,
    /// The offset of its record.
    offset: u64,
    /// Its place in the record, from 0.
    line_number: u32,
    /// When its record arrived, RFC 3339.
    #[schema(example = "2021-01-01T00:00:01Z")]
    arrival: String,
    /// The log watcher that read it; null for a line of a foreign producer.
    source: Option<String>,
    /// The file that it stood in; null for a line of a foreign producer.
    file: Option<String>,
    /// Where in the file it began; null for a line of a foreign producer.
    byte_offset: Option<u64>,
    /// Why it is no click; null for a late click.
    #[schema(example = "bad_timestamp")]
    reason: Option<&'static str>,
    /// The line, cut after 1 KiB; bytes that are not UTF-8 are replaced.
    line: String,
}

/// Lines that were set aside.
#[derive(Debug, Serialize, ToSchema)]
struct LinesAnswer {
    /// The lines, newest first.
    lines: Vec<LineAnswer>,
}

/// Answers a path with the latest lines of a topic of lines set aside.
macro_rules! latest_lines {
    ($(#[$doc:meta])* $name:ident, $path:literal, $topic:ident) => {
        $(#[$doc])*
        #[utoipa::path(
            get,
            path = $path,
            params(("limit" = Option<u32>, Query, description = "How many, 1 to 200; 50 where it is not given", example = 50)),
            responses(
                (status = 200, description = "The lines", body = LinesAnswer),
                (status = 400, description = "A parameter is wrong", body = ProblemBody, content_type = "application/problem+json"),
                (status = 429, description = "Too many requests wait", body = ProblemBody, content_type = "application/problem+json"),
                (status = 503, description = "The queue cannot be read at the moment", body = ProblemBody, content_type = "application/problem+json"),
            )
        )]
        pub(super) async fn $name(State(app): State<Arc<App>>, query: Query) -> Result<Response, Problem> {
            answer(&app, &query, $topic).await
        }
    };
}

latest_lines!(
    /// The latest lines that are no clicks, each with the reason.
    rejected, "/v1/rejected", DEAD_LETTERS
);
latest_lines!(
    /// The latest clicks that came after their minute was closed.
    late, "/v1/late", LATE_CLICKS
);

async fn answer(app: &Arc<App>, query: &Query, topic: &'static str) -> Result<Response, Problem> {
    let limit = query.params(&["limit"])?.number("limit", MOST_EXAMPLES)?.unwrap_or(USUAL_EXAMPLES);
    let Some(queue) = app.sources.queue.clone() else {
        return Err(Problem::saying(Kind::Unavailable, "This process cannot reach the queue. Ask one that can."));
    };
    let read = move || {
        let lines = latest(&*queue, topic, limit).map_err(|error| {
            tracing::warn!(%error, topic, "lines set aside cannot be read");
            Problem::saying(Kind::Unavailable, "The queue cannot be read at the moment. Try again.")
        })?;
        Ok(LinesAnswer { lines })
    };
    Ok(fresh_json(&app.queue.run(read).await?))
}

/// The latest `limit` lines of a topic of lines set aside, newest first.
fn latest(queue: &dyn Queue, topic: &str, limit: usize) -> Result<Vec<LineAnswer>, QueueError> {
    let mut found = Vec::new();
    for partition in 0..queue.partitions(topic)?.unwrap_or(0) {
        for batch in latest_of(queue, &TopicPartition::new(topic, partition), limit)? {
            found.extend(batch.lines.into_iter().map(|line| (batch.raw.clone(), line)));
        }
    }
    found.sort_by_cached_key(|(raw, line)| Reverse((line.arrival, raw.clone(), line.offset, line.line_number)));
    found.truncate(limit);
    let answers = found.into_iter().map(|(raw, line)| {
        let (source, file, byte_offset) = match line.origin {
            None => (None, None, None),
            Some((source, file, offset)) => (Some(source.to_string()), Some(file), Some(offset)),
        };
        LineAnswer {
            topic: raw.topic.to_string(),
            partition: raw.partition.0,
            offset: line.offset.0,
            line_number: line.line_number,
            arrival: line.arrival.to_string(),
            source,
            file,
            byte_offset,
            reason: line.reason.map(RejectReason::as_str),
            line: String::from_utf8_lossy(line.line.get(..MOST_LINE_BYTES).unwrap_or(&line.line)).into_owned(),
        }
    });
    Ok(answers.collect())
}

/// The last batches of a partition: enough for `limit` lines, where there are so many within reach.
fn latest_of(queue: &dyn Queue, of: &TopicPartition, limit: usize) -> Result<Vec<SetAsideBatch>, QueueError> {
    let mut reach = FIRST_REACH;
    loop {
        let range = queue.range(of)?;
        let from = range.start.max(Offset(range.end.0.saturating_sub(reach)));
        let batches = read(queue, of, from, range.end)?;
        let lines: usize = batches.iter().map(|batch| batch.lines.len()).sum();
        if lines >= limit || from == range.start || reach >= FURTHEST_REACH {
            return Ok(batches);
        }
        reach *= 4;
    }
}

fn read(
    queue: &dyn Queue,
    of: &TopicPartition,
    mut from: Offset,
    end: Offset,
) -> Result<Vec<SetAsideBatch>, QueueError> {
    let mut batches = Vec::new();
    while from < end {
        let records = queue.read(of, from, READ_BYTES)?;
        let Some(last) = records.last() else { break };
        from = last.offset.next();
        let decoded = records.iter().map(|fetched| SetAsideBatch::decode(&fetched.record.value));
        let decoded: Result<Vec<_>, CodecError> = decoded.collect();
        batches.extend(decoded.map_err(|error| QueueError::Broken(format!("{of}: {error}")))?);
    }
    Ok(batches)
}
