//! What no single crate can show: the whole pipeline against a slow model, under faults, and as a process that is killed.
//!
//! [`model`] says what every figure must be; [`process`] runs the real program; [`answers`] compares what it says with what is true, [`raw`] reads what it left in Parquet,
//! [`results`] what it told by `click-results`, [`traffic`] writes logs meanwhile, [`stages`] runs every stage as a process of its own, [`steps`] kills a command before
//! each thing that it does to files, [`preload`] puts such a library before a process, or one that shows it another clock.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // Helpers of tests give up as tests do, and say why.

pub mod answers;
pub mod dice;
pub mod model;
pub mod preload;
pub mod process;
pub mod raw;
pub mod results;
pub mod stages;
pub mod steps;
pub mod traffic;
