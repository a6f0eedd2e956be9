//! The reducer: the local rankings of every aggregator partition become the ranking of each filter, window and minute.
//!
//! In: records of `top-candidates`. Out: rankings to `click-results`.
//!
//! What it promises:
//! - each ad belongs to one aggregator partition, whose candidates are its exact best, so that the merged ranking is exact;
//! - a minute's rankings are told once, when every aggregator partition has told its own, oldest minute first;
//! - after a restart what was told is passed over, and the minutes still pending are read again.
//!
//! [`Reducer`] is the operator, pure; [`ReducerWorker`] feeds it, the only part that knows the queue.

mod checkpoint;
mod reducer;
mod worker;

pub use checkpoint::ReducerCheckpoint;
pub use reducer::{Published, Reducer};
pub use worker::{PartitionReducer, ReducerWorker};
