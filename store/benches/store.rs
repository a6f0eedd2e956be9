//! What a minute costs to write, and what the queries of the interface cost: real sizes, 100,000 and 2 million ads, four filters.
//!
//! `cargo bench -p clickmill-store`

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use clickmill_model::{Columns, FilterId, Minute, Partition, Revision, Span, SpanKind};
use clickmill_store::embedded::{EmbeddedStore, Options};
use clickmill_store::{AggregateStore, ClosedWrite, MinuteRange, View};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const FILTERS: u16 = 4;

fn begin() -> Minute {
    Minute::parse("202101010000").unwrap()
}

/// Every `step`th ad has clicks, more in the first ones; every other filter matches fewer.
fn columns(span: Span, ads: u64, step: usize, offset: u64) -> Columns {
    let mut columns = Columns::new(span, (0..FILTERS).map(FilterId).collect());
    for ad in (0..ads).skip((offset % step as u64) as usize).step_by(step) {
        columns.ads.push(format!("ad{ad:07}").as_bytes());
        let count = 1 + 20_000 / (ad + 1) + (ad + offset) % 3 * span.kind.minutes().unsigned_abs();
        for (i, column) in (0_u64..).zip(&mut columns.counts) {
            column.push(if (ad + offset).is_multiple_of(i + 1) { count } else { 0 });
        }
    }
    columns
}

fn closed(counts: Vec<Columns>, until: Minute) -> ClosedWrite {
    let counts = counts.into_iter().map(|columns| (columns, Some(until.end()))).collect();
    ClosedWrite { revision: Revision::STREAM, partition: Partition(0), counts, until, filters: vec![] }
}

fn open() -> (tempfile::TempDir, EmbeddedStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    (dir, store)
}

fn writing(c: &mut Criterion) {
    let mut group = c.benchmark_group("write a minute");
    group.sample_size(10);
    for (name, ads, step) in [("100,000 ads", 100_000, 1), ("800,000 of 2 million ads", 2_000_000, 5)] {
        let (_dir, store) = open();
        let mut minute = begin();
        // Every ad is known after these.
        for _ in 0..step {
            let columns = columns(Span::minute(minute), ads, step, minute.as_epoch().unsigned_abs());
            store.write_closed(&closed(vec![columns], minute.next())).unwrap();
            minute = minute.next();
        }
        let step = if step == 1 { 1 } else { 5 };
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    minute = minute.next();
                    let offset = minute.as_epoch().unsigned_abs();
                    let mut parts = vec![columns(Span::minute(minute), ads, step, offset)];
                    if step == 5 {
                        parts.push(columns(Span::minute(minute), ads, step, offset + 2));
                    }
                    closed(parts, minute.next())
                },
                |write| store.write_closed(&write).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("800,000 ads never seen before", |bencher| {
        let write = closed(vec![columns(Span::minute(begin()), 800_000, 1, 0)], begin().next());
        bencher.iter_batched(
            open,
            |(dir, store)| {
                store.write_closed(&write).unwrap();
                (dir, store)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Writes what an unaligned range of 24 hours is made of, 100,000 ads, with the hours before and after it.
fn a_day() -> (tempfile::TempDir, EmbeddedStore, MinuteRange) {
    let (dir, store) = open();
    let range = MinuteRange { from: begin().plus(31), to: begin().plus(31 + 1440) };
    let started = Instant::now();
    let mut written = 0_u32;
    for hour in 0..25_i64 {
        let first = begin().plus(hour * 60);
        let edge = hour == 0 || hour == 24;
        for minute in (0..60).filter(|_| edge).map(|m| first.plus(m)) {
            let columns = columns(Span::minute(minute), 100_000, 1, minute.as_epoch().unsigned_abs());
            store.write_closed(&closed(vec![columns], minute.next())).unwrap();
            written += 1;
        }
        let columns = columns(Span { kind: SpanKind::Hour, start: first }, 100_000, 1, hour.unsigned_abs());
        store.write_closed(&closed(vec![columns], first.plus(60))).unwrap();
        written += 1;
    }
    let bytes = std::fs::metadata(dir.path().join("store.db")).unwrap().len();
    println!("{written} spans in {:?}, {} MB", started.elapsed(), bytes / 1_000_000);
    (dir, store, range)
}

fn reading(c: &mut Criterion) {
    let (_dir, store, day) = a_day();
    let mut group = c.benchmark_group("count");
    let hour = MinuteRange { from: begin().plus(24 * 60), to: begin().plus(25 * 60 - 1) };
    for (name, ad) in [("hot", "ad0000003"), ("cold", "ad0099999")] {
        group.bench_function(format!("59 minutes of a {name} ad"), |bencher| {
            bencher.iter(|| store.counts(&View::STREAM, black_box(&[ad]), FilterId::ALL, hour).unwrap());
        });
    }
    group.bench_function("an unaligned day", |bencher| {
        bencher.iter(|| store.counts(&View::STREAM, black_box(&["ad0050000"]), FilterId::ALL, day).unwrap());
    });
    let ads: Vec<String> = (0..500).map(|i| format!("ad{:07}", i * 199)).collect();
    let ads: Vec<&str> = ads.iter().map(String::as_str).collect();
    group.sample_size(20);
    group.bench_function("an unaligned day of 500 ads", |bencher| {
        bencher.iter(|| store.counts(&View::STREAM, black_box(&ads), FilterId::ALL, day).unwrap());
    });
    group.finish();
    let mut group = c.benchmark_group("top 100");
    group.sample_size(20);
    for filter in [0, 3] {
        group.bench_function(format!("an unaligned day, filter {filter}"), |bencher| {
            bencher.iter(|| store.top(&View::STREAM, FilterId(filter), black_box(day), 100).unwrap().unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    targets = writing, reading
}
criterion_main!(benches);
