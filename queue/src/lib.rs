//! The message queue: partitioned, ordered logs of records with transactions over topics and consumed offsets.
//!
//! One small trait, [`Queue`], and its implementations: [`kafka`] (a cluster), [`embedded`] (SQLite, one machine, several processes) and [`memory`] (one process,
//! with a clock and faults of the test's choosing). [`conformance`] is the suite that each of them passes.
//!
//! What all of them promise:
//! - **Atomic**: what a [`Producer`] sends and the offsets that it commits with it become visible together or not at all. Readers see committed records only.
//! - **Fenced**: a producer made anew under a transactional id ends every earlier one of that id, and a commit of offsets by a consumer that no longer owns
//!   the partition is refused, with everything else in its transaction ([`QueueError::Fenced`]).
//! - **Handed over**: a partition belongs to one consumer of a group at a time. One that shall give it up is asked to ([`Poll::Revoking`]), finishes, commits and
//!   [releases](Consumer::release) it; one that does not answer within the session timeout loses it.
//! - **Stamped**: a record's arrival is the queue's own clock on append, and never goes back within a partition.

mod assign;
mod check;
pub mod clock;
pub mod conformance;
pub mod definitions;
pub mod embedded;
pub mod inputs;
pub mod kafka;
pub mod memory;
pub mod stage;
mod tell;
pub mod topology;
mod types;
pub mod worker;

pub use clock::{Clock, ManualClock, SystemClock};
pub use stage::{Progress, Stage, StageError, WhenFenced};
pub use types::*;
pub use worker::{Worker, WorkerConfig};
