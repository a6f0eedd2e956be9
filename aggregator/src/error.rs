//! Why an aggregator does not go on.

use clickmill_model::{DefinitionVersion, Minute, Offset, RawPartition};
use thiserror::Error;

/// A broken promise of the mappers, or of what is stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AggregateError {
    /// A block does not begin where the one before it ended: clicks are missing, or would count twice.
    #[error("expected offset {expected} of {raw}, got a block of {from} to {to}")]
    OffsetGap {
        /// The raw partition.
        raw: RawPartition,
        /// Where the block should begin.
        expected: Offset,
        /// Where it begins.
        from: Offset,
        /// Where it ends.
        to: Offset,
    },
    /// A count for a minute that is closed.
    #[error("a block of {raw} counts in minute {minute}, which was closed: minutes before {closed_until} are")]
    ClosedMinute {
        /// The raw partition.
        raw: RawPartition,
        /// The minute that it counts in.
        minute: Minute,
        /// The first open minute.
        closed_until: Minute,
    },
    /// A block counted by a definition that is not known here.
    #[error("a block of {raw} is counted by definition {version}, which is not known")]
    UnknownDefinition {
        /// The raw partition.
        raw: RawPartition,
        /// The definition.
        version: DefinitionVersion,
    },
    /// What was told before is not where it was told.
    #[error(
        "minutes before {closed_until} were told, but {}: the topic was made anew, or records were deleted. Going on would give wrong rankings: restore it, or start with a new data folder and recalculate from the raw files",
        found.map_or_else(|| "nothing of it is there".to_owned(), |found| format!("only those before {found} are there"))
    )]
    LostResults {
        /// The first open minute.
        closed_until: Minute,
        /// How far what is there was told.
        found: Option<Minute>,
    },
    /// More distinct ads than can be numbered.
    #[error("more than 4 billion ads, or 4 GiB of their names")]
    TooManyAds,
}
