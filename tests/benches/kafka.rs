//! The stages as processes on a real Kafka beside them: how many lines a second, and how much CPU a line, from the files to `ad-clicks`, and from there to `click-results`.
//!
//! `cargo bench -p clickmill-tests --bench kafka -- [CLICKS] [PROCESSES]`, by default 10,000,000 clicks of 100,000 ads in 10 minutes, with 4 filters, and one process of each stage.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clickmill_generator::{Options, Summary, generate};
use clickmill_model::Timestamp;
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::process::{Running, Site, wait_for};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};

const PARTITIONS: u32 = 8;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(600);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let clicks = numbers.first().copied().unwrap_or(10_000_000);
    let processes = numbers.get(1).copied().unwrap_or(1);
    let kafka = Kafka::start(&kafka::Options { optimise: true, heap_mib: 1024, ..kafka::Options::default() }).unwrap();
    let site = Site::new(&configuration(kafka.bootstrap()));
    let options = Options { clicks, ads: 100_000, duplicates: 0.01, ..Options::new(site.logs()) };
    let Summary { lines, bytes, .. } =
        generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    println!("{lines} lines of {} bytes, {processes} processes of a stage", bytes / lines);
    site.succeed(&["topics", "create"], LONG);
    site.succeed(&["define"], LONG);

    let began = Instant::now();
    let watcher = site.serve(&["log-watcher"], LONG);
    let sent = || metric(&watcher, "clickmill_watcher_lines_total");
    wait_for("the files to be read", LONG, || (sent() >= lines).then_some(()));
    report("files to ad-clicks", lines, began.elapsed(), watcher.cpu_seconds());

    let began = Instant::now();
    let stages: Vec<Running<'_>> = ["mapper", "aggregator", "reducer"]
        .iter()
        .flat_map(|stage| (0..processes).map(|_| site.start(&[stage])))
        .collect();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let is_through = || {
        let status = api.get("/v1/status");
        let lag = |name: &str| {
            let stages = status["stages"].as_array().unwrap();
            stages.iter().find(|stage| stage["name"] == name).and_then(|stage| stage["lag_records"].as_u64())
        };
        (status["books"]["lines"] == lines && lag("aggregator") == Some(0) && lag("reducer") == Some(0)).then_some(())
    };
    wait_for("every line to be counted", LONG, is_through);
    let cpu = stages.iter().map(|stage| stage.cpu_seconds()).sum();
    report("ad-clicks to click-results", lines, began.elapsed(), cpu);
}

fn configuration(brokers: &str) -> String {
    format!(
        r#"{CONFIGURATION}
[queue]
kind = "kafka"
brokers = "{brokers}"
partitions = {PARTITIONS}

[files]
shared = true

{FILTERS}"#
    )
}

fn metric(process: &Running<'_>, name: &str) -> u64 {
    let Some((200, metrics)) = process.try_get("/metrics") else { return 0 };
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
    value.unwrap_or_default() as u64
}

fn report(what: &str, lines: u64, took: Duration, cpu: f64) {
    println!(
        "{what}: {:.1} s, {:.2} M lines/s; {cpu:.1} s of CPU, {:.2} µs a line",
        took.as_secs_f64(),
        lines as f64 / took.as_secs_f64() / 1e6,
        cpu / lines as f64 * 1e6
    );
}
