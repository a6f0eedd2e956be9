//! Raw lines to Parquet, exactly once.
//!
//! `raw/` holds every line of the raw topics once, duplicates and late ones included, in the order of their offsets. The columns: `topic`, `partition`, `offset` (of the record),
//! `line_number` (the place in the record), `arrival`, `source`, `file`, `byte_offset` (where it stood; null for a foreign producer), `ad_id`, `click_timestamp`, `user_id`, `ip`,
//! `country`, `event_id` (null for a line that is no click), `reason` (why it was not counted; a click of a wrong clock has a reason and its columns), `line` (its bytes; null where
//! the columns give them back, see [`original_line`](clickmill_model::line::original_line)). A file whose newest line is past its retention is deleted.
//!
//! Exactly once: a file holds consecutive offsets of one partition. Its name depends on its first line alone, and it is only ever created. Its offsets are committed when it is durable. A
//! writer that finds the name taken, by itself before a crash or by another one that it took over from or that took over from it, relies on that file, commits the offsets that
//! it covers, and goes on behind it. So whoever writes, no line is in two files, and none is missing.

mod batch;
mod build;
mod columns;
pub mod compact;
mod files;
pub mod import;
pub mod read;
mod records;
mod remote;
mod retention;
pub mod scan;
mod schema;
mod span;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_model::Timestamp;
use clickmill_queue::definitions::Definitions;
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::topology::RAW_WRITER;
use clickmill_queue::{Progress, Queue, Stage, StageError};

pub use files::{Files, FilesError, Listed, Published, Sink};
pub use span::{Before, FORMAT, FileSpan, Part, each_line_once, parts, read_spans, spans};
pub use writer::Rolling;

pub(crate) use records::Lines;
pub(crate) use writer::LinesWriter;

/// The folder of raw lines.
pub const RAW_FOLDER: &str = "raw";

/// How a writer of raw lines runs.
#[derive(Debug, Clone)]
pub struct RawConfig {
    /// Stable and unique among the writers of raw lines of a pipeline.
    pub name: String,
    /// When a file is complete.
    pub rolling: Rolling,
    /// While it is set, what was read to its end becomes a file at once.
    pub flush: Arc<AtomicBool>,
    /// How long lines are kept, from their arrival.
    pub keep: Duration,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self { name: "0".into(), rolling: Rolling::default(), flush: Arc::default(), keep: KEEP }
    }
}

/// How long raw and late lines are kept, unless asked otherwise.
pub(crate) const KEEP: Duration = Duration::from_secs(90 * 86_400);

/// How often definitions and input topics are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes the lines of raw topics: those that the definitions name, as far as the mappers have followed.
pub struct RawWriter {
    writer: LinesWriter,
    queue: Arc<dyn Queue>,
    definitions: Definitions,
    topics: BTreeSet<String>,
    looked: Option<Timestamp>,
}

impl RawWriter {
    /// Joins the group and ends what is left of an earlier writer of this name.
    pub fn start(queue: Arc<dyn Queue>, files: Arc<Files>, config: RawConfig) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let lines = lines(&definitions)?;
        let topics = RawTopics::load(&*queue, definitions.all())?.of_raw_writer(&*queue)?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let who = (RAW_WRITER, names.as_slice(), config.name.as_str());
        let writer =
            LinesWriter::start(lines, Arc::clone(&queue), files, config.rolling, config.flush, config.keep, who)?;
        Ok(Self { writer, queue, definitions, topics, looked: None })
    }

    fn look_around(&mut self, now: Timestamp) -> Result<(), StageError> {
        if self.looked.is_some_and(|at| now.since(at) < LOOK_EVERY && now >= at) {
            return Ok(());
        }
        self.looked = Some(now);
        if self.definitions.refresh(&*self.queue)? {
            self.writer.lines = lines(&self.definitions)?;
        }
        let topics = RawTopics::load(&*self.queue, self.definitions.all())?.of_raw_writer(&*self.queue)?;
        if topics == self.topics { Ok(()) } else { Err(StageError::outdated(&self.topics, &topics)) }
    }
}

/// Raw lines, judged by the clock settings that the mappers go by.
fn lines(definitions: &Definitions) -> Result<Lines, StageError> {
    let newest = definitions.newest();
    let newest = newest.ok_or_else(|| StageError::Unavailable("the pipeline has no definition yet".into()))?;
    Ok(Lines::Raw { max_clock_skew: newest.time.max_clock_skew })
}

impl Stage for RawWriter {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        self.look_around(now)?;
        self.writer.step(now, wait)
    }

    fn stop(mut self: Box<Self>) -> Result<(), StageError> {
        self.writer.stop()
    }
}
