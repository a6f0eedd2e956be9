//! Counts, series, and the most clicked ads of any range.

use clickmill_model::{Columns, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp};

use super::told::Told;
use super::{Store, minute, range};
use crate::{ClosedWrite, MinuteRange, View};

const ALL: FilterId = FilterId::ALL;
const USA: FilterId = FilterId(1);

/// A click or more in every 17th minute, and in the first and last minute of each day.
fn sparse(from: &str, minutes: i64) -> (Told, MinuteRange) {
    let mut told = Told::new(3);
    // Published all the while, so that totals of hours and days may be believed.
    told.publish(ALL, Minute::MIN, None);
    told.publish(USA, Minute::MIN, None);
    let from = minute(from);
    for i in 0..minutes {
        let at = from.plus(i);
        let of_day = at.as_epoch().rem_euclid(1440);
        if i % 17 == 0 || of_day == 0 || of_day == 1439 {
            told.add(at, &format!("ad{}", i % 5), ALL, i.unsigned_abs() % 9 + 1);
            told.add(at, "every", ALL, 1);
            told.add(at, "every", USA, i.unsigned_abs() % 2);
        }
    }
    (told, MinuteRange { from, to: from.plus(minutes) })
}

fn check_everywhere(store: &Store, told: &Told, all: MinuteRange) {
    let length = all.to.minus(all.from);
    let edges: Vec<Minute> = [-1500, -61, -1, 0, 1, 29, 30, 31, 60, 61, 90, 1439, 1440, 1441, 1500, 2880, 3000, length]
        .into_iter()
        .map(|m| all.from.plus(m))
        .chain([Span::holding(SpanKind::Day, all.to).start, Span::holding(SpanKind::Hour, all.to).start])
        .collect();
    for from in &edges {
        for to in &edges {
            let range = MinuteRange { from: *from, to: *to };
            told.check_counts(&**store, ALL, range);
            told.check_counts(&**store, USA, range);
            told.check_top(&**store, ALL, range, 3);
        }
    }
}

/// Minutes, hours, days, a year's end, a leap day, before 1970.
pub fn counts_are_right_over_every_edge(store: &Store) {
    for (begin, minutes) in [("202012302330", 3010), ("202402282330", 3010), ("196912302330", 3010)] {
        let (told, all) = sparse(begin, minutes);
        // In steps that end anywhere.
        let mut from = all.from;
        for step in (1..).map(|i| i * 97) {
            let until = from.plus(step).min(all.to);
            told.close(&**store, from, until);
            from = until;
            if from == all.to {
                break;
            }
        }
        check_everywhere(store, &told, all);
    }
}

/// Minutes, hours and days apart, each ad once.
pub fn each_count_is_handed_out_once(store: &Store) {
    let (told, all) = sparse("202012302300", 3060);
    told.close(&**store, all.from, all.to);
    for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
        for (from, to) in
            [(60, 60), (0, 3060), (60, 61), (17, 18), (60, 120), (59, 1501), (61, 119), (-500, 60), (60, 1500)]
        {
            let range = MinuteRange { from: all.from.plus(from), to: all.from.plus(to) };
            // The first day began before the first click.
            let range =
                if kind == SpanKind::Day { MinuteRange { from: range.from.max(all.from), ..range } } else { range };
            told.check_each(&**store, kind, ALL, range, all.to);
            told.check_each(&**store, kind, USA, range, all.to);
            told.check_each(&**store, kind, FilterId(7), range, all.to);
        }
    }
}

/// They have no block of their own yet.
pub fn the_running_hour_and_day_count(store: &Store) {
    let (told, _) = sparse("202106010000", 4000);
    let mut from = minute("202106010000");
    for until in [1, 59, 60, 61, 119, 1439, 1440, 1441, 1501, 2999] {
        let until = minute("202106010000").plus(until);
        told.close(&**store, from, until);
        from = until;
        for back in [1, 30, 60, 61, 1440, 1500, 3000] {
            told.check_counts(&**store, ALL, MinuteRange { from: until.plus(-back), to: until });
        }
    }
}

/// Empty or reversed.
pub fn a_range_without_a_minute_has_no_clicks(store: &Store) {
    let (told, all) = sparse("202106010000", 100);
    told.close(&**store, all.from, all.to);
    for (from, to) in
        [("202106010010", "202106010010"), ("202106010030", "202106010010"), ("202106020000", "202106010000")]
    {
        let range = range(from, to);
        assert_eq!(store.counts(&View::STREAM, &["every"], ALL, range).ok(), Some(vec![0]), "{from} {to}");
        assert_eq!(store.series(&View::STREAM, "every", ALL, range, SpanKind::Hour).ok(), Some(vec![]), "{from} {to}");
        store.check_top(ALL, range, 3, &[]);
    }
}

/// Alone, among others, and asked for twice.
pub fn an_ad_never_seen_has_no_clicks(store: &Store) {
    let mut told = Told::new(1);
    let at = minute("202106010000");
    told.add(at, "a", ALL, 3);
    told.close(&**store, at, at.next());
    let all = MinuteRange { from: at, to: at.next() };
    for (ads, expected) in [
        (vec!["b"], vec![0]),
        (vec![""], vec![0]),
        (vec!["b", "a", "c"], vec![0, 3, 0]),
        (vec!["a", "b", "a"], vec![3, 0, 3]),
    ] {
        assert_eq!(store.counts(&View::STREAM, &ads, ALL, all).ok(), Some(expected), "{ads:?}");
    }
    let day = MinuteRange { from: at.plus(-600), to: at.plus(600) };
    assert_eq!(
        store.series(&View::STREAM, "b", ALL, day, SpanKind::Day).ok(),
        Some(vec![(minute("202105310000"), 0), (at, 0)])
    );
}

/// As one that nobody's clicks matched.
pub fn an_unknown_filter_has_no_clicks(store: &Store) {
    let mut told = Told::new(1);
    let at = minute("202106010000");
    told.add(at, "a", ALL, 3);
    told.add(at, "a", USA, 0);
    told.close(&**store, at, at.next());
    let all = MinuteRange { from: at, to: at.next() };
    for filter in [USA, FilterId(2), FilterId(u16::MAX)] {
        assert_eq!(store.counts(&View::STREAM, &["a"], filter, all).ok(), Some(vec![0]));
        store.check_top(filter, all, 3, &[]);
    }
}

/// Slashes, percent signs, spaces, any script, 256 characters, ids that differ only in case, by a trailing space or by normalisation.
pub fn odd_ad_ids_are_kept_as_they_are(store: &Store) {
    let long = "x".repeat(255);
    let ids: Vec<String> = [
        "a/b",
        "a%2Fb",
        "a?b=c&d",
        "a b",
        "a b ",
        "A B",
        "реклама",
        "广告",
        "إعلان",
        "é",
        "e\u{301}",
        "👍🏽",
        "'; DROP TABLE ads; --",
        "0",
        "00",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([format!("{long}1"), format!("{long}2"), "字".repeat(256)])
    .collect();
    let at = minute("202106010000");
    let mut told = Told::new(4);
    for (i, id) in (1..).zip(&ids) {
        told.add(at, id, ALL, i);
    }
    told.close(&**store, at, at.next());
    let all = MinuteRange { from: at, to: at.next() };
    told.check_counts(&**store, ALL, all);
    let top = told.top(ALL, all, 100);
    store.check_top(ALL, all, 100, &top.iter().map(|(ad, count)| (ad.as_str(), *count)).collect::<Vec<_>>());
}

/// More than 32 bits, in a minute and in sum.
pub fn big_counts_are_exact(store: &Store) {
    let at = minute("202106010000");
    let mut told = Told::new(1);
    for m in 0..120 {
        told.add(at.plus(m), "hot", ALL, u64::from(u32::MAX) * 1000 + m.unsigned_abs());
        told.add(at.plus(m), "cold", ALL, 1);
    }
    told.add(at, "hottest", ALL, u64::MAX >> 2);
    told.close(&**store, at, at.plus(120));
    let all = MinuteRange { from: at, to: at.plus(120) };
    assert_eq!(
        store.counts(&View::STREAM, &["hot", "cold", "hottest"], ALL, all).ok(),
        Some(vec![u64::from(u32::MAX) * 120_000 + 7140, 120, u64::MAX >> 2])
    );
    told.check_top(&**store, ALL, all, 2);
}

/// Each with other ads, with its own filters, in any order.
pub fn the_parts_of_a_span_are_put_together(store: &Store) {
    let at = minute("202106010000");
    let part = |filters: &[FilterId], ads: &[(&str, &[u64])]| {
        let mut columns = Columns::new(Span::minute(at), filters.to_vec());
        for (ad, counts) in ads {
            columns.ads.push(ad.as_bytes());
            for (column, count) in columns.counts.iter_mut().zip(*counts) {
                column.push(*count);
            }
        }
        columns
    };
    let write = ClosedWrite {
        revision: Revision::STREAM,
        partition: Partition(0),
        counts: vec![
            (part(&[ALL, USA], &[("z", &[5, 2]), ("b", &[1, 0])]), Some(Timestamp::from_secs(1))),
            (part(&[ALL], &[("c", &[7])]), Some(Timestamp::from_secs(2_000_000_000))),
            (part(&[USA, ALL], &[("a", &[1, 9])]), None),
        ],
        until: at.next(),
        filters: vec![],
    };
    assert_eq!(store.write_closed(&write).ok(), Some(()));
    let all = MinuteRange { from: at, to: at.next() };
    assert_eq!(store.counts(&View::STREAM, &["a", "b", "c", "z"], ALL, all).ok(), Some(vec![9, 1, 7, 5]));
    assert_eq!(store.counts(&View::STREAM, &["a", "b", "c", "z"], USA, all).ok(), Some(vec![1, 0, 0, 2]));
}

/// When the last of it is old, whatever part it came in.
pub fn a_span_goes_as_a_whole(store: &Store) {
    let at = minute("202106010000");
    let late = Timestamp::from_secs(2_000_000_000);
    let part = |ad: &str, arrival| {
        let mut columns = Columns::new(Span::minute(at), vec![ALL]);
        columns.ads.push(ad.as_bytes());
        columns.counts.iter_mut().for_each(|column| column.push(1));
        (columns, arrival)
    };
    let counts = vec![part("a", Some(Timestamp::from_secs(1))), part("b", Some(late)), part("c", None)];
    let write =
        ClosedWrite { revision: Revision::STREAM, partition: Partition(0), counts, until: at.next(), filters: vec![] };
    assert_eq!(store.write_closed(&write).ok(), Some(()));
    let all = MinuteRange { from: at, to: at.next() };
    assert_eq!(store.expire(late, late).ok(), Some(0));
    assert_eq!(store.counts(&View::STREAM, &["a", "b", "c"], ALL, all).ok(), Some(vec![1; 3]));
    assert_eq!(store.expire(late.after(std::time::Duration::from_secs(1)), late).ok(), Some(1));
    assert_eq!(store.counts(&View::STREAM, &["a", "b", "c"], ALL, all).ok(), Some(vec![0; 3]));
}

/// Hours and days whose last minute a filter is not published in have no totals of it; those before and after have.
pub fn a_filter_counts_in_the_hours_in_which_it_began_and_ended(store: &Store) {
    let (begin, end) = (minute("202106011317"), minute("202106040541"));
    let (from, until) = (minute("202106010000"), minute("202106060000"));
    let mut told = Told::new(2);
    told.publish(ALL, Minute::MIN, None);
    told.publish(USA, begin, Some(end));
    for m in (0..until.minus(from)).step_by(7) {
        let at = from.plus(m);
        told.add(at, "a", ALL, 2);
        if at >= begin && at < end {
            told.add(at, "a", USA, 1);
        }
    }
    told.close(&**store, from, until);
    let edges = [from, begin, end, until].map(|edge| [-1441, -60, -1, 0, 1, 43, 60, 1440].map(|m| edge.plus(m)));
    for from in edges.iter().flatten() {
        for to in edges.iter().flatten() {
            for filter in [ALL, USA] {
                told.check_counts(&**store, filter, MinuteRange { from: *from, to: *to });
            }
        }
    }
    let days = store.series(&View::STREAM, "a", USA, MinuteRange { from, to: until }, SpanKind::Day).ok();
    let of_day = |day: &str| {
        let from = minute(day);
        (from, told.count("a", USA, MinuteRange { from, to: from.plus(1440) }))
    };
    let expected = ["202106010000", "202106020000", "202106030000", "202106040000", "202106050000"].map(of_day);
    assert_eq!(days, Some(expected.to_vec()));
}

/// More than any block holds.
pub fn many_ads_in_one_minute_are_told_apart(store: &Store) {
    let at = minute("202106010000");
    let mut told = Told::new(2);
    for i in 0..12_000_u64 {
        told.add(at, &format!("ad{i}"), ALL, i % 300 + 1);
        if i % 3 == 0 {
            told.add(at.next(), &format!("ad{}", i * 2), ALL, 1);
        }
    }
    told.close(&**store, at, at.next());
    told.close(&**store, at.next(), at.plus(2));
    let all = MinuteRange { from: at, to: at.plus(2) };
    told.check_counts(&**store, ALL, all);
    for ad in ["ad0", "ad4095", "ad4096", "ad8191", "ad8192", "ad11999", "ad12000", "ad23994"] {
        assert_eq!(store.counts(&View::STREAM, &[ad], ALL, all).ok(), Some(vec![told.count(ad, ALL, all)]), "{ad}");
    }
    told.check_top(&**store, ALL, all, 500);
}

/// Oldest first; only minutes inside of the range count.
pub fn a_series_has_a_figure_for_each_span_that_the_range_touches(store: &Store) {
    let (told, all) = sparse("202012302330", 3010);
    told.close(&**store, all.from, all.to);
    for (from, to) in [
        ("202012310000", "202101010000"),
        ("202012302345", "202101010115"),
        ("202012311200", "202012311201"),
        ("202012290000", "202101030000"),
    ] {
        let range = range(from, to);
        for step in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
            let mut expected = Vec::new();
            let mut at = Span::holding(step, range.from);
            while at.start < range.to {
                let inside = MinuteRange { from: at.start.max(range.from), to: at.end().min(range.to) };
                expected.push((at.start, told.count("every", ALL, inside)));
                at = Span { kind: step, start: at.end() };
            }
            assert_eq!(
                store.series(&View::STREAM, "every", ALL, range, step).ok(),
                Some(expected),
                "{from} {to} {step:?}"
            );
        }
    }
}

/// Against adding up click by click.
pub fn the_most_clicked_ads_of_any_range_are_right(store: &Store) {
    let begin = minute("202012312200");
    let mut told = Told::new(3);
    for m in 0..240_i64 {
        for ad in 0..40_i64 {
            // Some ads rise, some fall, some come and go.
            let clicks = (ad * 31 + m * (ad % 3 - 1)).rem_euclid(17);
            if clicks > 0 {
                told.add(begin.plus(m), &format!("ad{ad:02}"), ALL, clicks.unsigned_abs());
                told.add(begin.plus(m), &format!("ad{ad:02}"), USA, clicks.unsigned_abs() / 3);
            }
        }
    }
    told.close(&**store, begin, begin.plus(240));
    for from in [0, 1, 59, 60, 61, 120, 200] {
        for length in [1, 5, 59, 60, 61, 120, 180] {
            let range = MinuteRange { from: begin.plus(from), to: begin.plus(from + length) };
            for n in [1, 3, 10, 39, 40, 100] {
                told.check_top(&**store, ALL, range, n);
                told.check_top(&**store, USA, range, n);
            }
        }
    }
}

/// Bytewise, and at the last place too.
pub fn ties_break_by_ad_id(store: &Store) {
    let at = minute("202106010000");
    let mut told = Told::new(3);
    for ad in ["b", "a", "B", "é", "aa", "z", "广告", "0"] {
        told.add(at, ad, ALL, 1);
    }
    told.add(at, "zz", ALL, 2);
    told.close(&**store, at, at.next());
    let all = MinuteRange { from: at, to: at.next() };
    store.check_top(ALL, all, 5, &[("zz", 2), ("0", 1), ("B", 1), ("a", 1), ("aa", 1)]);
}

/// Also where none is asked for.
pub fn fewer_ads_than_asked_for_are_all_that_there_are(store: &Store) {
    let at = minute("202106010000");
    let mut told = Told::new(2);
    told.add(at, "a", ALL, 1);
    told.add(at, "b", ALL, 2);
    told.close(&**store, at, at.next());
    let all = MinuteRange { from: at, to: at.next() };
    for n in [0, 1, 2, 3, 1000] {
        told.check_top(&**store, ALL, all, n);
    }
}
