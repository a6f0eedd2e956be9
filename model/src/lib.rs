//! The words of clickmill: what a click, a minute, a filter, a window and a watermark are, and how the records that the
//! stages send to each other look on the wire.
//!
//! Everything here is a value or a pure function: no I/O, no clock, no thread. Every other crate depends on this one; it
//! depends on none of them.

pub mod calendar;
pub mod click;
pub mod codec;
pub mod columns;
pub mod definition;
pub mod filter;
pub mod ids;
pub mod inputs;
pub mod intern;
pub mod line;
pub mod partition;
pub mod places;
pub mod prefetch;
pub mod records;
pub mod short;
pub mod time;
pub mod window;

pub use click::{Click, Identity};
pub use codec::CodecError;
pub use columns::{AdColumn, Columns};
pub use definition::{Definition, DefinitionError, DefinitionVersion, InputTopic, PartitionBy, TimeSettings};
pub use filter::{Filter, FilterMask, FilterSet};
pub use ids::{FilterId, Offset, Partition, RawPartition, Revision, SourceName};
pub use inputs::{Announced, ReadInputs};
pub use intern::AdTable;
pub use line::{LineParser, RejectReason};
pub use time::{Minute, Timestamp, Watermark};
pub use window::{Span, SpanKind, Window};
