//! Counts of the raw lines beside counts of the store, figure by figure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clickmill_model::records::FilterSpan;
use clickmill_model::{FilterId, Minute, SpanKind, Window};
use clickmill_store::{AggregateStore, MinuteRange, View};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::ads::Ads;
use crate::clicks::{ads as ads_of, numbers};
use crate::count::minutes;
use crate::engine::{Engine, join};
use crate::error::Result;
use crate::filters::column_of;
use crate::rank::Found;
use crate::scratch::{StoredRows, stored_schema};
use crate::slices::hours;
use crate::time::{first_of, hour_of, length, start_of};

/// Why a figure differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Clicks that came when their minute was closed, and were set aside.
    Late,
    /// Clicks that the raw lines tell, and the store lacks for no known reason (some of them may be late ones).
    Missing,
    /// Clicks that the store has, and no raw line tells.
    Surplus,
    /// The total of an hour or a day is not the sum of what raw lines tell.
    Total,
    /// A ranking that follows from counts that differ.
    Ranking,
    /// A ranking that differs although all counts of its window are right.
    RankingOnly,
}

impl Kind {
    /// All of them, the gravest last.
    pub const ALL: [Self; 6] =
        [Self::Late, Self::Missing, Self::Surplus, Self::Total, Self::Ranking, Self::RankingOnly];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Missing => "missing",
            Self::Surplus => "surplus",
            Self::Total => "total",
            Self::Ranking => "ranking",
            Self::RankingOnly => "ranking only",
        }
    }
}

/// A count that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CountDifference {
    /// Why.
    pub kind: Kind,
    /// `minute`, `hour` or `day`.
    pub span: &'static str,
    /// The span's first minute.
    pub start: Minute,
    /// Under which filter.
    pub filter: FilterId,
    /// Of which ad.
    pub ad_id: String,
    /// What the raw lines say.
    pub raw: u64,
    /// What the store says.
    pub stored: u64,
    /// How many of the clicks are late ones.
    pub late: u64,
}

/// A ranking that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RankingDifference {
    /// Why.
    pub kind: Kind,
    /// Its last minute.
    pub minute: Minute,
    /// How many minutes it looks back on.
    pub window: Window,
    /// Under which filter.
    pub filter: FilterId,
    /// The first place that differs, from 1.
    pub place: usize,
    /// What the raw lines say of the places around it.
    pub raw: Vec<(String, u64)>,
    /// What the store says of them. `None`: it has no such ranking.
    pub stored: Option<Vec<(String, u64)>>,
}

/// How many differences are kept, one by one. All are counted.
pub const MOST_DIFFERENCES: usize = 50_000;

/// How many differing minutes, filters and ads are told apart.
const MOST_KEYS: usize = 100_000;

/// Clicks that are too few and too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sum {
    /// Figures that differ.
    pub figures: u64,
    /// Clicks that the store lacks.
    pub lacks: u64,
    /// Clicks that it has too many.
    pub surplus: u64,
}

impl Sum {
    fn add(&mut self, raw: u64, stored: u64) {
        self.figures += 1;
        self.lacks += raw.saturating_sub(stored);
        self.surplus += stored.saturating_sub(raw);
    }

    /// Clicks that differ.
    pub fn clicks(&self) -> u64 {
        self.lacks + self.surplus
    }
}

/// What the comparison found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Counts that differ, as far as they are kept.
    pub counts: Vec<CountDifference>,
    /// Rankings that differ, as far as they are kept.
    pub rankings: Vec<RankingDifference>,
    /// How many figures differ, by kind.
    pub by_kind: BTreeMap<Kind, Sum>,
    /// Counts of minutes that differ, by filter.
    pub by_filter: BTreeMap<FilterId, Sum>,
    /// The same under filter 0, by hour.
    pub by_hour: BTreeMap<Minute, Sum>,
    /// The same, by ad, as far as they are kept.
    pub by_ad: BTreeMap<String, Sum>,
    /// Figures of minutes, of hours and days, and rankings that were compared.
    pub compared: Compared,
    /// Clicks by the raw lines and by the store, under each filter, in minutes in which it was published.
    pub clicks: BTreeMap<FilterId, (u64, u64)>,
    /// Minutes of which some count differs, by filter.
    pub minutes: BTreeSet<(FilterId, Minute)>,
    /// Totals and rankings that differ although the counts beside them are right.
    pub contradictions: u64,
    /// What has to be counted again for all to be right: what only follows from it is left out.
    pub spans: BTreeSet<(Minute, Minute)>,
}

/// How many figures were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Compared {
    /// Counts of an ad in a minute under a filter.
    pub counts: u64,
    /// Totals of an ad in an hour or a day.
    pub totals: u64,
    /// Rankings.
    pub rankings: u64,
}

impl Findings {
    /// True where nothing differs.
    pub fn is_clean(&self) -> bool {
        self.by_kind.is_empty()
    }

    pub(crate) fn count(&mut self, difference: CountDifference) {
        let CountDifference { kind, start, filter, raw, stored, span, .. } = difference;
        self.by_kind.entry(kind).or_default().add(raw, stored);
        let kind_of_span = [SpanKind::Minute, SpanKind::Hour, SpanKind::Day].into_iter().find(|k| name_of(*k) == span);
        let end = start.plus(kind_of_span.map_or(1, length));
        if kind_of_span == Some(SpanKind::Minute) {
            self.by_filter.entry(filter).or_default().add(raw, stored);
            self.minutes.insert((filter, start));
            if filter == FilterId::ALL {
                self.by_hour.entry(start_of(SpanKind::Hour, start)).or_default().add(raw, stored);
            }
            if filter == FilterId::ALL && (self.by_ad.len() < MOST_KEYS || self.by_ad.contains_key(&difference.ad_id)) {
                self.by_ad.entry(difference.ad_id.clone()).or_default().add(raw, stored);
            }
        }
        // A total follows from the counts of its minutes, and is right when they are; alone it contradicts them.
        let follows = kind == Kind::Total && self.differs_within(filter, start, end);
        if !follows {
            self.spans.insert((start, end));
            self.contradictions += u64::from(kind == Kind::Total);
        }
        if self.counts.len() < MOST_DIFFERENCES {
            self.counts.push(difference);
        }
    }

    pub(crate) fn rankings(&mut self, found: Found) {
        self.compared.rankings += found.compared;
        found.differing.into_iter().for_each(|difference| self.ranking(difference));
    }

    fn ranking(&mut self, mut difference: RankingDifference) {
        let RankingDifference { filter, window, minute, .. } = difference;
        if self.differs_within(filter, first_of(window, minute), minute.next()) {
            difference.kind = Kind::Ranking;
        }
        let sum = self.by_kind.entry(difference.kind).or_default();
        sum.figures += 1;
        if difference.kind == Kind::RankingOnly {
            self.contradictions += 1;
            self.spans.insert((first_of(window, minute), minute.next()));
        }
        if self.rankings.len() < MOST_DIFFERENCES {
            self.rankings.push(difference);
        }
    }

    /// True where a count of a minute in `[from, to)` differs under the filter.
    pub(crate) fn differs_within(&self, filter: FilterId, from: Minute, to: Minute) -> bool {
        from < to && self.minutes.range((filter, from)..(filter, to)).next().is_some()
    }

    /// The share of clicks that differ: of all filters the highest. `None` where something differs that is no share of clicks: a total or a ranking that contradicts the counts.
    pub fn rate(&self) -> Option<f64> {
        let share = |(filter, sum): (&FilterId, &Sum)| {
            let (raw, stored) = self.clicks.get(filter).copied().unwrap_or_default();
            sum.clicks() as f64 / raw.max(stored).max(1) as f64
        };
        (self.contradictions == 0).then(|| self.by_filter.iter().map(share).fold(0.0, f64::max))
    }

    /// The spans that differ, those that touch or overlap joined.
    pub fn joined_spans(&self) -> Vec<(Minute, Minute)> {
        joined(&self.spans)
    }
}

pub(crate) const fn name_of(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Minute => "minute",
        SpanKind::Hour => "hour",
        SpanKind::Day => "day",
    }
}

/// In which minutes which filter is published: by the stream, and by recalculations that hold it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published(BTreeMap<FilterId, Vec<(Minute, Minute)>>);

impl Published {
    /// What the stream and the revisions of a view say of `[from, to)`.
    pub(crate) fn of(filters: &[FilterSpan], view: &View, (from, to): (Minute, Minute)) -> Self {
        let mut all: BTreeMap<FilterId, BTreeSet<(Minute, Minute)>> = BTreeMap::new();
        let mut add = |filter: FilterId, first: Minute, end: Minute| {
            let (first, end) = (first.max(from), end.min(to));
            if first < end {
                all.entry(filter).or_default().insert((first, end));
            }
        };
        for span in filters {
            add(span.filter, span.from, span.until.unwrap_or(to));
        }
        for filter in view.filters() {
            view.held(filter).for_each(|held| add(filter, held.from, held.to));
        }
        Self(all.into_iter().map(|(filter, ranges)| (filter, joined(&ranges))).collect())
    }

    /// Those that are published somewhere.
    pub(crate) fn filters(&self) -> impl Iterator<Item = FilterId> {
        self.0.keys().copied()
    }

    /// True where the filter is published from `first` to `last`.
    pub(crate) fn whole(&self, filter: FilterId, first: Minute, last: Minute) -> bool {
        self.0.get(&filter).into_iter().flatten().any(|(from, to)| *from <= first && last < *to)
    }

    /// The parts of `[from, to)` in which it is.
    pub(crate) fn within(&self, filter: FilterId, from: Minute, to: Minute) -> Vec<(Minute, Minute)> {
        let ranges = self.0.get(&filter).into_iter().flatten();
        ranges.map(|(first, end)| (from.max(*first), to.min(*end))).filter(|(first, end)| first < end).collect()
    }
}

/// Ranges in their order, those that touch or overlap joined.
fn joined(ranges: &BTreeSet<(Minute, Minute)>) -> Vec<(Minute, Minute)> {
    let mut joined: Vec<(Minute, Minute)> = Vec::new();
    for (from, to) in ranges {
        match joined.last_mut() {
            Some((_, end)) if *from <= *end => *end = (*end).max(*to),
            _ => joined.push((*from, *to)),
        }
    }
    joined
}

/// How many pieces of the store are copied at once: each may be a day's figures of a filter, of which some stores hold a good part in memory.
const COPIED_AT_ONCE: usize = 2;

/// What the store says of a day or a part of one, on disk until this is dropped.
#[derive(Debug)]
pub(crate) struct Stored {
    folder: TempDir,
}

impl Stored {
    /// Copies every count of these filters in `[from, to)`: pieces of a kind and a filter, each into a file for each hour.
    ///
    /// A whole day is best, since some stores read whole days anyway.
    pub(crate) fn copy(
        (store, view): (&dyn AggregateStore, &View),
        engine: &Engine,
        ads: &Arc<Ads>,
        filters: &[FilterId],
        (from, to): (Minute, Minute),
    ) -> Result<Self> {
        let stored = Self { folder: engine.scratch_folder()? };
        let kinds = [SpanKind::Minute, SpanKind::Hour, SpanKind::Day];
        let pieces = Mutex::new(kinds.into_iter().flat_map(|kind| filters.iter().map(move |filter| (kind, *filter))));
        let copy = || {
            loop {
                let Some(piece) = pieces.lock().next() else { return Ok(()) };
                let copied = stored.copy_piece((store, view), ads, piece, (from, to));
                if copied.is_err() {
                    // The others need not ask any more.
                    pieces.lock().by_ref().for_each(drop);
                    return copied;
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..engine.threads().min(COPIED_AT_ONCE)).map(|_| scope.spawn(copy)).collect();
            threads.into_iter().try_for_each(join)
        })?;
        Ok(stored)
    }

    fn copy_piece(
        &self,
        (store, view): (&dyn AggregateStore, &View),
        ads: &Arc<Ads>,
        (kind, filter): (SpanKind, FilterId),
        (from, to): (Minute, Minute),
    ) -> Result<()> {
        let mut files: BTreeMap<i64, StoredRows> = BTreeMap::new();
        let mut push = |start: Minute, ad: &str, clicks: u64| {
            let file = match files.entry(hour_of(start)) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(StoredRows::create(&self.path(kind, filter, hour_of(start)), ads)?)
                }
            };
            file.push(start, ad, clicks)
        };
        let mut failed = Ok(());
        store.each_count(view, kind, filter, MinuteRange { from, to }, &mut |start, ad, clicks| {
            if failed.is_ok() && clicks > 0 {
                failed = push(start, &String::from_utf8_lossy(ad), clicks);
            }
        })?;
        failed?;
        files.into_values().try_for_each(StoredRows::finish)
    }

    fn path(&self, kind: SpanKind, filter: FilterId, hour: i64) -> PathBuf {
        self.folder.path().join(format!("{}-{}-{hour}.parquet", name_of(kind), filter.0))
    }

    /// Makes a filter's counts of spans that begin in `[from, to)` the table `stored`.
    fn show(&self, engine: &Engine, kind: SpanKind, filter: FilterId, (from, to): (Minute, Minute)) -> Result<()> {
        let paths: Vec<PathBuf> = hours(from, to).map(|(hour, _)| self.path(kind, filter, hour_of(hour))).collect();
        engine.set_scratch("stored", &stored_schema(), &paths)
    }
}

/// A count that is not the same in the table `truth` and in the store.
pub(crate) struct Differing {
    pub(crate) start: Minute,
    pub(crate) ad: u32,
    pub(crate) raw: u64,
    pub(crate) stored: u64,
}

/// What raw lines and the store say of a filter.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) compared: u64,
    pub(crate) raw: u64,
    pub(crate) stored: u64,
    pub(crate) differing: Vec<Differing>,
}

/// Compares a filter's column of `truth` with what is stored, for spans of a kind that begin in `[from, to)`, and are the rows of `truth`.
pub(crate) fn compare(
    engine: &Engine,
    stored: &Stored,
    kind: SpanKind,
    filter: FilterId,
    (from, to): (Minute, Minute),
) -> Result<Outcome> {
    stored.show(engine, kind, filter, (from, to))?;
    let column = column_of(filter);
    let both = format!(
        "SELECT start, ad, sum(raw) AS raw, sum(stored) AS stored FROM ( \
         SELECT minute AS start, ad, {column} AS raw, 0 AS stored FROM truth WHERE {column} > 0 AND {} \
         UNION ALL SELECT start, ad, 0 AS raw, clicks AS stored FROM stored WHERE {}) GROUP BY start, ad",
        minutes("minute", from, to),
        minutes("start", from, to)
    );
    let totals = format!(
        "SELECT count(*), coalesce(sum(raw), 0), coalesce(sum(stored), 0), count(*) FILTER (WHERE raw <> stored) FROM ({both})"
    );
    let mut outcome = Outcome::default();
    let mut differing = 0;
    for batch in engine.rows(&totals)? {
        let total = |place: usize| -> Result<u64> {
            Ok(numbers(batch.column(place))?.iter().flatten().map(i64::unsigned_abs).sum())
        };
        outcome = Outcome { compared: total(0)?, raw: total(1)?, stored: total(2)?, ..outcome };
        differing = total(3)?;
    }
    if differing > 0 {
        engine.each_batch(&format!("SELECT start, ad, raw, stored FROM ({both}) WHERE raw <> stored"), |batch| {
            let [starts, ads, raw, stored] = batch.columns() else { return Ok(()) };
            let (starts, raw, stored) = (numbers(starts)?, numbers(raw)?, numbers(stored)?);
            for (row, ad) in ads_of(ads)?.values().iter().enumerate() {
                outcome.differing.push(Differing {
                    start: Minute::from_epoch(starts.value(row)),
                    ad: *ad,
                    raw: raw.value(row).unsigned_abs(),
                    stored: stored.value(row).unsigned_abs(),
                });
            }
            Ok(())
        })?;
    }
    Ok(outcome)
}
