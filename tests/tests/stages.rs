//! The stages as processes of their own, on one data folder.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::time::Instant;

use clickmill_tests::process::{Site, wait_for};
use clickmill_tests::stages::{GONE_WITHIN, LONG, work_through_every_fate};
use serde_json::Value;

const CONFIGURATION: &str = r#"
[input]
logs = ["logs/*.log"]
source = "test"

[time]
max_disorder = "5s"
"#;

#[test]
fn schedule_23_stages_as_processes_are_ended_killed_and_stopped_and_every_line_counts_once() {
    work_through_every_fate(&Site::new(CONFIGURATION));
}

#[test]
fn schedule_15_of_two_watchers_of_one_name_the_loser_names_its_rival_and_is_not_to_be_restarted() {
    let site = Site::new(CONFIGURATION);
    let mut loser = site.serve(&["log-watcher"], LONG);
    let winner = site.serve(&["log-watcher"], LONG);
    let status = loser.wait(GONE_WITHIN);
    assert_eq!(status.code(), Some(2), "{}", loser.stderr());
    let said = loser.stderr();
    for part in [
        "another log watcher took over as \"test\"",
        &format!("process {}", winner.pid()),
        "give each watcher an input.source of its own",
    ] {
        assert!(said.contains(part), "{said:?} does not say {part:?}");
    }
    // The winner stays.
    std::fs::write(site.logs().join("a.log"), "[AdClickEvent] ad1, 2021-01-01 00:00:01, u, 1.1.1.1, USA\n").unwrap();
    wait_for("the winner to read a file", LONG, || {
        let (_, metrics) = winner.try_get("/metrics")?;
        metrics.lines().any(|line| line == "clickmill_watcher_lines_total 1").then_some(())
    });
}

#[test]
fn schedule_15_a_watcher_that_restarts_again_and_again_without_a_file_holds_nobody_up() {
    let site = Site::new(&CONFIGURATION.replace("[time]", "[time]\nsource_timeout = \"5s\""));
    let restless = r#"input = { logs = ["none/*.log"], source = "restless" }
time = { source_timeout = "5s", max_disorder = "5s" }"#;
    std::fs::write(site.path().join("restless.toml"), restless).unwrap();
    let restart = || {
        let watcher = site.serve(&["log-watcher", "--config", "restless.toml"], LONG);
        wait_for("a heartbeat", LONG, || {
            let (_, metrics) = watcher.try_get("/metrics")?;
            metrics.contains("clickmill_watcher_files").then_some(())
        });
        watcher.kill();
    };
    restart();
    std::fs::write(site.logs().join("a.log"), "[AdClickEvent] ad1, 2021-01-01 00:00:01, u, 1.1.1.1, USA\n").unwrap();
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let began = Instant::now();
    let path = "/v1/ads/ad1/aggregated_count?from=202101010000&to=202101010001";
    loop {
        let answer = up.get(path);
        if answer["complete"] == Value::Bool(true) {
            assert_eq!(answer["count"], 1, "{answer}");
            break;
        }
        assert!(began.elapsed() < LONG, "nothing closes: {}", up.get("/v1/status"));
        restart();
    }
}
