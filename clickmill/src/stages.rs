//! One stage as a process of its own.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::bail;
use clickmill_model::Definition;
use clickmill_queue::definitions::Definitions;
use clickmill_queue::topology;

use crate::Misused;
use crate::cli::Common;
use crate::config::Config;
use crate::define;
use crate::pipeline::{self, Access, Parts, Running};
use crate::up::{self, Server};

/// How long topics may be missing that another process makes.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// Which stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum One {
    LogWatcher,
    Mapper,
    Aggregator,
    Reducer,
    DbWriter,
    Api,
}

impl One {
    fn name(self) -> &'static str {
        match self {
            Self::LogWatcher => "log-watcher",
            Self::Mapper => "mapper",
            Self::Aggregator => "aggregator",
            Self::Reducer => "reducer",
            Self::DbWriter => "db-writer",
            Self::Api => "api",
        }
    }
}

/// Runs one stage until told to stop.
#[allow(clippy::print_stdout)]
pub(crate) fn run(config: &Config, common: &Common, one: One) -> anyhow::Result<()> {
    let mut config = config.clone();
    if one != One::Api && common.listen.is_none() {
        // Several stages share a machine: each takes a free port unless it is told one.
        config.api.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    }
    if one == One::LogWatcher && config.input.logs.is_empty() {
        return Err(Misused(anyhow::anyhow!("no log files to follow: give --logs PATTERN, or set input.logs")).into());
    }
    if one == One::DbWriter {
        pipeline::check_files(&config)?;
    }
    let stop = up::signals()?;
    let parts = Parts::open(&config, if one == One::Api { Access::Read } else { Access::Write })?;
    match one {
        // What it sends is counted, or not, by those that look.
        One::LogWatcher | One::Api => {}
        One::DbWriter => parts.check_history(true)?,
        One::Mapper | One::Aggregator | One::Reducer => parts.check_history(false)?,
    }
    if one != One::Api {
        match parts.definitions()?.as_ref().and_then(Definitions::newest) {
            Some(newest) => check_topics(&parts, newest)?,
            // The first stage of a new pipeline defines it, also where its topics were made before; what comes later is for `up` and `define`.
            None => {
                define::propose(&*parts.queue, &config.definition(), false)?;
            }
        }
    }
    let mut running = Running::new(&parts);
    match one {
        One::LogWatcher => {
            running.watcher(false)?;
        }
        One::Mapper => running.mapper()?,
        One::Aggregator => running.aggregator()?,
        One::Reducer => running.reducer()?,
        One::DbWriter => running.writers()?,
        One::Api => {}
    }
    let server = if one == One::Api { Server::api(&parts)? } else { Server::ops(&parts)? };
    println!("listening on http://{}", server.address);
    tracing::info!(stage = one.name(), data_dir = %config.data_dir.display(), "runs");
    while !stop.load(Ordering::Relaxed) && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::info!(stage = one.name(), "stopping");
    running.stop()
}

/// Refuses to start on topics that lack what the promises need.
fn check_topics(parts: &Parts, newest: &Definition) -> anyhow::Result<()> {
    let topics = topology::topics(newest);
    // Another process may be making them just now.
    let deadline = Instant::now() + MADE_WITHIN;
    while let Some(spec) = parts.queue.missing_topics(&topics)?.first() {
        if Instant::now() >= deadline {
            bail!("the topic {} is not there: run `clickmill topics create`", spec.name);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
