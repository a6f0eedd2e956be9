//! The store on a real Cassandra beside it, against the bare driver in turns: rows a second, and how long a count takes.
//!
//! `cargo bench -p clickmill-store --bench cassandra`

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::partition::of_key;
use clickmill_model::records::FilterSpan;
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind};
use clickmill_servers::{Cassandra, cassandra};
use clickmill_store::cassandra::{Options, Replication, create_schema};
use clickmill_store::{AggregateStore, CassandraStore, ClosedWrite, MinuteRange, View};
use futures_util::StreamExt;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Runtime;

const ADS: usize = 100_000;
const FILTERS: u16 = 4;
const PARTITIONS: u32 = 8;

/// How many requests of the bare driver are on their way at once: its best is compared with.
const CONCURRENCY: [usize; 4] = [64, 128, 256, 512];

/// How many counts of each kind are asked for.
const QUERIES: usize = 5_000;

fn begin() -> Minute {
    Minute::parse("202101010000").unwrap()
}

fn main() {
    let options = cassandra::Options { optimise: true, heap_mib: 2048, ..cassandra::Options::default() };
    let cassandra = Cassandra::start(&options).unwrap();
    let options = Options {
        nodes: cassandra.addresses().to_vec(),
        keyspace: "bench".to_owned(),
        replication: Some(Replication::Everywhere(1)),
        ..Options::default()
    };
    create_schema(&options, false).unwrap();
    let store = CassandraStore::open(&options).unwrap();
    store.write_definition(&Definition { partitions: PARTITIONS, ..Definition::default() }).unwrap();
    let bare = Bare::open(&cassandra);
    let ads: Vec<String> = (0..ADS).map(|ad| format!("ad{ad:06}")).collect();
    write(&store, &bare, &ads);
    read(&store, &bare, &ads);
}

/// Minutes of 100,000 ads under four filters, as a db-writer writes them, and rows of the same size one by one.
fn write(store: &CassandraStore, bare: &Bare, ads: &[String]) {
    println!("rows a second, store and bare driver in turns:");
    for (round, concurrency) in (0..).zip(CONCURRENCY) {
        let minutes: Vec<Vec<ClosedWrite>> = (0..2)
            .map(|m| Span::minute(begin().plus(2 * round + m)))
            .map(|span| (0..PARTITIONS).map(|partition| closed(ads, partition, span)).collect())
            .collect();
        let writes: Vec<&ClosedWrite> = minutes.iter().flatten().collect();
        let rows: usize = writes.iter().map(|write| rows(write)).sum();
        let began = Instant::now();
        for write in writes {
            store.write_closed(write).unwrap();
        }
        let ours = rows as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        let written = bare.write(&ads[..ADS / 4], begin().plus(1000 + round), concurrency);
        let theirs = written as f64 / began.elapsed().as_secs_f64();
        println!("  store {ours:.0}, bare driver with {concurrency} requests {theirs:.0}: {:.1} times", ours / theirs);
    }
}

/// Counts of an hour and of 30 days, unaligned, and a read of one partition by the bare driver, in turns.
fn read(store: &CassandraStore, bare: &Bare, ads: &[String]) {
    let some = &ads[..1000];
    let day = begin().plus(40 * 1440);
    // Every minute of the hours that the ranges begin and end in, the hours and days between.
    let fill = |first: Minute, last: Minute, kind: SpanKind| {
        let step = kind.minutes();
        let mut start = first;
        while start < last {
            for partition in 0..PARTITIONS {
                let span = Span { kind, start };
                store.write_closed(&closed(some, partition, span)).unwrap();
            }
            start = start.plus(step);
        }
    };
    fill(day.plus(60 - 30 * 1440), day.plus(120 - 30 * 1440), SpanKind::Minute);
    fill(day.plus(60), day.plus(180), SpanKind::Minute);
    fill(begin(), day.plus(1440), SpanKind::Hour);
    fill(begin(), day.plus(1440), SpanKind::Day);
    let hour = MinuteRange { from: day.plus(77), to: day.plus(137) };
    let month = MinuteRange { from: day.plus(77 - 30 * 1440), to: day.plus(77) };
    // 43 minutes, 22 hours, 29 days, an hour and 17 minutes, each of which was told as 1000 clicks.
    assert_eq!(store.counts(&View::STREAM, &[&some[0]], FilterId::ALL, month).unwrap(), [112_000]);
    for name in ["warming up", "measured"] {
        let mut taken: [Vec<Duration>; 3] = Default::default();
        for ad in some.iter().cycle().take(QUERIES).map(String::as_str) {
            let ask = |range| store.counts(&View::STREAM, &[ad], FilterId::ALL, range).unwrap();
            let [one, an_hour, a_month] = &mut taken;
            one.push(timed(|| bare.count(ad, hour)));
            an_hour.push(timed(|| ask(hour)));
            a_month.push(timed(|| ask(month)));
        }
        println!("{name}, median and p99:");
        let base = taken[0].clone();
        for (what, taken) in ["a partition by the bare driver", "60 minutes", "30 days"].iter().zip(taken) {
            let [base, own] = [base.clone(), taken].map(|all| (percentile(&all, 50), percentile(&all, 99)));
            let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
            println!(
                "  {what}: {:.2?} {:.2?}: {:.2} and {:.2} times",
                own.0,
                own.1,
                times(own.0, base.0),
                times(own.1, base.1)
            );
        }
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    std::hint::black_box(work());
    began.elapsed()
}

fn percentile(taken: &[Duration], percent: usize) -> Duration {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What an aggregator partition tells of a span in which each of these ads was clicked.
fn closed(ads: &[String], partition: u32, span: Span) -> ClosedWrite {
    let mut columns = Columns::new(span, (0..FILTERS).map(FilterId).collect());
    for ad in ads.iter().filter(|ad| of_key(ad.as_bytes(), PARTITIONS) == Partition(partition)) {
        columns.ads.push(ad.as_bytes());
        for (filter, column) in (0..).zip(&mut columns.counts) {
            column.push(1000 - filter);
        }
    }
    let until = span.start.plus(span.kind.minutes());
    let counts = vec![(columns, Some(until.end()))];
    let filters =
        (0..FILTERS).map(|filter| FilterSpan { filter: FilterId(filter), from: Minute::MIN, until: None }).collect();
    ClosedWrite { revision: Revision::STREAM, partition: Partition(partition), counts, until, filters }
}

fn rows(write: &ClosedWrite) -> usize {
    write.counts.iter().map(|(columns, _)| columns.ads.len() * columns.counts.len()).sum()
}

/// The driver without the store: a row a request.
struct Bare {
    runtime: Runtime,
    session: Arc<Session>,
    insert: PreparedStatement,
    sum: PreparedStatement,
}

impl Bare {
    fn open(cassandra: &Cassandra) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (session, insert, sum) = runtime.block_on(async {
            let session = SessionBuilder::new().known_nodes(cassandra.addresses()).build().await.unwrap();
            let insert = "INSERT INTO bench.counts (revision, kind, filter, period, bucket, ad, start, clicks) VALUES (0, 0, ?, ?, ?, ?, ?, ?)";
            let sum = "SELECT sum(clicks) FROM bench.counts WHERE revision = 0 AND kind = 0 AND filter = 0 AND period = ? AND bucket = ? AND ad = ? AND start >= ? AND start < ?";
            let insert = session.prepare(insert).await.unwrap();
            let sum = session.prepare(sum).await.unwrap();
            (Arc::new(session), insert, sum)
        });
        Self { runtime, session, insert, sum }
    }

    /// Writes a minute of these ads under every filter. Returns how many rows that were.
    fn write(&self, ads: &[String], minute: Minute, concurrency: usize) -> usize {
        let start = minute.as_epoch();
        let period = (start / 1440) as i32;
        let rows = (0..i32::from(FILTERS)).flat_map(|filter| ads.iter().map(move |ad| (filter, ad.as_str())));
        let requests = rows.map(|(filter, ad)| {
            let row = (filter, period, bucket(ad), ad, start, 1000_i64);
            async move { self.session.execute_unpaged(&self.insert, row).await.unwrap() }
        });
        self.at_once(requests, concurrency)
    }

    fn at_once<F: Future>(&self, requests: impl Iterator<Item = F>, concurrency: usize) -> usize {
        self.runtime.block_on(futures_util::stream::iter(requests).buffer_unordered(concurrency).count())
    }

    fn count(&self, ad: &str, range: MinuteRange) -> i64 {
        let (from, to) = (range.from.as_epoch(), range.to.as_epoch());
        let row = ((from / 1440) as i32, bucket(ad), ad, from, to);
        self.runtime.block_on(async {
            let answer = self.session.execute_unpaged(&self.sum, row).await.unwrap();
            answer.into_rows_result().unwrap().first_row::<(i64,)>().unwrap().0
        })
    }
}

/// Where the store puts an ad.
fn bucket(ad: &str) -> i32 {
    of_key(ad.as_bytes(), clickmill_store::cassandra::BUCKETS).0 as i32
}
