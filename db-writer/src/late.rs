//! Late clicks to Parquet, exactly once.
//!
//! `late/` holds what the mappers set aside as late, in the columns of `raw/`: topic, partition, offset, place and arrival are those of the raw record, so that a row here and the row of
//! the same line in `raw/` can be matched. The files are named by the partition and the offset in `late-clicks`, and written by the same rules as those of [`crate::raw`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_model::Timestamp;
use clickmill_model::records::LATE_CLICKS;
use clickmill_queue::topology::LATE_WRITER;
use clickmill_queue::{Progress, Queue, Stage, StageError};

use crate::raw::{Files, KEEP, Lines, LinesWriter, Rolling};

/// The folder of late clicks.
pub const LATE_FOLDER: &str = "late";

/// How a writer of late clicks runs.
#[derive(Debug, Clone)]
pub struct LateConfig {
    /// Stable and unique among the writers of late clicks of a pipeline.
    pub name: String,
    /// When a file is complete.
    pub rolling: Rolling,
    /// While it is set, what was read to its end becomes a file at once.
    pub flush: Arc<AtomicBool>,
    /// How long lines are kept, from their arrival.
    pub keep: Duration,
}

impl Default for LateConfig {
    fn default() -> Self {
        Self { name: "0".into(), rolling: Rolling::default(), flush: Arc::default(), keep: KEEP }
    }
}

/// Writes late clicks.
pub struct LateWriter(LinesWriter);

impl LateWriter {
    /// Joins the group and ends what is left of an earlier writer of this name.
    pub fn start(queue: Arc<dyn Queue>, files: Arc<Files>, config: LateConfig) -> Result<Self, StageError> {
        let who = (LATE_WRITER, [LATE_CLICKS].as_slice(), config.name.as_str());
        Ok(Self(LinesWriter::start(Lines::Late, queue, files, config.rolling, config.flush, config.keep, who)?))
    }
}

impl Stage for LateWriter {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        self.0.step(now, wait)
    }

    fn stop(mut self: Box<Self>) -> Result<(), StageError> {
        self.0.stop()
    }
}
