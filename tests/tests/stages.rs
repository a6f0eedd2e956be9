//! The stages as processes of their own, on one data folder.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::time::Instant;

use clickmill_tests::answers::wait_for_lines;
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::stages::{GONE_WITHIN, STAGES, start, work_through_every_fate};
use clickmill_tests::traffic::{CONFIGURATION, Traffic, live};
use serde_json::Value;

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

#[test]
fn schedule_33_a_process_with_the_old_configuration_counts_by_the_new_definition() {
    let filter = "[[filter]]\nid = 1\ncountry = [\"USA\"]\n";
    let (old, new) = (format!("{CONFIGURATION}\n[top]\nn = 7\n"), format!("{CONFIGURATION}\n{filter}"));
    let site = Site::new(&old);
    let traffic = Traffic::start(live(&site.logs(), 500));
    let mut stages: Vec<Running<'_>> = STAGES.iter().map(|stage| start(&site, stage)).collect();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&api, 500, LONG);
    std::fs::write(site.path().join("new.toml"), new).unwrap();
    let said = site.succeed(&["define", "--config", "new.toml"], LONG);
    assert!(said.contains("definition 2 is in force"), "{said}");
    // One more mapper that has never heard of anything but the old configuration.
    stages.push(start(&site, "mapper"));
    let published = wait_for("a minute of the new filter to be complete", LONG, || {
        let filters = api.get("/v1/filters");
        let from = filters["filters"].as_array()?.iter().find(|filter| filter["id"] == 1)?["from"].as_u64()?;
        let top = api.try_get(&format!("/v1/ads/popular_ads?filter=1&from={from}"))?;
        let answer: Value = serde_json::from_str(&top.1).ok()?;
        (answer["complete"] == true && !answer["ad_ids"].as_array()?.is_empty()).then_some(answer)
    });
    let range = format!("from={}&to={}", published["from"], published["to"]);
    for (ad, of_usa) in published["ad_ids"].as_array().unwrap().iter().zip(published["counts"].as_array().unwrap()) {
        let count =
            |filter| api.get(&format!("/v1/ads/{}/aggregated_count?{range}&filter={filter}", ad.as_str().unwrap()));
        assert_eq!(&count(1)["count"], of_usa);
        assert!(count(0)["count"].as_u64() >= of_usa.as_u64(), "{ad}");
    }
    let definition = &api.get("/v1/status")["definition"];
    assert_eq!((&definition["version"], &definition["n"]), (&2.into(), &100.into()), "nobody went back to the old one");
    traffic.stop();
    for stage in stages {
        assert!(stage.terminate(GONE_WITHIN).success());
    }
}

#[test]
fn schedule_33_a_watcher_with_another_configuration_sends_as_the_definition_says() {
    let site =
        Site::new(&CONFIGURATION.replace("source = \"test\"", "source = \"test\"\nsources = [\"test\", \"other\"]"));
    let other = r#"input = { logs = ["other/*.log"], source = "other", partition_by = "ad_id" }"#;
    std::fs::write(site.path().join("other.toml"), other).unwrap();
    std::fs::create_dir(site.path().join("other")).unwrap();
    let line = |i: u32| format!("[AdClickEvent] ad{}, 2021-01-01 00:00:01, user {i}, 1.1.1.1, USA\n", i % 50);
    let lines: String = (0..200).map(line).collect();
    for folder in ["logs", "other"] {
        std::fs::write(site.path().join(folder).join("a.log"), &lines).unwrap();
    }
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let watcher = site.serve(&["log-watcher", "--config", "other.toml"], LONG);
    wait_for("the lines of both", LONG, || (up.get("/v1/status")["books"]["lines"] == 400).then_some(()));
    let books = up.get("/v1/status")["books"].clone();
    assert_eq!((&books["counted"], &books["duplicates"]), (&200.into(), &200.into()), "{books}");
    assert!(watcher.terminate(GONE_WITHIN).success());
}
