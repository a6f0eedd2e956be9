//! Time, by the real program: the edges of minutes, days and years, clocks that are wrong, sources that fall silent, and outages.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use clickmill_generator::{Options, TRUTH_FILE, Truth};
use clickmill_model::{FilterId, Timestamp};
use clickmill_queue::embedded::{EmbeddedQueue, Options as QueueOptions};
use clickmill_queue::{Queue, Record, SystemClock, TopicPartition, Transaction};
use clickmill_tests::answers::{assert_counts, lines_of_logs, lines_so_far, wait_for_lines};
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::raw::assert_raw;
use clickmill_tests::traffic::{Traffic, live, wall_clock};
use rustix::process::Signal;

const CONFIGURATION: &str = r#"
[input]
logs = ["logs/*.log"]
source = "test"
settle = "2s"

[time]
max_disorder = "5s"
source_timeout = "10s"
"#;

fn click(ad: &str, time: &str, user: &str) -> String {
    format!("[AdClickEvent] {ad}, {time}, {user}, 1.2.3.4, USA")
}

fn append(path: &Path, lines: &[String]) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    writeln!(file, "{}", lines.join("\n")).unwrap();
}

/// The time as a text line has it.
fn text(time: Timestamp) -> String {
    time.to_string().replace('T', " ").replace('Z', "")
}

#[test]
fn a_click_belongs_to_its_minute_at_the_edges_of_minutes_days_and_years_and_before_1970() {
    let edges = [
        ("1969-12-31 23:58:59.999", 196_912_312_358_u64),
        ("1969-12-31 23:59:00.000", 196_912_312_359),
        ("1969-12-31 23:59:59.999", 196_912_312_359),
        ("1970-01-01 00:00:00.000", 197_001_010_000),
        ("2019-12-31 23:59:59.999", 201_912_312_359),
        ("2020-01-01 00:00:00.000", 202_001_010_000),
        ("2020-02-28 23:59:59.999999", 202_002_282_359),
        ("2020-02-29 00:00:00.000000", 202_002_290_000),
        ("2020-02-29 23:59:59.999", 202_002_292_359),
        ("2020-03-01 00:00:00", 202_003_010_000),
        ("2021-06-30 11:59:59.999", 202_106_301_159),
        ("2021-06-30 12:00:00.000", 202_106_301_200),
        ("2021-06-30 12:00:59.999", 202_106_301_200),
        ("2021-06-30 12:01:00.000", 202_106_301_201),
    ];
    let site = Site::new(CONFIGURATION);
    let lines: Vec<String> = edges.iter().map(|(time, _)| click("edge", time, "u")).collect();
    fs::write(site.logs().join("a.log"), lines.join("\n") + "\n").unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    let minutes: std::collections::BTreeSet<u64> = edges.iter().map(|(_, minute)| *minute).collect();
    assert!(summary.starts_with("14 lines: 14 clicks, 0 duplicates, 0 late, 0 rejected;"), "{summary}");
    assert!(summary.contains(&format!("; {} minutes;", minutes.len())), "{summary}");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    for minute in &minutes {
        let next = clickmill_model::Minute::from_number(*minute).unwrap().next();
        let path = format!("from={minute}&to={next}");
        let count = edges.iter().filter(|(_, of)| of == minute).count() as u64;
        let answer = api.get(&format!("/v1/ads/edge/aggregated_count?{path}"));
        assert_eq!((&answer["count"], &answer["complete"]), (&count.into(), &true.into()), "{answer}");
        let top = api.get(&format!("/v1/ads/popular_ads?{path}"));
        assert_eq!((&top["counts"], &top["complete"]), (&vec![count].into(), &true.into()), "{top}");
    }
    let around = api.get("/v1/ads/edge/aggregated_count?from=201912310000&to=202001020000");
    assert_eq!(around["count"], 2, "over a year's end");
    let day = api.get("/v1/ads/popular_ads?from=202002290000&to=202003010000");
    assert_eq!(day["counts"], serde_json::json!([2]), "the whole of a leap day");
}

#[test]
fn schedule_07_a_file_of_2021_is_counted_while_it_is_being_copied_in() {
    let site = Site::new(CONFIGURATION);
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let path = site.logs().join("old.log");
    for n in 0..12 {
        append(&path, &[click("old", &format!("2021-01-01 00:{:02}:00", n * 4), "u")]);
        // The next piece when this one was read: sooner than the file would count as settled.
        wait_for("a piece to be read", LONG, || (lines_so_far(&up) > n).then_some(()));
    }
    let range = "from=202101010000&to=202101010100";
    wait_for("the hour to close", LONG, || {
        let answer = up.get(&format!("/v1/ads/old/aggregated_count?{range}"));
        (answer["complete"] == true).then(|| assert_eq!(answer["count"], 12, "{answer}"))
    });
    assert_eq!(up.get("/v1/status")["books"]["late"], 0);
}

#[test]
fn schedule_13_a_drain_that_is_killed_at_any_moment_ends_when_run_again() {
    let site = Site::new(CONFIGURATION);
    let lines: Vec<String> = (0..30_000)
        .map(|n| {
            click(
                &format!("ad{}", n % 9),
                &format!("2021-01-01 0{}:{:02}:{:02}", n / 3600 % 10, n / 60 % 60, n % 60),
                "u",
            )
        })
        .collect();
    for (i, part) in lines.chunks(10_000).enumerate() {
        fs::write(site.logs().join(format!("{i}.log")), part.join("\n") + "\n").unwrap();
    }
    let began = Instant::now();
    site.succeed(&["up", "--drain", "--data-dir", "measured"], LONG);
    let whole = began.elapsed();
    for kill in 1..=8 {
        let drain = site.start(&["up", "--drain"]);
        // Some die while they start, some behind the last line, some between the last heartbeat and the last figure.
        std::thread::sleep(whole * kill / 8);
        drain.kill();
    }
    site.succeed(&["up", "--drain"], LONG);
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let answer = api.get("/v1/ads/popular_ads?from=202101010000&to=202101010820");
    let total: u64 = answer["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!((total, &answer["complete"]), (30_000, &true.into()), "{answer}");
    let last = api.get("/v1/ads/ad0/aggregated_count?from=202101010819&to=202101010820");
    assert_eq!(last["complete"], true, "the last minute is closed: {last}");
    drop(api);
    let sorted = |mut lines: Vec<Vec<u8>>| {
        lines.sort();
        lines
    };
    assert_raw(&site.data(), &sorted(lines.into_iter().map(String::into_bytes).collect()));
}

/// A record of somebody who is no log watcher.
fn send_foreign(site: &Site, lines: &[String]) {
    let options = QueueOptions::default();
    let queue = EmbeddedQueue::open(&site.data().join("queue"), SystemClock::shared(), options).unwrap();
    let mut transaction = Transaction::default();
    transaction.send(TopicPartition::new("ad-clicks", 0), Record::of(lines.join("\n").into_bytes()));
    queue.producer("foreign").unwrap().commit(&transaction, None).unwrap();
}

fn complete_until(up: &Running<'_>) -> u64 {
    up.get("/v1/status")["complete_until"].as_u64().unwrap_or_default()
}

/// The minute that the wall clock shows, and how many seconds of it have passed.
fn minute_now() -> (u64, i64) {
    let now = wall_clock();
    (now.minute().as_number(), now.since(now.minute().start()).as_secs() as i64)
}

/// Live traffic, out of order by nearly as much as is allowed (what is held back is also buffered for a while), over the edge of a minute, while everything else about time goes wrong.
#[test]
fn nothing_of_live_traffic_is_late_whatever_happens_to_others_and_its_last_minute_closes() {
    let site = Site::new(CONFIGURATION);
    let traffic = Traffic::start(Options { disorder: Duration::from_secs(4), ..live(&site.logs(), 500) });
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&up, 1000, LONG);

    // A second watcher tells one click, and is killed: it holds nobody up for longer than `source_timeout`.
    fs::create_dir(site.path().join("other")).unwrap();
    let other = CONFIGURATION.replace("logs/*.log", "other/*.log").replace("\"test\"", "\"other\"");
    fs::write(site.path().join("other.toml"), other).unwrap();
    let others_click = click("other", &text(wall_clock()), "u");
    append(&site.path().join("other/a.log"), std::slice::from_ref(&others_click));
    let other = site.serve(&["log-watcher", "--config", "other.toml"], LONG);
    wait_for("the other watcher's click", LONG, || {
        let (_, metrics) = other.try_get("/metrics")?;
        metrics.lines().any(|line| line == "clickmill_watcher_lines_total 1").then_some(())
    });
    other.kill();

    // Clocks of 2099 and of 1969, in a file and in a foreign record.
    let odd = ["2099-01-01 00:00:00", "1969-07-20 20:17:40"].map(|time| click("odd", time, "file"));
    append(&site.logs().join("odd.log"), &odd);
    let foreign = ["2099-01-01 00:00:00", "1969-07-20 20:17:40"].map(|time| click("odd", time, "foreign"));
    send_foreign(&site, &foreign);

    // Everything stands still for longer than `source_timeout`.
    up.signal(Signal::STOP);
    let stopped = Instant::now();
    wait_for("the outage to last", LONG, || (stopped.elapsed() > Duration::from_secs(13)).then_some(()));
    up.signal(Signal::CONT);
    let back = minute_now().0;
    wait_for("the minute of the outage to close", LONG, || (complete_until(&up) > back).then_some(()));

    // Traffic stops in the middle of a minute; that closes all the same.
    wait_for("the middle of a minute", LONG, || (minute_now().1 > 5).then_some(()));
    let made = traffic.stop();
    let last = minute_now().0;
    wait_for("the last minute to close", LONG, || (complete_until(&up) > last).then_some(()));

    let books = up.get("/v1/status")["books"].clone();
    let number = |name: &str| books[name].as_u64().unwrap();
    assert_eq!(number("lines"), made.lines + 5, "{books}");
    let (late, rejected) = (up.get("/v1/late"), up.get("/v1/rejected"));
    let ads_of = |answer: &serde_json::Value| {
        let lines = answer["lines"].as_array().unwrap();
        lines.iter().map(|line| line["line"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    let expected = |odd: &str, foreign: &str| [odd.to_owned(), foreign.to_owned()].into();
    assert_eq!(ads_of(&late), expected(&odd[1], &foreign[1]), "1969 is over, and nothing else");
    assert_eq!(ads_of(&rejected), expected(&odd[0], &foreign[0]), "2099 is not yet, and nothing else");
    assert_eq!(number("counted"), made.lines - made.duplicates + 1, "{books}");
    let mut truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let time = others_click.split(", ").nth(1).unwrap().replace([':', '-', ' '], "");
    let minute = clickmill_model::Minute::from_number(time[..12].parse().unwrap()).unwrap();
    truth.counts.insert((minute, "other".into()), 1);
    assert_counts(&up, FilterId::ALL, &truth);
    assert!(up.terminate(LONG).success());
    site.succeed(&["up", "--drain"], LONG);
    let mut lines = lines_of_logs(&site.logs());
    lines.extend(foreign.into_iter().chain([others_click]).map(String::into_bytes));
    lines.sort();
    assert_raw(&site.data(), &lines);
}
