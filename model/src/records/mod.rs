//! The records that the stages send to each other, field by field.

mod candidates;
mod checkpoint;
mod partial;
mod results;
mod set_aside;
mod source;

pub use candidates::{CandidateRecord, Candidates};
pub use checkpoint::{Books, ClockBound, MapperCheckpoint};
pub use partial::PartialBlock;
pub use results::{Covered, FilterSpan, Ranking, ResultBody, ResultRecord};
pub use set_aside::{SetAside, SetAsideBatch};
pub use source::{Origin, SourceHeader, SourceMark, lines_of};

/// The topic between mapper and aggregator.
pub const CLICK_PARTIALS: &str = "click-partials";
/// The topic between aggregator and reducer.
pub const TOP_CANDIDATES: &str = "top-candidates";
/// Queue 2: what is written to the store.
pub const CLICK_RESULTS: &str = "click-results";
/// Where the log watchers keep their positions.
pub const LOG_POSITIONS: &str = "log-positions";
/// What the mapper set aside as late.
pub const LATE_CLICKS: &str = "late-clicks";
/// What is no click.
pub const DEAD_LETTERS: &str = "dead-letters";
/// The definitions.
pub const PIPELINE: &str = "pipeline";

/// Every topic that the pipeline itself writes.
pub const OWN_TOPICS: [&str; 7] =
    [CLICK_PARTIALS, TOP_CANDIDATES, CLICK_RESULTS, LOG_POSITIONS, LATE_CLICKS, DEAD_LETTERS, PIPELINE];

/// A duration since the epoch in microseconds, or nothing: 0, or 1 and the zigzag number.
pub(crate) fn write_time(out: &mut crate::codec::Writer, time: Option<crate::Timestamp>) {
    match time {
        None => out.u8(0),
        Some(time) => {
            out.u8(1);
            out.int(time.as_micros());
        }
    }
}

pub(crate) fn read_time(input: &mut crate::codec::Reader<'_>) -> Result<Option<crate::Timestamp>, crate::CodecError> {
    match input.u8()? {
        0 => Ok(None),
        1 => Ok(Some(crate::Timestamp::from_micros(input.int()?))),
        _ => Err(input.corrupt("neither a time nor none")),
    }
}
