//! Windows and spans of minutes: the only place where their arithmetic is done.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Minute;

/// How many minutes a ranking looks back on. The ranking of window `w` at minute `m` covers the minutes `m - w + 1` to `m`.
///
/// Every configured window has a ranking at each minute in which something was clicked within it. Besides, [`Window::MINUTE`]
/// has one at each minute, [`Window::HOUR`] at least at each hour's last, and [`Window::DAY`] at least at each day's last: arbitrary ranges are
/// put together from those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Window(pub u32);

impl Window {
    /// One minute.
    pub const MINUTE: Self = Self(1);
    /// The sixty minutes of an hour.
    pub const HOUR: Self = Self(60);
    /// The 1,440 minutes of a day.
    pub const DAY: Self = Self(1440);

    /// The longest window that may be configured: a day.
    pub const LONGEST: Self = Self::DAY;

    /// The first minute of the window that ends with `last`.
    pub fn first(self, last: Minute) -> Minute {
        last.plus(1 - i64::from(self.0))
    }

    /// True where `minute` is the last one of a whole hour (for [`Window::HOUR`]), of a whole day, of a minute.
    pub fn is_aligned_at(self, last: Minute) -> bool {
        last.next().as_epoch().rem_euclid(i64::from(self.0)) == 0
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a [`Span`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpanKind {
    /// One minute.
    Minute,
    /// A whole hour, from minute 00.
    Hour,
    /// A whole day, from 00:00 UTC.
    Day,
}

impl SpanKind {
    /// Its length in minutes.
    pub const fn minutes(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
            Self::Day => 1440,
        }
    }

    /// The window whose ranking covers such a span.
    pub const fn window(self) -> Window {
        match self {
            Self::Minute => Window::MINUTE,
            Self::Hour => Window::HOUR,
            Self::Day => Window::DAY,
        }
    }
}

/// A minute, a whole hour or a whole day: what figures are stored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// How long it is.
    pub kind: SpanKind,
    /// Its first minute, a multiple of its length since the epoch.
    pub start: Minute,
}

impl Span {
    /// The span of this kind that holds `minute`.
    pub fn holding(kind: SpanKind, minute: Minute) -> Self {
        let length = kind.minutes();
        Self { kind, start: Minute::from_epoch(minute.as_epoch().div_euclid(length) * length) }
    }

    /// A span of one minute.
    pub const fn minute(minute: Minute) -> Self {
        Self { kind: SpanKind::Minute, start: minute }
    }

    /// The first minute after it.
    pub const fn end(self) -> Minute {
        self.start.plus(self.kind.minutes())
    }

    /// Its last minute: where the ranking that covers it stands.
    pub const fn last(self) -> Minute {
        self.end().previous()
    }
}

/// Tiles `[from, to)` with whole days, whole hours and minutes, the longest that fit, oldest first.
///
/// A year takes fewer than 365 + 2·23 + 2·59 tiles.
pub fn tiles(from: Minute, to: Minute) -> impl Iterator<Item = Span> {
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= to {
            return None;
        }
        let tile = [SpanKind::Day, SpanKind::Hour]
            .into_iter()
            .map(|kind| Span::holding(kind, at))
            .find(|span| span.start == at && span.end() <= to)
            .unwrap_or(Span::minute(at));
        at = tile.end();
        Some(tile)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(text).unwrap()
    }

    #[test]
    fn a_window_ends_with_its_minute() {
        let check =
            |window: u32, last: &str, first: &str| assert_eq!(Window(window).first(minute(last)), minute(first));
        check(1, "202101010000", "202101010000");
        check(5, "202101010002", "202012312358");
        check(60, "197001010030", "196912312331");
        check(1440, "202112312359", "202112310000");
    }

    #[test]
    fn hours_and_days_end_where_the_clock_says() {
        for (window, last, aligned) in [
            (Window::HOUR, "202101010059", true),
            (Window::HOUR, "202101010100", false),
            (Window::HOUR, "196912312359", true),
            (Window::DAY, "202112312359", true),
            (Window::DAY, "202112312259", false),
            (Window::DAY, "196902282359", true),
            (Window::MINUTE, "202101010100", true),
        ] {
            assert_eq!(window.is_aligned_at(minute(last)), aligned, "{window} {last}");
        }
    }

    #[test]
    fn tiles_cover_a_range_without_gap_or_overlap() {
        for (from, to, days, hours, minutes) in [
            ("202101010000", "202101010001", 0, 0, 1),
            ("202101010000", "202101010100", 0, 1, 0),
            ("202101010001", "202101010100", 0, 0, 59),
            ("202101010000", "202101020000", 1, 0, 0),
            ("202012312359", "202101020001", 1, 0, 2),
            ("196912302259", "197001020101", 2, 2, 2),
            ("202001010000", "202101010000", 366, 0, 0),
        ] {
            let (from, to) = (minute(from), minute(to));
            let all: Vec<Span> = tiles(from, to).collect();
            let count = |kind| all.iter().filter(|span| span.kind == kind).count();
            assert_eq!(
                (count(SpanKind::Day), count(SpanKind::Hour), count(SpanKind::Minute)),
                (days, hours, minutes),
                "{from} {to}"
            );
            let mut at = from;
            for span in all {
                assert_eq!(span.start, at);
                at = span.end();
            }
            assert_eq!(at, to);
        }
        assert_eq!(tiles(minute("202101010000"), minute("202101010000")).count(), 0);
    }
}
