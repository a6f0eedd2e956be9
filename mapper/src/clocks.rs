//! Which bound on clocks judges which record: one that is read again is judged as it was the first time.

use std::time::Duration;

use clickmill_model::Offset;
use clickmill_model::records::ClockBound;

/// The bounds that held, by rising offset; never none.
#[derive(Debug)]
pub(crate) struct ClockBounds(Vec<ClockBound>);

impl ClockBounds {
    /// This one for all records.
    pub(crate) fn new(max_clock_skew: Duration) -> Self {
        Self(vec![ClockBound { from: Offset(0), max_clock_skew }])
    }

    /// Those of a checkpoint; one of an older version has none, and `now` is the best guess.
    pub(crate) fn restore(bounds: &[ClockBound], now: Duration) -> Self {
        if bounds.is_empty() { Self::new(now) } else { Self(bounds.to_vec()) }
    }

    /// Another one holds from this record on.
    pub(crate) fn change(&mut self, from: Offset, max_clock_skew: Duration) {
        if self.0.last().is_some_and(|last| last.max_clock_skew == max_clock_skew) {
            return;
        }
        self.0.retain(|bound| bound.from < from);
        self.0.push(ClockBound { from, max_clock_skew });
    }

    /// The one for this record.
    #[inline]
    pub(crate) fn at(&self, offset: Offset) -> Duration {
        let held = self.0.iter().rev().find(|bound| bound.from <= offset);
        held.or(self.0.first()).map_or(Duration::ZERO, |bound| bound.max_clock_skew)
    }

    /// Those that records from here on need.
    pub(crate) fn since(&mut self, offset: Offset) -> Vec<ClockBound> {
        let needed = self.0.iter().rposition(|bound| bound.from <= offset).unwrap_or(0);
        self.0.drain(..needed);
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_the_bound_that_held_when_it_came() {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let mut bounds = ClockBounds::new(minutes(5));
        bounds.change(Offset(10), minutes(5));
        bounds.change(Offset(20), minutes(1));
        bounds.change(Offset(30), minutes(2));
        // Nothing was read between: the last word counts.
        bounds.change(Offset(30), minutes(3));
        let all = |bounds: &ClockBounds| [0, 19, 20, 29, 30, 99].map(|offset| bounds.at(Offset(offset)).as_secs() / 60);
        assert_eq!(all(&bounds), [5, 5, 1, 1, 3, 3]);
        let kept = bounds.since(Offset(20));
        assert_eq!(kept.len(), 2);
        assert_eq!(all(&ClockBounds::restore(&kept, minutes(9)))[2..], [1, 1, 3, 3]);
        assert_eq!(ClockBounds::restore(&[], minutes(9)).at(Offset(7)), minutes(9));
    }
}
