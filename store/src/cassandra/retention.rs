//! Retention: figures go by themselves, at a time that is fixed when they are written (a TTL), and that counts from their arrival.
//!
//! Everything that arrived on one day (UTC) goes together. Beside the figures stands, for each such time, up to which minute they reach (table `retention`): from it a reader knows what may be missing.
//! Cassandra takes the figures away [`GRACE`] later than readers are told, so that clocks that differ by less are no matter.

use std::time::Duration;

use clickmill_model::{Minute, Timestamp};

/// How much longer figures are there than readers are told; and so how far clocks may differ.
pub(super) const GRACE: Duration = Duration::from_secs(3600);

/// Cassandra counts the seconds of a time to live in 32 bits (2038-01-19) unless it was told otherwise. What shall be kept for longer is kept for good: rather too much than too little.
const LAST: i64 = 2_147_400_000;

const DAY: i64 = 86_400;

/// What becomes of a figure that is written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays.
    ForGood,
    /// It goes: readers may find it missing from `gone_at` on (seconds since 1970), and it is taken away in `ttl` seconds.
    Goes {
        /// From when on it may be missing, in seconds since 1970.
        gone_at: i64,
        /// In how many seconds it is taken away, at least 1.
        ttl: i32,
    },
    /// It was to go before: it is not written any more.
    Gone {
        /// Since when, in seconds since 1970.
        gone_at: i64,
    },
}

impl Fate {
    /// The fate of what arrived then and is kept for so long.
    pub(super) fn of(arrival: Option<Timestamp>, keep: Option<Duration>, now: Timestamp) -> Self {
        let (Some(arrival), Some(keep)) = (arrival, keep) else { return Self::ForGood };
        let seconds = |time: Timestamp| time.as_micros().div_euclid(1_000_000);
        let end_of_day = (seconds(arrival).div_euclid(DAY) + 1) * DAY;
        let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let gone_at = end_of_day.saturating_add(keep);
        let taken_at = gone_at.saturating_add(GRACE.as_secs() as i64);
        if taken_at > LAST {
            return Self::ForGood;
        }
        match i32::try_from(taken_at - seconds(now)) {
            Ok(ttl) if ttl > 0 => Self::Goes { gone_at, ttl },
            Ok(_) => Self::Gone { gone_at },
            // A clock more than 68 years away: nobody's data goes by such a clock.
            Err(_) if taken_at > seconds(now) => Self::ForGood,
            Err(_) => Self::Gone { gone_at },
        }
    }

    /// The time to live as Cassandra takes it, 0 for none. `None` where it is not to be written at all.
    pub(super) fn ttl(self) -> Option<i32> {
        match self {
            Self::ForGood => Some(0),
            Self::Goes { ttl, .. } => Some(ttl),
            Self::Gone { .. } => None,
        }
    }
}

/// Up to which minute the figures reach that go at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// When they go, in seconds since 1970.
    pub(super) gone_at: i64,
    /// The last minute of which one goes then.
    pub(super) last: Minute,
}

/// The marks of what is written together: for each time the last minute.
pub(super) fn marks(figures: impl Iterator<Item = (Minute, Fate)>) -> Vec<Mark> {
    let mut marks = std::collections::BTreeMap::new();
    for (minute, fate) in figures {
        match fate {
            Fate::ForGood => {}
            Fate::Goes { gone_at, .. } | Fate::Gone { gone_at } => {
                let last = marks.entry(gone_at).or_insert(minute);
                *last = minute.max(*last);
            }
        }
    }
    marks.into_iter().map(|(gone_at, last)| Mark { gone_at, last }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    #[test]
    fn a_figure_goes_with_the_day_that_it_arrived_on() {
        let day = |days: u64| Some(Duration::from_secs(days * 86_400));
        let at = |day: i64, seconds: i64| Timestamp::from_secs(day * DAY + seconds);
        let goes = |gone_at: i64, ttl: i64| Fate::Goes { gone_at: gone_at * DAY, ttl: ttl as i32 };
        let now = at(100, 10);
        for (arrival, keep, expected) in [
            (None, day(1), Fate::ForGood),
            (Some(now), None, Fate::ForGood),
            (Some(at(100, 0)), day(1), goes(102, 2 * DAY - 10 + HOUR)),
            (Some(at(100, DAY - 1)), day(1), goes(102, 2 * DAY - 10 + HOUR)),
            (Some(at(99, 0)), day(1), goes(101, DAY - 10 + HOUR)),
            (Some(at(98, 0)), day(1), goes(100, HOUR - 10)),
            (Some(at(97, 5)), day(1), Fate::Gone { gone_at: 99 * DAY }),
            (Some(at(-9000, 5)), day(1), Fate::Gone { gone_at: -8998 * DAY }),
            (Some(now), day(40_000), Fate::ForGood),
            (Some(now), Some(Duration::MAX), Fate::ForGood),
            (
                Some(Timestamp::MIN),
                day(1),
                Fate::Gone { gone_at: (Timestamp::MIN.as_micros() / 1_000_000 / DAY + 1) * DAY },
            ),
        ] {
            assert_eq!(Fate::of(arrival, keep, now), expected, "{arrival:?} {keep:?}");
        }
    }

    #[test]
    fn a_mark_says_how_far_figures_reach_that_go_together() {
        let goes = |gone_at| Fate::Goes { gone_at, ttl: 1 };
        let minute = Minute::from_epoch;
        let figures = [(minute(5), goes(1)), (minute(9), goes(2)), (minute(7), goes(1)), (minute(99), Fate::ForGood)];
        let expected = [Mark { gone_at: 1, last: minute(7) }, Mark { gone_at: 2, last: minute(9) }];
        assert_eq!(marks(figures.into_iter()), expected);
        assert_eq!(marks([(minute(3), Fate::Gone { gone_at: 8 })].into_iter()), [Mark { gone_at: 8, last: minute(3) }]);
    }
}
