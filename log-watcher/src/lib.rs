//! The log watcher: follows log files into the queue, each line exactly once.
//!
//! In go files: patterns name them, and they come, grow, rotate, are compressed and go. Out come records of a raw topic: lines as they
//! were read, with where they stood, packed by partition, and in each record's header how far time has come ([`SourceHeader`]).
//!
//! What it promises:
//! - every line that was completed in a file it could read is sent once, whatever is done to the file's name and to the watcher: positions commit with the lines;
//! - a file is known by its inode and its content together, so that an inode used again, a copy and a `.gz` of a file that was read are told apart;
//! - its watermark never passes a line that it has yet to send, within the bounds of the design (`max_disorder`, `settle`, `source_timeout`);
//! - what it could not read is counted and said ([`Report::unread_bytes`]), never passed over in silence.
//!
//! The modules, in the order in which a line meets them: `patterns` lists files; `identity` and `files` tell which of them are known; `reader` and
//! `gzip` read them; `pack` makes records of lines; `mark` says how far time has come, `ahead` how far in front of the other watchers; `position` is
//! what is stored; `watcher` is the loop.
//!
//! [`SourceHeader`]: clickmill_model::records::SourceHeader

mod ahead;
mod config;
mod file;
mod files;
mod gzip;
mod identity;
mod mark;
mod meet;
mod pack;
mod patterns;
mod position;
mod reader;
mod report;
mod watcher;

pub use config::Config;
pub use report::{LiveReport, Report};
pub use watcher::Watcher;
