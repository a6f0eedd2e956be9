//! Every stage as a process of its own, under live traffic, on a real Kafka and a real Cassandra beside them: what they take, how soon a minute can be read, and how long that takes
//! in a minute whose aggregator is killed.
//!
//! `cargo bench -p clickmill-tests --bench servers -- [MINUTES] [LINES_A_SECOND]`, by default 5 minutes of 50,000 lines a second, of 100,000 ads.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::{Duration, Instant};

use clickmill_servers::{Cassandra, Kafka, cassandra, kafka};
use clickmill_tests::process::{Running, Site, wait_for};
use clickmill_tests::stages::{STAGES, watch_a_minute};
use clickmill_tests::traffic::{Traffic, on_kafka, steady, wall_clock};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(180);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let minutes = numbers.first().copied().unwrap_or(5);
    let rate = numbers.get(1).copied().unwrap_or(50_000);
    let kafka = Kafka::start(&kafka::Options { optimise: true, heap_mib: 1024, ..kafka::Options::default() }).unwrap();
    let cassandra =
        Cassandra::start(&cassandra::Options { optimise: true, heap_mib: 2048, ..cassandra::Options::default() })
            .unwrap();
    let site = Site::new(&configuration(&kafka, &cassandra));
    for command in [&["topics", "create"][..], &["schema", "create"], &["define"]] {
        site.succeed(command, LONG);
    }
    let traffic = Traffic::start(steady(&site.logs(), rate));
    let mut stages: Vec<(&str, Running<'_>)> = STAGES.iter().map(|stage| (*stage, site.start(&[stage]))).collect();
    // The one that takes over.
    let spare = site.start(&["aggregator"]);
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    println!(
        "{rate} lines/s; each minute: CPU of a core of all processes, how long after its watermark it could be read"
    );
    watch_a_minute(&api, LONG);
    for _ in 0..minutes {
        let cpu = || stages.iter().map(|(_, stage)| stage.cpu_seconds()).sum::<f64>() + spare.cpu_seconds();
        let (before, began) = (cpu(), Instant::now());
        let delay = watch_a_minute(&api, LONG).unwrap_or_default();
        println!(
            "  {:4.0} % CPU  {:5} ms",
            (cpu() - before) / began.elapsed().as_secs_f64() * 100.0,
            delay.as_millis()
        );
    }
    // When the next minute is about to be closed.
    wait_for("the end of a minute", LONG, || (wall_clock().as_micros() / 1_000_000 % 60 == 59).then_some(()));
    let place = stages.iter().position(|(stage, _)| *stage == "aggregator").unwrap();
    stages.remove(place).1.kill();
    let delay = watch_a_minute(&api, LONG).unwrap_or_default();
    println!("a minute whose aggregator was killed could be read {} ms after its watermark", delay.as_millis());
    println!("{} lines were written", traffic.stop().lines);
}

fn configuration(kafka: &Kafka, cassandra: &Cassandra) -> String {
    let store = format!("\n[store]\nkind = \"cassandra\"\nnodes = [{:?}]\nreplication = 1\n", cassandra.addresses()[0]);
    on_kafka(kafka.bootstrap(), 8) + &store
}
