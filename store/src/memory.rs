//! The store in memory: the obvious implementation, for the harness and as the model that the others are compared with. It adds minutes up, and keeps hours and days only to forget them.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{
    Columns, Definition, DefinitionVersion, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp, Window,
};
use parking_lot::RwLock;

use crate::{
    AggregateStore, Began, ClosedWrite, EachCount, MinuteRange, RankedBy, RankedWrite, Recalculation, Result,
    RevisionRow, RevisionState, StoreError, StoreProgress, StoredRanking, Switch, TopAds, View, revisions,
};

/// Keeps everything in memory. Deterministic.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    spans: BTreeMap<(Revision, Span, Partition), SpanCounts>,
    homes: BTreeMap<Vec<u8>, Partition>,
    rankings: BTreeMap<RankingKey, Ranked>,
    counts_until: BTreeMap<(Revision, Partition), Minute>,
    rankings_until: BTreeMap<(Revision, Partition), Minute>,
    filters: BTreeMap<(Revision, Partition), Vec<FilterSpan>>,
    definitions: BTreeMap<DefinitionVersion, Definition>,
    revisions: Vec<RevisionRow>,
    verdict: Option<crate::Verdict>,
    counts_from: Option<Minute>,
    rankings_from: Option<Minute>,
}

type RankingKey = (Revision, FilterId, Window, Minute);

/// A ranking with its arrival.
type Ranked = (Ranking, Option<Timestamp>);

#[derive(Debug, Default)]
struct SpanCounts {
    arrival: Option<Timestamp>,
    ads: BTreeSet<Vec<u8>>,
    counts: BTreeMap<(FilterId, Vec<u8>), u64>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl State {
    /// The counts of a filter in each minute of a range.
    fn minutes(
        &self,
        view: &View,
        filter: FilterId,
        range: MinuteRange,
    ) -> impl Iterator<Item = (Minute, &Vec<u8>, u64)> {
        view.pieces(filter, range).into_iter().flat_map(move |(piece, revision)| {
            let key = |minute| (revision, Span::minute(minute), Partition(0));
            self.spans.range(key(piece.from)..key(piece.to)).flat_map(move |((_, span, _), counts)| {
                let of_filter = counts.counts.range((filter, Vec::new())..).take_while(move |((f, _), _)| *f == filter);
                of_filter.map(|((_, ad), count)| (span.start, ad, *count))
            })
        })
    }
}

impl SpanCounts {
    fn add(&mut self, columns: &Columns, arrival: Option<Timestamp>) -> Result<(), Vec<u8>> {
        self.arrival = self.arrival.max(arrival);
        for (row, ad) in columns.ads.iter().enumerate() {
            if !self.ads.insert(ad.to_vec()) {
                return Err(ad.to_vec());
            }
            for (filter, counts) in columns.filters.iter().zip(&columns.counts) {
                let count = counts.get(row).copied().unwrap_or(0);
                self.counts.insert((*filter, ad.to_vec()), count);
            }
        }
        Ok(())
    }
}

impl AggregateStore for MemoryStore {
    fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        let mut spans: BTreeMap<Span, SpanCounts> = BTreeMap::new();
        for (columns, arrival) in &write.counts {
            let counts = spans.entry(columns.span).or_default();
            counts.add(columns, *arrival).map_err(|ad| {
                let ad = String::from_utf8_lossy(&ad).into_owned();
                StoreError::Broken(format!("ad {ad} stands twice in the minute {}", columns.span.start))
            })?;
        }
        let mut state = self.state.write();
        let ads = || spans.values().flat_map(|counts| &counts.ads);
        if let Some(ad) = ads().find(|ad| state.homes.get(*ad).is_some_and(|home| *home != write.partition)) {
            let ad = String::from_utf8_lossy(ad);
            return Err(StoreError::Broken(format!(
                "ad {ad} has counts in another partition than {}",
                write.partition
            )));
        }
        state.homes.extend(ads().map(|ad| (ad.clone(), write.partition)));
        for (span, counts) in spans {
            state.spans.insert((write.revision, span, write.partition), counts);
        }
        let of = (write.revision, write.partition);
        let until = state.counts_until.entry(of).or_insert(write.until);
        if write.until >= *until {
            *until = write.until;
            state.filters.insert(of, write.filters.clone());
        }
        Ok(())
    }

    fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        let mut state = self.state.write();
        for (ranking, arrival) in &write.rankings {
            let key = (write.revision, ranking.filter, ranking.window, ranking.minute);
            state.rankings.insert(key, (ranking.clone(), *arrival));
        }
        let until = state.rankings_until.entry((write.revision, write.partition)).or_insert(write.until);
        *until = write.until.max(*until);
        Ok(())
    }

    fn write_verdict(&self, verdict: &crate::Verdict) -> Result<()> {
        self.state.write().verdict = Some(verdict.clone());
        Ok(())
    }

    fn last_verdict(&self) -> Result<Option<crate::Verdict>> {
        Ok(self.state.read().verdict.clone())
    }

    fn write_definition(&self, definition: &Definition) -> Result<()> {
        self.state.write().definitions.entry(definition.version).or_insert_with(|| definition.clone());
        Ok(())
    }

    fn definitions(&self) -> Result<Vec<Definition>> {
        Ok(self.state.read().definitions.values().cloned().collect())
    }

    fn progress_of(&self, of: Revision) -> Result<StoreProgress> {
        let state = self.state.read();
        let told = |until: &BTreeMap<(Revision, Partition), Minute>| {
            let told = until.iter().filter(|((revision, _), _)| *revision == of);
            told.map(|((_, partition), until)| (*partition, *until)).collect()
        };
        let mut filters: BTreeMap<FilterId, FilterSpan> = BTreeMap::new();
        for ((revision, _), spans) in &state.filters {
            for span in spans.iter().filter(|_| *revision == of) {
                let joined = filters.entry(span.filter).or_insert(*span);
                joined.from = joined.from.max(span.from);
                joined.until = [joined.until, span.until].into_iter().flatten().min();
            }
        }
        Ok(StoreProgress {
            counts: told(&state.counts_until),
            rankings: told(&state.rankings_until),
            filters: filters.into_values().collect(),
            counts_from: state.counts_from,
            rankings_from: state.rankings_from,
        })
    }

    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        Ok(self.state.read().revisions.clone())
    }

    fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        let mut state = self.state.write();
        Ok(match revisions::next(&state.revisions, new) {
            Err(other) => Began::Overlaps(other),
            Ok(revision) => {
                let (state_of_new, recalculation) = (RevisionState::Pending, new.clone());
                state.revisions.push(RevisionRow { revision, state: state_of_new, recalculation, changed: None });
                Began::Begun(revision)
            }
        })
    }

    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        let mut state = self.state.write();
        let row = state.revisions.iter_mut().find(|row| row.revision == revision);
        Ok(row.map(|row| {
            let before = row.state;
            switch.apply(row);
            before
        }))
    }

    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        let state = self.state.read();
        let mut sums: BTreeMap<&[u8], u64> = ads.iter().map(|ad| (ad.as_bytes(), 0)).collect();
        for (_, ad, count) in state.minutes(view, filter, range) {
            if let Some(sum) = sums.get_mut(ad.as_slice()) {
                *sum += count;
            }
        }
        Ok(ads.iter().map(|ad| sums.get(ad.as_bytes()).copied().unwrap_or(0)).collect())
    }

    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        let state = self.state.read();
        let mut series = BTreeMap::new();
        let mut at = range.from;
        while at < range.to {
            let span = Span::holding(step, at);
            series.insert(span.start, 0);
            at = span.end();
        }
        for (minute, _, count) in state.minutes(view, filter, range).filter(|(_, name, _)| *name == ad.as_bytes()) {
            *series.entry(Span::holding(step, minute).start).or_default() += count;
        }
        Ok(series.into_iter().collect())
    }

    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        let state = self.state.read();
        for (starts, revision) in view.spans(kind, filter, range) {
            let inside = |(of, span, _): &(Revision, Span, Partition)| {
                *of == revision && span.kind == kind && starts.from <= span.start && span.start < starts.to
            };
            for ((_, span, _), counts) in state.spans.iter().filter(|(key, _)| inside(key)) {
                for ((_, ad), count) in counts.counts.iter().filter(|((of, _), _)| *of == filter) {
                    visit(span.start, ad, *count);
                }
            }
        }
        Ok(())
    }

    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        let state = self.state.read();
        let find = |(window, minute): &(Window, Minute)| match view.ranked_by(filter, *window, *minute) {
            RankedBy::Nobody => StoredRanking::NotToBeHad,
            RankedBy::Revision(revision) => state
                .rankings
                .get(&(revision, filter, *window, *minute))
                .map_or(StoredRanking::Nothing, |(ranking, _)| StoredRanking::Here(ranking.clone())),
        };
        Ok(which.iter().map(find).collect())
    }

    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
        let state = self.state.read();
        let mut sums: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (_, ad, count) in state.minutes(view, filter, range) {
            *sums.entry(ad).or_default() += count;
        }
        let mut ads: Vec<(&[u8], u64)> = sums.into_iter().filter(|(_, count)| *count > 0).collect();
        // Stable: those of one count stay by their id.
        ads.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        ads.truncate(n);
        Ok(Some(ads.into_iter().map(|(ad, count)| (String::from_utf8_lossy(ad).into_owned(), count)).collect()))
    }

    fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64> {
        let mut state = self.state.write();
        let is_old = |arrival: Option<Timestamp>, before| arrival.is_some_and(|arrival| arrival < before);
        let counts = state.spans.extract_if(.., |_, counts| is_old(counts.arrival, counts_before));
        let counts: Vec<Span> = counts.map(|((_, span, _), _)| span).collect();
        let rankings = state.rankings.extract_if(.., |_, (_, arrival)| is_old(*arrival, rankings_before));
        let rankings: Vec<Minute> = rankings.map(|((.., minute), _)| minute).collect();
        let minutes = counts.iter().filter(|span| span.kind == SpanKind::Minute);
        state.counts_from = state.counts_from.max(minutes.map(|span| span.end()).max());
        state.rankings_from = state.rankings_from.max(rankings.iter().map(|minute| minute.next()).max());
        Ok((counts.len() + rankings.len()) as u64)
    }
}
