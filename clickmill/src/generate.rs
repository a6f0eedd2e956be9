//! `clickmill generate`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use clickmill_generator::{GenerateError, Options, Start};
use clickmill_queue::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Misused;
use crate::cli::Generate;

/// Writes log files and their truth, until done or stopped.
#[allow(clippy::print_stdout)]
pub(crate) fn run(asked: &Generate) -> anyhow::Result<()> {
    let defaults = Options::new(&asked.out);
    let live = asked.rate.is_some() && asked.start.is_none();
    let options = Options {
        clicks: asked.clicks.unwrap_or(if live { u64::MAX } else { defaults.clicks }),
        ads: asked.ads,
        minutes: asked.minutes,
        start: match asked.start {
            Some(minute) => Start::At(minute),
            None if live => Start::Now { history: Duration::ZERO },
            None => defaults.start,
        },
        seed: asked.seed,
        files: asked.files,
        duplicates: asked.duplicates,
        disorder: Duration::from_secs(asked.disorder),
        rate: asked.rate,
        ..defaults
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("listening for signals")?;
    }
    let bar = if std::io::stderr().is_terminal() && options.clicks < u64::MAX {
        let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} clicks, {eta} left")?;
        ProgressBar::new(options.clicks).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    let clock = SystemClock::new();
    let summary = clickmill_generator::generate(&options, || clock.now(), |clicks| bar.set_position(clicks), &stop)
        .map_err(|error| match error {
            GenerateError::BadOption { .. } => anyhow::Error::new(Misused(error.into())),
            GenerateError::File { .. } | GenerateError::BadTruth { .. } => error.into(),
        })?;
    bar.finish_and_clear();
    println!(
        "{} lines ({} clicks, {} duplicates), {} bytes in {}",
        summary.lines,
        summary.clicks,
        summary.duplicates,
        summary.bytes,
        options.out.display()
    );
    Ok(())
}
