//! The stages as processes on a real Kafka beside them: how many lines a second, and how much CPU a line, from the files to `ad-clicks`, and from there to `click-results`.
//!
//! `cargo bench -p clickmill-tests --bench kafka -- [CLICKS] [PROCESSES]`, by default 10,000,000 clicks of 100,000 ads in 10 minutes, with 4 filters, and one process of each stage.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::records::{CLICK_RESULTS, ResultBody, ResultRecord};
use clickmill_model::{Minute, Offset, Partition, Timestamp};
use clickmill_queue::kafka::{self as client, KafkaQueue};
use clickmill_queue::{Queue, TopicPartition};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::process::{Running, Site, wait_for};
use clickmill_tests::traffic::on_kafka;

const PARTITIONS: u32 = 8;

/// Filter 0 and those of the configuration; each is ranked by the reducer partition of its number.
const FILTER_COUNT: u32 = 4;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(90);

/// Longer than the log watcher waits until it takes a file that does not grow for read to its end, and says so.
const SETTLED: Duration = Duration::from_secs(5);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let clicks = numbers.first().copied().unwrap_or(10_000_000);
    let processes = numbers.get(1).copied().unwrap_or(1);
    let mut kafka =
        Kafka::start(&kafka::Options { optimise: true, heap_mib: 1024, ..kafka::Options::default() }).unwrap();
    // A broker that has only just begun is busy with compiling itself: the last round counts.
    for round in 1..=3 {
        println!("round {round}, {processes} processes of a stage:");
        run(kafka.bootstrap(), clicks, processes);
        kafka.delete_topics("[a-z].*").unwrap();
    }
}

/// Lets the stages count lines that were written before, first the log watcher alone and then the others.
fn run(brokers: &str, clicks: u64, processes: u64) {
    let site = Site::new(&on_kafka(brokers, PARTITIONS));
    let options = Options { clicks, ads: 100_000, duplicates: 0.01, ..Options::new(site.logs()) };
    let Summary { lines, .. } = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let end = truth.counts.keys().next_back().unwrap().0.next();
    site.succeed(&["topics", "create"], LONG);
    site.succeed(&["define"], LONG);
    let results = KafkaQueue::open(client::Options { brokers: brokers.into(), ..client::Options::default() });
    let mut results =
        Results { queue: results.unwrap(), next: [Offset(0); PARTITIONS as usize], told: BTreeMap::new() };

    let began = Instant::now();
    let watcher = site.serve(&["log-watcher"], LONG);
    let sent = || watcher.metric("clickmill_watcher_lines_total");
    wait_for("the files to be read", LONG, || (sent() >= lines as f64).then_some(()));
    report("files to ad-clicks", lines, began.elapsed(), watcher.cpu_seconds());
    // Until it has said that nothing more is coming.
    std::thread::sleep(SETTLED);

    let began = Instant::now();
    let mut stages: Vec<Running<'_>> = ["mapper", "aggregator", "reducer"]
        .iter()
        .flat_map(|stage| (0..processes).map(|_| site.start(&[stage])))
        .collect();
    wait_for("every figure to be told", LONG, || {
        for stage in &mut stages {
            assert!(stage.has_not_ended(), "{}", stage.stderr());
        }
        results.are_told(end).then_some(())
    });
    let cpu = stages.iter().map(|stage| stage.cpu_seconds()).sum();
    report("ad-clicks to click-results", lines, began.elapsed(), cpu);
    // The log watcher said all the while how late it is, without which nobody would know that a minute is over.
    for stage in stages.into_iter().chain([watcher]) {
        assert!(stage.terminate(LONG).success());
    }
}

/// What has been told in `click-results` so far.
struct Results {
    queue: KafkaQueue,
    next: [Offset; PARTITIONS as usize],
    /// By kind and partition: the first minute that is not told.
    told: BTreeMap<(bool, Partition), Minute>,
}

impl Results {
    /// True once the counts of every partition and the rankings of every filter are told until then.
    fn are_told(&mut self, end: Minute) -> bool {
        for (partition, next) in (0..).zip(&mut self.next) {
            let records = self.queue.read(&TopicPartition::new(CLICK_RESULTS, partition), *next, 16 << 20).unwrap();
            for record in records {
                *next = record.offset.next();
                match ResultRecord::decode(&record.record.value).unwrap().body {
                    ResultBody::Closed { partition, until, .. } => self.told.insert((false, partition), until),
                    ResultBody::Ranked { partition, until } => self.told.insert((true, partition), until),
                    ResultBody::Counts { .. } | ResultBody::Rankings { .. } => None,
                };
            }
        }
        let is_told = |kind, partition| self.told.get(&(kind, Partition(partition))).is_some_and(|until| *until >= end);
        (0..PARTITIONS).all(|partition| is_told(false, partition))
            && (0..FILTER_COUNT).all(|filter| is_told(true, filter))
    }
}

fn report(what: &str, lines: u64, took: Duration, cpu: f64) {
    println!(
        "{what}: {:.1} s, {:.2} M lines/s; {cpu:.1} s of CPU, {:.2} µs a line",
        took.as_secs_f64(),
        lines as f64 / took.as_secs_f64() / 1e6,
        cpu / lines as f64 * 1e6
    );
}
