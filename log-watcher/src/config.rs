//! What a watcher is told.

use std::time::Duration;

use clickmill_model::{PartitionBy, SourceName, TimeSettings};

use crate::report::LiveReport;

/// What a watcher is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Files, folders and globs. A folder stands for every file in it and below it, but for hidden files and those that are plainly no logs
    /// (`.csv`, `.tmp`, `.part` and the like).
    pub patterns: Vec<String>,
    /// Its name towards the pipeline; two watchers of one name fence each other.
    pub source: SourceName,
    /// Where lines go.
    pub topic: String,
    /// How many partitions that topic has.
    pub partitions: u32,
    /// What chooses the partition of a click.
    pub partition_by: PartitionBy,
    /// Clocks and disorder.
    pub time: TimeSettings,
    /// A file that has not grown for so long is at its end.
    pub settle: Duration,
    /// How much it may send, catching up, in front of the slowest other watcher that does so.
    pub max_ahead_bytes: u64,
    /// Read everything to its end, then let time pass to the end of the last minute.
    pub drain: bool,
    /// Where it tells how far it has come. Clone it before the start to look on from another thread; it outlives a restart of the stage.
    pub live: LiveReport,
}
