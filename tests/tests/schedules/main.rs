//! Schedules of faults: thousands that a seed draws, and those that are known to break pipelines, each by its number.
//!
//! `CLICKMILL_TEST_SEED=17 cargo test -p clickmill-tests --test schedules seeds` replays one seed; `CLICKMILL_TEST_SEEDS=100000` runs more.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod compare;
mod definition;
mod exactly_once;
mod inputs;
mod results;
mod seeds;
mod slow_store;
mod time;
mod watched;
mod words;
mod world;
