//! Which minutes a request is about, and whether their figures are complete.

use clickmill_model::records::FilterSpan;
use clickmill_model::{FilterId, Minute};
use clickmill_store::{MinuteRange, StoreProgress};

use crate::http::problem::Problem;
use crate::params::check_range;

/// The minutes whose figures are complete: `[from, until)`. Empty where `from >= until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Complete {
    /// The first minute whose figures are all there: later ones may have been deleted, or the filter began later.
    pub(crate) from: Minute,
    /// The first minute that is not closed yet, or in which the filter is no longer counted.
    pub(crate) until: Minute,
}

impl Complete {
    /// Nothing is.
    pub(crate) const NOTHING: Self = Self { from: Minute::MIN, until: Minute::MIN };

    /// The counts of a filter, where `partitions` aggregator partitions must have told.
    pub(crate) fn counts(progress: &StoreProgress, filter: FilterId, partitions: u32) -> Self {
        Self::of(progress, filter, progress.counts_from, progress.counts_until(partitions))
    }

    /// The rankings of a filter.
    pub(crate) fn rankings(progress: &StoreProgress, filter: FilterId, partitions: u32) -> Self {
        Self::of(progress, filter, progress.rankings_from, progress.rankings_until(partitions))
    }

    fn of(progress: &StoreProgress, filter: FilterId, kept_from: Option<Minute>, until: Option<Minute>) -> Self {
        let span = progress.filters.iter().find(|span| span.filter == filter);
        let (Some(until), Some(FilterSpan { from, until: removed, .. })) = (until, span) else {
            return Self::NOTHING;
        };
        Self { from: (*from).max(kept_from.unwrap_or(*from)), until: removed.map_or(until, |end| until.min(end)) }
    }

    /// What both have.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }

    /// What of it is still there, as was read after the figures: retention may have deleted some of them while they were read.
    pub(crate) fn still(self, after: Self) -> Self {
        Self { from: self.from.max(after.from), ..self }
    }

    /// The first minute of the range that is not complete; its end where all are.
    pub(crate) fn reaches(self, range: MinuteRange) -> Minute {
        if range.from < self.from { range.from } else { self.until.clamp(range.from, range.to) }
    }

    /// The range that is meant where `from`, `to` or both are not given: the last complete minute, and the minute before `now` where there is none yet.
    pub(crate) fn range(self, from: Option<Minute>, to: Option<Minute>, now: Minute) -> Result<MinuteRange, Problem> {
        let last = if self.from < self.until { self.until } else { now };
        let (from, to) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            // A start in the minutes that are still open: nobody asked for a reversed range.
            (Some(from), None) => (from, last.max(from.next())),
            (None, Some(to)) => (to.previous(), to),
            (None, None) => (last.previous(), last),
        };
        check_range(from, to)?;
        Ok(MinuteRange { from, to })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clickmill_model::Partition;

    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(&format!("20210101{text}")).unwrap()
    }

    fn range(from: &str, to: &str) -> MinuteRange {
        MinuteRange { from: minute(from), to: minute(to) }
    }

    #[test]
    fn complete_until_is_the_first_minute_that_is_not() {
        let complete = Complete { from: minute("0010"), until: minute("0100") };
        for (from, to, expected) in [
            ("0010", "0100", "0100"),
            ("0020", "0030", "0030"),
            ("0020", "0200", "0100"),
            ("0100", "0200", "0100"),
            ("0130", "0200", "0130"),
            ("0009", "0030", "0009"),
            ("0000", "0300", "0000"),
        ] {
            assert_eq!(complete.reaches(range(from, to)), minute(expected), "{from} {to}");
        }
        assert_eq!(Complete::NOTHING.reaches(range("0000", "0001")), minute("0000"));
    }

    #[test]
    fn what_is_not_given_is_the_last_complete_minute() {
        let complete = Complete { from: Minute::MIN, until: minute("0100") };
        let now = minute("0500");
        let check = |complete: Complete, from: Option<&str>, to: Option<&str>, expected: (&str, &str)| {
            let found = complete.range(from.map(minute), to.map(minute), now).unwrap();
            assert_eq!(found, range(expected.0, expected.1), "{from:?} {to:?}");
        };
        check(complete, None, None, ("0059", "0100"));
        check(complete, Some("0030"), None, ("0030", "0100"));
        check(complete, Some("0300"), None, ("0300", "0301"));
        check(complete, None, Some("0030"), ("0029", "0030"));
        check(complete, Some("0300"), Some("0400"), ("0300", "0400"));
        check(Complete::NOTHING, None, None, ("0459", "0500"));
        let not_yet = Complete { from: minute("0100"), until: minute("0100") };
        check(not_yet, None, None, ("0459", "0500"));
        assert!(complete.range(Some(minute("0000").plus(-366 * 1440)), None, now).is_err(), "more than 366 days");
    }

    #[test]
    fn every_partition_must_have_told_and_the_filter_must_be_published() {
        let span = |id, from, until: Option<&str>| FilterSpan { filter: FilterId(id), from, until: until.map(minute) };
        let progress = StoreProgress {
            counts: BTreeMap::from([(Partition(0), minute("0100")), (Partition(1), minute("0110"))]),
            rankings: BTreeMap::from([(Partition(0), minute("0050"))]),
            filters: vec![
                span(0, Minute::MIN, None),
                span(1, minute("0020"), None),
                span(2, Minute::MIN, Some("0030")),
                span(3, Minute::MIN, Some("0400")),
            ],
            counts_from: Some(minute("0010")),
            rankings_from: None,
        };
        let counts = |filter| Complete::counts(&progress, FilterId(filter), 2);
        assert_eq!(counts(0), Complete { from: minute("0010"), until: minute("0100") });
        assert_eq!(counts(1), Complete { from: minute("0020"), until: minute("0100") });
        assert_eq!(counts(2), Complete { from: minute("0010"), until: minute("0030") });
        assert_eq!(counts(3), Complete { from: minute("0010"), until: minute("0100") });
        assert_eq!(counts(4), Complete::NOTHING);
        assert_eq!(Complete::counts(&progress, FilterId(0), 3), Complete::NOTHING);
        assert_eq!(Complete::rankings(&progress, FilterId(0), 2), Complete::NOTHING);
        let rankings = Complete::rankings(&progress, FilterId(0), 1);
        assert_eq!(rankings, Complete { from: Minute::MIN, until: minute("0050") });
        assert_eq!(rankings.and(counts(0)), Complete { from: minute("0010"), until: minute("0050") });
    }
}
