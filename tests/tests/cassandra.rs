//! `clickmill` on a real Cassandra.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Timestamp};
use clickmill_servers::{Cassandra, cassandra};
use clickmill_tests::answers::{assert_counts, assert_top};
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::traffic::{CONFIGURATION, Traffic, live};

fn configuration(node: &str, keyspace: &str) -> String {
    format!(
        r#"{CONFIGURATION}
[[filter]]
id = 1
name = "USA"
country = ["USA"]

[store]
kind = "cassandra"
nodes = ["{node}"]
keyspace = "{keyspace}"
replication = 1
buckets = 8
"#
    )
}

/// A keyspace that nobody else uses, also where the node has served other tests before.
fn keyspace(test: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{test}_{}_{}", since.as_secs(), std::process::id())
}

fn no_clock() -> Timestamp {
    Timestamp::EPOCH
}

#[test]
fn drain_counts_are_exactly_the_truth() {
    let keyspace = keyspace("drain");
    let site = Site::new(&configuration(&Cassandra::shared().addresses()[0], &keyspace));

    let refused = site.run(&["up", "--drain"], LONG);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("clickmill schema create") && refused.stderr.contains(&keyspace),
        "{}",
        refused.stderr
    );
    let wanted = site.succeed(&["schema", "create", "--dry-run"], LONG);
    assert!(wanted.contains("CREATE KEYSPACE") && wanted.contains("would be made"), "{wanted}");
    assert_eq!(site.run(&["up", "--drain"], LONG).status.code(), Some(2), "a dry run makes nothing");
    let made = site.succeed(&["schema", "create"], LONG);
    assert_eq!(made.lines().count(), wanted.lines().count(), "{made}");
    assert!(site.succeed(&["schema", "create"], LONG).contains("has everything"));

    let options =
        Options { clicks: 30_000, ads: 200, minutes: 70, files: 3, duplicates: 0.03, ..Options::new(site.logs()) };
    let Summary { lines, clicks, duplicates, .. } =
        generate(&options, no_clock, |_| (), &AtomicBool::new(false)).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    let expected = format!("{lines} lines: {clicks} clicks, {duplicates} duplicates, 0 late, 0 rejected; 70 minutes");
    assert!(summary.contains(&expected), "{summary:?} does not say {expected:?}");

    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    assert_counts(&api, FilterId::ALL, &truth);
    let (first, last) = (truth.counts.keys().next().unwrap().0, truth.counts.keys().next_back().unwrap().0);
    for (from, to) in [(first, last.next()), (first.plus(3), last), (first.plus(7), first.plus(67))] {
        assert_top(&api, FilterId::ALL, from, to, 50, &top_of(&truth, from, to));
    }
    let status = api.get("/v1/status");
    assert_eq!(status["store"], "ok", "{status}");
    drop(api);

    // Again, and nothing is new.
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("0 lines: 0 clicks"), "{summary:?}");
}

#[test]
fn a_recalculation_counts_late_clicks_and_is_undone_again() {
    let keyspace = keyspace("revise");
    let site = Site::new(&configuration(&Cassandra::shared().addresses()[0], &keyspace));
    site.succeed(&["schema", "create"], LONG);
    let options = Options { clicks: 20_000, ads: 100, minutes: 70, files: 2, ..Options::new(site.logs()) };
    generate(&options, no_clock, |_| (), &AtomicBool::new(false)).unwrap();
    site.succeed(&["up", "--drain"], LONG);
    let before = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let first = before.counts.keys().next().unwrap().0;
    let check = |truth: &Truth| {
        let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
        assert_counts(&api, FilterId::ALL, truth);
        // Over the edges, with the hour's totals and without.
        for (from, to) in [(0, 70), (0, 60), (2, 66), (3, 65), (30, 68), (0, 4)] {
            let (from, to) = (first.plus(from), first.plus(to));
            assert_top(&api, FilterId::ALL, from, to, 20, &top_of(truth, from, to));
        }
    };
    let said = site.succeed(&["recalc", "--from", "202101010000", "--to", "202101010110"], LONG);
    assert!(said.contains("revision 1 is active") && said.contains("no figure changed"), "{said}");
    check(&before);
    let late = |n: i64| format!("[AdClickEvent] ad001, {}, late {n}, 9.9.9.9, Japan\n", time_of(first.plus(n * 6 + 3)));
    std::fs::write(site.logs().join("late.log"), (0..10).map(late).collect::<String>()).unwrap();
    assert!(site.succeed(&["up", "--drain"], LONG).contains("10 late"));
    let mut after = Truth { counts: before.counts.clone() };
    for n in 0..10 {
        *after.counts.entry((first.plus(n * 6 + 3), "ad001".to_owned())).or_default() += 1;
    }
    let said = site.succeed(&["recalc", "--from", "202101010003", "--to", "202101010105"], LONG);
    assert!(said.contains("revision 2 is active") && said.contains("10 counts"), "{said}");
    check(&after);
    site.succeed(&["recalc", "undo", "2"], LONG);
    check(&before);
}

/// The second half of a minute, as a log says it.
fn time_of(minute: clickmill_model::Minute) -> String {
    minute.start().after(Duration::from_secs(30)).to_string().replace('T', " ").replace('Z', "")
}

fn top_of(truth: &Truth, from: clickmill_model::Minute, to: clickmill_model::Minute) -> Vec<(String, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for ((_, ad), count) in truth.counts.iter().filter(|((minute, _), _)| *minute >= from && *minute < to) {
        *sums.entry(ad.clone()).or_default() += count;
    }
    let mut top: Vec<(String, u64)> = sums.into_iter().collect();
    top.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    top
}

/// The status of an answer, and when to ask again.
fn ask(api: &Running<'_>, path: &str) -> (u16, Option<String>) {
    let request = ureq::get(format!("{}{path}", api.address()))
        .config()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build();
    let answer = request.call().unwrap();
    let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), retry)
}

#[test]
fn while_cassandra_is_away_the_stream_goes_on_and_the_writer_catches_up() {
    let mut cassandra = Cassandra::start(&cassandra::Options::default()).unwrap();
    let site = Site::new(&configuration(&cassandra.addresses()[0], "away"));
    site.succeed(&["schema", "create"], LONG);
    let traffic = Traffic::start(live(&site.logs(), 500));
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let counted = |books: &str| up.get("/v1/status")["books"][books].as_u64().unwrap_or_default();
    wait_for("a complete minute", LONG, || up.get("/v1/status")["complete_until"].as_u64());

    cassandra.kill(0).unwrap();
    let path = "/v1/ads/ad001/aggregated_count?from=202101010000&to=202101010001";
    let (status, retry) = ask(&up, path);
    assert_eq!(status, 503);
    assert!(retry.is_some_and(|seconds| seconds.parse::<u32>().unwrap() >= 1), "it says when to ask again");
    assert_eq!(ask(&up, "/readyz").0, 503);
    assert_eq!(ask(&up, "/healthz").0, 200);
    let before = counted("counted");
    wait_for("the mappers to go on", LONG, || (counted("counted") > before + 2000).then_some(()));
    let status = up.get("/v1/status");
    assert_eq!(status["store"], "unavailable", "{status}");
    for stage in ["mapper", "aggregator", "reducer"] {
        let another = site.serve(&[stage], LONG);
        assert_eq!(ask(&another, "/readyz").0, 200, "{stage} needs no store to start");
        assert!(another.terminate(LONG).success());
    }

    cassandra.restart(0).unwrap();
    wait_for("the API to be ready again", LONG, || (ask(&up, "/readyz").0 == 200).then_some(()));
    traffic.stop();
    assert!(up.terminate(LONG).success());
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains(" 0 late, 0 rejected"), "{summary}");
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    assert_counts(&api, FilterId::ALL, &truth);
}

#[test]
fn wrong_addresses_are_named_with_their_setting() {
    let site = Site::new(&configuration("127.0.0.1:1", "nowhere"));
    for args in [&["api", "--listen", "127.0.0.1:0"][..], &["schema", "create"]] {
        let refused = site.run(args, LONG);
        assert_eq!(refused.status.code(), Some(1), "{args:?}: another try may succeed\n{}", refused.stderr);
        assert!(refused.stderr.contains("store.nodes") && refused.stderr.contains("127.0.0.1:1"), "{}", refused.stderr);
    }
}
