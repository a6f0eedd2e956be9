//! `clickmill recalc`, the real program, on what it counted before.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests unwrap as tests do.

mod damaged;
mod dry_run;
mod interrupted;
mod readers;
mod revise;
mod site;
mod steps;
