//! `clickmill recalc`, the real program, on what it counted before.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod dry_run;
mod interrupted;
mod readers;
mod revise;
mod site;
