//! The aggregator: partial counts become the final counts of closed minutes, and the rankings of one partition's ads.
//!
//! In: blocks of `click-partials`, from every mapper. Out: to the partition of `click-results` of the same number, the counts of each closed minute, hour and day; to
//! `top-candidates`, the most clicked ads of this partition for each filter, window and minute.
//!
//! What it promises:
//! - every offset of every raw partition is counted once: a gap or an overlap between blocks is refused ([`AggregateError::OffsetGap`]);
//! - a minute is closed once, when every raw partition's watermark has passed it, and never changes afterwards;
//! - rankings are exact for the ads of the partition: each window is slid by adding one minute and subtracting one;
//! - a restart goes on from its own results: they are the snapshot.
//!
//! [`Aggregator`] is the operator, pure; [`AggregatorWorker`] feeds it, the only part that knows the queue.

mod aggregator;
mod checkpoint;
mod error;
mod open;
mod publish;
mod rank;
mod windows;
mod worker;

pub use aggregator::{Aggregator, Closing};
pub use checkpoint::AggregatorCheckpoint;
pub use error::AggregateError;
pub use worker::{AggregatorWorker, PartitionAggregator};
