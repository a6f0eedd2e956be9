//! How fast the watcher reads, splits, parses and packs lines: everything but the queue.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickmill_log_watcher::{Config, LiveReport, Watcher};
use clickmill_model::{Offset, Partition, PartitionBy, TimeSettings, Timestamp};
use clickmill_queue::{
    Committed, Consumer, Fetched, OffsetRange, Producer, Queue, QueueError, Result, Stage, TopicPartition, TopicSpec,
    Transaction,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LINES: u64 = 2_000_000;

/// A queue that keeps nothing.
struct Nowhere;

impl Producer for Nowhere {
    fn commit(&mut self, transaction: &Transaction, _: Option<&dyn Consumer>) -> Result<Vec<(TopicPartition, Offset)>> {
        black_box(transaction);
        Ok(Vec::new())
    }
}

impl Queue for Nowhere {
    fn create_topics(&self, _: &[TopicSpec]) -> Result<()> {
        Ok(())
    }

    fn partitions(&self, _: &str) -> Result<Option<u32>> {
        Ok(Some(4))
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(Self))
    }

    fn consumer(&self, _: &str, _: &[&str]) -> Result<Box<dyn Consumer>> {
        Err(QueueError::Broken("nobody reads here".into()))
    }

    fn range(&self, _: &TopicPartition) -> Result<OffsetRange> {
        Ok(OffsetRange { start: Offset(0), end: Offset(0) })
    }

    fn committed(&self, _: &str, _: &str) -> Result<Vec<(Partition, Committed)>> {
        Ok(Vec::new())
    }

    fn read(&self, _: &TopicPartition, _: Offset, _: usize) -> Result<Vec<Fetched>> {
        Ok(Vec::new())
    }
}

fn write_lines(folder: &Path, files: u64) {
    for file in 0..files {
        let mut text = String::new();
        for n in 0..LINES / files {
            let (second, user) = (n * files / 5000, n * files + file);
            writeln!(
                text,
                "[AdClickEvent] ad{:06}, 2021-01-01 00:{:02}:{:02}, user {user}, 207.148.{}.{}, USA",
                user * 7919 % 100_000,
                second / 60 % 60,
                second % 60,
                user % 251,
                user % 241,
            )
            .unwrap();
        }
        std::fs::write(folder.join(format!("{file:03}.log")), text).unwrap();
    }
}

fn read_all(folder: &Path, by: PartitionBy) -> u64 {
    let config = Config {
        patterns: vec![folder.to_str().unwrap().to_owned()],
        source: "bench".into(),
        topic: "ad-clicks".into(),
        partitions: 4,
        partition_by: by,
        time: TimeSettings::default(),
        settle: Duration::from_secs(5),
        max_ahead_bytes: 64 << 20,
        drain: true,
        live: LiveReport::default(),
    };
    let now = Timestamp::from_secs(1_700_000_000);
    let mut watcher = Watcher::start(Arc::new(Nowhere), config, now).unwrap();
    while !watcher.report().finished {
        watcher.step(now, Duration::ZERO).unwrap();
    }
    watcher.report().lines
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group("watcher");
    group.throughput(Throughput::Elements(LINES)).sample_size(10);
    for files in [1, 10, 400] {
        let folder = tempfile::tempdir().unwrap();
        write_lines(folder.path(), files);
        group.bench_function(format!("{files} files"), |b| {
            b.iter(|| assert_eq!(read_all(folder.path(), PartitionBy::Identity), LINES));
        });
        if files == 1 {
            group.bench_function("1 file by ad_id", |b| {
                b.iter(|| assert_eq!(read_all(folder.path(), PartitionBy::AdId), LINES));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
