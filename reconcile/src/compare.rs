//! Counts of the raw lines beside counts of the store, figure by figure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clickmill_model::records::FilterSpan;
use clickmill_model::{FilterId, Minute, SpanKind, Window};
use clickmill_store::{AggregateStore, MinuteRange, View};
use serde::{Deserialize, Serialize};

use crate::clicks::{numbers, text};
use crate::count::minutes;
use crate::engine::Engine;
use crate::error::Result;
use crate::filters::column_of;
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

    pub(crate) fn ranking(&mut self, difference: RankingDifference) {
        let sum = self.by_kind.entry(difference.kind).or_default();
        sum.figures += 1;
        if difference.kind == Kind::RankingOnly {
            self.contradictions += 1;
            self.spans.insert((first_of(difference.window, difference.minute), difference.minute.next()));
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

/// What the store says, on disk.
#[derive(Debug)]
pub(crate) struct Stored {
    folder: PathBuf,
}

impl Stored {
    /// Copies every count of these filters in `[from, to)`.
    ///
    /// The store is asked for a whole day at a time, since some stores read whole days anyway; what comes is put into a file for each hour.
    pub(crate) fn copy(
        store: &dyn AggregateStore,
        view: &View,
        folder: PathBuf,
        filters: &[FilterId],
        (from, to): (Minute, Minute),
    ) -> Result<Self> {
        let stored = Self { folder };
        for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
            for (day, end) in crate::slices::pieces(SpanKind::Day, from, to) {
                stored.copy_day((store, view), kind, filters, (day, end))?;
            }
        }
        Ok(stored)
    }

    fn copy_day(
        &self,
        (store, view): (&dyn AggregateStore, &View),
        kind: SpanKind,
        filters: &[FilterId],
        (from, to): (Minute, Minute),
    ) -> Result<()> {
        let mut files: BTreeMap<i64, StoredRows> = BTreeMap::new();
        for (hour, _) in hours(from, to) {
            let hour = hour_of(hour);
            files.insert(hour, StoredRows::create(&self.path(kind, hour))?);
        }
        for filter in filters {
            let mut failed = Ok(());
            store.each_count(view, kind, *filter, MinuteRange { from, to }, &mut |start, ad, clicks| {
                if failed.is_ok() && clicks > 0 {
                    let ad = String::from_utf8_lossy(ad);
                    let file = files.get_mut(&hour_of(start));
                    failed = file.map_or(Ok(()), |file| file.push(*filter, start.as_epoch(), &ad, clicks));
                }
            })?;
            failed?;
        }
        files.into_values().try_for_each(StoredRows::finish)
    }

    fn path(&self, kind: SpanKind, hour: i64) -> PathBuf {
        self.folder.join(format!("stored-{}-{hour}.parquet", name_of(kind)))
    }

    /// Makes the counts of spans that begin in `[from, to)` the table `stored`.
    pub(crate) fn show(&self, engine: &Engine, kind: SpanKind, from: Minute, to: Minute) -> Result<()> {
        let paths: Vec<PathBuf> = hours(from, to).map(|(hour, _)| self.path(kind, hour_of(hour))).collect();
        engine.set_scratch("stored", &stored_schema(), &paths)
    }
}

/// A count that is not the same in the tables `truth` and `stored`.
pub(crate) struct Differing {
    pub(crate) start: Minute,
    pub(crate) ad_id: String,
    pub(crate) raw: u64,
    pub(crate) stored: u64,
}

/// What the tables say of a filter.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) compared: u64,
    pub(crate) raw: u64,
    pub(crate) stored: u64,
}

/// Compares a filter's column of `truth` with `stored`, for spans of a kind that begin in `[from, to)`. `truth` has minutes: they are added up by span. `visit` gets each count that is not the same.
pub(crate) fn compare(
    engine: &Engine,
    kind: SpanKind,
    filter: FilterId,
    (from, to): (Minute, Minute),
    visit: &mut dyn FnMut(Differing),
) -> Result<Outcome> {
    let column = column_of(filter);
    let length = length(kind);
    // Minutes before 1970 are negative, and the remainder has the sign of what is divided.
    let start = format!("minute - (minute % {length} + {length}) % {length}");
    let truth = format!(
        "SELECT {start} AS start, ad_id, sum({column}) AS clicks FROM truth WHERE {column} > 0 AND {} GROUP BY {start}, ad_id",
        minutes("minute", from, to)
    );
    let stored = format!(
        "SELECT start, ad_id, sum(clicks) AS clicks FROM stored WHERE filter_id = {} AND {} GROUP BY start, ad_id",
        filter.0,
        minutes("start", from, to)
    );
    let both = format!(
        "SELECT coalesce(t.start, s.start) AS start, coalesce(t.ad_id, s.ad_id) AS ad_id, coalesce(t.clicks, 0) AS raw, coalesce(s.clicks, 0) AS stored \
         FROM ({truth}) t FULL JOIN ({stored}) s ON t.start = s.start AND t.ad_id = s.ad_id"
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
        outcome = Outcome { compared: total(0)?, raw: total(1)?, stored: total(2)? };
        differing = total(3)?;
    }
    if differing > 0 {
        let sql = format!("SELECT start, raw, stored, ad_id FROM ({both}) WHERE raw <> stored ORDER BY start, ad_id");
        engine.each_batch(&sql, |batch| {
            let [starts, raw, stored, ads] = batch.columns() else { return Ok(()) };
            let (starts, raw, stored) = (numbers(starts)?, numbers(raw)?, numbers(stored)?);
            for (row, ad) in text(ads)?.iter().enumerate() {
                visit(Differing {
                    start: Minute::from_epoch(starts.value(row)),
                    ad_id: ad.unwrap_or_default().to_owned(),
                    raw: raw.value(row).unsigned_abs(),
                    stored: stored.value(row).unsigned_abs(),
                });
            }
            Ok(())
        })?;
    }
    Ok(outcome)
}
