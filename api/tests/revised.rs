//! What queries answer where minutes were recalculated.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_model::{FilterId, Minute, Revision, Timestamp, Window};
use clickmill_store::{Changed, Holds, MinuteRange, Recalculation, RevisionRow, RevisionState, View};
use serde_json::{Value, json};
use support::{Clicks, MapStore, Server, minute};

fn row(revision: u32, state: RevisionState, from: Minute, to: Minute) -> RevisionRow {
    let range = MinuteRange { from, to };
    let filters = [(FilterId(0), range), (FilterId(1), range)].into();
    let holds = Holds { range, filters, windows: [Window(1), Window(5), Window(60)].into() };
    RevisionRow {
        revision: Revision(revision),
        state,
        recalculation: Recalculation {
            holds,
            definition: 1,
            partitions: 4,
            pins: BTreeMap::new(),
            began_by: "somebody@somewhere".into(),
            process: 7,
            began_at: Timestamp::from_secs(1_609_600_000),
        },
        changed: (state == RevisionState::Active).then_some(Changed {
            counts: 3,
            totals: 1,
            rankings: 2,
            clicks_before: 9,
            clicks_after: 8,
        }),
    }
}

/// Four hours of clicks, other ones for each calculation.
fn clicks(seed: i64, begin: Minute, minutes: std::ops::Range<i64>) -> Clicks {
    let mut clicks = Clicks::new();
    for (m, ad) in minutes.flat_map(|m| (0..12_i64).map(move |ad| (m, ad))) {
        let count = (m * 13 + ad * 29 + seed * 41).rem_euclid(31);
        for (filter, count) in [(0, count), (1, count / 3)] {
            if count > 0 {
                clicks.insert(
                    (FilterId(filter), format!("ad{:03}", (ad + seed) % 14), begin.plus(m)),
                    count.unsigned_abs(),
                );
            }
        }
    }
    clicks
}

#[test]
fn counts_and_rankings_of_any_range_are_those_of_the_revisions_that_are_active() {
    let begin = minute("202101010000");
    // Rankings must be put together: counts cannot be merged, and rankings have every ad.
    let store = MapStore { longest_merge: 0, ..MapStore::complete_until("202101010400") };
    *store.clicks.lock() = clicks(0, begin, 0..240);
    let spans = [
        (1, RevisionState::Active, 37, 122),
        (2, RevisionState::Undone, 0, 240),
        (3, RevisionState::Active, 60, 65),
        (4, RevisionState::Pending, 0, 240),
    ];
    for (number, state, from, to) in spans {
        let row = row(number, state, begin.plus(from), begin.plus(to));
        store.revisions.lock().push((row, clicks(i64::from(number), begin, from..to)));
    }
    let rows: Vec<RevisionRow> = store.revisions.lock().iter().map(|(row, _)| row.clone()).collect();
    let view = View::of_rows(&rows);
    let store = Arc::new(store);
    let server = Server::of(Arc::clone(&store));
    for (from, to) in [
        (0, 240),
        (36, 38),
        (37, 122),
        (30, 62),
        (62, 70),
        (60, 65),
        (64, 65),
        (120, 123),
        (61, 121),
        (0, 60),
        (60, 120),
        (59, 64),
        (118, 125),
    ] {
        for filter in [0, 1] {
            let (from, to) = (begin.plus(from), begin.plus(to));
            let expected = store.ranking_seen(&view, FilterId(filter), from, to);
            let answer = server.json(&format!("/v1/ads/popular_ads?from={from}&to={to}&filter={filter}&n=20"));
            let (ads, counts): (Vec<String>, Vec<u64>) = expected.iter().cloned().unzip();
            assert_eq!((&answer["ad_ids"], &answer["counts"]), (&json!(ads), &json!(counts)), "{from} {to} {filter}");
            assert_eq!((&answer["exact"], &answer["complete"]), (&json!(true), &json!(true)), "{from} {to} {filter}");
            for (ad, count) in &expected {
                let answer = server.json(&format!("/v1/ads/{ad}/aggregated_count?from={from}&to={to}&filter={filter}"));
                assert_eq!(answer["count"], *count, "{ad} {from} {to} {filter}");
            }
        }
    }
}

#[test]
fn the_status_names_the_recalculations() {
    let store = MapStore::complete_until("202101010400");
    let (from, to) = (minute("202101010037"), minute("202101010122"));
    *store.revisions.lock() = vec![
        (row(1, RevisionState::Active, from, to), Clicks::new()),
        (row(2, RevisionState::Pending, from, to), Clicks::new()),
    ];
    let server = Server::of(Arc::new(store));
    let expected = |revision: u32, state: &str, changed: Value| {
        json!({
            "revision": revision, "state": state, "from": 202_101_010_037_u64, "to": 202_101_010_122_u64, "filters": [0, 1],
            "definition": 1, "by": "somebody@somewhere", "at": "2021-01-02T15:06:40Z", "changed": changed,
        })
    };
    let changed = json!({"counts": 3, "totals": 1, "rankings": 2, "clicks_before": 9, "clicks_after": 8});
    let found = server.json("/v1/status")["revisions"].clone();
    assert_eq!(found, json!([expected(1, "active", changed), expected(2, "pending", Value::Null)]));
}
