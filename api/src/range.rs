//! Which minutes a request is about, and whether their figures are complete.

use clickmill_model::{FilterId, Minute};
use clickmill_store::{MinuteRange, StoreProgress, View};

use crate::http::problem::Problem;
use crate::params::check_range;

/// The minutes whose figures are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complete {
    /// Oldest first; between two of them there are minutes that are not.
    ranges: Vec<MinuteRange>,
    /// What is older may have been deleted.
    kept_from: Minute,
}

impl Complete {
    /// The counts of a filter, where `partitions` aggregator partitions must have told.
    pub(crate) fn counts(progress: &StoreProgress, view: &View, filter: FilterId, partitions: u32) -> Self {
        let kept_from = progress.counts_from.unwrap_or(Minute::MIN);
        Self::of(of_stream(progress, filter, progress.counts_until(partitions)), view, filter, kept_from)
    }

    /// The rankings of a filter.
    pub(crate) fn rankings(progress: &StoreProgress, view: &View, filter: FilterId, partitions: u32) -> Self {
        let kept_from = progress.rankings_from.unwrap_or(Minute::MIN);
        Self::of(of_stream(progress, filter, progress.rankings_until(partitions)), view, filter, kept_from)
    }

    /// What the stream told, and what recalculations hold: that was complete when they were made active.
    fn of(of_stream: Option<MinuteRange>, view: &View, filter: FilterId, kept_from: Minute) -> Self {
        let mut all: Vec<MinuteRange> = of_stream.into_iter().chain(view.held(filter)).collect();
        all.sort_unstable_by_key(|range| (range.from, range.to));
        let mut ranges: Vec<MinuteRange> = Vec::new();
        for range in all {
            match ranges.last_mut().filter(|last| range.from <= last.to) {
                Some(last) => last.to = last.to.max(range.to),
                None => ranges.push(range),
            }
        }
        Self { ranges, kept_from: Minute::MIN }.kept(kept_from)
    }

    /// Without what is older.
    fn kept(mut self, from: Minute) -> Self {
        self.ranges.retain_mut(|range| {
            range.from = range.from.max(from);
            range.from < range.to
        });
        self.kept_from = self.kept_from.max(from);
        self
    }

    /// What both have.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let common = |a: &MinuteRange, b: &MinuteRange| {
            let both = MinuteRange { from: a.from.max(b.from), to: a.to.min(b.to) };
            (both.from < both.to).then_some(both)
        };
        let pairs = self.ranges.iter().flat_map(|a| other.ranges.iter().filter_map(move |b| common(a, b)));
        Self { ranges: pairs.collect(), kept_from: self.kept_from.max(other.kept_from) }
    }

    /// What of it is still there, as was read after the figures: retention may have deleted some of them while they were read.
    pub(crate) fn still(self, after: &Self) -> Self {
        self.kept(after.kept_from)
    }

    /// The first minute of the range that is not complete; its end where all are.
    pub(crate) fn reaches(&self, range: MinuteRange) -> Minute {
        let holding = self.ranges.iter().find(|complete| complete.from <= range.from && range.from < complete.to);
        holding.map_or(range.from, |complete| complete.to.min(range.to))
    }

    /// The range that is meant where `from`, `to` or both are not given: the last complete minute, and the minute before `now` where there is none yet.
    pub(crate) fn range(&self, from: Option<Minute>, to: Option<Minute>, now: Minute) -> Result<MinuteRange, Problem> {
        let last = self.ranges.last().map_or(now, |range| range.to);
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

/// The minutes of a filter that the stream has told up to `until`.
fn of_stream(progress: &StoreProgress, filter: FilterId, until: Option<Minute>) -> Option<MinuteRange> {
    let span = progress.filters.iter().find(|span| span.filter == filter)?;
    let until = until?;
    let range = MinuteRange { from: span.from, to: span.until.map_or(until, |end| until.min(end)) };
    (range.from < range.to).then_some(range)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clickmill_model::records::FilterSpan;
    use clickmill_model::{Partition, Revision};
    use clickmill_store::Holds;

    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(&format!("20210101{text}")).unwrap()
    }

    fn range(from: &str, to: &str) -> MinuteRange {
        MinuteRange { from: minute(from), to: minute(to) }
    }

    const NOTHING: Complete = Complete { ranges: Vec::new(), kept_from: Minute::MIN };

    fn complete(from: Minute, to: Minute) -> Complete {
        Complete { ranges: vec![MinuteRange { from, to }], kept_from: Minute::MIN }
    }

    #[test]
    fn complete_until_is_the_first_minute_that_is_not() {
        let complete = complete(minute("0010"), minute("0100"));
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
        assert_eq!(NOTHING.reaches(range("0000", "0001")), minute("0000"));
    }

    #[test]
    fn what_is_not_given_is_the_last_complete_minute() {
        let complete = complete(Minute::MIN, minute("0100"));
        let now = minute("0500");
        let check = |complete: &Complete, from: Option<&str>, to: Option<&str>, expected: (&str, &str)| {
            let found = complete.range(from.map(minute), to.map(minute), now).unwrap();
            assert_eq!(found, range(expected.0, expected.1), "{from:?} {to:?}");
        };
        check(&complete, None, None, ("0059", "0100"));
        check(&complete, Some("0030"), None, ("0030", "0100"));
        check(&complete, Some("0300"), None, ("0300", "0301"));
        check(&complete, None, Some("0030"), ("0029", "0030"));
        check(&complete, Some("0300"), Some("0400"), ("0300", "0400"));
        check(&NOTHING, None, None, ("0459", "0500"));
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
        let between = |complete: Complete| complete.ranges.iter().map(|r| (r.from, r.to)).collect::<Vec<_>>();
        let counts = |filter| between(Complete::counts(&progress, &View::STREAM, FilterId(filter), 2));
        assert_eq!(counts(0), [(minute("0010"), minute("0100"))]);
        assert_eq!(counts(1), [(minute("0020"), minute("0100"))]);
        assert_eq!(counts(2), [(minute("0010"), minute("0030"))]);
        assert_eq!(counts(3), [(minute("0010"), minute("0100"))]);
        assert_eq!(counts(4), []);
        assert_eq!(between(Complete::counts(&progress, &View::STREAM, FilterId(0), 3)), []);
        assert_eq!(between(Complete::rankings(&progress, &View::STREAM, FilterId(0), 2)), []);
        let rankings = Complete::rankings(&progress, &View::STREAM, FilterId(0), 1);
        assert_eq!(between(rankings.clone()), [(Minute::MIN, minute("0050"))]);
        let counts = Complete::counts(&progress, &View::STREAM, FilterId(0), 2);
        assert_eq!(between(rankings.and(&counts)), [(minute("0010"), minute("0050"))]);
        assert_eq!(between(rankings.still(&counts)), [(minute("0010"), minute("0050"))]);
    }

    #[test]
    fn a_filter_is_complete_where_a_recalculation_holds_it() {
        let held = |revision, from, to| {
            let (range, windows) = (range(from, to), [].into());
            (Revision(revision), Holds { range, filters: [(FilterId(1), range)].into(), windows })
        };
        let view = View::of([held(1, "0005", "0015"), held(2, "0030", "0040"), held(3, "0040", "0055")]);
        let progress = StoreProgress {
            counts: BTreeMap::from([(Partition(0), minute("0100"))]),
            filters: vec![FilterSpan { filter: FilterId(1), from: minute("0050"), until: None }],
            counts_from: Some(minute("0010")),
            ..StoreProgress::default()
        };
        let complete = Complete::counts(&progress, &view, FilterId(1), 1);
        assert_eq!(complete.ranges, [range("0010", "0015"), range("0030", "0100")]);
        for (from, to, expected) in [
            ("0005", "0012", "0005"),
            ("0010", "0012", "0012"),
            ("0010", "0040", "0015"),
            ("0015", "0040", "0015"),
            ("0030", "0055", "0055"),
            ("0030", "0200", "0100"),
        ] {
            assert_eq!(complete.reaches(range(from, to)), minute(expected), "{from} {to}");
        }
        assert_eq!(Complete::counts(&progress, &view, FilterId(0), 1), NOTHING.kept(minute("0010")));
    }
}
