//! How far a watcher has come, for people.

use std::sync::Arc;

use clickmill_model::Timestamp;
use parking_lot::Mutex;

/// How far a watcher has come. Sizes of compressed files are those on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Files that match.
    pub files: u64,
    /// Those of them that were read to their end.
    pub files_at_end: u64,
    /// Those of them that cannot be read.
    pub files_unreadable: u64,
    /// Bytes of these files that were read, by this run or an earlier one.
    pub read_bytes: u64,
    /// Bytes that these files have.
    pub known_bytes: u64,
    /// Lines that this watcher has sent since it was started.
    pub lines: u64,
    /// Bytes of these lines.
    pub line_bytes: u64,
    /// Bytes that were there once and cannot be read any more: files that went away or were truncated too early.
    pub unread_bytes: u64,
    /// The highest event time ever sent under this source's name.
    pub highest: Option<Timestamp>,
    /// The watermark said last.
    pub watermark: Option<Timestamp>,
    /// True once a drain has read everything and said so.
    pub finished: bool,
    /// The end of the last minute that has a click, once a drain has [finished](Self::finished); `None` where no click was ever sent.
    pub drained: Option<Timestamp>,
}

/// A [`Report`] that another thread may look at.
#[derive(Debug, Clone, Default)]
pub struct LiveReport(Arc<Mutex<Report>>);

impl LiveReport {
    /// As of the watcher's last step.
    pub fn get(&self) -> Report {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, report: Report) {
        *self.0.lock() = report;
    }
}
