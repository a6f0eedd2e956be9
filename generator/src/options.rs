//! What is asked for, and the plan that follows from it.

use std::path::PathBuf;
use std::time::Duration;

use clickmill_model::{Minute, Timestamp};

use crate::GenerateError;

/// When the clicks happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Evenly over [`Options::minutes`] from this minute on.
    At(Minute),
    /// Now, [`Options::rate`] of them a second: live traffic. Those of the last `history` come at once, then a click is written when its
    /// time has come. [`Options::minutes`] means nothing then.
    Now {
        /// How far back the first click lies.
        history: Duration,
    },
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The folder for log files (`clicks-00.log`, …) and `truth.csv`.
    pub out: PathBuf,
    /// How many different clicks; [`u64::MAX`] for as many as come until it is stopped.
    pub clicks: u64,
    /// How many ads, `ad001` the most clicked: the ad of rank r gets a share proportional to 1/r (Zipf's law). At most [`Options::MOST_ADS`].
    pub ads: u64,
    /// How many minutes the clicks are spread over.
    pub minutes: u32,
    /// When the first one happens.
    pub start: Start,
    /// What everything random follows from.
    pub seed: u64,
    /// How many files are written side by side; a line goes to any of them.
    pub files: u32,
    /// How many lines more than clicks, as a share of the clicks, 0 to 1: the same click told again, some of them as JSON and with an IPv6 address spelled
    /// in full.
    pub duplicates: f64,
    /// How far lines may be out of order; whole seconds count. One line in eight is held back, up to this long; so are duplicates.
    pub disorder: Duration,
    /// Lines a second; without it as fast as it goes. Files then grow by pieces that may end within a line, as those of a buffered logger do.
    pub rate: Option<u64>,
    /// Renames a file after so many lines (`clicks-00.log` to `clicks-00.000001.log`) and begins it anew. `None`: after ten seconds' worth where there is a rate, else never.
    pub rotate_lines: Option<u64>,
    /// Deletes the oldest renamed files beyond so many of each; `None` keeps all. What a reader has not read by then is lost to it.
    pub keep_rotated: Option<u32>,
}

impl Options {
    /// The most ads: the tables for drawing them take 12 bytes each.
    pub const MOST_ADS: u64 = 10_000_000;

    /// The most files that are written side by side.
    pub const MOST_FILES: u32 = 1000;

    /// A million clicks of a thousand ads in ten minutes of 2021, one in a hundred told twice, five seconds out of order, in one file.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            clicks: 1_000_000,
            ads: 1000,
            minutes: 10,
            start: Start::At(Minute::from_number(202_101_010_000).unwrap_or(Minute::from_epoch(0))),
            seed: 1,
            files: 1,
            duplicates: 0.01,
            disorder: Duration::from_secs(5),
            rate: None,
            rotate_lines: None,
            keep_rotated: None,
        }
    }
}

/// Clicks a second at most: each of a second's clicks has a user of its own, and user numbers have eight digits.
const MOST_PER_SECOND: u128 = 1 << 26;

/// What follows from the options.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) clicks: u64,
    pub(crate) ads: u64,
    /// Digits of an ad's number.
    pub(crate) ad_digits: usize,
    /// Time of the first click, in microseconds.
    first: i64,
    /// From one click to the next, in 2⁻³² microseconds.
    step: u128,
    pub(crate) seed: u64,
    pub(crate) files: u32,
    /// Of 2³² clicks, how many are told again.
    pub(crate) duplicates: u64,
    /// In microseconds.
    pub(crate) disorder: u64,
    /// Users are numbered from 0 to 2 to this power.
    pub(crate) user_bits: u32,
    /// Clicks a second, in 2⁻³².
    pace: Option<(Start, u128)>,
    pub(crate) rotate_lines: Option<u64>,
}

fn bad(option: &'static str, why: impl Into<String>) -> GenerateError {
    GenerateError::BadOption { option, why: why.into() }
}

impl Plan {
    pub(crate) fn new(options: &Options, now: &impl Fn() -> Timestamp) -> Result<Self, GenerateError> {
        if !(1..=Options::MOST_ADS).contains(&options.ads) {
            return Err(bad("ads", format!("{} is not 1 to {}", options.ads, Options::MOST_ADS)));
        }
        if !(1..=Options::MOST_FILES).contains(&options.files) {
            return Err(bad("files", format!("{} is not 1 to {}", options.files, Options::MOST_FILES)));
        }
        if !(0.0..=1.0).contains(&options.duplicates) {
            return Err(bad("duplicates", format!("{} is not 0 to 1", options.duplicates)));
        }
        if options.rotate_lines == Some(0) || options.rate == Some(0) || options.minutes == 0 {
            return Err(bad("rate, minutes, rotate-lines", "must be above 0"));
        }
        let duplicates = (options.duplicates * f64::from(u32::MAX)).round() as u64;
        // Clicks a second in 2⁻³², where the rate is one of lines.
        let pace = |rate: u64| (u128::from(rate) << 64) / u128::from((1 << 32) + duplicates);
        let micro = u128::from(1_000_000_u32) << 32;
        let (first, step) = match (options.start, options.rate) {
            (Start::At(minute), _) => {
                if options.clicks == u64::MAX {
                    return Err(bad("clicks", "must be given where the minutes are"));
                }
                let span = u128::from(options.minutes) * 60 * micro;
                (minute.start(), span / u128::from(options.clicks.max(1)))
            }
            (Start::Now { history }, Some(rate)) => (now().before(history), (micro << 32) / pace(rate).max(1)),
            (Start::Now { .. }, None) => return Err(bad("start", "live traffic needs a rate")),
        };
        let per_second = micro / step.max(1) + 2;
        if per_second > MOST_PER_SECOND {
            return Err(bad(
                "clicks",
                format!("{per_second} a second; at most {MOST_PER_SECOND} fit: raise the minutes"),
            ));
        }
        let ten_seconds = |rate: u64| (rate * 10 / u64::from(options.files)).max(1000);
        Ok(Self {
            clicks: options.clicks,
            ads: options.ads,
            ad_digits: options.ads.to_string().len().max(3),
            first: first.as_micros(),
            step,
            seed: options.seed,
            files: options.files,
            duplicates,
            disorder: options.disorder.as_secs() * 1_000_000,
            user_bits: per_second.next_power_of_two().trailing_zeros().max(16),
            pace: options.rate.map(|rate| (options.start, pace(rate))),
            rotate_lines: options.rotate_lines.or(options.rate.map(ten_seconds)),
        })
    }

    /// When this click happens, in microseconds.
    #[inline]
    pub(crate) fn time_of(&self, click: u64) -> i64 {
        self.first.saturating_add(((u128::from(click) * self.step) >> 32) as i64)
    }

    /// How many clicks shall have been made by now.
    pub(crate) fn due(&self, elapsed: Duration, now: &impl Fn() -> Timestamp) -> u64 {
        let due = match self.pace {
            None => u128::from(self.clicks),
            Some((Start::At(_), pace)) => (elapsed.as_micros() * pace / 1_000_000) >> 32,
            Some((Start::Now { .. }, _)) => {
                let since = u128::from(now().as_micros().saturating_sub(self.first).max(0).unsigned_abs());
                (since << 32) / self.step.max(1)
            }
        };
        u64::try_from(due).unwrap_or(u64::MAX).min(self.clicks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_never_has_more_clicks_than_there_are_users() {
        let base = Options::new("");
        let live = |rate| Options { start: Start::Now { history: Duration::ZERO }, rate: Some(rate), ..base.clone() };
        for options in [
            base.clone(),
            Options { clicks: 10_000_000, minutes: 1, ..base.clone() },
            Options { clicks: 1 << 31, minutes: 1, ..base.clone() },
            Options { clicks: 1, minutes: 525_600, ..base.clone() },
            live(1),
            live(65_536),
            live(65_537),
            live(1_000_000),
        ] {
            let plan = Plan::new(&options, &|| Timestamp::from_micros(1_700_000_000_123_456)).unwrap();
            let users = 1_u64 << plan.user_bits;
            for click in [0, 1, 12_345, 1 << 20, 1 << 33] {
                assert!(plan.time_of(click + users) - plan.time_of(click) >= 1_000_000, "{options:?}");
            }
            assert!(plan.user_bits <= 26);
        }
    }

    #[test]
    fn clicks_are_due_when_their_time_has_come() {
        let now = Timestamp::from_secs(1_700_000_000);
        let at = |plan: &Plan, secs| plan.due(Duration::from_secs(secs), &|| now.after(Duration::from_secs(secs)));
        let base = Options { duplicates: 0.25, rate: Some(1000), ..Options::new("") };
        let paced = Plan::new(&base, &|| now).unwrap();
        assert_eq!(at(&paced, 10), 8000, "a rate of lines, a fifth of them duplicates");
        let live = Options { start: Start::Now { history: Duration::from_secs(5) }, clicks: u64::MAX, ..base.clone() };
        let live = Plan::new(&live, &|| now).unwrap();
        assert_eq!(at(&live, 0).abs_diff(4000), 0);
        assert!(at(&live, 10).abs_diff(12_000) <= 1);
        assert!(live.time_of(at(&live, 10)) >= now.after(Duration::from_millis(9_998)).as_micros());
        let at_once = Plan::new(&Options { rate: None, ..base }, &|| now).unwrap();
        assert_eq!(at(&at_once, 0), 1_000_000);
    }
}
