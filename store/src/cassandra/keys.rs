//! Where a figure stands: how ads, minutes and rankings become keys. These never change: what is stored was put there by them.

use clickmill_model::partition::of_key;
use clickmill_model::{Minute, SpanKind, Window};

/// The bucket of an ad. Its partition of the topics is found by the same hash: where the number of buckets is a multiple of theirs, each bucket holds ads of one partition only.
pub(super) fn bucket(ad: &[u8], buckets: u32) -> i32 {
    of_key(ad, buckets).0 as i32
}

/// How a span's kind is stored.
pub(super) const fn kind_number(kind: SpanKind) -> i8 {
    match kind {
        SpanKind::Minute => 0,
        SpanKind::Hour => 1,
        SpanKind::Day => 2,
    }
}

/// How many minutes stand in one partition: a day of minutes, 32 days of hours, 512 days of days. So an ad has at most 1,440, 768 and 512 rows in it.
pub(super) const fn period_minutes(kind: SpanKind) -> i64 {
    const DAY: i64 = SpanKind::Day.minutes();
    match kind {
        SpanKind::Minute => DAY,
        SpanKind::Hour => 32 * DAY,
        SpanKind::Day => 512 * DAY,
    }
}

/// The period that a minute belongs to, counted from 1970.
pub(super) fn period(kind: SpanKind, start: Minute) -> i32 {
    // The first and the last minute there are lie 10⁸ days away.
    start.as_epoch().div_euclid(period_minutes(kind)) as i32
}

/// With what a ranking stands together: those of whole hours and of whole days apart from the others, so that a long range is put together from few partitions.
pub(super) fn tier(window: Window, last: Minute) -> SpanKind {
    let is = |kind: SpanKind| window == kind.window() && window.is_aligned_at(last);
    if is(SpanKind::Day) {
        SpanKind::Day
    } else if is(SpanKind::Hour) {
        SpanKind::Hour
    } else {
        SpanKind::Minute
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(text: &str) -> Minute {
        Minute::parse(text).unwrap()
    }

    #[test]
    fn a_figure_stands_where_it_always_stood() {
        for (ad, buckets, expected) in [("ad001", 256, 48), ("ad001", 4, 0), ("广告", 256, 15), ("", 256, 217)] {
            assert_eq!(bucket(ad.as_bytes(), buckets), expected, "{ad} {buckets}");
        }
        for (kind, at, expected) in [
            (SpanKind::Minute, "197001010000", 0),
            (SpanKind::Minute, "197001012359", 0),
            (SpanKind::Minute, "196912312359", -1),
            (SpanKind::Minute, "202101010000", 18_628),
            (SpanKind::Hour, "202101010000", 582),
            (SpanKind::Day, "202101010000", 36),
            (SpanKind::Day, "196912310000", -1),
        ] {
            assert_eq!(period(kind, minute(at)), expected, "{kind:?} {at}");
        }
        for far in [Minute::MIN, Minute::MAX] {
            assert_eq!(i64::from(period(SpanKind::Minute, far)), far.as_epoch().div_euclid(1440));
        }
    }

    #[test]
    fn whole_hours_and_days_stand_apart() {
        for (window, last, expected) in [
            (1, "202101010059", SpanKind::Minute),
            (60, "202101010058", SpanKind::Minute),
            (60, "202101010059", SpanKind::Hour),
            (60, "202101012359", SpanKind::Hour),
            (1440, "202101012358", SpanKind::Minute),
            (1440, "202101012359", SpanKind::Day),
            (5, "202101010059", SpanKind::Minute),
        ] {
            assert_eq!(tier(Window(window), minute(last)), expected, "{window} {last}");
        }
    }

    #[test]
    fn buckets_hold_ads_of_one_partition_where_their_number_is_a_multiple() {
        for i in 0..1000 {
            let ad = format!("ad{i}");
            assert_eq!(bucket(ad.as_bytes(), 256) % 16, of_key(ad.as_bytes(), 16).0 as i32);
        }
    }
}
