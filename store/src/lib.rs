//! The aggregate store: the counts and rankings that queries are answered from.
//!
//! One trait, [`AggregateStore`], and three implementations: [`embedded`] (SQLite, for one machine), [`cassandra`] (for many) and [`memory`] (for tests, and the model that others are compared with).
//! [`conformance`] is the suite that each implementation passes.
//!
//! What all of them promise:
//! - **Absolute**: a write says what is, never what to add. The same write again changes nothing; an older progress never wins over a newer one.
//! - **Figures first**: a reader that sees progress up to a minute sees every figure before it.
//! - **By revision**: figures of another revision never change those of this one. Which of them a reader sees is one value, a [`View`]; a recalculation comes into it and leaves it by one conditional write.

pub mod cassandra;
pub mod conformance;
pub mod embedded;
pub mod memory;
mod revisions;
mod types;
mod verdict;
mod view;

pub use cassandra::CassandraStore;
pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;
pub use revisions::{Began, Changed, Recalculation, RevisionRow, RevisionState, Switch};
pub use types::*;
pub use verdict::Verdict;
pub use view::{Holds, RankedBy, StoredRanking, View};
