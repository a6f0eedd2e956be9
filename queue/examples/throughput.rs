//! How fast the embedded queue is: one thread sends log lines, another reads and commits.
//!
//! `cargo run --release -p clickmill-queue --example throughput -- [GIGABYTES] [FOLDER]`

#![allow(clippy::unwrap_used, clippy::panic)]

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::{
    Committed, InputCommit, Poll, Queue, QueueError, Record, Retention, SystemClock, TopicPartition, TopicSpec,
    Transaction,
};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u32 = 4;
const RECORD_BYTES: usize = 256 << 10;
const TRANSACTION_BYTES: usize = 1 << 20;

/// Log lines as they are: ads by a skewed distribution, random users and addresses.
fn lines(bytes: usize, mut seed: u64) -> Vec<u8> {
    let mut text = String::with_capacity(bytes + 128);
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut second = 0;
    while text.len() < bytes {
        second = (second + u64::from(random(400) == 0)) % 3600;
        let below = 1 + random(100_000);
        let ad = random(below);
        let country = ["USA", "France", "Germany", "Japan", "Brazil"][random(5) as usize];
        text.push_str(&format!(
            "[AdClickEvent] ad{ad:06}, 2021-01-01 00:{:02}:{:02}, user {}, {}.{}.{}.{}, {country}\n",
            second / 60,
            second % 60,
            random(10_000_000),
            random(256),
            random(256),
            random(256),
            random(256),
        ));
    }
    text.into_bytes()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let gigabytes: f64 = arguments.next().map_or(Ok(4.0), |text| text.parse())?;
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let queue = EmbeddedQueue::open(&folder, SystemClock::shared(), Options::default())?;
    let by = vec!["g".to_owned()];
    queue.create_topics(&[TopicSpec {
        name: "lines".into(),
        partitions: PARTITIONS,
        retention: Retention::Consumed { by, at_least_bytes: 0 },
        max_backlog_bytes: 64 << 20,
    }])?;
    let values: Vec<Vec<u8>> = (1..=32).map(|seed| lines(RECORD_BYTES, seed)).collect();
    let records = (gigabytes * 1e9 / RECORD_BYTES as f64) as usize;
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let (sent, read) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&queue, &values, records).map_err(|error| error.to_string()));
        let reader = scope.spawn(|| read(&queue, &done).map_err(|error| error.to_string()));
        let sent = sender.join().map_err(|_| "the sender panicked".to_owned()).flatten();
        done.store(true, Ordering::SeqCst);
        (sent, reader.join().map_err(|_| "the reader panicked".to_owned()).flatten())
    });
    let (commits, held_back) = sent?;
    let (bytes, read_commits) = read?;
    let seconds = began.elapsed().as_secs_f64();
    let lines = bytes as f64 / 73.0;
    println!(
        "{:.2} GB in {seconds:.2} s: {:.0} MB/s of lines, sent and read ({:.1} M lines/s); {commits} commits of the sender \
         (held back {held_back:.2} s at most), {read_commits} of the reader",
        bytes as f64 / 1e9,
        bytes as f64 / 1e6 / seconds,
        lines / 1e6 / seconds,
    );
    for name in ["queue.db", "queue.db-wal"] {
        println!("{name}: {} MB", std::fs::metadata(folder.join(name)).map_or(0, |m| m.len()) >> 20);
    }
    println!("left: {:?}", queue.sizes()?);
    Ok(())
}

fn send(queue: &EmbeddedQueue, values: &[Vec<u8>], records: usize) -> Result<(usize, f64), QueueError> {
    let mut producer = queue.producer("sender")?;
    let (mut sent, mut commits, mut held_back) = (0, 0, Duration::ZERO);
    let mut values = values.iter().cycle();
    while sent < records {
        let mut transaction = Transaction::default();
        for value in values.by_ref().take(TRANSACTION_BYTES / RECORD_BYTES) {
            transaction.send(TopicPartition::new("lines", sent as u32 % PARTITIONS), Record::of(value.clone()));
            sent += 1;
        }
        let began = Instant::now();
        while let Err(error) = producer.commit(&transaction, None) {
            let QueueError::Full { .. } = error else { return Err(error) };
            std::thread::sleep(Duration::from_millis(5));
            held_back = held_back.max(began.elapsed());
        }
        commits += 1;
    }
    Ok((commits, held_back.as_secs_f64()))
}

fn read(queue: &EmbeddedQueue, done: &AtomicBool) -> Result<(usize, usize), QueueError> {
    let mut producer = queue.producer("reader")?;
    let mut consumer = queue.consumer("g", &["lines"])?;
    let (mut bytes, mut commits, mut uncommitted) = (0, 0, 0);
    let mut transaction = Transaction::default();
    loop {
        let is_last = done.load(Ordering::SeqCst);
        let is_idle = match consumer.poll(Duration::from_millis(20), 4 << 20)? {
            Poll::Records { from, records, .. } => {
                let read: usize = records.iter().map(|fetched| fetched.record.value.len()).sum();
                bytes += read;
                uncommitted += read;
                if let Some(last) = records.last() {
                    let offset = last.offset.next();
                    transaction.inputs.retain(|input| input.input != from);
                    let committed = Committed { offset, metadata: Vec::new() };
                    transaction.inputs.push(InputCommit { input: from, committed, keep_from: offset });
                }
                false
            }
            Poll::Idle { .. } => true,
            Poll::Assigned(_) | Poll::Revoking(_) | Poll::Lost(_) => false,
        };
        if uncommitted >= 8 << 20 || is_idle {
            producer.commit(&std::mem::take(&mut transaction), Some(&*consumer))?;
            uncommitted = 0;
            commits += 1;
        }
        if is_idle && is_last {
            return Ok((bytes, commits));
        }
    }
}
