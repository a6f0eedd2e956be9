//! The aggregate store: the counts and rankings that queries are answered from.
//!
//! One trait, [`AggregateStore`], and its implementation [`embedded`] (SQLite). [`conformance`] is the suite that each implementation passes.
//!
//! What all of them promise:
//! - **Absolute**: a write says what is, never what to add. The same write again changes nothing; an older progress never wins over a newer one.
//! - **Figures first**: a reader that sees progress up to a minute sees every figure before it.
//! - **By revision**: figures of another revision never change those of this one.

mod types;

pub use types::*;
