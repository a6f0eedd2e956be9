//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{Days, NaiveDate};
use clap::{ArgGroup, Parser};
use clickmill_model::{Minute, Timestamp};

/// Counts a day or a span again from raw Parquet, by other means than the pipeline's, and compares every figure of the store with that.
///
/// Exit status 0: every figure is right, or no more differs than the threshold allows; 1: it could not be done; 2: wrong usage or configuration; 3: more differs; 4: as 0, but damaged input was skipped as asked.
#[derive(Debug, Parser)]
#[command(name = "clickmill-reconcile", bin_name = "clickmill reconcile", version, about, max_term_width = 100)]
#[command(group = ArgGroup::new("span").args(["date", "from"]).required(true))]
pub(crate) struct Cli {
    /// The configuration file [default: clickmill.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the embedded store and the local files are [default: clickmill-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Of no matter here
    #[arg(long, value_name = "PATTERN", hide = true)]
    pub(crate) logs: Vec<String>,
    /// Of no matter here
    #[arg(long, value_name = "ADDR", hide = true)]
    pub(crate) listen: Option<SocketAddr>,
    /// A whole day of UTC, YYYY-MM-DD, or "yesterday"
    #[arg(long, value_name = "DAY", value_parser = day)]
    pub(crate) date: Option<NaiveDate>,
    /// The first minute, yyyyMMddHHmm
    #[arg(long, value_name = "M", value_parser = minute, requires = "to")]
    pub(crate) from: Option<Minute>,
    /// The first minute that does not belong to it, yyyyMMddHHmm
    #[arg(long, value_name = "M", value_parser = minute, requires = "from")]
    pub(crate) to: Option<Minute>,
    /// Write a report for people (HTML) and one for programs (JSON) to this folder, with a history of all that are there
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// The share of clicks that may differ, such as 0.0001
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = share)]
    pub(crate) threshold: f64,
    /// Recalculate the spans that differ, and reconcile them again
    #[arg(long)]
    pub(crate) repair: bool,
    /// Name up to so many lines behind each differing count, with file and offset
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) lines: usize,
    /// Print the whole report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Wait while minutes of the span are open, or its raw lines are not all in Parquet
    #[arg(long)]
    pub(crate) wait: bool,
    /// Go on without raw files that are damaged or missing, name them, and exit with status 4
    #[arg(long)]
    pub(crate) skip_damaged: bool,
}

fn minute(text: &str) -> Result<Minute, String> {
    Minute::parse(text).ok_or_else(|| format!("{text:?} is no minute yyyyMMddHHmm, such as 202101010000"))
}

fn day(text: &str) -> Result<NaiveDate, String> {
    if text == "yesterday" {
        let today = chrono::DateTime::from_timestamp_micros(now().as_micros()).map(|now| now.date_naive());
        return today.and_then(|today| today.checked_sub_days(Days::new(1))).ok_or_else(|| "the clock is wrong".into());
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .ok()
        .filter(|_| text.len() == 10)
        .ok_or_else(|| format!("{text:?} is no day YYYY-MM-DD, such as 2021-01-01"))
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("{text:?} is no share of clicks: give a number from 0 to 1"))
}

/// What the machine's clock says.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_secs(i64::try_from(since.as_secs()).unwrap_or_default())
}

/// The longest span that is reconciled at once, in minutes: 366 days.
const LONGEST: i64 = 366 * 24 * 60;

impl Cli {
    /// The minutes `[from, to)` that are asked for, or why there are none such.
    pub(crate) fn span(&self) -> Result<(Minute, Minute), String> {
        let (from, to) = match (self.date, self.from, self.to) {
            (Some(day), ..) => {
                let start = day.and_hms_opt(0, 0, 0).map(|start| start.and_utc().timestamp()).unwrap_or_default();
                let first = Minute::from_epoch(start.div_euclid(60));
                (first, first.plus(24 * 60))
            }
            (None, Some(from), Some(to)) => (from, to),
            _ => return Err("give --date, or --from and --to".into()),
        };
        if from >= to {
            return Err(format!(
                "--from {from} --to {to}: the first minute must be before the last, which does not belong to the span"
            ));
        }
        if to.minus(from) > LONGEST {
            return Err(format!("{from} to {to} is longer than 366 days: reconcile it year by year"));
        }
        if to.start() > now() {
            return Err(format!(
                "the span ends at {to}, which is yet to come: it is {} now",
                Minute::from_epoch(now().as_micros().div_euclid(60_000_000))
            ));
        }
        Ok((from, to))
    }

    /// The flags that make `clickmill` read the same configuration.
    pub(crate) fn common(&self) -> Vec<String> {
        let flag = |name: &str, path: &Option<PathBuf>| {
            path.iter().flat_map(|path| [format!("--{name}"), path.display().to_string()]).collect::<Vec<_>>()
        };
        [flag("config", &self.config), flag("data-dir", &self.data_dir)].concat()
    }
}
