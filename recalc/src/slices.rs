//! How a span is cut into slices that fit in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use clickmill_model::{Minute, SpanKind};

/// No slice is longer: bounds the rankings that wait to be told, however little is clicked.
const LONGEST: i64 = SpanKind::Day.minutes();

/// Cuts a span into consecutive slices of about `budget` rows, one minute at least. `rows` tells how many rows lie between a first and a last minute, taken for evenly spread.
pub(crate) fn slices(
    span: &Range<Minute>,
    rows: impl IntoIterator<Item = ((Minute, Minute), u64)>,
    budget: u64,
) -> Vec<Range<Minute>> {
    // Where rows a minute change, and by how much.
    let mut changes: BTreeMap<Minute, f64> = BTreeMap::new();
    for ((first, last), rows) in rows {
        let density = rows as f64 / (last.minus(first) + 1) as f64;
        let (from, to) = (first.max(span.start), last.next().min(span.end));
        if from < to {
            *changes.entry(from).or_default() += density;
            *changes.entry(to).or_default() -= density;
        }
    }
    changes.entry(span.end).or_default();
    let budget = budget.max(1) as f64;
    let mut slices = Vec::new();
    let (mut start, mut at, mut held, mut density) = (span.start, span.start, 0.0, 0.0_f64);
    for (until, change) in changes {
        while at < until {
            // As many minutes of this stretch as still fit, and one in any case where the slice is empty.
            let fit =
                if density > 1e-9 { ((budget - held) / density).floor().clamp(0.0, 1e9) as i64 } else { i64::MAX };
            let least = i64::from(at == start);
            let room = LONGEST - at.minus(start);
            let minutes = until.minus(at).min(fit.max(least)).min(room);
            at = at.plus(minutes);
            held += density * minutes as f64;
            if at < until || at.minus(start) == LONGEST {
                slices.push(start..at);
                (start, held) = (at, 0.0);
            }
        }
        // What is subtracted is what was added, but for rounding.
        density = (density + change).max(0.0);
    }
    if start < span.end {
        slices.push(start..span.end);
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Minute {
        Minute::from_epoch(n)
    }

    #[test]
    fn slices_hold_about_what_was_asked_for() {
        type Rows<'a> = &'a [((i64, i64), u64)];
        let check = |span: (i64, i64), rows: Rows<'_>, budget, expected: &[(i64, i64)]| {
            let rows = rows.iter().map(|((first, last), rows)| ((minute(*first), minute(*last)), *rows));
            let found = slices(&(minute(span.0)..minute(span.1)), rows, budget);
            let found: Vec<_> = found.iter().map(|s| (s.start.as_epoch(), s.end.as_epoch())).collect();
            assert_eq!(found, expected);
        };
        check((0, 10), &[], 5, &[(0, 10)]);
        check((0, 10), &[((0, 9), 100)], 50, &[(0, 5), (5, 10)]);
        check((0, 10), &[((0, 9), 100)], 45, &[(0, 4), (4, 8), (8, 10)]);
        // More than fits in one minute.
        check((0, 3), &[((0, 2), 300)], 5, &[(0, 1), (1, 2), (2, 3)]);
        // What lies outside does not count.
        check((10, 14), &[((0, 19), 200), ((90, 99), 1000)], 20, &[(10, 12), (12, 14)]);
        // Where nothing is, time costs nothing.
        check((0, 1000), &[((0, 1), 20), ((900, 901), 20)], 20, &[(0, 900), (900, 1000)]);
        check((0, 3000), &[((0, 0), 1)], 20, &[(0, 1440), (1440, 2880), (2880, 3000)]);
        check((-5, 5), &[((-2, -2), 10), ((2, 2), 10)], 10, &[(-5, 2), (2, 5)]);
    }
}
