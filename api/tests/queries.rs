//! What the queries answer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

mod support;

use std::sync::Arc;

use clickmill_api::Limits;
use clickmill_model::records::{Books, MapperCheckpoint, SetAside, SetAsideBatch};
use clickmill_model::{
    FilterId, Minute, Offset, Partition, RawPartition, RejectReason, SourceName, Timestamp, Watermark, Window,
};
use clickmill_queue::{Committed, TopicPartition, topology};
use clickmill_store::AggregateStore;
use serde_json::{Value, json};
use support::{MapQueue, MapStore, Server, minute, sources};

fn store() -> MapStore {
    let store = MapStore::complete_until("202101010003");
    for (filter, ad, at, count) in [
        (0, "ad001", "202101010000", 5),
        (0, "ad001", "202101010001", 7),
        (1, "ad001", "202101010001", 2),
        (0, "ad002", "202101010001", 7),
        (0, "ad003", "202101010002", 1),
        (0, "ad001", "202101010003", 100),
        (0, "popular_ads", "202101010001", 3),
        (0, "a/b %?é", "202101010001", 4),
        (0, "広告", "202101010001", 6),
    ] {
        store.click(filter, ad, at, count);
    }
    store
}

fn count(server: &Server, path: &str) -> Value {
    let answer = server.json(path);
    json!([answer["count"], answer["from"], answer["to"], answer["complete"], answer["complete_until"]])
}

#[test]
fn clicks_of_an_ad_are_summed_over_the_range() {
    let server = Server::of(Arc::new(store()));
    let answer = server.json("/v1/ads/ad001/aggregated_count?from=202101010000&to=202101010002&filter=0");
    let expected = json!({
        "ad_id": "ad001", "count": 12, "from": 202101010000_u64, "to": 202101010002_u64, "filter": 0,
        "complete": true, "complete_until": 202101010002_u64,
    });
    assert_eq!(answer, expected);
    for (query, expected) in [
        ("", json!([0, 202101010002_u64, 202101010003_u64, true, 202101010003_u64])),
        ("?from=202101010000", json!([12, 202101010000_u64, 202101010003_u64, true, 202101010003_u64])),
        ("?to=202101010002", json!([7, 202101010001_u64, 202101010002_u64, true, 202101010002_u64])),
        (
            "?from=202101010001&to=202101010002&filter=1",
            json!([2, 202101010001_u64, 202101010002_u64, true, 202101010002_u64]),
        ),
        (
            "?from=202101010000&to=202101010004",
            json!([112, 202101010000_u64, 202101010004_u64, false, 202101010003_u64]),
        ),
        ("?from=202001010000&to=202101010000", json!([0, 202001010000_u64, 202101010000_u64, true, 202101010000_u64])),
    ] {
        assert_eq!(count(&server, &format!("/v1/ads/ad001/aggregated_count{query}")), expected, "{query}");
    }
}

#[test]
fn an_ad_id_may_be_anything_that_a_path_can_hold() {
    let store = store();
    let long = "é".repeat(256);
    store.click(0, &long, "202101010001", 9);
    let server = Server::of(Arc::new(store));
    let range = "from=202101010001&to=202101010002";
    let long = "%C3%A9".repeat(256);
    for (ad, expected) in [
        ("ad001", 7),
        ("popular_ads", 3),
        ("a%2Fb%20%25%3F%C3%A9", 4),
        ("a%2fb%20%25%3f%c3%a9", 4),
        ("%E5%BA%83%E5%91%8A", 6),
        (long.as_str(), 9),
        ("nobody", 0),
        ("ad001%20", 0),
        ("a+b", 0),
    ] {
        let answer = server.json(&format!("/v1/ads/{ad}/aggregated_count?{range}"));
        assert_eq!(answer["count"], expected, "{ad}");
    }
    let refused = |ad: &str| server.get(&format!("/v1/ads/{ad}/aggregated_count")).problem();
    for ad in ["", "100%", "%zz", "%FF%FE", &"a".repeat(257)] {
        assert_eq!(refused(ad), (400, Some("ad_id".into())), "{ad}");
    }
}

#[test]
fn nothing_is_complete_before_every_partition_has_told() {
    let store = Arc::new(store());
    let server = Server::of(Arc::clone(&store));
    let path = "/v1/ads/ad001/aggregated_count?from=202101010000&to=202101010002";
    store.progress.lock().counts.insert(Partition(3), minute("202101010001"));
    let expected = json!([12, 202101010000_u64, 202101010002_u64, false, 202101010001_u64]);
    assert_eq!(count(&server, path), expected);
    store.progress.lock().counts.remove(&Partition(3));
    let expected = json!([12, 202101010000_u64, 202101010002_u64, false, 202101010000_u64]);
    assert_eq!(count(&server, path), expected);
    let default = count(&server, "/v1/ads/ad001/aggregated_count");
    assert_eq!(
        default,
        json!([0, 202101012359_u64, 202101020000_u64, false, 202101012359_u64]),
        "the minute before now"
    );
}

#[test]
fn neither_a_filters_time_before_its_start_nor_what_was_deleted_is_complete() {
    let store = Arc::new(store());
    let server = Server::of(Arc::clone(&store));
    for span in &mut store.progress.lock().filters {
        span.from = if span.filter == FilterId(1) { minute("202101010001") } else { Minute::MIN };
    }
    let path = "/v1/ads/ad001/aggregated_count?to=202101010002&filter=1&from=20210101000";
    assert_eq!(count(&server, &format!("{path}0"))[3], json!(false));
    assert_eq!(count(&server, &format!("{path}0"))[4], json!(202101010000_u64));
    assert_eq!(count(&server, &format!("{path}1"))[3], json!(true));
    store.progress.lock().counts_from = Some(minute("202101010001"));
    let path = "/v1/ads/ad001/aggregated_count?to=202101010002&from=20210101000";
    assert_eq!(count(&server, &format!("{path}0"))[3], json!(false));
    assert_eq!(count(&server, &format!("{path}1"))[3], json!(true));
}

#[test]
fn a_series_has_a_figure_for_each_step() {
    let server = Server::of(Arc::new(store()));
    let answer = server.json("/v1/ads/ad001/counts?from=202101010000&to=202101010004");
    let figures: Vec<Value> = answer["counts"].as_array().unwrap().iter().map(|p| p["count"].clone()).collect();
    assert_eq!(figures, [5, 7, 0, 100]);
    assert_eq!((&answer["complete"], &answer["complete_until"]), (&json!(false), &json!(202101010003_u64)));
    let answer = server.json("/v1/ads/ad001/counts?from=202012312330&to=202101010002&step=day");
    let days = json!([{"minute": 202012310000_u64, "count": 0}, {"minute": 202101010000_u64, "count": 12}]);
    assert_eq!((&answer["counts"], &answer["step"]), (&days, &json!("day")));
    let year = "from=202001010000&to=202101010000";
    let hours = server.json(&format!("/v1/ads/ad001/counts?{year}&step=hour"));
    assert_eq!(hours["counts"].as_array().unwrap().len(), 366 * 24);
    let refused = server.get(&format!("/v1/ads/ad001/counts?{year}")).problem();
    assert_eq!(refused, (400, Some("step".into())), "half a million figures");
}

#[test]
fn the_most_clicked_ads_of_the_last_minute_are_the_default() {
    let server = Server::of(Arc::new(store()));
    let expected = json!({
        "ad_ids": ["ad003"], "counts": [1], "from": 202101010002_u64, "to": 202101010003_u64, "filter": 0, "n": 100,
        "exact": true, "complete": true, "complete_until": 202101010003_u64,
    });
    assert_eq!(server.json("/v1/ads/popular_ads"), expected);
    let answer = server.json("/v1/ads/popular_ads?from=202101010001&to=202101010002&n=3");
    assert_eq!(answer["ad_ids"], json!(["ad001", "ad002", "広告"]), "ties by ad_id");
    assert_eq!(answer["counts"], json!([7, 7, 6]));
}

/// Random clicks over two days, of ads with steep counts, and a few with ties.
fn busy_store(depth: usize) -> MapStore {
    let store = MapStore { depth, ..MapStore::complete_until("202101030000") };
    let mut state = 7_u64;
    for hour in 0..48_i64 {
        for _ in 0..120 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (a, b, c) = (state >> 33, state >> 40 & 63, state >> 50);
            let ad = format!("ad{:03}", (a % 60).min(a / 60 % 60));
            let at = minute("202101010000").plus(hour * 60 + (c % 60) as i64);
            *store.clicks.lock().entry((FilterId::ALL, ad, at)).or_default() += b % 9 + 1;
        }
    }
    store
}

#[test]
fn the_most_clicked_ads_of_any_range_are_those_of_a_full_merge() {
    for (depth, longest_merge) in [(200, i64::MAX), (12, i64::MAX), (12, 0), (3, 10)] {
        let store = Arc::new(MapStore { longest_merge, ..busy_store(depth) });
        let server = Server::of(Arc::clone(&store));
        let mut exact = 0;
        for (from, to) in [
            ("202101010000", "202101010001"),
            ("202101010000", "202101020000"),
            ("202101011017", "202101021017"),
            ("202101010159", "202101010301"),
            ("202101010100", "202101010105"),
            ("202101010003", "202101022357"),
            ("202012310000", "202101050000"),
        ] {
            for n in [1, 3, 10, 100] {
                let answer = server.json(&format!("/v1/ads/popular_ads?from={from}&to={to}&n={n}"));
                let full = store.ranking(FilterId::ALL, minute(from), minute(to));
                let ads: Vec<&str> = full.iter().take(n).map(|(ad, _)| ad.as_str()).collect();
                let what = format!("{depth} {from} {to} {n}: {answer}");
                if answer["exact"] == json!(true) {
                    let counts: Vec<u64> = full.iter().take(n).map(|(_, count)| *count).collect();
                    assert_eq!((&answer["ad_ids"], &answer["counts"]), (&json!(ads), &json!(counts)), "{what}");
                    assert!(answer.get("bound").is_none(), "{what}");
                    exact += 1;
                } else if let Some(bound) = answer["bound"].as_u64() {
                    let listed = answer["ad_ids"].as_array().unwrap();
                    let missing = full.iter().filter(|(ad, _)| !listed.contains(&json!(ad)));
                    assert!(missing.map(|(_, count)| *count).max().unwrap_or(0) <= bound, "{what}");
                }
                assert_eq!(answer["complete"], to <= "202101030000", "{what}");
            }
        }
        let least = if longest_merge == i64::MAX { 28 } else { 8 };
        assert!(exact >= least, "{exact} exact answers of 28 with rankings of {depth} ads");
    }
}

#[test]
fn a_range_that_reaches_behind_the_rankings_is_merged_from_counts() {
    let store = Arc::new(busy_store(200));
    let server = Server::of(Arc::clone(&store));
    for until in store.progress.lock().rankings.values_mut() {
        *until = minute("202101011230");
    }
    let path = "/v1/ads/popular_ads?n=10&from=202101011159&to=2021010113";
    let answer = server.json(&format!("{path}10"));
    let full = store.ranking(FilterId::ALL, minute("202101011159"), minute("202101011310"));
    let counts: Vec<u64> = full.iter().take(10).map(|(_, count)| *count).collect();
    assert_eq!((&answer["counts"], &answer["exact"]), (&json!(counts), &json!(true)));
    assert_eq!((&answer["complete"], &answer["complete_until"]), (&json!(false), &json!(202101011230_u64)));
    // The default is what the rankings have.
    let answer = server.json("/v1/ads/popular_ads");
    assert_eq!((&answer["to"], &answer["complete"]), (&json!(202101011230_u64), &json!(true)));
    // Rankings that were deleted are not taken for minutes without clicks.
    store.progress.lock().rankings_from = Some(minute("202101011200"));
    let answer = server.json("/v1/ads/popular_ads?n=10&from=202101011100&to=202101011210");
    let full = store.ranking(FilterId::ALL, minute("202101011100"), minute("202101011210"));
    let counts: Vec<u64> = full.iter().take(10).map(|(_, count)| *count).collect();
    assert_eq!((&answer["counts"], &answer["complete"]), (&json!(counts), &json!(false)));
}

#[test]
fn a_window_that_was_configured_later_is_not_believed_to_have_been_there() {
    let seven = (Window(7), minute("202101011030"));
    let store = Arc::new(MapStore { late_window: Some(seven), ..busy_store(200) });
    let with = |version, windows: &[u32]| {
        let windows = windows.iter().map(|w| Window(*w)).collect();
        clickmill_model::Definition { version, windows, ..support::definition() }
    };
    *store.definitions.lock() = vec![with(1, &[1]), with(2, &[1, 7])];
    let server = Server::of(Arc::clone(&store));
    for (from, to) in [
        ("202101011001", "202101011055"),
        ("202101011017", "202101011024"),
        ("202101011040", "202101011047"),
        ("202101010003", "202101022357"),
    ] {
        let answer = server.json(&format!("/v1/ads/popular_ads?n=5&from={from}&to={to}"));
        let full = store.ranking(FilterId::ALL, minute(from), minute(to));
        let counts: Vec<u64> = full.iter().take(5).map(|(_, count)| *count).collect();
        assert_eq!(answer["counts"], json!(counts), "{from} {to}");
    }
}

#[test]
fn filters_are_listed_with_the_time_in_which_they_were_counted() {
    let store = Arc::new(store());
    let server = Server::of(Arc::clone(&store));
    for span in &mut store.progress.lock().filters {
        if span.filter == FilterId(1) {
            (span.from, span.until) = (minute("202101010001"), Some(minute("202101010300")));
        }
    }
    let expected = json!({"filters": [
        {"id": 0, "name": "all", "country": [], "exclude_country": [], "ip": [], "user_id": [], "from": null, "until": null},
        {"id": 1, "name": "USA", "country": ["USA"], "exclude_country": [], "ip": [], "user_id": [],
            "from": 202101010001_u64, "until": 202101010300_u64},
    ]});
    assert_eq!(server.json("/v1/filters"), expected);
}

fn checkpoint(watermark: &str, books: Books) -> Committed {
    let metadata = MapperCheckpoint {
        watermark: Watermark::at(minute(watermark).start()),
        has_live_source: true,
        replay_from: Offset(0),
        highest_counted: None,
        last_heard: None,
        definitions: vec![],
        books,
        inputs_since: 1,
        clock_bounds: Vec::new(),
    };
    Committed { offset: Offset(2), metadata: metadata.encode() }
}

fn queue() -> MapQueue {
    let mut queue = MapQueue::default();
    let input = |partition| TopicPartition::new("ad-clicks", partition);
    for partition in 0..4 {
        for _ in 0..5 {
            queue.send(input(partition), vec![]);
        }
    }
    let mut rejected = Books::default().rejected;
    rejected[RejectReason::BadIp as usize] = 2;
    let books = Books { lines: 10, counted: 5, duplicates: 2, late: 1, rejected };
    let committed = (0..4).map(|p| {
        let at = if p == 2 { "202101012350" } else { "202101012359" };
        (Partition(p), checkpoint(at, books.clone()))
    });
    queue.committed.insert((topology::MAPPER.into(), "ad-clicks".into()), committed.collect());
    queue
}

#[test]
fn the_status_puts_together_what_store_queue_and_stages_know() {
    let sources = sources(Arc::new(store()), Some(Arc::new(queue())));
    let at = Timestamp::from_secs(1_609_459_200);
    sources.stages.set("mapper", clickmill_api::RunState::Running, "", at);
    sources.stages.set("demo", clickmill_api::RunState::Waiting, "for lines", at);
    let server = Server::with(Limits::default(), sources);
    let status = server.json("/v1/status");
    assert_eq!(status["now"], "2021-01-02T00:00:01.500Z");
    assert_eq!(status["watermark"], "2021-01-01T23:50:00Z", "the lowest");
    assert_eq!(status["delay_seconds"], 601.5);
    assert_eq!(status["complete_until"], 202101010003_u64);
    assert_eq!(status["rankings_complete_until"], 202101010003_u64);
    assert_eq!((&status["counts_kept_from"], &status["rankings_kept_from"]), (&json!(null), &json!(null)));
    let books = &status["books"];
    let figures: Vec<u64> =
        ["lines", "counted", "duplicates", "late", "rejected"].map(|name| books[name].as_u64().unwrap()).to_vec();
    assert_eq!(figures, [40, 20, 8, 4, 8]);
    assert_eq!((&books["rejected_by_reason"]["bad_ip"], &books["rejected_by_reason"]["empty"]), (&json!(8), &json!(0)));
    assert_eq!((&status["definition"]["version"], &status["definition"]["windows"]), (&json!(1), &json!([1, 5, 60])));
    let stage = |name: &str| status["stages"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
    let mapper = json!({
        "name": "mapper", "state": "running", "detail": "", "lag_records": 12, "since": "2021-01-01T00:00:00Z",
    });
    assert_eq!(stage("mapper"), mapper);
    assert_eq!((&stage("raw-writer")["lag_records"], &stage("raw-writer")["state"]), (&json!(20), &json!("unknown")));
    assert_eq!(stage("demo")["detail"], "for lines");
}

#[test]
fn the_last_reconciliation_is_told_in_the_status_and_as_metrics() {
    let store = Arc::new(store());
    let server = Server::of(Arc::clone(&store));
    assert_eq!(server.json("/v1/status")["last_reconciliation"], Value::Null);
    assert!(!server.get("/metrics").body.contains("clickmill_reconcile_last_timestamp_seconds "));
    let verdict = clickmill_store::Verdict {
        agrees: false,
        exceeds: true,
        from: minute("202101010000"),
        to: minute("202101020000"),
        made_at: Timestamp::from_secs(1_609_552_800),
        differing: 7,
        raw_clicks: 1000,
        lacks: 3,
        surplus: 2,
        report: Some("/reports/1.html".into()),
    };
    store.write_verdict(&verdict).unwrap();
    let expected = json!({
        "verdict": "differs", "from": 202101010000_u64, "to": 202101020000_u64, "made_at": "2021-01-02T02:00:00Z",
        "differing": 7, "raw_clicks": 1000, "lacks": 3, "surplus": 2, "report": "/reports/1.html",
    });
    support::wait_until("the status says so", || server.json("/v1/status")["last_reconciliation"] == expected);
    let metrics = server.get("/metrics").body;
    for line in [
        "clickmill_reconcile_last_timestamp_seconds 1609552800",
        "clickmill_reconcile_last_until_timestamp_seconds 1609545600",
        "clickmill_reconcile_last_exceeds_threshold 1",
        "clickmill_reconcile_last_differing_figures 7",
        "clickmill_reconcile_last_missing_clicks 3",
        "clickmill_reconcile_last_surplus_clicks 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_status_is_there_before_anything_else_is() {
    let store = Arc::new(MapStore::default());
    let server = Server::of(Arc::clone(&store));
    let status = server.json("/v1/status");
    for name in ["definition", "watermark", "complete_until", "rankings_complete_until", "delay_seconds"] {
        assert_eq!(status[name], Value::Null, "{name}");
    }
    assert_eq!((&status["store"], &status["queue"]), (&json!("ok"), &json!("unknown")));
    let count = server.json("/v1/ads/ad001/aggregated_count");
    assert_eq!((&count["count"], &count["complete"]), (&json!(0), &json!(false)));
    let top = server.json("/v1/ads/popular_ads");
    assert_eq!((&top["ad_ids"], &top["complete"], &top["n"]), (&json!([]), &json!(false), &json!(100)));
    assert_eq!(server.json("/v1/filters")["filters"][0]["id"], 0);
    store.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    support::wait_until("the status says so", || server.json("/v1/status")["store"] == "unavailable");
}

#[test]
fn lines_set_aside_are_listed_newest_first() {
    let mut queue = queue();
    queue.start = 7;
    let at = |second| Timestamp::from_secs(1_609_459_200 + second);
    for partition in 0..3_u32 {
        for i in 0..30_i64 {
            let origin = (partition < 2).then(|| (SourceName::from("web-1"), "/logs/a.log".to_owned(), 1000));
            let aside = |line_number| SetAside {
                offset: Offset(i.unsigned_abs()),
                line_number,
                arrival: at(i * 3 + i64::from(partition)),
                reason: Some(RejectReason::BadIp),
                origin: origin.clone(),
                line: [b"x\xff".as_slice(), &[b'y'; 3000]].concat(),
            };
            let raw = RawPartition::new("ad-clicks", Partition(partition));
            let batch = SetAsideBatch { raw, lines: vec![aside(0), aside(1)] };
            queue.send(TopicPartition::new("dead-letters", partition), batch.encode());
        }
    }
    let server = Server::with(Limits::default(), sources(Arc::new(store()), Some(Arc::new(queue))));
    let lines = |query: &str| server.json(&format!("/v1/rejected{query}"))["lines"].as_array().unwrap().clone();
    let newest = lines("?limit=3");
    let places: Vec<Value> =
        newest.iter().map(|line| json!([line["partition"], line["offset"], line["line_number"]])).collect();
    assert_eq!(places, [json!([2, 29, 1]), json!([2, 29, 0]), json!([1, 29, 1])]);
    let expected = json!({
        "topic": "ad-clicks", "partition": 1, "offset": 29, "line_number": 1, "arrival": "2021-01-01T00:01:28Z",
        "source": "web-1", "file": "/logs/a.log", "byte_offset": 1000, "reason": "bad_ip",
        "line": format!("x\u{fffd}{}", "y".repeat(1022)),
    });
    assert_eq!(newest[2], expected);
    assert_eq!(newest[0]["file"], Value::Null, "a foreign producer's");
    assert_eq!(lines("").len(), 50);
    assert_eq!(lines("?limit=200").len(), 180, "all there are");
    assert_eq!(server.json("/v1/late")["lines"], json!([]));
}

#[test]
fn figures_that_are_deleted_while_they_are_read_are_not_complete() {
    for path in [
        "/v1/ads/ad001/aggregated_count?from=202101010000&to=202101010002",
        "/v1/ads/ad001/counts?from=202101010000&to=202101010002&step=minute",
        "/v1/ads/popular_ads?from=202101010000&to=202101010002",
    ] {
        // Each is the first to read of its own server, since later ones find the figures gone.
        let store = MapStore { expires_when_read: Some(minute("202101010001")), ..store() };
        let answer = Server::of(Arc::new(store)).json(path);
        assert_eq!(answer["complete"], false, "{path}");
        assert_eq!(answer["complete_until"], 202101010000_u64, "{path}");
    }
}
