//! What was clicked, and what an aggregator tells of it: the slow model of the suite.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::partition::of_key;
use clickmill_model::records::FilterSpan;
use clickmill_model::{Columns, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp};

use crate::{AggregateStore, ClosedWrite, MinuteRange, TopAds, View};

/// Clicks by minute, ad and filter.
#[derive(Debug, Clone)]
pub struct Told {
    /// Aggregator partitions.
    pub partitions: u32,
    /// When the clicks of a minute arrived.
    pub arrival: fn(Minute) -> Timestamp,
    filters: Vec<FilterSpan>,
    clicks: BTreeMap<(Minute, String, FilterId), u64>,
}

impl Told {
    /// No clicks. They arrive at the end of their minute.
    pub fn new(partitions: u32) -> Self {
        Self { partitions, arrival: Minute::end, filters: Vec::new(), clicks: BTreeMap::new() }
    }

    /// Says from when to when a filter is published. As an aggregator does, it leaves out the totals of an hour or a day in whose last minute the filter is not.
    pub fn publish(&mut self, filter: FilterId, from: Minute, until: Option<Minute>) {
        self.filters.push(FilterSpan { filter, from, until });
    }

    /// True where the totals of a span hold a filter.
    fn is_told(&self, filter: FilterId, span: Span) -> bool {
        let of_filter = self.filters.iter().find(|published| published.filter == filter);
        let last = span.last();
        of_filter.is_none_or(|published| published.from <= last && published.until.is_none_or(|until| last < until))
    }

    /// Adds clicks.
    pub fn add(&mut self, minute: Minute, ad: &str, filter: FilterId, clicks: u64) {
        *self.clicks.entry((minute, ad.to_owned(), filter)).or_default() += clicks;
    }

    /// Every ad that was clicked.
    pub fn ads(&self) -> BTreeSet<&str> {
        self.clicks.keys().map(|(_, ad, _)| ad.as_str()).collect()
    }

    fn within(&self, range: MinuteRange) -> impl Iterator<Item = (Minute, &str, FilterId, u64)> {
        let first = (range.from, String::new(), FilterId(0));
        self.clicks
            .range(first..)
            .take_while(move |((minute, ..), _)| *minute < range.to)
            .map(|((minute, ad, filter), clicks)| (*minute, ad.as_str(), *filter, *clicks))
    }

    fn sums(&self, filter: FilterId, range: MinuteRange) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (_, ad, _, clicks) in self.within(range).filter(|(_, _, f, _)| *f == filter) {
            *sums.entry(ad).or_default() += clicks;
        }
        sums
    }

    /// Clicks of an ad in a range.
    pub fn count(&self, ad: &str, filter: FilterId, range: MinuteRange) -> u64 {
        self.sums(filter, range).get(ad).copied().unwrap_or(0)
    }

    /// The most clicked ads of a range.
    pub fn top(&self, filter: FilterId, range: MinuteRange, n: usize) -> TopAds {
        let sums = self.sums(filter, range).into_iter().filter(|(_, sum)| *sum > 0);
        let mut top: TopAds = sums.map(|(ad, sum)| (ad.to_owned(), sum)).collect();
        top.sort_by(|(ad_a, a), (ad_b, b)| b.cmp(a).then(ad_a.as_bytes().cmp(ad_b.as_bytes())));
        top.truncate(n);
        top
    }

    /// The counts of one span in one partition.
    fn columns(&self, partition: Partition, span: Span) -> Option<Columns> {
        let range = MinuteRange { from: span.start, to: span.end() };
        let is_mine = |ad: &str| of_key(ad.as_bytes(), self.partitions) == partition;
        let mut ads: BTreeMap<&str, BTreeMap<FilterId, u64>> = BTreeMap::new();
        let mut filters = BTreeSet::new();
        for (_, ad, filter, clicks) in self.within(range).filter(|(_, ad, f, _)| is_mine(ad) && self.is_told(*f, span))
        {
            *ads.entry(ad).or_default().entry(filter).or_default() += clicks;
            filters.insert(filter);
        }
        let mut columns = Columns::new(span, filters.iter().copied().collect());
        // Backwards: their order means nothing.
        for (ad, counts) in ads.iter().rev() {
            columns.ads.push(ad.as_bytes());
            for (column, filter) in columns.counts.iter_mut().zip(&filters) {
                column.push(counts.get(filter).copied().unwrap_or(0));
            }
        }
        (!columns.ads.is_empty()).then_some(columns)
    }

    /// What an aggregator partition tells when it closes the minutes `[from, until)`: them, and the hours and days that end with one of them.
    pub fn write(&self, partition: Partition, from: Minute, until: Minute) -> ClosedWrite {
        let mut counts = Vec::new();
        for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
            let first = Span::holding(kind, from).start;
            let touched = self.within(MinuteRange { from: first, to: until });
            let spans: BTreeSet<Span> = touched.map(|(minute, ..)| Span::holding(kind, minute)).collect();
            for span in spans.into_iter().filter(|span| span.end() <= until) {
                let oldest = self.within(MinuteRange { from: span.start, to: span.end() });
                let arrival = oldest.map(|(minute, ..)| (self.arrival)(minute)).min();
                counts.extend(self.columns(partition, span).map(|columns| (columns, arrival)));
            }
        }
        ClosedWrite { revision: Revision::STREAM, partition, counts, until, filters: self.filters.clone() }
    }

    /// Closes the minutes `[from, until)` in every partition.
    pub fn close(&self, store: &dyn AggregateStore, from: Minute, until: Minute) {
        for partition in (0..self.partitions).map(Partition) {
            store.write_closed(&self.write(partition, from, until)).expect("the store takes the counts");
        }
    }

    /// Demands the same counts of the store, for every ad at once.
    pub fn check_counts(&self, store: &dyn AggregateStore, filter: FilterId, range: MinuteRange) {
        self.check_counts_seen(store, &View::STREAM, filter, range);
    }

    /// The same, as a view shows them.
    pub fn check_counts_seen(&self, store: &dyn AggregateStore, view: &View, filter: FilterId, range: MinuteRange) {
        let ads: Vec<&str> = self.ads().into_iter().chain(["never clicked"]).collect();
        let sums = self.sums(filter, range);
        let expected: Vec<u64> = ads.iter().map(|ad| sums.get(ad).copied().unwrap_or(0)).collect();
        let found = store.counts(view, &ads, filter, range).expect("the store reads counts");
        assert_eq!(found, expected, "{ads:?}, filter {filter}, {} to {}", range.from, range.to);
    }

    /// Demands that the store hands out just the counts of the spans of a kind that begin in the range: those that ended before `until`, up to which everything was told.
    pub fn check_each(
        &self,
        store: &dyn AggregateStore,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        until: Minute,
    ) {
        let mut expected: BTreeMap<(Minute, Vec<u8>), u64> = BTreeMap::new();
        for (minute, ad, of, clicks) in
            self.within(MinuteRange { from: range.from, to: Span::holding(kind, range.to).end() })
        {
            let span = Span::holding(kind, minute);
            if of == filter && clicks > 0 && span.end() <= until && range.from <= span.start && span.start < range.to {
                *expected.entry((span.start, ad.as_bytes().to_vec())).or_default() += clicks;
            }
        }
        let mut found = BTreeMap::new();
        let mut take = |start, ad: &[u8], clicks| {
            if clicks > 0 {
                assert_eq!(found.insert((start, ad.to_vec()), clicks), None, "an ad comes once for each span");
            }
        };
        store.each_count(&View::STREAM, kind, filter, range, &mut take).expect("the store hands out counts");
        assert_eq!(found, expected, "{kind:?}, filter {filter}, {} to {}", range.from, range.to);
    }

    /// Demands the same most clicked ads of the store, where it can merge the range.
    pub fn check_top(&self, store: &dyn AggregateStore, filter: FilterId, range: MinuteRange, n: usize) {
        if let Some(found) = store.top(&View::STREAM, filter, range, n).expect("the store merges counts") {
            assert_eq!(found, self.top(filter, range, n), "top {n}, filter {filter}, {} to {}", range.from, range.to);
        }
    }
}
