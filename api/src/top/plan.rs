//! How the most clicked ads of a range are found: from one stored ranking, from several, or from the counts.

use clickmill_model::records::Ranking;
use clickmill_model::{Definition, FilterId, Minute, Window};
use clickmill_store::{AggregateStore, MinuteRange, StoreError, StoreProgress, StoredRanking, TopAds, View};

use super::cover::{Place, cover, windows_of_all};
use super::threshold::{Head, Verdict, decide};

/// Totals that are looked up for one request, at most. Beyond, merging the counts is cheaper, and where that is not possible the answer says that it is
/// not exact.
const MOST_LOOK_UPS: usize = 2000;

/// The most clicked ads of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Top {
    /// Most clicked first, ties by `ad_id`.
    pub(crate) ads: TopAds,
    /// True where these are the most clicked ads for certain.
    pub(crate) exact: bool,
    /// Where they are not: the most clicks that an ad may have that is not among them. `None` where nobody knows.
    pub(crate) bound: Option<u64>,
    /// True where counts had a part in it, so that counts too must be complete.
    pub(crate) by_counts: bool,
    /// True where a ranking had a part in it that lacks minutes in which the filter was not counted.
    pub(crate) lacking: bool,
}

/// What was read before the figures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// All there ever were.
    pub(crate) definitions: &'a [Definition],
    /// How far the stream's figures are complete.
    pub(crate) progress: &'a StoreProgress,
    /// The figures that are seen.
    pub(crate) view: &'a View,
}

/// Finds the `n` most clicked ads of a range.
pub(crate) fn top(
    store: &dyn AggregateStore,
    known: Known<'_>,
    filter: FilterId,
    range: MinuteRange,
    n: usize,
) -> Result<Top, StoreError> {
    let Known { definitions, progress, view } = known;
    if let Some(top) = one_ranking(store, known, filter, range, n)? {
        return Ok(top);
    }
    let parts = Parts::of(definitions, progress, range);
    let found = store.rankings(view, filter, &places(known, filter, parts.ranked))?;
    let all_there = found.iter().all(|found| *found != StoredRanking::NotToBeHad);
    let rankings: Vec<Ranking> = found.into_iter().filter_map(StoredRanking::here).collect();
    let depth = depth(definitions).max(2 * n);
    let mut merged = Vec::new();
    for part in parts.counted {
        merged.push(store.top(view, filter, part, depth)?);
    }
    let known_all = all_there && merged.iter().all(Option::is_some);
    let by_counts = !merged.is_empty();
    let of_counts = merged.iter().flatten().map(|ads| Head { ads, whole: ads.len() < depth });
    let heads: Vec<Head<'_>> =
        rankings.iter().map(|ranking| Head { ads: &ranking.ads, whole: ranking.whole }).chain(of_counts).collect();
    let verdict = decide(&heads, n, MOST_LOOK_UPS, |ads| store.counts(view, ads, filter, range))?;
    let lacking = rankings.iter().any(|ranking| !ranking.complete);
    let Verdict { ads, exact, bound, looked_up } = verdict;
    let by_counts = by_counts || looked_up > 0;
    if exact && known_all {
        return Ok(Top { ads, exact: true, bound: None, by_counts, lacking });
    }
    if let Some(ads) = store.top(view, filter, range, n)? {
        return Ok(Top { ads, exact: true, bound: None, by_counts: true, lacking });
    }
    Ok(Top { ads, exact: false, bound: known_all.then_some(bound), by_counts, lacking })
}

/// The stored rankings that put a range together. None reaches over the edge of a recalculation: beyond, figures of its window come from elsewhere.
fn places(known: Known<'_>, filter: FilterId, range: MinuteRange) -> Vec<Place> {
    let Known { definitions, view, .. } = known;
    let everywhere = windows_of_all(definitions);
    let of_piece = |(piece, revision)| {
        let is_told = |window: &Window| view.holds(revision).is_none_or(|holds| holds.windows.contains(window));
        let windows: Vec<Window> = everywhere.iter().copied().filter(is_told).collect();
        cover(piece, &windows)
    };
    view.pieces(filter, range).into_iter().flat_map(of_piece).collect()
}

/// Answers from the one stored ranking that covers just this range, where there is one that is deep enough.
fn one_ranking(
    store: &dyn AggregateStore,
    Known { definitions, view, .. }: Known<'_>,
    filter: FilterId,
    range: MinuteRange,
    n: usize,
) -> Result<Option<Top>, StoreError> {
    let length = range.to.minus(range.from);
    let configured = definitions.iter().flat_map(|d| &d.windows).find(|window| i64::from(window.0) == length);
    let Some(window) = configured else { return Ok(None) };
    let found = store.rankings(view, filter, &[(*window, range.to.previous())])?.into_iter().next();
    Ok(found
        .and_then(StoredRanking::here)
        .filter(|ranking| ranking.complete && (ranking.whole || ranking.ads.len() >= n))
        .map(|ranking| {
            let mut ads = ranking.ads;
            ads.truncate(n);
            Top { ads, exact: true, bound: None, by_counts: false, lacking: false }
        }))
}

/// How long the heads of merged counts are: as long as stored rankings.
fn depth(definitions: &[Definition]) -> usize {
    definitions.last().map_or(0, Definition::depth)
}

/// A range, by where its rankings come from.
struct Parts {
    /// Rankings are stored; where one is missing, nothing was clicked.
    ranked: MinuteRange,
    /// They are not, or no longer: these counts must be merged.
    counted: Vec<MinuteRange>,
}

impl Parts {
    fn of(definitions: &[Definition], progress: &StoreProgress, range: MinuteRange) -> Self {
        let partitions = definitions.last().map_or(0, |d| d.partitions);
        let out_until = progress.rankings_until(partitions).unwrap_or(Minute::MIN);
        let to = out_until.clamp(range.from, range.to);
        let from = progress.rankings_from.unwrap_or(range.from).clamp(range.from, to);
        // Behind the furthest partition there is nothing to merge.
        let furthest = progress.counts.values().copied().max().unwrap_or(Minute::MIN);
        let counted =
            [MinuteRange { from: range.from, to: from }, MinuteRange { from: to, to: range.to.min(furthest) }];
        let counted = counted.into_iter().filter(|part| part.from < part.to).collect();
        Self { ranked: MinuteRange { from, to }, counted }
    }
}
