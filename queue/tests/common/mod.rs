//! What the tests of the embedded queue share.

// Each test file uses a part of it; what fails in a test shall panic, in its helpers too.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::{
    Committed, Consumer, Fetched, InputCommit, Poll, Queue, Record, Retention, SystemClock, TopicPartition, TopicSpec,
    Transaction,
};

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn open(folder: &Path) -> EmbeddedQueue {
    EmbeddedQueue::open(folder, SystemClock::shared(), Options::default()).unwrap()
}

pub fn topic(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, retention: Retention::Forever, max_backlog_bytes: 0 }
}

pub fn consumed_by(name: &str, group: &str) -> TopicSpec {
    let retention = Retention::Consumed { by: vec![group.to_owned()], at_least_bytes: 0 };
    TopicSpec { retention, ..topic(name, 1) }
}

pub fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

pub fn record(to: &TopicPartition, value: &[u8]) -> Transaction {
    Transaction { records: vec![(to.clone(), Record::of(value.to_vec()))], ..Transaction::default() }
}

pub fn input(of: &TopicPartition, offset: Offset) -> InputCommit {
    let committed = Committed { offset, metadata: Vec::new() };
    InputCommit { input: of.clone(), committed, keep_from: offset }
}

pub fn read_all(queue: &dyn Queue, of: &TopicPartition) -> Vec<Fetched> {
    let mut all: Vec<Fetched> = Vec::new();
    let mut from = queue.range(of).unwrap().start;
    loop {
        let records = queue.read(of, from, 1 << 20).unwrap();
        let Some(last) = records.last() else { return all };
        from = last.offset.next();
        all.extend(records);
    }
}

pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Polls until the consumer owns so many partitions.
pub fn own(consumer: &mut dyn Consumer, partitions: usize) {
    let mut owned = 0;
    wait("partitions", || {
        match consumer.poll(Duration::from_millis(10), 1).unwrap() {
            Poll::Assigned(assigned) => owned += assigned.len(),
            Poll::Lost(lost) => owned -= lost.len(),
            Poll::Revoking(_) | Poll::Records { .. } | Poll::Idle { .. } => {}
        }
        owned == partitions
    });
}

/// Bytes that do not compress.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

/// This test program again, as another process that runs the test `child` in a role.
pub struct Process(Child);

impl Process {
    pub fn start(role: &str, folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env("QUEUE_TEST_ROLE", role)
            .env("QUEUE_TEST_FOLDER", folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// The role and the folder, where this is such a process.
    pub fn role() -> Option<(String, std::path::PathBuf)> {
        Some((std::env::var("QUEUE_TEST_ROLE").ok()?, std::env::var_os("QUEUE_TEST_FOLDER")?.into()))
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn wait_for_success(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "a process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
