//! How a range of minutes is read: from days and hours where their totals are believed, from minutes elsewhere; each piece from one partition.

use clickmill_model::SpanKind;

use super::keys::{period, period_minutes};
use super::progress::Totals;
use crate::MinuteRange;

/// Consecutive spans of one kind that stand in one partition: those that begin in `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) kind: SpanKind,
    pub(super) period: i32,
    /// In minutes since 1970.
    pub(super) from: i64,
    /// In minutes since 1970.
    pub(super) to: i64,
}

/// Every piece of a range, without spans longer than `longest`, in no order.
pub(super) fn pieces(range: MinuteRange, longest: SpanKind, totals: Totals) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut gaps = vec![(range.from.as_epoch(), range.to.as_epoch())];
    for kind in [SpanKind::Day, SpanKind::Hour, SpanKind::Minute] {
        if kind > longest {
            continue;
        }
        let mut left = Vec::new();
        for (from, to) in gaps {
            // Those that lie in the gap as a whole.
            let (first, end) = match kind {
                SpanKind::Minute => (from, to),
                SpanKind::Hour | SpanKind::Day => {
                    let length = kind.minutes();
                    let (from, to) = (from.max(totals.from.as_epoch()), to.min(totals.until.as_epoch()));
                    (from.saturating_add(length - 1).div_euclid(length) * length, to.div_euclid(length) * length)
                }
            };
            if first >= end {
                left.push((from, to));
                continue;
            }
            by_period(kind, first, end, &mut pieces);
            left.extend([(from, first), (end, to)]);
        }
        gaps = left;
        gaps.retain(|(from, to)| from < to);
    }
    pieces
}

/// The pieces of consecutive spans of a kind.
pub(super) fn by_period(kind: SpanKind, from: i64, to: i64, pieces: &mut Vec<Piece>) {
    let length = period_minutes(kind);
    let mut at = from;
    while at < to {
        let next = ((at.div_euclid(length) + 1) * length).min(to);
        let period = period(kind, clickmill_model::Minute::from_epoch(at));
        pieces.push(Piece { kind, period, from: at, to: next });
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use clickmill_model::Minute;
    use proptest::prelude::*;

    use super::*;

    const EVERYWHERE: Totals = Totals { from: Minute::MIN, until: Minute::MAX };
    const NOWHERE: Totals = Totals { from: Minute::MAX, until: Minute::MIN };

    fn minute(text: &str) -> Minute {
        Minute::parse(text).unwrap()
    }

    fn count(from: &str, to: &str, longest: SpanKind, totals: Totals) -> [usize; 3] {
        let pieces = pieces(MinuteRange { from: minute(from), to: minute(to) }, longest, totals);
        [SpanKind::Day, SpanKind::Hour, SpanKind::Minute].map(|kind| pieces.iter().filter(|p| p.kind == kind).count())
    }

    #[test]
    fn a_long_range_takes_few_pieces() {
        use SpanKind::{Day, Hour, Minute};
        let until = |text| Totals { from: self::Minute::MIN, until: minute(text) };
        for (from, to, longest, totals, expected) in [
            ("202101010100", "202101010200", Day, EVERYWHERE, [0, 1, 0]),
            ("202101010117", "202101010217", Day, EVERYWHERE, [0, 0, 1]),
            ("202101010117", "202101010417", Day, EVERYWHERE, [0, 1, 2]),
            ("202101010000", "202101310000", Day, EVERYWHERE, [1, 0, 0]),
            ("202101010117", "202101310417", Day, EVERYWHERE, [1, 2, 2]),
            ("202101010117", "202201010417", Day, EVERYWHERE, [2, 2, 2]),
            ("202101010117", "202101310417", Hour, EVERYWHERE, [0, 2, 2]),
            ("202101010117", "202101310417", Minute, EVERYWHERE, [0, 0, 31]),
            ("202101010117", "202101310417", Day, NOWHERE, [0, 0, 31]),
            ("202101010000", "202101310417", Day, until("202101300530"), [1, 1, 2]),
            ("202101010000", "202101010000", Day, EVERYWHERE, [0, 0, 0]),
            ("202101020000", "202101010000", Day, EVERYWHERE, [0, 0, 0]),
        ] {
            assert_eq!(count(from, to, longest, totals), expected, "{from} {to} {longest:?} {totals:?}");
        }
    }

    proptest! {
        #[test]
        fn each_minute_is_in_one_piece_and_only_totals_that_are_believed_are_taken(
            from in -100_000_i64..100_000,
            length in -10_i64..100_000,
            believed in (-150_000_i64..150_000, 0_i64..200_000),
            longest in prop_oneof![Just(SpanKind::Minute), Just(SpanKind::Hour), Just(SpanKind::Day)],
        ) {
            let at = Minute::from_epoch;
            let totals = Totals { from: at(believed.0), until: at(believed.0 + believed.1) };
            let mut pieces = pieces(MinuteRange { from: at(from), to: at(from + length) }, longest, totals);
            pieces.sort_by_key(|piece| piece.from);
            let mut next = from;
            for piece in pieces {
                prop_assert_eq!(piece.from, next);
                prop_assert!(piece.from < piece.to && piece.kind <= longest);
                prop_assert_eq!(period(piece.kind, at(piece.from)), piece.period);
                prop_assert_eq!(period(piece.kind, at(piece.to - 1)), piece.period);
                if piece.kind > SpanKind::Minute {
                    prop_assert_eq!((piece.from % piece.kind.minutes(), piece.to % piece.kind.minutes()), (0, 0));
                    prop_assert!(believed.0 <= piece.from && piece.to <= believed.0 + believed.1);
                }
                next = piece.to;
            }
            prop_assert_eq!(next, from + length.max(0));
        }
    }
}
