//! `clickmill` on a real Kafka broker and one data folder.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Timestamp};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::answers::{assert_counts, lines_of_logs, lines_so_far};
use clickmill_tests::process::{LONG, Site, wait_for};
use clickmill_tests::raw::assert_raw;
use clickmill_tests::stages::{GONE_WITHIN, STAGES, work_through_every_fate};
use clickmill_tests::traffic::CONFIGURATION;

fn configuration(brokers: &str) -> String {
    format!(
        r#"{CONFIGURATION}
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
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
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

/// The rights that the documents name for each stage, as arguments for granting them.
fn documented_rights() -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kafka.md")).unwrap();
    let (_, table) = page.split_once("| stage | read | write |").unwrap();
    let rows: Vec<Vec<String>> = table
        .lines()
        .skip(2)
        .take_while(|row| row.starts_with('|'))
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let topics = |cell: &str| match cell {
        _ if cell.contains("all topics") => vec!["*".to_owned()],
        _ if cell.contains("raw topics") => [quoted(cell), vec!["ad-clicks".into()]].concat(),
        _ => quoted(cell),
    };
    let groups_of_all: BTreeSet<String> = rows.iter().flat_map(|row| quoted(&row[3])).collect();
    let groups = |cell: &str| match cell {
        _ if cell.contains("all of these") => groups_of_all.iter().cloned().collect(),
        _ => quoted(cell),
    };
    let right = |who: &str, kind: &str, names: Vec<String>, operations: &[&str], more: &[&str]| {
        let of = names.into_iter().flat_map(|name| [format!("--{kind}"), name]);
        let may = operations.iter().flat_map(|operation| ["--operation".into(), (*operation).to_owned()]);
        let user = ["--allow-principal".to_owned(), format!("User:{who}")];
        user.into_iter().chain(of).chain(may).chain(more.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>()
    };
    // What every stage may, besides.
    let mut rights = vec![
        right("*", "topic", vec!["*".into()], &["Describe", "DescribeConfigs"], &[]),
        right("*", "group", vec!["mapper".into(), "db-writer".into()], &["Describe"], &[]),
    ];
    for row in &rows {
        let stages = quoted(&row[0]);
        let [stage] = &stages[..] else { continue };
        let prefixed = ["--resource-pattern-type", "prefixed"];
        for (kind, names, operation, more) in [
            ("topic", topics(&row[1]), "Read", &[][..]),
            ("topic", topics(&row[2]), "Write", &[]),
            ("group", groups(&row[3]), "Read", &[]),
            ("transactional-id", quoted(&row[4]), "Write", &prefixed),
        ] {
            if !names.is_empty() {
                rights.push(right(stage, kind, names, &[operation], more));
            }
        }
    }
    rights
}

#[test]
fn each_stage_needs_the_rights_that_the_documents_name_and_no_others() {
    const PASSWORD: &str = "hunter2";
    let users = ["admin", "log-watcher", "mapper", "aggregator", "reducer", "db-writer", "api", "recalc"];
    let mut kafka = Kafka::start_guarded(&users, PASSWORD).unwrap();
    let properties = "[queue.properties]\nsecurity.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"SCRAM-SHA-512\"\n";
    let site = Site::new(&format!("{}{properties}", configuration(kafka.bootstrap())));
    let as_user = |user: &str, args: &[&str]| {
        let mut command = site.command(args);
        command.env("CLICKMILL_QUEUE__PROPERTIES__SASL_USERNAME", user);
        command.env("CLICKMILL_QUEUE__PROPERTIES__SASL_PASSWORD", PASSWORD);
        let mut running = site.start_command(command);
        if args.len() == 1 || args[0] == "api" {
            running.wait_until_ready(LONG);
        }
        running
    };
    for args in [&["topics", "create"][..], &["define", "--dry-run"]] {
        assert!(as_user("admin", args).wait(LONG).success(), "{args:?}");
    }
    assert_eq!(
        as_user("mapper", &["mapper", "--listen", "127.0.0.1:0"]).wait(LONG).code(),
        Some(1),
        "it has no right yet"
    );
    kafka.allow(&documented_rights()).unwrap();

    let options = Options { clicks: 5_000, ads: 50, duplicates: 0.03, ..Options::new(site.logs()) };
    let Summary { lines, .. } = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let definition = as_user("admin", &["define", "--config", "clickmill.toml"]).wait(LONG);
    assert!(definition.success());
    let stages: Vec<_> = STAGES.iter().map(|stage| as_user(stage, &[stage])).collect();
    let api = as_user("api", &["api", "--listen", "127.0.0.1:0"]);
    wait_for("every line to go through", LONG, || (lines_so_far(&api) == lines).then_some(()));
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let last = truth.counts.keys().next_back().unwrap().0.next().as_number();
    wait_for("every minute to be complete", LONG, || {
        api.get("/v1/status")["rankings_complete_until"].as_u64().filter(|until| *until >= last)
    });
    assert_counts(&api, FilterId::ALL, &truth);
    for process in stages {
        let said = process.stderr();
        assert!(!said.contains(PASSWORD) && !said.contains("uthorization"), "{said}");
        assert!(process.terminate(GONE_WITHIN).success());
    }
    // Lines wait for minutes until they fill a file: a drain writes them at once.
    assert!(as_user("admin", &["up", "--drain"]).wait(LONG).success());
    let _writer = as_user("db-writer", &["db-writer"]);
    let (from, to) = (truth.counts.keys().next().unwrap().0.to_string(), last.to_string());
    let mut recalc = as_user("recalc", &["recalc", "--from", &from, "--to", &to]);
    assert!(recalc.wait(LONG).success(), "{}", recalc.stderr());
}
