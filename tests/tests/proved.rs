//! A day that went through a real Kafka into a real Cassandra, every stage a process of its own: counted again, audited, and mended.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Timestamp};
use clickmill_servers::{Cassandra, Kafka};
use clickmill_tests::answers::{assert_counts, lines_so_far};
use clickmill_tests::process::{Finished, LONG, Running, Site, auditor, wait_for};
use clickmill_tests::stages::{GONE_WITHIN, STAGES};
use clickmill_tests::traffic::{FILTERS, on_servers};
use serde_json::Value;

const FIRST: &str = "202101010000";
const END: &str = "202101010008";

const LATE: u64 = 12;

fn run(site: &Site, command: &str, more: &[&str]) -> Finished {
    site.run(&[&[command, "--from", FIRST, "--to", END, "--wait"], more].concat(), LONG)
}

fn code(finished: &Finished) -> i32 {
    finished.status.code().unwrap()
}

fn start(site: &Site) -> Vec<Running<'_>> {
    STAGES.iter().map(|stage| site.serve(&[stage], LONG)).collect()
}

fn stop(stages: Vec<Running<'_>>) {
    for process in stages {
        let said = process.stderr();
        assert!(process.terminate(GONE_WITHIN).success(), "{said}");
    }
}

/// Lines wait for minutes until they fill a file: a drain writes them at once. Then the stages go on.
fn write_the_rest<'a>(site: &'a Site, stages: Vec<Running<'a>>) -> Vec<Running<'a>> {
    stop(stages);
    site.succeed(&["up", "--drain"], LONG);
    start(site)
}

#[test]
fn a_span_on_real_servers_is_counted_again_audited_and_mended() {
    auditor();
    let nodes = Cassandra::shared().addresses();
    let site = Site::new(&(on_servers(Kafka::shared().bootstrap(), 4, nodes, 1) + FILTERS));
    for command in [&["topics", "create"][..], &["schema", "create"], &["define"]] {
        site.succeed(command, LONG);
    }
    let options =
        Options { clicks: 20_000, ads: 100, minutes: 8, files: 2, duplicates: 0.03, ..Options::new(site.logs()) };
    let Summary { lines, .. } = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let mut truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let end = truth.counts.keys().next_back().unwrap().0.next();
    let stages = start(&site);
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for("every line to go through", LONG, || (lines_so_far(&api) == lines).then_some(()));
    wait_for("every minute to be complete", LONG, || {
        api.get("/v1/status")["rankings_complete_until"].as_u64().filter(|until| *until >= end.as_number())
    });

    let stages = write_the_rest(&site, stages);

    // What was counted right is left as it is.
    let again = run(&site, "recalc", &[]);
    assert_eq!(code(&again), 0, "{}", again.stderr);
    assert!(again.stdout.contains("no figure changed"), "{}", again.stdout);
    assert_counts(&api, FilterId::ALL, &truth);
    let proved = run(&site, "reconcile", &[]);
    assert_eq!(code(&proved), 0, "{}{}", proved.stdout, proved.stderr);
    assert!(proved.stdout.contains("(20000 clicks; "), "{}", proved.stdout);

    // Clicks that came when their minute was closed are named as such, and nothing else is.
    let (late_minute, late_ad) = truth.counts.keys().nth(40).unwrap().clone();
    let at = late_minute.start().to_string().replace('T', " ").replace('Z', "");
    let late = |n| format!("[AdClickEvent] {late_ad}, {at}, late {n}, 9.9.9.9, Japan\n");
    std::fs::write(site.logs().join("late.log"), (0..LATE).map(late).collect::<String>()).unwrap();
    wait_for("the late clicks", LONG, || (api.get("/v1/status")["books"]["late"] == LATE).then_some(()));
    let stages = write_the_rest(&site, stages);
    let found = run(&site, "reconcile", &["--json"]);
    assert_eq!(code(&found), 3, "{}{}", found.stdout, found.stderr);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let counts = found["counts"].as_array().unwrap();
    for difference in counts {
        assert_eq!(difference["kind"], "late", "{difference}");
        assert_eq!(difference["ad_id"], late_ad.as_str(), "{difference}");
    }
    let minutes: BTreeSet<u64> = counts
        .iter()
        .filter(|difference| difference["span"] == "minute")
        .map(|difference| difference["start"].as_u64().unwrap())
        .collect();
    assert_eq!(minutes, BTreeSet::from([late_minute.as_number()]));

    // Mending counts them, while the stream goes on.
    let mended = run(&site, "reconcile", &["--repair", "--json"]);
    assert_eq!(code(&mended), 0, "{}{}", mended.stdout, mended.stderr);
    let mended: Value = serde_json::from_str(&mended.stdout).unwrap();
    assert_eq!((&mended["verdict"], &mended["repair"]["verdict_before"]), (&"agrees".into(), &"differs".into()));
    let before = truth.clone();
    *truth.counts.get_mut(&(late_minute, late_ad)).unwrap() += LATE;
    wait_for("the revision to be read", LONG, || {
        (api.get("/v1/status")["revisions"].as_array().unwrap().len() >= 2).then_some(())
    });
    assert_counts(&api, FilterId::ALL, &truth);

    // A reader sees the old figures again when it is undone.
    let list = site.succeed(&["recalc", "list", "--json"], LONG);
    let revision = |line: &str| serde_json::from_str::<Value>(line).unwrap()["revision"].as_u64().unwrap();
    let newest = list.lines().map(revision).max().unwrap();
    site.succeed(&["recalc", "undo", &newest.to_string()], LONG);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_counts(&api, FilterId::ALL, &before);
    stop(stages);
}
