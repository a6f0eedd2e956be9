//! Raw lines to Parquet, exactly once.
//!
//! `raw/` holds every line of the raw topics once, duplicates and late ones included, in the order of their offsets. The columns: `topic`, `partition`, `offset` (of the record),
//! `line_number` (the place in the record), `arrival`, `source`, `file`, `byte_offset` (where it stood; null for a foreign producer), `ad_id`, `click_timestamp`, `user_id`, `ip`,
//! `country`, `event_id` (null for a line that is no click), `reason` (why it was not counted; a click of a wrong clock has a reason and its columns), `line` (its bytes; null where
//! the columns give them back, see [`original_line`](clickmill_model::line::original_line)).
//!
//! Exactly once: a file holds consecutive offsets of one partition. Its name depends on its first line alone, and it is only ever created. Its offsets are committed when it is durable. A
//! writer that finds the name taken, by itself before a crash or by another one that it took over from or that took over from it, relies on that file, commits the offsets that
//! it covers, and goes on behind it. So whoever writes, no line is in two files, and none is missing.

mod batch;
mod build;
mod columns;
mod files;
pub mod read;
mod records;
mod schema;
mod span;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_model::{TimeSettings, Timestamp};
use clickmill_queue::topology::RAW_WRITER;
use clickmill_queue::{Progress, Queue, Stage, StageError};

pub use files::{Files, FilesError, Listed, Published, Sink};
pub use span::{FORMAT, FileSpan, Part, each_line_once, parts};
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
    /// The raw topics.
    pub topics: Vec<String>,
    /// A click further ahead of its arrival than this has a wrong clock.
    pub max_clock_skew: Duration,
    /// When a file is complete.
    pub rolling: Rolling,
    /// While it is set, what was read to its end becomes a file at once.
    pub flush: Arc<AtomicBool>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            name: "0".into(),
            topics: vec!["ad-clicks".into()],
            max_clock_skew: TimeSettings::default().max_clock_skew,
            rolling: Rolling::default(),
            flush: Arc::default(),
        }
    }
}

/// Writes the lines of raw topics.
pub struct RawWriter(LinesWriter);

impl RawWriter {
    /// Joins the group and ends what is left of an earlier writer of this name.
    pub fn start(queue: Arc<dyn Queue>, files: Arc<Files>, config: RawConfig) -> Result<Self, StageError> {
        let lines = Lines::Raw { max_clock_skew: config.max_clock_skew };
        let topics: Vec<&str> = config.topics.iter().map(String::as_str).collect();
        let who = (RAW_WRITER, topics.as_slice(), config.name.as_str());
        Ok(Self(LinesWriter::start(lines, queue, files, config.rolling, config.flush, who)?))
    }
}

impl Stage for RawWriter {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        self.0.step(now, wait)
    }

    fn stop(mut self: Box<Self>) -> Result<(), StageError> {
        self.0.stop()
    }
}
