//! The mapper: clicks become partial counts.
//!
//! In: records of the raw topics, each with one or more log lines. Out: one block of counts per transaction, raw partition and aggregator partition, and the
//! lines set aside as late or as no click.
//!
//! What it promises:
//! - each line is counted once, or set aside as duplicate, late or rejected, and the books of the raw partition say which;
//! - lateness is decided here, once: a click whose minute the partition's watermark has closed is late, every other one is counted;
//! - a block covers exactly the offsets from what was committed before it to what is committed with it;
//! - after a restart the same lines have the same fate: the identities of the open minutes are read again from the log.
//!
//! [`PartitionMapper`] is the operator, pure; [`MapperWorker`] feeds it, the only part that knows the queue. [`BatchMapper`] is its form for batch work, which has all lines before it and
//! knows no lateness.

mod batch;
mod clocks;
mod combine;
mod definitions;
mod identities;
mod open;
mod partition;
mod pending;
mod sources;
mod worker;

pub use batch::{BatchMapper, Counts, Lines, WasCounted};
pub use combine::Combiner;
pub use partition::{Mapped, Others, PartitionMapper};
pub use worker::MapperWorker;
