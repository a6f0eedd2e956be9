//! Recalculation: a span of minutes is counted again from raw Parquet, apart from the stream.
//!
//! In: the raw lines of the minutes `[from, to)`, wherever they lie in the data set, and a [`Plan`] that says by which filters and windows. Out, in order of time ([`Told`]): the counts of each minute, and of
//! the hours and days that lie wholly inside; the rankings of each minute, and those of longer windows that lie wholly inside.
//!
//! What it promises:
//! - **The same operators.** Lines go through the cores of mapper, aggregator and reducer: this is the only crate that knows several of them. Lateness alone is left out: a click counts however late
//!   it came. Duplicates are removed as the stream removes them, by identity within a raw partition; rejected lines are judged anew.
//! - **Nothing is missing in silence.** A file that is damaged, cut short or foreign is an error that names it and what it held. So is one that is gone: each file says where the one before it ended, and the
//!   writer of raw lines where its last one did. A span without any raw line is refused. Only where [`Plan::skip_damaged`] says so it goes on without them, and names each ([`LeftOut`]).
//! - **Bounded memory**, whatever the span. It goes through time in slices of about [`Plan::slice_rows`] rows (one minute at least, a day at most), and reads of each raw partition just the pages that may hold a
//!   line of the slice; pages at its edge, and those in which a late line stands among younger ones, are read again for the next slice. At once it holds, per thread, the identities of one raw
//!   partition's clicks in one slice (26 to 52 bytes each), the counts of the slice (24 bytes and more per ad, minute and filter), what the aggregators keep for the longest window (8 bytes per ad, minute
//!   and filter), the name of each ad, and 40 bytes for each page of the span (16,000 rows). A minute that alone has more rows than a slice is held as a whole. How many rows fall into a slice is an
//!   estimate: rows are taken for evenly spread over the minutes of their page.

mod compare;
mod left_out;
mod plan;
mod replay;
mod slices;
mod source;

use clickmill_aggregator::AggregateError;
use clickmill_db_writer::raw::FilesError;
use clickmill_model::{FilterId, Minute, Offset, RawPartition, Timestamp};
use thiserror::Error;

pub use compare::{Change, Changes, Comparison};
pub use left_out::LeftOut;
pub use plan::Plan;
pub use replay::{Prepared, Progress, Summary, Told, recalculate};

/// Why a span could not be counted again.
#[derive(Debug, Error)]
pub enum RecalcError {
    /// A file that may hold lines of the span cannot be read.
    #[error("{error} ({})", holds(*.minutes))]
    File {
        /// Its path from the root of the files.
        path: String,
        /// Which one, and what is wrong.
        error: FilesError,
        /// The first and the last minute of its clicks. `None`: that could not be read either, or there are none.
        minutes: Option<(Minute, Minute)>,
    },
    /// A file is gone whose lines may be of the span.
    #[error(
        "a file of raw lines of {raw} is gone: {told_by} says that one ended with offset {last_offset}, which arrived at {last_arrival}, and {}; it may have held clicks of the span",
        there(*.have)
    )]
    Missing {
        /// The raw partition.
        raw: RawPartition,
        /// The last record that it covered.
        last_offset: Offset,
        /// When that arrived.
        last_arrival: Timestamp,
        /// How far the files go that are there.
        have: Option<Offset>,
        /// Who knows of it.
        told_by: String,
    },
    /// The folder of raw lines cannot be listed.
    #[error(transparent)]
    Files(FilesError),
    /// There is no click.
    #[error(
        "there is no raw click of the minutes {from} to {to} (exclusive): the span is not recalculated, since missing lines must not become a bill of nothing"
    )]
    NoRawData {
        /// The first minute.
        from: Minute,
        /// The first minute behind the span.
        to: Minute,
    },
    /// Nothing to count.
    #[error("the span begins at {from} and ends before {to}: it must begin before it ends")]
    EmptySpan {
        /// The first minute.
        from: Minute,
        /// The first minute behind the span.
        to: Minute,
    },
    /// The filters of today and those of the span do not fit together.
    #[error("{0} filters are needed, those of today and those in force in the span: at most {most} fit; recalculate a shorter span", most = clickmill_model::FilterSet::MOST)]
    TooManyFilters(usize),
    /// A filter was published that no definition has.
    #[error("filter {0} was published in the span, but no definition has it")]
    UnknownFilter(FilterId),
    /// An operator refuses what it was given: a bug.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] clickmill_store::StoreError),
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
}

fn there(have: Option<Offset>) -> String {
    have.map_or_else(|| "none before it is there".to_owned(), |last| format!("those before it end with offset {last}"))
}

fn holds(minutes: Option<(Minute, Minute)>) -> String {
    match minutes {
        Some((first, last)) => format!("it holds clicks of the minutes {first} to {last}"),
        None => "which minutes it holds is not known".to_owned(),
    }
}
