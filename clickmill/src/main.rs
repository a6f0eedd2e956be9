//! The clickmill program: command line, configuration, wiring, nothing else.
//!
//! Results go to stdout, logs to stderr. Exit status 0: done; 1: failed; 2: wrong usage or configuration, or anything else that is the same when it is tried again; 4: done, but damaged input was
//! skipped, as asked.

mod beside;
mod cli;
mod config;
mod define;
mod demo;
mod drain;
mod generate;
mod names;
mod pipeline;
mod properties;
mod raw;
mod recalc;
#[cfg(test)]
mod reference;
mod schema;
mod stages;
mod topics;
mod unwritten;
mod up;
mod watching;
mod written;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clickmill_queue::{QueueError, StageError};
use clickmill_store::StoreError;

use cli::{Cli, Command, TopicsCommand};
use config::Config;

/// The allocator: the stages hand large buffers from thread to thread, which glibc's keeps apart by thread and gives back late.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage or configuration: trying again changes nothing, so that a supervisor should not (`RestartPreventExitStatus=2`; see [`is_lasting`]).
#[derive(Debug)]
pub(crate) struct Misused(pub(crate) anyhow::Error);

impl std::fmt::Display for Misused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Misused {}

/// Done, but without so many damaged or missing files, as asked.
#[derive(Debug)]
pub(crate) struct DoneWithout(pub(crate) usize);

impl std::fmt::Display for DoneWithout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "done without damaged or missing files of raw lines, as asked: {}", self.0)
    }
}

impl std::error::Error for DoneWithout {}

/// The allocator's option `purge_delay` (`mi_option_e` in `mimalloc.h`), which its crate has no name for.
const PURGE_DELAY: i32 = 15;

/// Memory that is freed is kept for what comes next, instead of being given back after a few milliseconds: for a command that takes and frees the same again and again, and ends.
#[allow(unsafe_code)]
fn keep_freed_memory() {
    // SAFETY: sets a number, which may be done at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("clickmill: {error:#}");
            }
            let without = error.is::<DoneWithout>();
            ExitCode::from(if without { 4 } else { 1 + u8::from(is_lasting(&error)) })
        }
    }
}

/// True where trying again would only find the same: wrong usage, and promises that the queue or the store does not hold.
fn is_lasting(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Misused>()
            || matches!(cause.downcast_ref(), Some(QueueError::Broken(_)))
            || matches!(cause.downcast_ref(), Some(StageError::Broken(_) | StageError::Queue(QueueError::Broken(_))))
            || matches!(cause.downcast_ref(), Some(StoreError::Broken(_)))
    })
}

fn run(command: Command) -> anyhow::Result<()> {
    let load = |common: &cli::Common| Config::load(common).map_err(|error| anyhow::Error::new(Misused(error)));
    match command {
        Command::Up(up) if up.demo => demo::run(&up.common),
        Command::Up(up) => up::run(&load(&up.common)?, up.drain),
        Command::LogWatcher(common) => stages::run(&load(&common)?, &common, stages::One::LogWatcher),
        Command::Mapper(common) => stages::run(&load(&common)?, &common, stages::One::Mapper),
        Command::Aggregator(common) => stages::run(&load(&common)?, &common, stages::One::Aggregator),
        Command::Reducer(common) => stages::run(&load(&common)?, &common, stages::One::Reducer),
        Command::DbWriter(common) => stages::run(&load(&common)?, &common, stages::One::DbWriter),
        Command::Api(common) => stages::run(&load(&common)?, &common, stages::One::Api),
        Command::Define(define) => define::run(&load(&define.common)?, define.dry_run, define.action.as_ref()),
        Command::Recalc(recalc) => {
            keep_freed_memory();
            recalc::run(load, &recalc)
        }
        Command::Raw(cli::Raw::Compact { common, dry_run }) => raw::compact(&load(&common)?, dry_run),
        Command::Raw(cli::Raw::Import(asked)) => raw::import(&load(&asked.common)?, &asked),
        Command::Reconcile { args } => beside::reconcile(&args),
        Command::Written { common, wait } => written::run(&load(&common)?, wait),
        Command::Topics(TopicsCommand::Create { common, dry_run }) => topics::create(&load(&common)?, dry_run),
        Command::Schema(cli::Schema::Create { common, dry_run }) => schema::create(&load(&common)?, dry_run),
        Command::Generate(options) => generate::run(&options),
    }
}
