//! A span is counted in slices of time, each of which fits into memory.

use clickmill_model::{Minute, SpanKind};

use crate::files::Group;
use crate::time::end_of;

/// How many rows of each minute there are, about: those of a row group are taken for evenly spread over its minutes.
#[derive(Debug)]
pub(crate) struct Density {
    from: Minute,
    rows: Vec<f64>,
}

impl Density {
    /// Nothing in `[from, to)`.
    pub(crate) fn new(from: Minute, to: Minute) -> Self {
        Self { from, rows: vec![0.0; usize::try_from(to.minus(from)).unwrap_or_default()] }
    }

    /// Adds a row group.
    pub(crate) fn add(&mut self, group: &Group) {
        let Some((first, last)) = group.minutes else { return };
        let each = group.rows as f64 / (last.minus(first) + 1) as f64;
        let place = |minute: Minute| usize::try_from(minute.minus(self.from)).unwrap_or(0).min(self.rows.len());
        let (first, end) = (place(first), place(last.next()));
        for rows in self.rows.get_mut(first..end).unwrap_or_default() {
            *rows += each;
        }
    }

    /// Slices `[from, to)` of an hour, in order, each of about `most` rows or of one minute.
    pub(crate) fn slices(&self, from: Minute, to: Minute, most: u64) -> Vec<(Minute, Minute)> {
        let mut slices = Vec::new();
        let (mut start, mut rows) = (from, 0.0);
        let mut minute = from;
        while minute < to {
            let place = usize::try_from(minute.minus(self.from)).ok();
            let more = place.and_then(|place| self.rows.get(place)).copied().unwrap_or_default();
            if minute > start && rows + more > most as f64 {
                slices.push((start, minute));
                (start, rows) = (minute, 0.0);
            }
            rows += more;
            minute = minute.next();
        }
        if start < to {
            slices.push((start, to));
        }
        slices
    }
}

/// The hours that `[from, to)` touches, each cut to it.
pub(crate) fn hours(from: Minute, to: Minute) -> impl Iterator<Item = (Minute, Minute)> {
    pieces(SpanKind::Hour, from, to)
}

/// The spans of a kind that `[from, to)` touches, each cut to it.
pub(crate) fn pieces(kind: SpanKind, from: Minute, to: Minute) -> impl Iterator<Item = (Minute, Minute)> {
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= to {
            return None;
        }
        let start = at;
        at = end_of(kind, at).min(to);
        Some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(n: i64) -> Minute {
        Minute::from_epoch(n)
    }

    #[test]
    fn slices_hold_about_as_many_rows_as_fit_and_at_least_a_minute() {
        let mut density = Density::new(minute(0), minute(60));
        let group =
            |rows, first, last| Group { rows, minutes: Some((minute(first), minute(last))), keeps_lines: false };
        for group in [group(100, 0, 9), group(500, 10, 10), group(100, -10, 9), group(7, 90, 99)] {
            density.add(&group);
        }
        let check = |most: u64, expected: &[(i64, i64)]| {
            let expected: Vec<_> = expected.iter().map(|(from, to)| (minute(*from), minute(*to))).collect();
            assert_eq!(density.slices(minute(0), minute(20), most), expected);
        };
        check(1000, &[(0, 20)]);
        check(100, &[(0, 6), (6, 10), (10, 11), (11, 20)]);
        assert_eq!(density.slices(minute(5), minute(5), 10), []);
    }

    #[test]
    fn hours_are_cut_to_the_span() {
        let hours: Vec<_> = hours(minute(30), minute(125)).map(|(a, b)| (a.as_epoch(), b.as_epoch())).collect();
        assert_eq!(hours, [(30, 60), (60, 120), (120, 125)]);
    }
}
