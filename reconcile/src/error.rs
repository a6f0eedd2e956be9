//! Why a reconciliation could not be made.

use clickmill_model::{Minute, Offset, RawPartition, Timestamp};
use clickmill_store::StoreError;
use datafusion::error::DataFusionError;
use thiserror::Error;

/// Why a reconciliation could not be made. What it found is no error.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// A raw file that cannot be relied on. It is never taken for an empty one.
    #[error(
        "{path} cannot be read: {why} ({}); restore it, or give --skip-damaged to count without it",
        .minutes.map_or_else(|| "which minutes it holds is not known".to_owned(), |(first, last)| format!("it holds clicks of {first} to {last}"))
    )]
    Damaged {
        /// Which file.
        path: String,
        /// The first and the last minute of its clicks, where its footer says so.
        minutes: Option<(Minute, Minute)>,
        /// What is wrong with it.
        why: String,
    },
    /// A raw file that should be there.
    #[error(
        "a raw file of {raw} is missing that ends at offset {last_offset} (arrived {last_arrival}), as {told_by} says; restore it, or give --skip-damaged to count without it"
    )]
    Missing {
        /// Of which partition.
        raw: RawPartition,
        /// Where it ended.
        last_offset: Offset,
        /// When that line arrived.
        last_arrival: Timestamp,
        /// The file behind it, or the writer.
        told_by: String,
    },
    /// A file was deleted after it was listed. Its lines may stand in another one by now.
    #[error("{path} is gone: it was deleted after it was listed")]
    Gone {
        /// Which file.
        path: String,
        /// What it held, where that was known.
        held: Option<Box<Held>>,
    },
    /// The files cannot be listed or opened at the moment.
    #[error("{what}: {why}")]
    Unavailable {
        /// What was being done.
        what: String,
        /// What came back.
        why: String,
    },
    /// The object store does not let us: who we are, what we may, or the bucket is wrong.
    #[error("{what}: the object store refuses it (files.url, files.s3): {why}")]
    Refused {
        /// What was being done.
        what: String,
        /// What came back.
        why: String,
    },
    /// No raw line is there of a span of which the store has clicks.
    #[error("the store has clicks of {0} to {1}, but there is no raw data at all: nothing can be proved without it")]
    NoRawData(Minute, Minute),
    /// The columns and the lines of so many rows disagree that they cannot be held.
    #[error(
        "more than {0} lines are told in another minute than their columns, or were refused although they are clicks: the stream's parser is at fault"
    )]
    TooManyStrays(usize),
    /// A published filter that no definition knows.
    #[error("filter {0} has figures in the store, but no definition names it")]
    UnknownFilter(clickmill_model::FilterId),
    /// The store did not answer.
    #[error("reading the store: {0}")]
    Store(#[from] StoreError),
    /// The SQL engine failed.
    #[error("counting: {0}")]
    Engine(#[from] DataFusionError),
}

impl From<datafusion::arrow::error::ArrowError> for ReconcileError {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<parquet::errors::ParquetError> for ReconcileError {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::Engine(error.into())
    }
}

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Lines of this partition.
    pub raw: RawPartition,
    /// The first offset and the last.
    pub offsets: (Offset, Offset),
    /// When these arrived.
    pub arrivals: (Timestamp, Timestamp),
    /// The first and the last minute of its clicks.
    pub minutes: Option<(Minute, Minute)>,
}

/// Results of this crate.
pub type Result<T, E = ReconcileError> = std::result::Result<T, E>;
