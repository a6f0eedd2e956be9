//! Which revision a figure is read from: pure arithmetic over the recalculations that are active.
//!
//! The rules: a minute's counts are those of the highest active revision that holds the minute and the filter, else the stream's. A stored ranking is read only where every minute of its window comes from the
//! revision that it belongs to; elsewhere it would be of figures that nobody sees any more, and the range is put together from shorter ones.

use std::collections::BTreeSet;

use clickmill_model::{FilterId, Minute, Revision, Window};

use crate::MinuteRange;

/// What an active revision holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holds {
    /// Which one; higher than [`Revision::STREAM`].
    pub revision: Revision,
    /// The minutes.
    pub range: MinuteRange,
    /// The filters.
    pub filters: BTreeSet<FilterId>,
    /// The windows that have a ranking at each of its minutes, where they lie inside the range. Minutes, and whole hours and days, always have one.
    pub windows: BTreeSet<Window>,
}

/// Where a ranking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankedBy {
    /// Under this revision, if anything was clicked.
    Revision(Revision),
    /// Nowhere: its minutes come from several revisions, or from one that has no such ranking.
    Nobody,
}

/// Says which revision each minute of a range is read from: consecutive pieces, oldest first, that cover the range.
pub fn pieces(active: &[Holds], filter: FilterId, range: MinuteRange) -> Vec<(MinuteRange, Revision)> {
    let of_filter = || active.iter().filter(|holds| holds.filters.contains(&filter));
    let inside = |minute: &Minute| range.from < *minute && *minute < range.to;
    let edges = of_filter().flat_map(|holds| [holds.range.from, holds.range.to]).filter(inside);
    let starts: BTreeSet<Minute> = edges.chain((range.from < range.to).then_some(range.from)).collect();
    let mut pieces: Vec<(MinuteRange, Revision)> = Vec::new();
    for from in starts {
        let holding = of_filter().filter(|holds| holds.range.from <= from && from < holds.range.to);
        let revision = holding.map(|holds| holds.revision).max().unwrap_or(Revision::STREAM);
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

/// Says where the ranking of a window that ends with `last` is.
pub fn ranked_by(active: &[Holds], filter: FilterId, window: Window, last: Minute) -> RankedBy {
    let (first, end) = (window.first(last), last.next());
    let touches = |holds: &&Holds| holds.filters.contains(&filter) && holds.range.from < end && first < holds.range.to;
    let Some(highest) = active.iter().filter(touches).max_by_key(|holds| holds.revision) else {
        return RankedBy::Revision(Revision::STREAM);
    };
    let is_whole = highest.range.from <= first && end <= highest.range.to;
    let is_standing = [Window::MINUTE, Window::HOUR, Window::DAY].contains(&window) && window.is_aligned_at(last);
    if is_whole && (is_standing || highest.windows.contains(&window)) {
        RankedBy::Revision(highest.revision)
    } else {
        RankedBy::Nobody
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

    fn holds(revision: u32, from: i64, to: i64) -> Holds {
        let filters = [ALL].into();
        Holds { revision: Revision(revision), range: range(from, to), filters, windows: [Window(5)].into() }
    }

    #[test]
    fn a_range_is_read_from_the_newest() {
        let check = |active: &[Holds], from, to, expected: &[(i64, i64, u32)]| {
            let found: Vec<_> = pieces(active, ALL, range(from, to))
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
        assert_eq!(pieces(&[holds(1, 3, 5)], FilterId(7), range(0, 10)), [(range(0, 10), Revision(0))]);
    }

    #[test]
    fn a_ranking_that_reaches_over_an_edge_is_nobodys() {
        let check = |active: &[Holds], window: u32, last: i64, expected: Option<u32>| {
            let found = match ranked_by(active, ALL, Window(window), Minute::from_epoch(last)) {
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

    proptest! {
        #[test]
        fn both_agree_with_what_each_minute_says(
            spans in vec((0_i64..60, 1_i64..40, any::<bool>()), 0..5),
            from in 0_i64..80,
            length in 0_i64..40,
            window in 1_u32..9,
        ) {
            let active: Vec<Holds> = (1..).zip(&spans).map(|(revision, (from, length, all))| Holds {
                filters: [if *all { ALL } else { FilterId(1) }].into(),
                windows: (1..9).map(Window).collect(),
                ..holds(revision, *from, from + length)
            }).collect();
            let of_minute = |minute: i64| {
                let minute = Minute::from_epoch(minute);
                let holding = active.iter().filter(|h| h.filters.contains(&ALL) && h.range.from <= minute && minute < h.range.to);
                holding.map(|h| h.revision.0).max().unwrap_or(0)
            };
            let mut at = from;
            for (range, revision) in pieces(&active, ALL, range(from, from + length)) {
                prop_assert_eq!(range.from.as_epoch(), at);
                while at < range.to.as_epoch() {
                    prop_assert_eq!(of_minute(at), revision.0);
                    at += 1;
                }
            }
            prop_assert_eq!(at, from + length);
            let last = from + length;
            let revisions: BTreeSet<u32> = (last + 1 - i64::from(window)..=last).map(of_minute).collect();
            let found = ranked_by(&active, ALL, Window(window), Minute::from_epoch(last));
            match (revisions.len(), revisions.first()) {
                (1, Some(0)) => prop_assert_eq!(found, RankedBy::Revision(Revision(0))),
                // One revision's minutes: told by it where one recalculation has them all.
                (1, Some(one)) => prop_assert_eq!(found, RankedBy::Revision(Revision(*one))),
                _ => prop_assert_eq!(found, RankedBy::Nobody),
            }
        }
    }
}
