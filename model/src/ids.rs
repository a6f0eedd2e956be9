//! Newtypes for what could be mistaken for each other.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The number of a filter. 0 is always there and matches every click. An id means one predicate for good.
    FilterId(u16)
}
number! {
    /// The position of a record in its partition, from 0.
    Offset(u64)
}
number! {
    /// The number of a partition of a topic, from 0.
    Partition(u32)
}
number! {
    /// Which calculation a stored figure comes from: 0 is the stream, each recalculation gets a higher one.
    Revision(u32)
}

impl FilterId {
    /// The filter that matches every click.
    pub const ALL: Self = Self(0);
}

impl Revision {
    /// The stream's own figures.
    pub const STREAM: Self = Self(0);
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Where a line stands that came by an import instead of a queue: the import's number, from 1, and the line's place among those that it brought into its partition, from 0. No queue gets that far. `None`: there
    /// are too many imports (4,194,303), or lines of one (2⁴⁰ in a partition).
    pub const fn imported(import: u32, place: u64) -> Option<Self> {
        if import == 0 || import > Self::LAST_IMPORT || place >= 1 << Self::PLACE_BITS {
            return None;
        }
        Some(Self(Self::FIRST_IMPORTED | (import as u64) << Self::PLACE_BITS | place))
    }

    /// The import that brought the line at this offset. `None`: it came through a queue.
    pub const fn import(self) -> Option<u32> {
        if self.0 < Self::FIRST_IMPORTED {
            return None;
        }
        Some(((self.0 - Self::FIRST_IMPORTED) >> Self::PLACE_BITS) as u32)
    }

    /// Offsets from here on are those of imported lines. They fit a signed number, too.
    const FIRST_IMPORTED: u64 = 1 << 62;
    const PLACE_BITS: u32 = 40;
    const LAST_IMPORT: u32 = (1 << (62 - Self::PLACE_BITS)) - 1;
}

/// A partition of one of the topics that raw clicks come in through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition within it.
    pub partition: Partition,
}

impl RawPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: &str, partition: Partition) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for RawPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Who sends records to a raw topic: a log watcher by its configured name or its host's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceName(pub Arc<str>);

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for SourceName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}
