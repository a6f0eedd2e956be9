//! `clickmill` on a real Kafka broker and one data folder.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Timestamp};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::answers::{assert_counts, lines_of_logs};
use clickmill_tests::process::{LONG, Site};
use clickmill_tests::raw::assert_raw;
use clickmill_tests::stages::work_through_every_fate;

fn configuration(brokers: &str) -> String {
    format!(
        r#"
[input]
logs = ["logs/*.log"]
source = "test"

[time]
max_disorder = "5s"

[queue]
kind = "kafka"
brokers = "{brokers}"
partitions = 8

[files]
shared = true
"#
    )
}

fn on_shared() -> String {
    configuration(Kafka::shared().bootstrap())
}

/// Topics are looked at, made, and found as they should be; a configuration that contradicts them is refused.
fn make_topics(site: &Site) {
    let states = |args: &[&str]| {
        let said = site.succeed(args, LONG);
        let states: BTreeSet<String> = said.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect();
        assert_eq!(said.lines().count(), 8, "{said}");
        Vec::from_iter(states)
    };
    assert_eq!(states(&["topics", "create", "--dry-run"]), ["would be made"]);
    assert_eq!(states(&["topics", "create"]), ["made"]);
    assert_eq!(states(&["topics", "create"]), ["is there, as it should be"]);
    site.configure(&on_shared().replace("partitions = 8", "partitions = 9"));
    let refused = site.run(&["topics", "create", "--dry-run"], LONG);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("ad-clicks has 8 partitions, not 9"), "{}", refused.stderr);
    site.configure(&on_shared());
}

#[test]
fn a_drain_through_kafka_counts_what_is_true() {
    let site = Site::new(&on_shared());
    make_topics(&site);
    let options = Options { clicks: 20_000, ads: 100, files: 3, duplicates: 0.03, ..Options::new(site.logs()) };
    let made = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    let Summary { lines, clicks, duplicates, .. } = made;
    let expected = format!("{lines} lines: {clicks} clicks, {duplicates} duplicates, 0 late, 0 rejected; 10 minutes");
    assert!(summary.contains(&expected), "{summary:?} does not say {expected:?}");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    assert_counts(&api, FilterId::ALL, &Truth::read(&site.logs().join(TRUTH_FILE)).unwrap());
    drop(api);
    assert_raw(&site.data(), &lines_of_logs(&site.logs()));
}

#[test]
fn stages_as_processes_on_kafka_are_ended_killed_and_stopped_and_every_line_counts_once() {
    // A pipeline has a cluster of its own.
    let kafka = Kafka::start(&kafka::Options::default()).unwrap();
    work_through_every_fate(&Site::new(&configuration(kafka.bootstrap())));
}

#[test]
fn a_local_folder_for_raw_clicks_is_refused_unless_every_machine_sees_it() {
    let site = Site::new(&on_shared().replace("shared = true", "shared = false"));
    let refused = site.run(&["db-writer"], LONG);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("files.shared"), "{}", refused.stderr);
}

#[test]
fn a_wrong_address_is_named_and_a_password_is_not() {
    let site = Site::new(&on_shared());
    let mut command = site.command(&["mapper"]);
    command
        .env("CLICKMILL_QUEUE__BROKERS", "127.0.0.1:1")
        .env("CLICKMILL_QUEUE__PROPERTIES__SASL_PASSWORD", "0123hunter2");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("queue.brokers") && said.contains("127.0.0.1:1"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
