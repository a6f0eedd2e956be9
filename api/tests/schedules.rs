//! The schedules that break pipelines, as far as answers show them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_model::{Definition, FilterId, Minute, Partition, Window};
use serde_json::{Value, json};
use support::{MapStore, Server, minute};

fn until(at: &str) -> BTreeMap<Partition, Minute> {
    (0..4).map(|p| (Partition(p), minute(at))).collect()
}

/// Asks for a range of minutes of 2021-01-01, and demands whether it is complete, and from which minute on not.
fn check_complete(server: &Server, path: &str, (from, to): (u64, u64), complete_until: u64) {
    let at = |minute| 202_101_010_000_u64 + minute;
    let answer = server.json(&format!("{path}from={}&to={}", at(from), at(to)));
    let found = (&answer["complete"], &answer["complete_until"]);
    assert_eq!(found, (&json!(complete_until == to), &json!(at(complete_until))), "{path} {from} {to}: {answer}");
}

#[test]
fn schedule_35_counts_without_rankings_and_rankings_without_counts_are_complete_each_for_itself() {
    const COUNT: &str = "/v1/ads/ad/aggregated_count?";
    const SERIES: &str = "/v1/ads/ad/counts?step=minute&";
    const TOP: &str = "/v1/ads/popular_ads?";
    // A range that has to be looked up in the counts: the best ad of two minutes is the first of neither.
    const MERGED: &str = "/v1/ads/popular_ads?n=1&";
    let store = || {
        let store = MapStore { depth: 2, ..MapStore::complete_until("202101010010") };
        for m in 0..30 {
            let at = format!("2021010100{m:02}");
            store.click(0, "ad", &at, 5);
            let (first, second) = if m % 2 == 0 { ("even", "odd") } else { ("odd", "even") };
            store.click(0, first, &at, 7);
            store.click(0, second, &at, 1);
        }
        Arc::new(store)
    };
    // Counts are written up to 00:20, rankings to 00:10.
    let ahead = store();
    ahead.progress.lock().counts = until("202101010020");
    let server = Server::of(Arc::clone(&ahead));
    for (range, counts, rankings) in [((3, 8), 8, 8), ((3, 13), 13, 10), ((12, 18), 18, 12), ((15, 25), 20, 15)] {
        check_complete(&server, COUNT, range, counts);
        check_complete(&server, SERIES, range, counts);
        check_complete(&server, TOP, range, rankings);
        check_complete(&server, MERGED, range, rankings);
    }
    // And the other way round: a ranking is complete as far as what it was made of.
    let behind = store();
    behind.progress.lock().rankings = until("202101010020");
    let server = Server::of(Arc::clone(&behind));
    for (range, counts) in [((3, 8), 8), ((3, 13), 10), ((12, 18), 12), ((15, 25), 15)] {
        check_complete(&server, COUNT, range, counts);
        check_complete(&server, SERIES, range, counts);
    }
    // One minute, and one configured window, are answered from one stored ranking.
    check_complete(&server, MERGED, (12, 13), 13);
    check_complete(&server, MERGED, (13, 18), 18);
    // For others totals are looked up in the counts, which are not there yet.
    check_complete(&server, MERGED, (12, 18), 12);
    // One partition that lags is enough.
    let lagging = store();
    lagging.progress.lock().counts.insert(Partition(3), minute("202101010005"));
    let server = Server::of(lagging);
    check_complete(&server, COUNT, (3, 8), 5);
    check_complete(&server, MERGED, (5, 6), 6);
}

/// The most clicked ads of the range, as the full merge has them.
fn check_top(server: &Server, store: &MapStore, from: Minute, to: Minute, n: usize) {
    let path = format!("/v1/ads/popular_ads?from={from}&to={to}&n={n}");
    let answer = server.json(&path);
    let full = store.ranking(FilterId::ALL, from, to);
    let (ads, counts): (Vec<String>, Vec<u64>) = full.into_iter().take(n).unzip();
    assert_eq!((&answer["ad_ids"], &answer["counts"]), (&json!(ads), &json!(counts)), "{path}");
    assert_eq!((&answer["exact"], &answer["complete"]), (&json!(true), &json!(true)), "{path}");
}

fn definition(windows: &[u32]) -> Definition {
    Definition { windows: windows.iter().map(|w| Window(*w)).collect(), ..support::definition() }
}

/// Ranges that are windows, that are not, that cross hours and days, and one of a year.
fn ranges() -> Vec<(Minute, Minute)> {
    let of = |from, to| (minute(from), minute(to));
    vec![
        of("202101010000", "202101010001"),
        of("202101010003", "202101010008"),
        of("202101010003", "202101010018"),
        of("202101010058", "202101010102"),
        of("202101010017", "202101010301"),
        of("202101012359", "202101020001"),
        of("202101010000", "202101020000"),
        of("202101010000", "202201010000"),
        of("202012312345", "202112311944"),
    ]
}

#[test]
fn schedule_38_the_most_clicked_ads_of_any_range_are_exact_whatever_the_ties_and_the_windows() {
    type Clicks = fn(u64, u64) -> u64;
    let cases: [(&str, Clicks); 4] = [
        ("steep", |ad, _| 1000 / (ad + 1)),
        ("ties at every place", |ad, _| 1 + ad % 3),
        ("all counts are 1", |_, _| 1),
        ("others are first in every minute", |ad, minute| 1 + (ad + minute) % 13),
    ];
    for windows in [&[1, 5, 60][..], &[5, 15]] {
        for (name, clicks) in cases {
            for longest_merge in [i64::MAX, 0] {
                let store = MapStore { depth: 200, longest_merge, ..MapStore::complete_until("202201020000") };
                *store.definitions.lock() = vec![definition(windows)];
                // Forty ads, each in every third of these minutes.
                let minutes = (0..80)
                    .map(|m| minute("202101010000").plus(m * 7))
                    .chain((1..12).map(|m| minute("202101010000").plus(m * 43_200 - 1)));
                for (m, at) in minutes.enumerate() {
                    for ad in (0..40).filter(|ad| (ad + m as u64).is_multiple_of(3)) {
                        store.click(0, &format!("ad{ad:02}"), &at.to_string(), clicks(ad, m as u64));
                    }
                }
                let store = Arc::new(store);
                let server = Server::of(Arc::clone(&store));
                for (from, to) in ranges() {
                    // In the middle of a tie, all there are, and more than there are.
                    for n in [1, 7, 20, 40, 100] {
                        check_top(&server, &store, from, to, n);
                    }
                }
                assert_ne!(
                    server.json("/v1/ads/popular_ads?from=202101010000&to=202201010000")["ad_ids"],
                    Value::Null,
                    "{name}"
                );
            }
        }
    }
}
