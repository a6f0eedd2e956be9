//! The embedded queue, open to several processes, some of which are killed or stopped.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::{Poll, Producer, Queue, QueueError, Record, SystemClock, TopicPartition, Transaction};
use common::{Process, at, consumed_by, input, own, read_all, record, topic, wait};

/// Not a test: what another process does. Does nothing when it runs among the tests.
#[test]
fn child() {
    let Some((role, folder)) = Process::role() else { return };
    let (role, name) = role.split_once(' ').unwrap();
    match role {
        "pass-on" => pass_on_for_ever(&folder, name),
        "send" => send_numbers(&folder, name),
        "consume" => consume_numbers(&folder, name, Options::default()),
        "own" => own_for_ever(&folder, Options::default()),
        "own-briefly" => own_for_ever(&folder, short_session()),
        other => panic!("{other}"),
    }
}

const NUMBERS: u32 = 400;

fn short_session() -> Options {
    Options { session_timeout: Duration::from_millis(500), ..Options::default() }
}

/// Reads numbers from `in`, sends each to both topics `a` and `b`, commits the offset with them.
fn pass_on_for_ever(folder: &Path, name: &str) {
    let queue = common::open(folder);
    let mut producer = queue.producer(name).unwrap();
    let mut consumer = queue.consumer("g", &["in"]).unwrap();
    loop {
        match consumer.poll(Duration::from_secs(1), 100).unwrap() {
            Poll::Records { from, records, .. } => {
                let mut transaction = Transaction::default();
                for fetched in &records {
                    transaction.send(at("a", 0), fetched.record.clone());
                    transaction.send(at("b", 0), fetched.record.clone());
                }
                transaction.inputs.push(input(&from, records.last().unwrap().offset.next()));
                producer.commit(&transaction, Some(&*consumer)).unwrap();
            }
            Poll::Assigned(_) | Poll::Idle { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn send_numbers(folder: &Path, name: &str) {
    let queue = common::open(folder);
    let mut producer = queue.producer(name).unwrap();
    for n in 0..NUMBERS {
        let mut transaction = Transaction::default();
        transaction.send(at("in", n % 4), Record::of(format!("{name} {n}").into_bytes()));
        producer.commit(&transaction, None).unwrap();
    }
}

/// Sends on what it reads until nothing comes any more.
fn consume_numbers(folder: &Path, name: &str, options: Options) {
    let queue = EmbeddedQueue::open(folder, SystemClock::shared(), options).unwrap();
    let mut producer = queue.producer(name).unwrap();
    let mut consumer = queue.consumer("g", &["in"]).unwrap();
    let mut transaction = Transaction::default();
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_secs(2) {
        match consumer.poll(Duration::from_millis(50), 200).unwrap() {
            Poll::Records { from, records, .. } => {
                for fetched in &records {
                    transaction.send(at("out", 0), fetched.record.clone());
                }
                transaction.inputs = vec![input(&from, records.last().unwrap().offset.next())];
                producer.commit(&transaction, Some(&*consumer)).unwrap();
                transaction = Transaction::default();
                quiet_since = Instant::now();
            }
            Poll::Revoking(partitions) => partitions.iter().for_each(|of| consumer.release(of).unwrap()),
            Poll::Assigned(_) | Poll::Lost(_) | Poll::Idle { .. } => {}
        }
    }
}

fn own_for_ever(folder: &Path, options: Options) {
    let queue = EmbeddedQueue::open(folder, SystemClock::shared(), options).unwrap();
    let mut producer = queue.producer("owner").unwrap();
    let mut consumer = queue.consumer("g", &["in"]).unwrap();
    own(&mut *consumer, 1);
    let mut n = 0_u64;
    loop {
        n += 1;
        consumer.poll(Duration::from_millis(5), 1).unwrap();
        let mut transaction = record(&at("out", 0), b"owner");
        transaction.inputs.push(input(&at("in", 0), Offset(0)));
        match producer.commit(&transaction, Some(&*consumer)) {
            Ok(_) => {}
            Err(QueueError::Fenced(_)) => break,
            Err(other) => panic!("after {n}: {other}"),
        }
    }
    // It says so, with a producer of another name.
    let mut producer = queue.producer("fenced").unwrap();
    producer.commit(&record(&at("fenced", 0), b"yes"), None).unwrap();
}

fn numbers(queue: &dyn Queue, of: &TopicPartition) -> Vec<String> {
    read_all(queue, of).into_iter().map(|fetched| String::from_utf8(fetched.record.value).unwrap()).collect()
}

/// SIGKILL at whatever moment: what one transaction did is there as a whole, and the next process goes on behind it.
#[test]
fn a_process_killed_in_the_middle_of_its_commits_leaves_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let queue = common::open(folder.path());
    queue.create_topics(&[consumed_by("in", "g"), topic("a", 1), topic("b", 1)]).unwrap();
    let mut producer = queue.producer("p").unwrap();
    let mut sent = 0_u32;
    let done = |queue: &EmbeddedQueue| {
        queue.committed("g", "in").unwrap().first().map_or(0, |(_, committed)| committed.offset.0)
    };
    for round in 0..12_u64 {
        let mut transaction = Transaction::default();
        for _ in 0..300 {
            transaction.send(at("in", 0), Record::of(sent.to_string().into_bytes()));
            sent += 1;
        }
        producer.commit(&transaction, None).unwrap();
        let before = done(&queue);
        let mut process = Process::start(&format!("pass-on worker-{}", round % 2), folder.path());
        wait("the process committing", || done(&queue) > before + round * 3);
        process.kill();
        let (a, b, committed) = (numbers(&queue, &at("a", 0)), numbers(&queue, &at("b", 0)), done(&queue));
        let expected: Vec<String> = (0..committed).map(|n| n.to_string()).collect();
        assert!(a == expected && b == expected, "{} and {} records, committed {committed}", a.len(), b.len());
    }
    assert_eq!(queue.range(&at("in", 0)).unwrap().end, Offset(u64::from(sent)));
}

/// Two processes send, two others share the partitions: each record comes out once.
#[test]
fn several_processes_consume_every_record_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = common::open(folder.path());
    queue.create_topics(&[topic("in", 4), topic("out", 1)]).unwrap();
    let start = |role: &str| Process::start(role, folder.path());
    let mut processes = vec![start("send s1"), start("consume c1"), start("send s2"), start("consume c2")];
    // One more comes, and goes without a word.
    let mut guest = start("consume c3");
    wait("records coming out", || queue.range(&at("out", 0)).unwrap().end.0 > 100);
    guest.kill();
    for process in &mut processes {
        process.wait_for_success();
    }
    let mut expected: BTreeMap<String, u32> = BTreeMap::new();
    for name in ["s1", "s2"] {
        expected.extend((0..NUMBERS).map(|n| (format!("{name} {n}"), 1)));
    }
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for number in numbers(&queue, &at("out", 0)) {
        *found.entry(number).or_default() += 1;
    }
    assert!(found == expected, "{} numbers came out, {} went in", found.len(), expected.len());
}

/// Nobody waits for a timeout when a process is killed: its lock went with it.
#[test]
fn the_partitions_of_a_killed_process_are_free_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = common::open(folder.path());
    queue.create_topics(&[topic("in", 1), topic("out", 1), topic("fenced", 1)]).unwrap();
    let mut process = Process::start("own -", folder.path());
    wait("the other process owning it", || !read_all(&queue, &at("out", 0)).is_empty());
    let mut consumer = queue.consumer("g", &["in"]).unwrap();
    assert!(matches!(consumer.poll(Duration::from_millis(100), 1), Ok(Poll::Idle { at_end }) if at_end.is_empty()));
    process.kill();
    let killed = Instant::now();
    own(&mut *consumer, 1);
    assert!(killed.elapsed() < Duration::from_secs(5), "the session timeout was waited for: {:?}", killed.elapsed());
}

/// A process that was stopped and wakes up is a zombie: it commits nothing.
#[test]
fn a_stopped_process_loses_its_partitions_and_is_fenced_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let queue = EmbeddedQueue::open(folder.path(), SystemClock::shared(), short_session()).unwrap();
    queue.create_topics(&[topic("in", 1), topic("out", 1), topic("fenced", 1)]).unwrap();
    let process = Process::start("own-briefly -", folder.path());
    wait("the other process owning it", || !read_all(&queue, &at("out", 0)).is_empty());
    let mut consumer = queue.consumer("g", &["in"]).unwrap();
    // It may be stopped while it holds the lock on the database; then it is let go on, and stopped again.
    let mut producer = queue.producer("probe").unwrap();
    wait("a stop outside of a transaction", || {
        process.signal(rustix::process::Signal::STOP);
        let free = producer.commit(&record(&at("fenced", 0), b"probe"), None).is_ok();
        if !free {
            process.signal(rustix::process::Signal::CONT);
        }
        free
    });
    own(&mut *consumer, 1);
    let committed = numbers(&queue, &at("out", 0)).len();
    process.signal(rustix::process::Signal::CONT);
    wait("the zombie being fenced", || numbers(&queue, &at("fenced", 0)).contains(&"yes".to_owned()));
    assert_eq!(numbers(&queue, &at("out", 0)).len(), committed);
}

/// A commit of one process wakes a reader of another.
#[test]
fn a_commit_of_another_process_is_seen_soon() {
    let folder = tempfile::tempdir().unwrap();
    let queue = common::open(folder.path());
    queue.create_topics(&[consumed_by("in", "g"), topic("a", 1), topic("b", 1)]).unwrap();
    let mut consumer = queue.consumer("back", &["a"]).unwrap();
    own(&mut *consumer, 1);
    let _process = Process::start("pass-on worker", folder.path());
    let mut producer = queue.producer("p").unwrap();
    let mut there_and_back = || {
        let began = Instant::now();
        producer.commit(&record(&at("in", 0), b"x"), None).unwrap();
        // One long poll.
        let polled = consumer.poll(Duration::from_secs(600), 1).unwrap();
        assert!(matches!(polled, Poll::Records { .. }), "{polled:?}");
        began.elapsed()
    };
    there_and_back();
    // One that is not woken looks for itself after a second.
    let all: Duration = (0..20).map(|_| there_and_back()).sum();
    assert!(all < Duration::from_secs(8), "20 records there and back took {all:?}");
}

/// What a producer process and an older one of the same name do to each other.
#[test]
fn a_producer_of_another_process_is_fenced_too() {
    let folder = tempfile::tempdir().unwrap();
    let queue = common::open(folder.path());
    queue.create_topics(&[topic("in", 4), topic("out", 1)]).unwrap();
    let mut old = queue.producer("s").unwrap();
    let mut process = Process::start("send s", folder.path());
    process.wait_for_success();
    assert!(matches!(send(&mut *old), Err(QueueError::Fenced(_))));
    send(&mut *queue.producer("s").unwrap()).unwrap();
}

fn send(producer: &mut dyn Producer) -> Result<(), QueueError> {
    producer.commit(&record(&at("in", 0), b"x"), None).map(|_| ())
}
