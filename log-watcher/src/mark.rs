//! How far time has come, by the files: the design's "Source watermarks". Pure: no file, no clock.

use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{TimeSettings, Timestamp};

/// What one file says about how far time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileTime {
    /// Nothing can be said yet: it was not compared with its position, or not one click of it is known.
    Unknown,
    /// None of its lines was sent; its first click is of this time.
    Unbegun {
        /// The event time of its first click.
        first: Timestamp,
    },
    /// Part of it was sent.
    CatchingUp {
        /// The highest event time sent of it.
        highest: Timestamp,
    },
    /// It was read to its end.
    AtEnd {
        /// When: a time before the look that found the end.
        as_of: Timestamp,
        /// Where it holds nevertheless ([`Hold`]): the highest event time sent of it.
        held: Option<Timestamp>,
    },
    /// It cannot be read.
    Unreadable {
        /// Since when.
        since: Timestamp,
        /// The highest event time sent of it, or that of its first click.
        at: Option<Timestamp>,
    },
}

/// How far one file lets time come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Nowhere,
    To(Timestamp),
    Anywhere,
}

/// What decides the mark beside the files themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listed {
    /// A time before the last listing of the patterns; `None` as long as no listing found any file.
    pub(crate) as_of: Option<Timestamp>,
    /// The highest event time ever sent.
    pub(crate) highest: Option<Timestamp>,
    /// A drain only: nothing is left to be read, and a listing in this very step found nothing new.
    pub(crate) all_read: bool,
}

/// The source's watermark. It never goes back.
#[derive(Debug)]
pub(crate) struct Mark {
    time: TimeSettings,
    drain: bool,
    said: SourceMark,
}

impl Mark {
    pub(crate) fn new(time: TimeSettings, drain: bool) -> Self {
        Self { time, drain, said: SourceMark::Holding }
    }

    /// What was said last.
    pub(crate) fn said(&self) -> SourceMark {
        self.said
    }

    /// The watermark by what is known at `now`.
    pub(crate) fn advance(
        &mut self,
        files: impl Iterator<Item = FileTime>,
        listed: Listed,
        now: Timestamp,
    ) -> SourceMark {
        if let SourceMark::Drained(_) = self.said {
            return self.said;
        }
        if self.drain && listed.all_read {
            // Where no click was ever sent there is no minute to close: the drain is over, and the source holds.
            if let Some(highest) = listed.highest {
                self.said = SourceMark::Drained(highest.minute().end());
            }
            return self.said;
        }
        let new = match listed.as_of {
            Some(as_of) if !self.drain => Limit::To(as_of.before(self.time.max_disorder)),
            // A drain never says "now": a later run on later files goes on from its last minute.
            Some(_) => Limit::Anywhere,
            None => Limit::Nowhere,
        };
        let limit = files.map(|file| self.limit(file, now)).fold(new, least);
        if let Limit::To(time) = limit {
            self.said = match self.said {
                SourceMark::At(before) => SourceMark::At(before.max(time)),
                SourceMark::Holding | SourceMark::Drained(_) => SourceMark::At(time),
            };
        }
        self.said
    }

    fn limit(&self, file: FileTime, now: Timestamp) -> Limit {
        let behind = |time: Timestamp| Limit::To(time.before(self.time.max_disorder));
        match file {
            FileTime::Unknown => Limit::Nowhere,
            FileTime::Unbegun { first } => behind(first),
            FileTime::CatchingUp { highest } => behind(highest),
            FileTime::AtEnd { held: Some(highest), .. } if !self.drain => behind(highest),
            FileTime::AtEnd { .. } if self.drain => Limit::Anywhere,
            FileTime::AtEnd { as_of, .. } => behind(as_of),
            FileTime::Unreadable { since, .. } if now.since(since) > self.time.source_timeout => Limit::Anywhere,
            FileTime::Unreadable { at: Some(time), .. } => behind(time),
            FileTime::Unreadable { at: None, .. } => Limit::Nowhere,
        }
    }
}

fn least(a: Limit, b: Limit) -> Limit {
    match (a, b) {
        (Limit::Nowhere, _) | (_, Limit::Nowhere) => Limit::Nowhere,
        (Limit::To(a), Limit::To(b)) => Limit::To(a.min(b)),
        (Limit::To(time), Limit::Anywhere) | (Limit::Anywhere, Limit::To(time)) => Limit::To(time),
        (Limit::Anywhere, Limit::Anywhere) => Limit::Anywhere,
    }
}

/// Whether a file at its end holds the watermark: it does as long as it gains old clicks (a copy may be under way), within limits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hold {
    /// When it gained an old click last.
    last_old: Option<Timestamp>,
    /// Since when it gains them while being read to its end each time.
    since: Option<Timestamp>,
}

/// The bounds of a [`Hold`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct HoldLimits {
    /// How far out of order clicks may be without being old.
    pub(crate) max_disorder: Duration,
    /// How long one old click holds.
    pub(crate) settle: Duration,
    /// How long all of them hold.
    pub(crate) source_timeout: Duration,
}

impl Hold {
    /// The file was read: its oldest new click is of time `oldest`, and the read reached the end or not.
    pub(crate) fn gained(&mut self, oldest: Option<Timestamp>, at_end: bool, now: Timestamp, limits: HoldLimits) {
        let quiet = self.last_old.is_none_or(|last| now.since(last) > limits.settle);
        if quiet || !at_end {
            self.since = None;
        }
        if oldest.is_some_and(|oldest| oldest < now.before(limits.max_disorder)) {
            self.last_old = Some(now);
        }
        if at_end && self.last_old.is_some() {
            self.since.get_or_insert(now);
        }
    }

    /// True where it holds.
    pub(crate) fn holds(&self, now: Timestamp, limits: HoldLimits) -> bool {
        let recent = self.last_old.is_some_and(|last| now.since(last) <= limits.settle);
        recent && self.since.is_none_or(|since| now.since(since) <= limits.source_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    const NOW: i64 = 1_000_000;

    fn mark(drain: bool) -> Mark {
        Mark::new(TimeSettings::default(), drain)
    }

    fn listed(as_of: i64) -> Listed {
        Listed { as_of: Some(at(as_of)), highest: None, all_read: false }
    }

    /// With the defaults: a disorder of 30 s, a timeout of 120 s.
    fn check(drain: bool, files: &[FileTime], expected: SourceMark) {
        let said = mark(drain).advance(files.iter().copied(), listed(NOW), at(NOW));
        assert_eq!(said, expected, "{files:?}");
    }

    const END: FileTime = FileTime::AtEnd { as_of: Timestamp::from_secs(NOW), held: None };

    #[test]
    fn the_file_that_is_furthest_behind_decides() {
        let unbegun = FileTime::Unbegun { first: at(500) };
        let catching_up = FileTime::CatchingUp { highest: at(400) };
        check(false, &[END], SourceMark::At(at(NOW - 30)));
        check(false, &[END, unbegun], SourceMark::At(at(470)));
        check(false, &[END, unbegun, catching_up], SourceMark::At(at(370)));
        check(false, &[FileTime::AtEnd { as_of: at(NOW - 5), held: None }, END], SourceMark::At(at(NOW - 35)));
        check(false, &[FileTime::AtEnd { as_of: at(NOW), held: Some(at(700)) }, END], SourceMark::At(at(670)));
        check(false, &[END, FileTime::Unknown], SourceMark::Holding);
    }

    #[test]
    fn a_file_that_cannot_be_read_stops_holding_after_the_timeout() {
        let unreadable = |ago, time: Option<i64>| FileTime::Unreadable { since: at(NOW - ago), at: time.map(at) };
        check(false, &[END, unreadable(120, None)], SourceMark::Holding);
        check(false, &[END, unreadable(121, None)], SourceMark::At(at(NOW - 30)));
        check(false, &[END, unreadable(120, Some(300))], SourceMark::At(at(270)));
        check(false, &[END, unreadable(121, Some(300))], SourceMark::At(at(NOW - 30)));
        check(true, &[unreadable(120, None)], SourceMark::Holding);
    }

    #[test]
    fn a_file_that_came_after_the_listing_is_not_passed() {
        let said = mark(false).advance([END].into_iter(), listed(NOW - 2), at(NOW));
        assert_eq!(said, SourceMark::At(at(NOW - 32)));
    }

    #[test]
    fn without_any_file_it_holds() {
        let nothing = Listed { as_of: None, highest: None, all_read: false };
        assert_eq!(mark(false).advance([].into_iter(), nothing, at(NOW)), SourceMark::Holding);
    }

    #[test]
    fn it_never_goes_back() {
        let mut mark = mark(false);
        mark.advance([END].into_iter(), listed(NOW), at(NOW));
        let back = FileTime::AtEnd { as_of: at(NOW - 3600), held: None };
        for file in [back, FileTime::Unknown, FileTime::Unbegun { first: at(0) }] {
            let said = mark.advance([file].into_iter(), listed(NOW - 3600), at(NOW - 3600));
            assert_eq!(said, SourceMark::At(at(NOW - 30)), "{file:?}");
        }
    }

    #[test]
    fn a_drain_never_says_now_and_ends_with_its_last_minute() {
        check(true, &[END], SourceMark::Holding);
        check(true, &[END, FileTime::CatchingUp { highest: at(400) }], SourceMark::At(at(370)));
        let mut drain = mark(true);
        let done = |highest: Option<i64>| Listed { as_of: Some(at(NOW)), highest: highest.map(at), all_read: true };
        assert_eq!(drain.advance([END].into_iter(), done(None), at(NOW)), SourceMark::Holding);
        assert_eq!(drain.advance([END].into_iter(), done(Some(119)), at(NOW)), SourceMark::Drained(at(120)));
        let said = drain.advance([FileTime::Unknown].into_iter(), listed(NOW), at(NOW + 9));
        assert_eq!(said, SourceMark::Drained(at(120)), "and says so again and again");
        assert_eq!(mark(true).advance([END].into_iter(), done(Some(120)), at(NOW)), SourceMark::Drained(at(180)));
        let before_1970 = mark(true).advance([END].into_iter(), done(Some(-1)), at(NOW));
        assert_eq!(before_1970, SourceMark::Drained(at(0)));
    }

    const LIMITS: HoldLimits = HoldLimits {
        max_disorder: Duration::from_secs(30),
        settle: Duration::from_secs(5),
        source_timeout: Duration::from_secs(120),
    };

    #[test]
    fn an_old_click_at_the_end_holds_until_the_file_has_settled() {
        let mut hold = Hold::default();
        hold.gained(Some(at(100)), true, at(NOW), LIMITS);
        assert!(hold.holds(at(NOW + 5), LIMITS));
        assert!(!hold.holds(at(NOW + 6), LIMITS));
        let mut fresh = Hold::default();
        fresh.gained(Some(at(NOW - 30)), true, at(NOW), LIMITS);
        assert!(!fresh.holds(at(NOW), LIMITS), "within the disorder");
        let mut garbage = Hold::default();
        garbage.gained(None, true, at(NOW), LIMITS);
        assert!(!garbage.holds(at(NOW), LIMITS));
    }

    #[test]
    fn a_server_whose_clock_is_a_day_behind_holds_no_longer_than_the_timeout() {
        let mut hold = Hold::default();
        for second in 0..3600 {
            hold.gained(Some(at(NOW + second - 86_400)), true, at(NOW + second), LIMITS);
            assert_eq!(hold.holds(at(NOW + second), LIMITS), second <= 120, "{second}");
        }
        hold.gained(Some(at(NOW)), true, at(NOW + 3610), LIMITS);
        assert!(hold.holds(at(NOW + 3610), LIMITS), "what comes after a silence may be a copy again");
    }

    #[test]
    fn reading_that_never_reaches_the_end_holds_without_limit() {
        let mut hold = Hold::default();
        for second in 0..1000 {
            hold.gained(Some(at(100 + second)), false, at(NOW + second), LIMITS);
            assert!(hold.holds(at(NOW + second), LIMITS));
        }
        hold.gained(Some(at(1100)), true, at(NOW + 1000), LIMITS);
        assert!(hold.holds(at(NOW + 1005), LIMITS));
        assert!(!hold.holds(at(NOW + 1006), LIMITS));
    }
}
