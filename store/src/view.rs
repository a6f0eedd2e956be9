//! Which revision a figure is read from: pure arithmetic over the recalculations that are active.
//!
//! The rules: a minute's counts are those of the highest active revision that holds the minute and the filter, else the stream's. A stored ranking is read only where every minute of its window comes from the
//! revision that it belongs to; elsewhere it would be of figures that nobody sees any more, and the range is put together from shorter ones. So are the totals of hours and days.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::Ranking;
use clickmill_model::{FilterId, Minute, Revision, Span, SpanKind, Window};
use serde::{Deserialize, Serialize};

use crate::MinuteRange;

/// What a recalculation holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// The minutes.
    pub range: MinuteRange,
    /// The filters, each with the minutes of the range in which it is counted.
    pub filters: BTreeMap<FilterId, MinuteRange>,
    /// The windows that have a ranking at each of its minutes, where they lie inside the minutes of the filter. Minutes, and whole hours and days, always have one.
    pub windows: BTreeSet<Window>,
}

impl Holds {
    /// The minutes in which it holds a filter.
    fn of(&self, filter: FilterId) -> Option<MinuteRange> {
        self.filters.get(&filter).copied().filter(|range| range.from < range.to)
    }
}

/// Where a ranking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankedBy {
    /// Under this revision, if anything was clicked.
    Revision(Revision),
    /// Nowhere: its minutes come from several revisions, or from one that has no such ranking.
    Nobody,
}

/// What the store says of a ranking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredRanking {
    /// Here it is.
    Here(Ranking),
    /// Nothing was clicked, or it is not out.
    Nothing,
    /// Nobody has it: figures of its window come from several calculations. It can be put together from shorter ones.
    NotToBeHad,
}

impl StoredRanking {
    /// True where it is here.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The ranking, where it is here.
    pub fn here(self) -> Option<Ranking> {
        match self {
            Self::Here(ranking) => Some(ranking),
            Self::Nothing | Self::NotToBeHad => None,
        }
    }
}

/// The figures that a reader sees: the stream's, and before them those of the recalculations that were active at one moment. One value holds for all reads that shall agree with each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    active: BTreeMap<Revision, Holds>,
}

impl View {
    /// The stream's own figures alone.
    pub const STREAM: Self = Self { active: BTreeMap::new() };

    /// The stream's figures and those of these recalculations, each of which is higher than [`Revision::STREAM`].
    pub fn of(active: impl IntoIterator<Item = (Revision, Holds)>) -> Self {
        Self { active: active.into_iter().collect() }
    }

    /// What a recalculation holds that is seen. `None` for the stream, and for what is not seen.
    pub fn holds(&self, revision: Revision) -> Option<&Holds> {
        self.active.get(&revision)
    }

    /// The minutes of a filter that recalculations hold, in no order; they may overlap.
    pub fn held(&self, filter: FilterId) -> impl Iterator<Item = MinuteRange> {
        self.of_filter(filter).map(|(_, range)| range)
    }

    /// Every filter that a recalculation holds.
    pub fn filters(&self) -> BTreeSet<FilterId> {
        self.active.values().flat_map(|holds| holds.filters.keys().copied()).collect()
    }

    fn of_filter(&self, filter: FilterId) -> impl Iterator<Item = (Revision, MinuteRange)> {
        self.active.iter().filter_map(move |(revision, holds)| Some((*revision, holds.of(filter)?)))
    }

    /// Says which revision each minute of a range is read from: consecutive pieces, oldest first, that cover the range.
    pub fn pieces(&self, filter: FilterId, range: MinuteRange) -> Vec<(MinuteRange, Revision)> {
        let inside = |minute: &Minute| range.from < *minute && *minute < range.to;
        let edges = self.of_filter(filter).flat_map(|(_, held)| [held.from, held.to]).filter(inside);
        let starts: BTreeSet<Minute> = edges.chain((range.from < range.to).then_some(range.from)).collect();
        let mut pieces: Vec<(MinuteRange, Revision)> = Vec::new();
        for from in starts {
            let holding = self.of_filter(filter).filter(|(_, held)| held.from <= from && from < held.to);
            let revision = holding.map(|(revision, _)| revision).max().unwrap_or(Revision::STREAM);
            match pieces.last_mut() {
                Some((_, last)) if *last == revision => {}
                Some((piece, _)) => {
                    piece.to = from;
                    pieces.push((MinuteRange { from, to: range.to }, revision));
                }
                None => pieces.push((MinuteRange { from, to: range.to }, revision)),
            }
        }
        pieces
    }

    /// Says which revision the spans of a kind are read from that begin in a range: for each revision the first of them, and the first behind them. Those whose minutes come from several revisions are
    /// nobody's, and left out.
    pub fn spans(&self, kind: SpanKind, filter: FilterId, range: MinuteRange) -> Vec<(MinuteRange, Revision)> {
        let begin = |at: Minute| Span::holding(kind, at.plus(kind.minutes() - 1)).start;
        let all = MinuteRange { from: begin(range.from), to: begin(range.to) };
        let whole = |(piece, revision): (MinuteRange, Revision)| {
            let spans = MinuteRange { from: begin(piece.from), to: Span::holding(kind, piece.to).start };
            (spans.from < spans.to).then_some((spans, revision))
        };
        self.pieces(filter, all).into_iter().filter_map(whole).collect()
    }

    /// True where the total of this span is one revision's.
    pub fn has_total(&self, filter: FilterId, span: Span) -> bool {
        self.pieces(filter, MinuteRange { from: span.start, to: span.end() }).len() == 1
    }

    /// Says where the ranking of a window that ends with `last` is.
    pub fn ranked_by(&self, filter: FilterId, window: Window, last: Minute) -> RankedBy {
        let (first, end) = (window.first(last), last.next());
        let touching = self.of_filter(filter).filter(|(_, held)| held.from < end && first < held.to);
        let Some((revision, held)) = touching.max_by_key(|(revision, _)| *revision) else {
            return RankedBy::Revision(Revision::STREAM);
        };
        let is_whole = held.from <= first && end <= held.to;
        let is_standing = [Window::MINUTE, Window::HOUR, Window::DAY].contains(&window) && window.is_aligned_at(last);
        let is_told = || self.holds(revision).is_some_and(|holds| holds.windows.contains(&window));
        if is_whole && (is_standing || is_told()) { RankedBy::Revision(revision) } else { RankedBy::Nobody }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const ALL: FilterId = FilterId::ALL;

    fn range(from: i64, to: i64) -> MinuteRange {
        MinuteRange { from: Minute::from_epoch(from), to: Minute::from_epoch(to) }
    }

    fn holds(revision: u32, from: i64, to: i64) -> (Revision, Holds) {
        let range = range(from, to);
        (Revision(revision), Holds { range, filters: [(ALL, range)].into(), windows: [Window(5)].into() })
    }

    fn view(active: &[(Revision, Holds)]) -> View {
        View::of(active.iter().cloned())
    }

    #[test]
    fn a_range_is_read_from_the_newest() {
        let check = |active: &[(Revision, Holds)], from, to, expected: &[(i64, i64, u32)]| {
            let found: Vec<_> = view(active)
                .pieces(ALL, range(from, to))
                .iter()
                .map(|(range, revision)| (range.from.as_epoch(), range.to.as_epoch(), revision.0))
                .collect();
            assert_eq!(found, expected);
        };
        check(&[], 0, 10, &[(0, 10, 0)]);
        check(&[], 10, 10, &[]);
        check(&[holds(1, 3, 5)], 0, 10, &[(0, 3, 0), (3, 5, 1), (5, 10, 0)]);
        check(&[holds(1, 3, 5)], 3, 5, &[(3, 5, 1)]);
        check(&[holds(1, 3, 5)], 5, 7, &[(5, 7, 0)]);
        check(&[holds(2, 4, 6), holds(1, 3, 8)], 0, 10, &[(0, 3, 0), (3, 4, 1), (4, 6, 2), (6, 8, 1), (8, 10, 0)]);
        // Hidden by a newer one, and seen again where that one is undone.
        check(&[holds(1, 4, 6), holds(2, 3, 8)], 0, 10, &[(0, 3, 0), (3, 8, 2), (8, 10, 0)]);
        // Neighbours.
        check(&[holds(1, 0, 5), holds(2, 5, 10)], 0, 10, &[(0, 5, 1), (5, 10, 2)]);
        assert_eq!(view(&[holds(1, 3, 5)]).pieces(FilterId(7), range(0, 10)), [(range(0, 10), Revision(0))]);
    }

    #[test]
    fn a_ranking_that_reaches_over_an_edge_is_nobodys() {
        let check = |active: &[(Revision, Holds)], window: u32, last: i64, expected: Option<u32>| {
            let found = match view(active).ranked_by(ALL, Window(window), Minute::from_epoch(last)) {
                RankedBy::Revision(revision) => Some(revision.0),
                RankedBy::Nobody => None,
            };
            assert_eq!(found, expected, "{window} {last}");
        };
        let hour = [holds(1, 60, 120)];
        for (window, last, expected) in [
            (1, 59, Some(0)),
            (1, 60, Some(1)),
            (1, 119, Some(1)),
            (1, 120, Some(0)),
            (5, 59, Some(0)),
            (5, 60, None),
            (5, 63, None),
            (5, 64, Some(1)),
            (5, 119, Some(1)),
            (5, 120, None),
            (5, 124, Some(0)),
            // Whole hours always have a ranking, others only where the window was configured.
            (60, 119, Some(1)),
            (60, 118, None),
            (60, 120, None),
            (60, 179, Some(0)),
            (7, 100, None),
            (1440, 1439, None),
        ] {
            check(&hour, window, last, expected);
        }
        // A newer one in the middle leaves the older one's rankings around it.
        let nested = [holds(1, 60, 120), holds(2, 80, 90)];
        for (last, expected) in [(79, Some(1)), (80, None), (84, Some(2)), (89, Some(2)), (90, None), (94, Some(1))] {
            check(&nested, 5, last, expected);
        }
    }

    #[test]
    fn a_total_over_an_edge_is_nobodys() {
        let check = |active: &[(Revision, Holds)], from, to, expected: &[(i64, i64, u32)]| {
            let spans = view(active).spans(SpanKind::Hour, ALL, range(from, to));
            let found: Vec<_> =
                spans.iter().map(|(range, by)| (range.from.as_epoch(), range.to.as_epoch(), by.0)).collect();
            assert_eq!(found, expected, "{from} {to}");
        };
        check(&[], 0, 600, &[(0, 600, 0)]);
        // Those that begin in the range, wherever they end.
        check(&[], 1, 61, &[(60, 120, 0)]);
        check(&[], 1, 60, &[]);
        check(&[holds(1, 90, 250)], 0, 600, &[(0, 60, 0), (120, 240, 1), (300, 600, 0)]);
        check(&[holds(1, 61, 119)], 0, 600, &[(0, 60, 0), (120, 600, 0)]);
        let hour = Span { kind: SpanKind::Hour, start: Minute::from_epoch(60) };
        assert!(view(&[holds(1, 60, 120)]).has_total(ALL, hour) && view(&[holds(1, 0, 60)]).has_total(ALL, hour));
        assert!(!view(&[holds(1, 60, 119)]).has_total(ALL, hour) && !view(&[holds(1, 90, 91)]).has_total(ALL, hour));
    }

    proptest! {
        #[test]
        fn both_agree_with_what_each_minute_says(
            spans in vec((0_i64..60, 1_i64..40, any::<bool>()), 0..5),
            from in 0_i64..80,
            length in 0_i64..40,
            window in 1_u32..9,
        ) {
            let active = (1..).zip(&spans).map(|(revision, (from, length, all))| {
                let (revision, told) = holds(revision, *from, from + length);
                let filters = [(if *all { ALL } else { FilterId(1) }, told.range)].into();
                (revision, Holds { filters, windows: (1..9).map(Window).collect(), ..told })
            });
            let view = View::of(active);
            let of_minute = |minute: i64| {
                let minute = Minute::from_epoch(minute);
                let holds = |range: &MinuteRange| range.from <= minute && minute < range.to;
                let holding = view.active.iter().filter(|(_, h)| h.filters.get(&ALL).is_some_and(holds));
                holding.map(|(revision, _)| revision.0).max().unwrap_or(0)
            };
            let mut at = from;
            for (range, revision) in view.pieces(ALL, range(from, from + length)) {
                prop_assert_eq!(range.from.as_epoch(), at);
                while at < range.to.as_epoch() {
                    prop_assert_eq!(of_minute(at), revision.0);
                    at += 1;
                }
            }
            prop_assert_eq!(at, from + length);
            let last = from + length;
            let revisions: BTreeSet<u32> = (last + 1 - i64::from(window)..=last).map(of_minute).collect();
            let found = view.ranked_by(ALL, Window(window), Minute::from_epoch(last));
            match (revisions.len(), revisions.first()) {
                (1, Some(0)) => prop_assert_eq!(found, RankedBy::Revision(Revision(0))),
                // One revision's minutes: told by it where one recalculation has them all.
                (1, Some(one)) => prop_assert_eq!(found, RankedBy::Revision(Revision(*one))),
                _ => prop_assert_eq!(found, RankedBy::Nobody),
            }
        }
    }
}
