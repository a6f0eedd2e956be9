//! Reconciliation: an independent count of raw Parquet, compared with the store figure by figure.
//!
//! In goes a span whose minutes are closed and whose raw lines are written; out comes what differs, and why. What it promises:
//! - **Independent**: it shares ids, the definition and the store with the stream, and nothing else. Lines are read by [`mod@line`], files listed by their own reader, minutes, hours and windows computed by their own
//!   arithmetic; duplicates, filters and counts are SQL. Where a file keeps a line, the line is believed before its columns, and lines that the stream refused are judged anew.
//! - **Complete**: every count of an ad, minute and filter, every total of an hour or a day, and every ranking of the span is compared.
//! - **Bounded**: a slice of time is held at once; what has to wait, waits on disk. Memory goes with the ads.
//! - **Nothing is taken for nothing**: a raw file that is missing, damaged or foreign is an error that names it.
//!
//! It does not know the queue, nor how a figure came about.

mod ads;
mod audit;
mod clicks;
mod compare;
mod count;
mod engine;
mod error;
mod files;
mod filters;
mod imports;
pub mod line;
mod lines;
mod rank;
pub mod report;
mod scratch;
mod slices;
pub mod state;
mod time;

pub use audit::{Audit, Request, audit};
pub use clicks::Disagreements;
pub use compare::{Compared, CountDifference, Findings, Kind, MOST_DIFFERENCES, RankingDifference, Sum};
pub use count::Books;
pub use error::{Held, ReconcileError, Result};
pub use files::{FileStore, Skipped, Written};
pub use lines::LineBehind;
