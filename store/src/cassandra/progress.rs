//! How far the store is complete.
//!
//! What an aggregator partition tells with its progress stands in the same cell group, so that both are of one write: version 1; the number of filters as a varint; for each its id as a varint, its first minute
//! (zigzag, since 1970), 1 where it was removed and else 0, and the first minute in which it is no longer counted (zigzag).

use std::collections::BTreeMap;

use clickmill_model::codec::{CodecError, Reader, Writer};
use clickmill_model::records::FilterSpan;
use clickmill_model::{FilterId, Minute};

use crate::{MinuteRange, StoreProgress};

const VERSION: u8 = 1;
const WHAT: &str = "the filters of a stored progress";

/// Whose progress, and what retention speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Counts,
    Rankings,
}

impl Stage {
    /// As it is stored.
    pub(super) const fn number(self) -> i8 {
        match self {
            Self::Counts => 0,
            Self::Rankings => 1,
        }
    }
}

pub(super) fn encode(filters: &[FilterSpan]) -> Vec<u8> {
    let mut out = Writer::new(VERSION);
    out.uint(filters.len() as u64);
    for span in filters {
        out.uint(span.filter.0.into());
        out.int(span.from.as_epoch());
        out.u8(u8::from(span.until.is_some()));
        out.int(span.until.unwrap_or(Minute::MAX).as_epoch());
    }
    out.finish()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<FilterSpan>, CodecError> {
    let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
    let spans = (0..input.count(4)?).map(|_| {
        let filter = u16::try_from(input.uint()?).map_err(|_| input.corrupt("a filter id of more than 16 bits"))?;
        let from = Minute::from_epoch(input.int()?);
        let removed = input.u8()? != 0;
        let until = Minute::from_epoch(input.int()?);
        Ok(FilterSpan { filter: FilterId(filter), from, until: removed.then_some(until) })
    });
    let spans = spans.collect::<Result<_, CodecError>>()?;
    input.finish()?;
    Ok(spans)
}

/// Joins what the partitions said: the latest start and the earliest end.
pub(super) fn join(filters: &mut BTreeMap<FilterId, FilterSpan>, told: &[FilterSpan]) {
    for span in told {
        let joined = filters.entry(span.filter).or_insert(*span);
        joined.from = joined.from.max(span.from);
        joined.until = [joined.until, span.until].into_iter().flatten().min();
    }
}

/// The hours and days of a filter whose totals are all stored: where an ad has none, it had no click. Elsewhere the minutes must be asked.
///
/// Every partition that ever told anything has told these hours and days to their end, the filter was counted in all of each, so that its totals were told too, and none of them has been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// The first minute of the first.
    pub(super) from: Minute,
    /// The first minute after the last.
    pub(super) until: Minute,
}

impl Totals {
    /// What a progress says of a filter.
    pub(super) fn of(progress: &StoreProgress, filter: FilterId) -> Self {
        let span = progress.filters.iter().find(|span| span.filter == filter);
        let told = progress.counts.values().copied().min();
        match (span, told) {
            (Some(span), Some(told)) => Self {
                from: span.from.max(progress.counts_from.unwrap_or(Minute::MIN)),
                until: span.until.map_or(told, |until| told.min(until)),
            },
            _ => Self { from: Minute::MAX, until: Minute::MIN },
        }
    }

    /// Those of a recalculation, in consecutive minutes that are read from it: all that lie inside were told before it was made active.
    pub(super) fn of_recalculated(progress: &StoreProgress, piece: MinuteRange) -> Self {
        Self { from: piece.from.max(progress.counts_from.unwrap_or(Minute::MIN)), until: piece.to }
    }

    /// True where the totals of this span are stored.
    #[cfg(test)]
    fn hold(self, span: clickmill_model::Span) -> bool {
        span.start >= self.from && span.end() <= self.until
    }
}

#[cfg(test)]
mod tests {
    use clickmill_model::{Partition, Span};

    use super::*;

    fn at(minute: i64) -> Minute {
        Minute::from_epoch(minute)
    }

    fn span(filter: u16, from: Minute, until: Option<i64>) -> FilterSpan {
        FilterSpan { filter: FilterId(filter), from, until: until.map(at) }
    }

    /// Written once, by version 1; must be read for ever.
    #[test]
    fn the_first_version_is_still_read() {
        let told = [span(0, at(-1), None), span(300, at(5), Some(9))];
        let bytes = encode(&told);
        assert_eq!(&bytes[..5], [1, 2, 0, 1, 0]);
        assert_eq!(&bytes[bytes.len() - 5..], [0xac, 2, 10, 1, 18]);
        assert_eq!(decode(&bytes), Ok(told.to_vec()));
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(matches!(decode(&[2, 0]), Err(CodecError::TooNew { found: 2, .. })));
    }

    #[test]
    fn partitions_publish_a_filter_from_the_latest_start_to_the_earliest_end() {
        let mut filters = BTreeMap::new();
        join(&mut filters, &[span(1, at(5), None), span(2, at(1), Some(9))]);
        join(&mut filters, &[span(1, at(7), Some(20)), span(2, at(0), Some(8)), span(3, Minute::MIN, None)]);
        let joined: Vec<FilterSpan> = filters.into_values().collect();
        assert_eq!(joined, [span(1, at(7), Some(20)), span(2, at(1), Some(8)), span(3, Minute::MIN, None)]);
    }

    #[test]
    fn totals_are_believed_where_every_partition_told_them_and_none_is_gone() {
        let progress = StoreProgress {
            counts: BTreeMap::from([(Partition(0), at(600)), (Partition(1), at(300))]),
            filters: vec![span(0, Minute::MIN, None), span(1, at(90), None), span(2, Minute::MIN, Some(150))],
            ..StoreProgress::default()
        };
        let hour = |n: i64| Span { kind: clickmill_model::SpanKind::Hour, start: at(n * 60) };
        let check = |progress: &StoreProgress, filter, expected: &[i64]| {
            let totals = Totals::of(progress, FilterId(filter));
            let held: Vec<i64> = (-1..12).filter(|n| totals.hold(hour(*n))).collect();
            assert_eq!(held, expected, "filter {filter}");
        };
        check(&progress, 0, &[-1, 0, 1, 2, 3, 4]);
        check(&progress, 1, &[2, 3, 4]);
        check(&progress, 2, &[-1, 0, 1]);
        check(&progress, 9, &[]);
        check(&StoreProgress { counts_from: Some(at(61)), ..progress.clone() }, 0, &[2, 3, 4]);
        check(&StoreProgress { counts: BTreeMap::new(), ..progress }, 0, &[]);
    }
}
