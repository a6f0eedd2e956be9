//! The stages as processes of their own, on a real Kafka broker and one data folder.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::collections::BTreeSet;

use clickmill_servers::Kafka;
use clickmill_tests::process::Site;
use clickmill_tests::stages::{LONG, work_through_every_fate};

fn configuration() -> String {
    format!(
        r#"
[input]
logs = ["logs/*.log"]
source = "test"

[time]
max_disorder = "5s"

[queue]
kind = "kafka"
brokers = "{}"
partitions = 8

[files]
shared = true
"#,
        Kafka::shared().bootstrap()
    )
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
    site.configure(&configuration().replace("partitions = 8", "partitions = 9"));
    let refused = site.run(&["topics", "create", "--dry-run"], LONG);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("ad-clicks has 8 partitions, not 9"), "{}", refused.stderr);
    site.configure(&configuration());
}

#[test]
fn schedule_23_on_kafka_stages_are_ended_killed_and_stopped_and_every_line_counts_once() {
    let site = Site::new(&configuration());
    make_topics(&site);
    work_through_every_fate(&site);
}

#[test]
fn a_local_folder_for_raw_clicks_is_refused_unless_every_machine_sees_it() {
    let site = Site::new(&configuration().replace("shared = true", "shared = false"));
    let refused = site.run(&["db-writer"], LONG);
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("files.shared"), "{}", refused.stderr);
}

#[test]
fn a_wrong_address_is_named_and_a_password_is_not() {
    let site = Site::new(&configuration());
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
