//! Points in time: [`Timestamp`], [`Minute`], [`Watermark`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::calendar::{Civil, civil_from_days, days_from_civil, days_in_month};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
const MINUTES_PER_DAY: i64 = 24 * 60;

/// A point in time in UTC, as microseconds since 1970-01-01 00:00:00, negative before it. Leap seconds are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Before every other.
    pub const MIN: Self = Self(i64::MIN);
    /// 1970-01-01 00:00:00.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the epoch; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// From seconds since the epoch; saturates.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(MICROS_PER_SECOND))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Seconds since the epoch with their fraction, for gauges.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / MICROS_PER_SECOND as f64
    }

    /// The minute that holds this point.
    pub const fn minute(self) -> Minute {
        Minute(self.0.div_euclid(MICROS_PER_MINUTE))
    }

    /// This point, `duration` earlier; saturates.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// This point, `duration` later; saturates.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// How much later this point is than `earlier`; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// A second of the calendar with microseconds (0 to 999,999). `None` where there is no such day or hour. Second 60 is the
    /// leap second: legal at 23:59 only, and held in its minute as its last microsecond.
    pub fn from_civil(civil: Civil, hour: u32, minute: u32, second: u32, micros: u32) -> Option<Self> {
        if !(0..=9999).contains(&civil.year) || civil.day < 1 || civil.day > days_in_month(civil.year, civil.month) {
            return None;
        }
        let leap = second == 60 && hour == 23 && minute == 59;
        if hour > 23 || minute > 59 || (second > 59 && !leap) || micros > 999_999 {
            return None;
        }
        let (second, micros) = if leap { (59, 999_999) } else { (second, micros) };
        let seconds = days_from_civil(civil) * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
        Some(Self(seconds * MICROS_PER_SECOND + i64::from(micros)))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// RFC 3339, with as many digits of the second as needed: `2021-01-01T00:00:01Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let micros = self.0.rem_euclid(MICROS_PER_SECOND);
        let day = civil_from_days(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}", day.year, day.month, day.day)?;
        match micros {
            0 => f.write_str("Z"),
            m if m % 1000 == 0 => write!(f, ".{:03}Z", m / 1000),
            m => write!(f, ".{m:06}Z"),
        }
    }
}

/// A minute of UTC, as minutes since 1970-01-01 00:00, negative before it. Written `yyyyMMddHHmm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minute(i64);

impl Minute {
    /// Before every minute that can be written.
    pub const MIN: Self = Self(i64::MIN / MICROS_PER_MINUTE);
    /// After every minute that can be written.
    pub const MAX: Self = Self(i64::MAX / MICROS_PER_MINUTE);

    /// From minutes since the epoch, clamped to [`Minute::MIN`] and [`Minute::MAX`].
    pub const fn from_epoch(minutes: i64) -> Self {
        if minutes < Self::MIN.0 {
            Self::MIN
        } else if minutes > Self::MAX.0 {
            Self::MAX
        } else {
            Self(minutes)
        }
    }

    /// Minutes since the epoch.
    pub const fn as_epoch(self) -> i64 {
        self.0
    }

    /// Its first microsecond.
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0.saturating_mul(MICROS_PER_MINUTE))
    }

    /// The first microsecond that is no longer in it.
    pub const fn end(self) -> Timestamp {
        self.plus(1).start()
    }

    /// The minute `n` later (earlier where `n` is negative).
    pub const fn plus(self, n: i64) -> Self {
        Self::from_epoch(self.0.saturating_add(n))
    }

    /// The minute before.
    pub const fn previous(self) -> Self {
        self.plus(-1)
    }

    /// The minute after.
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// Minutes from `earlier` to this one, negative if it is later.
    pub const fn minus(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// Parses `yyyyMMddHHmm`: twelve digits that name a minute of the calendar.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Self::from_number(text.parse().ok()?)
    }

    /// From the number whose decimal digits are `yyyyMMddHHmm`.
    pub fn from_number(number: u64) -> Option<Self> {
        let civil = Civil {
            year: i64::try_from(number / 100_000_000).ok()?,
            month: (number / 1_000_000 % 100) as u32,
            day: (number / 10_000 % 100) as u32,
        };
        let (hour, minute) = ((number / 100 % 100) as u32, (number % 100) as u32);
        Timestamp::from_civil(civil, hour, minute, 0, 0).map(Timestamp::minute)
    }

    /// The number whose decimal digits are `yyyyMMddHHmm`. A minute outside of the years 0 to 9999 gives the nearest inside.
    pub fn as_number(self) -> u64 {
        const FIRST: i64 = -719_528 * MINUTES_PER_DAY;
        const LAST: i64 = 2_932_897 * MINUTES_PER_DAY - 1;
        let minutes = self.0.clamp(FIRST, LAST);
        let day = civil_from_days(minutes.div_euclid(MINUTES_PER_DAY));
        let of_day = minutes.rem_euclid(MINUTES_PER_DAY).unsigned_abs();
        let date = day.year.unsigned_abs() * 10_000 + u64::from(day.month) * 100 + u64::from(day.day);
        date * 10_000 + of_day / 60 * 100 + of_day % 60
    }
}

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012}", self.as_number())
    }
}

/// In JSON a minute is the number `yyyyMMddHHmm`.
impl Serialize for Minute {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.as_number())
    }
}

impl<'de> Deserialize<'de> for Minute {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::from_number(number).ok_or_else(|| serde::de::Error::custom(format!("{number} is no minute yyyyMMddHHmm")))
    }
}

/// The event time up to which a stage has seen everything. It never goes back: who holds one replaces it with [`Watermark::raised_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(Timestamp);

impl Watermark {
    /// Nothing has been seen: no minute is closed.
    pub const NONE: Self = Self(Timestamp::MIN);

    /// Everything before `time` has been seen.
    pub const fn at(time: Timestamp) -> Self {
        Self(time)
    }

    /// The event time before which everything was seen.
    pub const fn time(self) -> Timestamp {
        self.0
    }

    /// True once the minute's last microsecond lies before the watermark.
    pub fn closes(self, minute: Minute) -> bool {
        minute.end() <= self.0
    }

    /// The first minute that is still open.
    pub const fn open_from(self) -> Minute {
        if self.0.0 == i64::MIN { Minute::MIN } else { self.0.minute() }
    }

    /// The later of the two.
    #[must_use]
    pub fn raised_to(self, other: Self) -> Self {
        self.max(other)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE { f.write_str("none") } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let parsed: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_micros(parsed.as_microsecond())
    }

    #[test]
    fn a_minute_is_written_and_read_as_yyyymmddhhmm() {
        for (time, minute) in [
            ("2021-01-01T00:00:00Z", "202101010000"),
            ("2021-01-01T00:00:59.999999Z", "202101010000"),
            ("2021-12-31T23:59:59.999Z", "202112312359"),
            ("1969-12-31T23:59:59.999999Z", "196912312359"),
            ("1970-01-01T00:00:00Z", "197001010000"),
            ("2024-02-29T12:30:00Z", "202402291230"),
            ("0001-01-01T00:00:00Z", "000101010000"),
            ("9999-12-30T21:59:00Z", "999912302159"),
        ] {
            let expected = at(time).minute();
            assert_eq!(expected.to_string(), minute, "{time}");
            assert_eq!(Minute::parse(minute), Some(expected), "{time}");
        }
    }

    #[test]
    fn what_is_no_minute_is_refused() {
        for text in [
            "202101010060",
            "202101012400",
            "202102300000",
            "202113010000",
            "202100010000",
            "20210101000",
            "2021010100000",
            "2021-01-0100",
            "",
            "-20210101000",
            "２０２１",
        ] {
            assert_eq!(Minute::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_timestamp_is_written_as_rfc_3339() {
        for text in ["2021-01-01T00:00:01Z", "1969-07-20T20:17:40.500Z", "2099-12-31T23:59:59.000001Z"] {
            assert_eq!(at(text).to_string(), text);
        }
    }

    #[test]
    fn the_leap_second_belongs_to_its_minute() {
        let day = Civil { year: 2016, month: 12, day: 31 };
        let leap = Timestamp::from_civil(day, 23, 59, 60, 500_000).unwrap();
        assert_eq!(leap.minute().to_string(), "201612312359");
        assert_eq!(Timestamp::from_civil(day, 12, 0, 60, 0), None);
        assert_eq!(Timestamp::from_civil(day, 23, 59, 61, 0), None);
    }

    #[test]
    fn a_watermark_closes_a_minute_at_its_very_end() {
        let minute = Minute::parse("202101010000").unwrap();
        assert!(!Watermark::at(Timestamp::from_micros(minute.end().as_micros() - 1)).closes(minute));
        assert!(Watermark::at(minute.end()).closes(minute));
        assert_eq!(Watermark::at(minute.end()).open_from(), minute.next());
        assert!(!Watermark::NONE.closes(Minute::MIN.next()));
    }
}
