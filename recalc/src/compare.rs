//! What a recalculation changes of what readers see.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{AdTable, Columns, FilterId, Minute, Span, SpanKind, Window};
use clickmill_store::{AggregateStore, Changed, MinuteRange, StoreError, StoreProgress, StoredRanking, View};

use crate::plan::Plan;
use crate::replay::Told;

/// A figure that would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The clicks of an ad.
    Count {
        /// When. Hours and days are named where they lie inside the span.
        span: Span,
        /// Under which filter.
        filter: FilterId,
        /// Of which ad.
        ad: String,
        /// What the store has.
        stored: u64,
        /// What the raw lines say.
        recalculated: u64,
    },
    /// A ranking.
    Ranking {
        /// Its last minute.
        minute: Minute,
        /// How long it is.
        window: Window,
        /// Under which filter.
        filter: FilterId,
        /// What the store has. `None`: nothing.
        stored: Option<Ranking>,
        /// What the raw lines say. `None`: nothing was clicked.
        recalculated: Option<Ranking>,
    },
}

/// What all of it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Clicks of a minute and ad that would change, under any filter.
    pub counts: u64,
    /// Totals of hours and days that would.
    pub totals: u64,
    /// Rankings that would.
    pub rankings: u64,
    /// Clicks under filter 0 that the store has in the span, and that the raw lines say.
    pub clicks: (u64, u64),
    /// Clicks under filters in minutes in which they were not published: they would get a history.
    pub gained: BTreeMap<FilterId, u64>,
    /// Minutes with clicks in the store and none in raw lines. Whatever took these lines away, it must not lower a bill.
    pub without_raw: BTreeSet<Minute>,
}

impl Changes {
    /// As the row of the recalculation says it.
    pub fn changed(&self) -> Changed {
        let Self { counts, totals, rankings, clicks: (clicks_before, clicks_after), .. } = *self;
        Changed { counts, totals, rankings, clicks_before, clicks_after }
    }
}

/// How many rankings are asked for at once.
const RANKINGS_AT_ONCE: usize = 1000;

/// Compares what a recalculation tells with what the store has, slice by slice: hand it everything in order. It holds the counts of one slice.
pub struct Comparison<'a> {
    store: &'a dyn AggregateStore,
    view: View,
    published: Vec<FilterSpan>,
    windows: BTreeSet<Window>,
    span: Range<Minute>,
    told_until: Minute,
    counts: Vec<Columns>,
    rankings: HashMap<(FilterId, Window, Minute), Ranking>,
    changes: Changes,
}

impl<'a> Comparison<'a> {
    /// With what readers see of the plan's span by this view. `progress` is what the store said of its filters when the plan was made.
    pub fn new(store: &'a dyn AggregateStore, progress: &StoreProgress, view: &View, plan: &Plan) -> Self {
        let standing = [Window::MINUTE, Window::HOUR, Window::DAY];
        let held = |filter| view.held(filter).map(move |held| (filter, held));
        let held = view.filters().into_iter().flat_map(held).map(|(filter, MinuteRange { from, to })| FilterSpan {
            filter,
            from,
            until: Some(to),
        });
        Self {
            store,
            view: view.clone(),
            published: progress.filters.iter().copied().chain(held).collect(),
            windows: plan.newest().windows.into_iter().chain(standing).collect(),
            span: plan.minutes.clone(),
            told_until: plan.minutes.start,
            counts: Vec::new(),
            rankings: HashMap::new(),
            changes: Changes::default(),
        }
    }

    /// Minutes so far with clicks in the store and none in raw lines ([`Changes::without_raw`]).
    pub fn without_raw(&self) -> &BTreeSet<Minute> {
        &self.changes.without_raw
    }

    /// What all of it came to.
    pub fn finish(self) -> Changes {
        self.changes
    }

    /// Takes in what was told; `found` gets each change.
    pub fn take_in(&mut self, told: Told, found: &mut impl FnMut(&Change)) -> Result<(), StoreError> {
        match told {
            Told::Counts { columns, .. } => self.counts.push(columns),
            Told::Rankings { rankings, .. } => {
                let keyed =
                    rankings.into_iter().map(|ranking| ((ranking.filter, ranking.window, ranking.minute), ranking));
                self.rankings.extend(keyed);
            }
            Told::Until(until) => {
                let slice = std::mem::replace(&mut self.told_until, until)..until;
                let counts = std::mem::take(&mut self.counts);
                for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
                    for filter in self.filters(&counts) {
                        self.compare_counts(kind, filter, &slice, &counts, found)?;
                    }
                }
                for filter in self.published.iter().map(|span| span.filter).collect::<BTreeSet<_>>() {
                    self.compare_rankings(filter, &slice, found)?;
                }
                // What is left is of minutes in which its filter was not published.
                self.rankings.clear();
            }
        }
        Ok(())
    }

    /// Those that the store or the recalculation has something of.
    fn filters(&self, counts: &[Columns]) -> BTreeSet<FilterId> {
        let told = counts.iter().flat_map(|columns| columns.filters.iter().copied());
        self.published.iter().map(|span| span.filter).chain(told).collect()
    }

    /// True where readers see the filter from `first` to `last`.
    fn has_published(&self, filter: FilterId, first: Minute, last: Minute) -> bool {
        self.published
            .iter()
            .any(|span| span.filter == filter && span.from <= first && span.until.is_none_or(|until| last < until))
    }

    /// The spans of a kind that lie inside the span and end in this slice.
    fn spans(&self, kind: SpanKind, slice: &Range<Minute>) -> Range<Minute> {
        // The first that begins inside the span, and the first that ends behind what was told before.
        let inside = Span::holding(kind, self.span.start.plus(kind.minutes() - 1)).start;
        let first = Span::holding(kind, slice.start).start.max(inside);
        first..Span::holding(kind, slice.end).start.max(first)
    }

    fn compare_counts(
        &mut self,
        kind: SpanKind,
        filter: FilterId,
        slice: &Range<Minute>,
        counts: &[Columns],
        found: &mut impl FnMut(&Change),
    ) -> Result<(), StoreError> {
        let Range { start: from, end: to } = self.spans(kind, slice);
        let mut ads = AdTable::new();
        let mut number = |ad: &[u8]| {
            let number = ads.intern(AdTable::hash(ad), ad);
            number.ok_or_else(|| StoreError::Broken("more than 4 billion ads in a slice".into()))
        };
        // By span and ad: what is stored, what was recalculated.
        let mut both: BTreeMap<(Minute, u32), (u64, u64)> = BTreeMap::new();
        for columns in counts.iter().filter(|columns| columns.span.kind == kind) {
            let Some(place) = columns.filters.iter().position(|of| *of == filter) else { continue };
            let column = columns.counts.get(place).map(Vec::as_slice).unwrap_or_default();
            for (ad, count) in columns.ads.iter().zip(column).filter(|(_, count)| **count > 0) {
                both.entry((columns.span.start, number(ad)?)).or_default().1 += count;
            }
        }
        if from < to {
            let mut failed = None;
            self.store.each_count(&self.view, kind, filter, MinuteRange { from, to }, &mut |start, ad, count| {
                match number(ad) {
                    Ok(ad) => both.entry((start, ad)).or_default().0 += count,
                    Err(error) => failed = Some(error),
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        if kind == SpanKind::Minute && filter == FilterId::ALL {
            self.note_totals(&both);
        }
        for ((start, ad), (stored, recalculated)) in both {
            let span = Span { kind, start };
            if !self.has_published(filter, start, span.last()) {
                if kind == SpanKind::Minute {
                    *self.changes.gained.entry(filter).or_default() += recalculated;
                }
            } else if stored != recalculated && self.view.has_total(filter, span) {
                let counter =
                    if kind == SpanKind::Minute { &mut self.changes.counts } else { &mut self.changes.totals };
                *counter += 1;
                let ad = String::from_utf8_lossy(ads.get(ad)).into_owned();
                found(&Change::Count { span, filter, ad, stored, recalculated });
            }
        }
        Ok(())
    }

    fn note_totals(&mut self, both: &BTreeMap<(Minute, u32), (u64, u64)>) {
        let mut by_minute: BTreeMap<Minute, (u64, u64)> = BTreeMap::new();
        for ((minute, _), (stored, recalculated)) in both {
            let sums = by_minute.entry(*minute).or_default();
            *sums = (sums.0 + stored, sums.1 + recalculated);
        }
        for (minute, (stored, recalculated)) in by_minute {
            self.changes.clicks.0 += stored;
            self.changes.clicks.1 += recalculated;
            if recalculated == 0 && stored > 0 {
                self.changes.without_raw.insert(minute);
            }
        }
    }

    fn compare_rankings(
        &mut self,
        filter: FilterId,
        slice: &Range<Minute>,
        found: &mut impl FnMut(&Change),
    ) -> Result<(), StoreError> {
        let mut which = Vec::new();
        let mut minute = slice.start;
        while minute < slice.end {
            for window in &self.windows {
                let first = window.first(minute);
                if first >= self.span.start && self.has_published(filter, first, minute) {
                    which.push((*window, minute));
                }
            }
            minute = minute.next();
        }
        for asked in which.chunks(RANKINGS_AT_ONCE) {
            let stored = self.store.rankings(&self.view, filter, asked)?;
            for ((window, minute), stored) in asked.iter().zip(stored) {
                let recalculated = self.rankings.remove(&(filter, *window, *minute));
                let stored = match stored {
                    StoredRanking::Here(ranking) => Some(ranking),
                    StoredRanking::Nothing => None,
                    // Nobody sees one: it is put together from shorter ones.
                    StoredRanking::NotToBeHad => continue,
                };
                let said = |ranking: &Option<Ranking>| ranking.as_ref().map(|r| (r.whole, r.ads.clone()));
                if said(&stored) != said(&recalculated) {
                    self.changes.rankings += 1;
                    found(&Change::Ranking { minute: *minute, window: *window, filter, stored, recalculated });
                }
            }
        }
        Ok(())
    }
}
