//! Lines that another program wrote to `ad-clicks`, one a record: how many a second the mapper counts, against a loop around librdkafka that only takes them, in turns.
//!
//! `cargo bench -p clickmill-tests --bench records -- [LINES]`, by default 5,000,000.

#![allow(clippy::unwrap_used, clippy::print_stdout, unsafe_code, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clickmill_generator::{Options, Summary, generate};
use clickmill_model::Timestamp;
use clickmill_model::partition::of_key;
use clickmill_queue::kafka::{self as client, KafkaQueue};
use clickmill_queue::{Queue, Record, TopicPartition, Transaction};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::process::{Site, wait_for};
use clickmill_tests::traffic::on_kafka;
use rdkafka::bindings as native;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const PARTITIONS: u32 = 8;
const ROUNDS: usize = 3;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(180);

/// How many lines a transaction of the producer holds.
const AT_ONCE: usize = 200_000;

fn main() {
    let lines = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5_000_000);
    let mut kafka =
        Kafka::start(&kafka::Options { optimise: true, heap_mib: 1024, ..kafka::Options::default() }).unwrap();
    for round in 1..=ROUNDS {
        let site = Site::new(&on_kafka(kafka.bootstrap(), PARTITIONS));
        site.succeed(&["topics", "create"], LONG);
        site.succeed(&["define"], LONG);
        let lines = produce(&site, kafka.bootstrap(), lines);
        let bare = consume(kafka.bootstrap(), lines);
        let began = Instant::now();
        let mapper = site.serve(&["mapper"], LONG);
        wait_for("every line", LONG, || (mapper.metric("clickmill_mapper_lines_total") >= lines as f64).then_some(()));
        let took = began.elapsed();
        let [bare, mapped] = [bare, took].map(|took| lines as f64 / took.as_secs_f64() / 1e6);
        println!(
            "round {round}: bare loop {bare:.2} M lines/s, mapper {mapped:.2} M lines/s ({:.0} %), {:.2} µs of CPU a line",
            mapped / bare * 100.0,
            mapper.cpu_seconds() / lines as f64 * 1e6
        );
        mapper.kill();
        kafka.delete_topics("[a-z].*").unwrap();
    }
}

/// Writes the lines of a log file to `ad-clicks`, the ad as key. Returns how many there were.
fn produce(site: &Site, brokers: &str, clicks: u64) -> u64 {
    let options = Options { clicks, ads: 100_000, duplicates: 0.01, ..Options::new(site.logs()) };
    let Summary { lines, .. } = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let queue = KafkaQueue::open(client::Options { brokers: brokers.into(), ..client::Options::default() }).unwrap();
    let mut producer = queue.producer("foreign").unwrap();
    let file = BufReader::new(fs::File::open(site.logs().join("clicks-00.log")).unwrap());
    let mut read = file.split(b'\n').map(|line| line.unwrap());
    loop {
        let records = read.by_ref().take(AT_ONCE).map(|line| {
            let ad = line.split(|byte| *byte == b' ' || *byte == b',').nth(1).unwrap().to_vec();
            let to = TopicPartition::new("ad-clicks", of_key(&ad, PARTITIONS).0);
            (to, Record { key: Some(ad), headers: Vec::new(), value: line })
        });
        let transaction = Transaction { records: records.collect(), ..Transaction::default() };
        if transaction.records.is_empty() {
            return lines;
        }
        producer.commit(&transaction, None).unwrap();
    }
}

/// Takes that many records in batches and throws them away, on one thread.
fn consume(brokers: &str, lines: u64) -> Duration {
    let began = Instant::now();
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("bootstrap.servers", brokers),
        ("group.id", "bare"),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("fetch.queue.backoff.ms", "5"),
    ] {
        config.set(name, value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset("ad-clicks", partition.cast_signed(), Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut batch = vec![ptr::null_mut(); 4096];
    let mut taken = 0;
    // SAFETY: the client lives as long as `consumer`, the queue is destroyed once and each message, too.
    unsafe {
        let queue = native::rd_kafka_queue_get_consumer(consumer.client().native_ptr());
        while taken < lines {
            let count = native::rd_kafka_consume_batch_queue(queue, 100, batch.as_mut_ptr(), batch.len());
            for message in batch.iter().take(usize::try_from(count).unwrap()) {
                taken += u64::from((**message).err == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
                native::rd_kafka_message_destroy(*message);
            }
        }
        native::rd_kafka_queue_destroy(queue);
    }
    began.elapsed()
}
