//! Raw lines to Parquet: CPU time and bytes a click, everything from the record to the synced file.
//!
//! `cargo bench -p clickmill-db-writer --bench raw`. Times are CPU times of the one thread that does the work.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clickmill_db_writer::raw::{Files, RawConfig, RawWriter, parts, read};
use clickmill_model::records::{Origin, PIPELINE, SourceHeader, SourceMark};
use clickmill_model::{Definition, Offset, Partition, Timestamp};
use clickmill_queue::{
    Committed, Consumer, ConsumerIdentity, Fetched, OffsetRange, Poll, Producer, Progress, Queue, QueueError, Record,
    Stage, TopicPartition, TopicSpec, Transaction,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LINES: usize = 1_000_000;
const RECORD_BYTES: usize = 48 << 10;
const ADS: f64 = 100_000.0;
const USERS: u32 = 1_000_000;
const COUNTRIES: [&str; 8] = ["USA", "France", "Germany", "India", "Brazil", "Japan", "Kenya", "UK"];

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lines as one of four partitions gets them: every fourth of a file, on average.
fn records() -> Vec<Fetched> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut records = Vec::new();
    let (mut value, mut offsets) = (Vec::new(), Vec::new());
    let mut at = 0_u64;
    for i in 0..LINES {
        // Zipf's law, about: the density of the rank is one over the rank.
        let ad = ADS.powf(rng.random::<f64>()) as u32;
        let second = i * 600 / LINES;
        let ip: [u8; 4] = rng.random();
        let country = COUNTRIES[rng.random_range(0..COUNTRIES.len())];
        let line = format!(
            "[AdClickEvent] ad{ad:06}, 2021-01-01 00:{:02}:{:02}, user {}, {}, {country}",
            second / 60,
            second % 60,
            rng.random_range(0..USERS),
            std::net::Ipv4Addr::from(ip),
        );
        at += 72 * rng.random_range(0..8);
        offsets.push(at);
        at += line.len() as u64 + 1;
        if !value.is_empty() {
            value.push(b'\n');
        }
        value.extend_from_slice(line.as_bytes());
        if value.len() >= RECORD_BYTES || i + 1 == LINES {
            let runs = vec![("/var/log/ads/clicks-2021-01-01.log".to_owned(), std::mem::take(&mut offsets))];
            let header =
                SourceHeader { source: "web-17".into(), mark: SourceMark::Holding, origin: Origin { runs } }.encode();
            let headers = vec![(SourceHeader::KEY.to_owned(), header)];
            let record = Record { key: None, headers, value: std::mem::take(&mut value) };
            let offset = Offset(records.len() as u64);
            let arrival = Timestamp::from_micros(1_609_459_200_000_000 + 3017 * offset.0 as i64);
            records.push(Fetched { offset, arrival, record });
        }
    }
    records
}

/// A queue that hands out its records once.
struct Canned {
    records: Mutex<Vec<Vec<Fetched>>>,
    end: Offset,
}

struct CannedConsumer {
    records: std::vec::IntoIter<Vec<Fetched>>,
    end: Offset,
    assigned: bool,
}

struct CannedProducer;

const TOPIC: &str = "ad-clicks";

impl Queue for Canned {
    fn create_topics(&self, _: &[TopicSpec]) -> Result<(), QueueError> {
        Ok(())
    }

    fn partitions(&self, _: &str) -> Result<Option<u32>, QueueError> {
        Ok(Some(1))
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>, QueueError> {
        Ok(Box::new(CannedProducer))
    }

    fn consumer(&self, _: &str, _: &[&str]) -> Result<Box<dyn Consumer>, QueueError> {
        let records = std::mem::take(&mut *self.records.lock().unwrap()).into_iter();
        Ok(Box::new(CannedConsumer { records, end: self.end, assigned: false }))
    }

    fn range(&self, _: &TopicPartition) -> Result<OffsetRange, QueueError> {
        Ok(OffsetRange { start: Offset(0), end: self.end })
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<(Partition, Committed)>, QueueError> {
        Ok(Vec::new())
    }

    /// The definition; everything else comes through the consumer.
    fn read(&self, of: &TopicPartition, from: Offset, _: usize) -> Result<Vec<Fetched>, QueueError> {
        if &*of.topic != PIPELINE || from > Offset(0) {
            return Ok(Vec::new());
        }
        let value = serde_json::to_vec(&Definition::default()).unwrap();
        Ok(vec![Fetched { offset: Offset(0), arrival: Timestamp::EPOCH, record: Record::of(value) }])
    }
}

impl Consumer for CannedConsumer {
    fn poll(&mut self, _: Duration, _: usize) -> Result<Poll, QueueError> {
        let from = TopicPartition::new(TOPIC, 0);
        if !std::mem::replace(&mut self.assigned, true) {
            return Ok(Poll::Assigned(vec![(from, None)]));
        }
        match self.records.next() {
            None => Ok(Poll::Idle { at_end: vec![from] }),
            Some(records) => Ok(Poll::Records { from, records, end: self.end }),
        }
    }

    fn seek(&mut self, _: &TopicPartition, _: Offset) -> Result<(), QueueError> {
        Ok(())
    }

    fn release(&mut self, _: &TopicPartition) -> Result<(), QueueError> {
        Ok(())
    }

    fn identity(&self) -> ConsumerIdentity {
        ConsumerIdentity { group: String::new(), member: String::new() }
    }
}

impl Producer for CannedProducer {
    fn commit(
        &mut self,
        _: &Transaction,
        _: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>, QueueError> {
        Ok(Vec::new())
    }
}

fn write(queue: Canned, now: Timestamp, dir: &Path) -> Files {
    let files = Arc::new(Files::local(dir).unwrap());
    let config = RawConfig { flush: Arc::new(AtomicBool::new(true)), ..RawConfig::default() };
    let mut writer = RawWriter::start(Arc::new(queue), Arc::clone(&files), config).unwrap();
    while writer.step(now, Duration::ZERO).unwrap() == Progress::Worked {}
    Box::new(writer).stop().unwrap();
    Arc::into_inner(files).unwrap()
}

fn raw(criterion: &mut Criterion) {
    let records = records();
    let now = records.last().unwrap().arrival;
    let queue = || Canned {
        records: Mutex::new(records.chunks(40).map(<[Fetched]>::to_vec).collect()),
        end: Offset(records.len() as u64),
    };
    let dir = tempfile::tempdir().unwrap();
    let files = write(queue(), now, dir.path());
    let size: u64 = files.list("raw").unwrap().iter().map(|file| file.size_bytes).sum();
    println!("{:.2} bytes a click", size as f64 / LINES as f64);
    if let Some(copy) = std::env::var_os("CLICKMILL_KEEP") {
        let path = dir.path().join(&files.list("raw").unwrap()[0].path);
        std::fs::copy(path, copy).unwrap();
    }

    let mut group = criterion.benchmark_group("raw");
    group.sample_size(10).throughput(Throughput::Elements(LINES as u64));
    group.bench_function("write", |bench| {
        bench.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let (queue, dir) = (queue(), tempfile::tempdir().unwrap());
                let began = cpu();
                write(queue, now, dir.path());
                spent += cpu() - began;
            }
            spent
        });
    });
    group.bench_function("read", |bench| {
        bench.iter_custom(|times| {
            let began = cpu();
            for _ in 0..times {
                for part in parts(&files, "raw").unwrap() {
                    let mut bytes = 0;
                    read::rows(&files, &part, |row| {
                        bytes += row.line.len();
                        std::ops::ControlFlow::<()>::Continue(())
                    })
                    .unwrap();
                    black_box(bytes);
                }
            }
            cpu() - began
        });
    });
    group.finish();
}

criterion_group!(benches, raw);
criterion_main!(benches);
