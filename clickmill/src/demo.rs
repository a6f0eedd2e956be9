//! `clickmill up --demo`: live traffic to look at.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clickmill_generator::{Options, Start};
use clickmill_model::{Filter, FilterId};

use crate::cli::Common;
use crate::config::Config;
use crate::up;

/// The folder of a demo holds a file of this name, so that nothing else is ever deleted.
const MARKER: &str = "made-by-clickmill-demo";

/// Lines a second.
const RATE: u64 = 300;

/// What the dashboard has to show at once.
const HISTORY: Duration = Duration::from_secs(65 * 60);

/// Starts on an empty folder.
fn start_afresh(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() && std::fs::read_dir(dir)?.next().is_some() {
        if !dir.join(MARKER).exists() {
            bail!("{} is not empty and was not made by a demo: give another --data-dir", dir.display());
        }
        std::fs::remove_dir_all(dir).with_context(|| format!("deleting the demo of before in {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("making the folder {}", dir.display()))?;
    std::fs::write(dir.join(MARKER), "").with_context(|| format!("writing into {}", dir.display()))
}

fn filters() -> Vec<Filter> {
    let filter = |id, name: &str| Filter { id: FilterId(id), name: name.into(), ..Filter::default() };
    vec![
        Filter { country: vec!["USA".into()], ..filter(1, "USA") },
        Filter { exclude_country: vec!["USA".into()], ..filter(2, "outside the USA") },
        Filter { country: ["Germany", "France", "UK"].map(String::from).to_vec(), ..filter(3, "Germany, France, UK") },
    ]
}

/// Runs the demo until told to stop.
pub(crate) fn run(common: &Common) -> anyhow::Result<()> {
    let mut config = Config::load(common).map_err(|error| anyhow::Error::new(crate::Misused(error)))?;
    if common.data_dir.is_none() {
        config.data_dir = PathBuf::from("clickmill-demo");
    }
    if config.data_dir.join("up.lock").exists() {
        // Refuses where a demo is running, before anything of it is deleted.
        drop(up::DataDir::hold(&config.data_dir)?);
    }
    start_afresh(&config.data_dir)?;
    let _held = up::DataDir::hold(&config.data_dir)?;
    let logs = config.data_dir.join("logs");
    config.input.logs = vec![format!("{}/*.log", logs.display())];
    config.time.max_disorder = Duration::from_secs(3);
    if config.filter.is_empty() {
        config.filter = filters();
    }
    let stop = up::signals()?;
    let parts = up::prepare(&config)?;
    let clicks = Options {
        clicks: u64::MAX,
        ads: 2000,
        start: Start::Now { history: HISTORY },
        files: 2,
        duplicates: 0.01,
        disorder: Duration::from_secs(2),
        rate: Some(RATE),
        rotate_lines: Some(RATE * 600),
        keep_rotated: Some(3),
        ..Options::new(&logs)
    };
    let stop_traffic = Arc::new(AtomicBool::new(false));
    let (clock, flag) = (Arc::clone(&parts.clock), Arc::clone(&stop_traffic));
    let made = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&made);
    let traffic = std::thread::Builder::new()
        .name("traffic".into())
        .spawn(move || {
            let progress = |clicks| counter.store(clicks, Ordering::Relaxed);
            clickmill_generator::generate(&clicks, || clock.now(), progress, &flag)
        })
        .context("starting the demo's traffic")?;
    // Files that are there when the watcher first looks are history to it; what is written behind its back for an hour that is over would be late.
    let history = RATE * HISTORY.as_secs() * 98 / 100;
    while made.load(Ordering::Relaxed) < history && !stop.load(Ordering::Relaxed) && !traffic.is_finished() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = up::run_live(&parts, &stop, |address| say(&address.to_string()));
    stop_traffic.store(true, Ordering::Relaxed);
    match traffic.join() {
        Ok(made) => made.map(|_| ()).context("making the demo's traffic")?,
        Err(_) => bail!("the demo's traffic panicked: this is a bug in clickmill"),
    }
    end
}

#[allow(clippy::print_stdout)]
fn say(address: &str) {
    println!(
        "\n  Dashboard  http://{address}/\n\n  Try\n    curl 'http://{address}/v1/ads/popular_ads?n=10'\n    \
         curl 'http://{address}/v1/ads/ad0001/aggregated_count'\n\n  Ctrl-C ends the demo.\n"
    );
}
