//! A folder of logs, a queue in memory, a clock that the test moves, and a watcher between them.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickmill_log_watcher::{Config, LiveReport, Report, Watcher};
use clickmill_model::records::{LOG_POSITIONS, SourceHeader, SourceMark, lines_of};
use clickmill_model::{Offset, PartitionBy, TimeSettings, Timestamp};

use clickmill_queue::memory::MemoryQueue;
use clickmill_queue::{Clock, ManualClock, Queue, Retention, Stage, StageError, TopicPartition, TopicSpec};

pub const TOPIC: &str = "ad-clicks";

/// A line as the queue has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub text: String,
    pub file: String,
    pub offset: u64,
    pub partition: u32,
}

/// A record as the queue has it.
#[derive(Debug, Clone)]
pub struct Said {
    pub partition: u32,
    pub source: String,
    pub mark: SourceMark,
    pub lines: Vec<String>,
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub queue: MemoryQueue,
    pub config: Config,
    pub watcher: Option<Box<Watcher>>,
}

pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(since.as_micros() as i64)
}

/// A queue with topics, and its clock.
pub fn queue(partitions: u32, max_backlog_bytes: u64) -> (MemoryQueue, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(wall()));
    let queue = MemoryQueue::new(clock.clone());
    queue.create_topics(&topics(partitions, max_backlog_bytes)).unwrap();
    (queue, clock)
}

pub fn topics(partitions: u32, max_backlog_bytes: u64) -> [TopicSpec; 2] {
    let retention = Retention::Consumed { by: vec!["mapper".into()], at_least_bytes: 0 };
    let clicks = TopicSpec { name: TOPIC.into(), partitions, retention, max_backlog_bytes };
    let positions =
        TopicSpec { name: LOG_POSITIONS.into(), partitions: 1, retention: Retention::Compacted, max_backlog_bytes: 0 };
    [clicks, positions]
}

pub fn config(patterns: Vec<String>, partitions: u32) -> Config {
    Config {
        patterns,
        source: "web-1".into(),
        topic: TOPIC.into(),
        partitions,
        partition_by: PartitionBy::Identity,
        time: TimeSettings::default(),
        settle: Duration::from_secs(5),
        max_ahead_bytes: 64 << 20,
        drain: false,
        live: LiveReport::default(),
    }
}

impl World {
    /// Watches `*.log*` of an empty folder.
    pub fn new() -> Self {
        Self::of(&["*.log*"])
    }

    pub fn of(patterns: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (queue, clock) = queue(2, 0);
        let patterns = patterns.iter().map(|p| folder.path().join(p).to_str().unwrap().to_owned()).collect();
        Self { folder, clock, queue, config: config(patterns, 2), watcher: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        append(&self.path(name), text.as_ref());
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub fn gzip(&self, from: &str, to: &str) {
        let content = fs::read(self.path(from)).unwrap();
        fs::write(self.path(to), gzip(&content)).unwrap();
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn try_start(&mut self) -> Result<(), StageError> {
        let watcher = Watcher::start(Arc::new(self.queue.clone()), self.config.clone(), self.now())?;
        self.watcher = Some(Box::new(watcher));
        Ok(())
    }

    pub fn start(&mut self) {
        self.try_start().unwrap();
    }

    /// As SIGKILL does it.
    pub fn kill(&mut self) {
        self.watcher = None;
    }

    pub fn try_step(&mut self) -> Result<(), StageError> {
        let now = self.now();
        self.watcher.as_mut().unwrap().step(now, Duration::ZERO).map(|_| ())
    }

    pub fn step(&mut self) {
        if self.watcher.is_none() {
            self.start();
        }
        self.try_step().unwrap();
    }

    /// Lets so many seconds pass in steps of a quarter.
    pub fn pass(&mut self, seconds: u64) {
        if self.watcher.is_none() {
            self.start();
        }
        for _ in 0..seconds * 4 {
            self.step();
            self.clock.advance(Duration::from_millis(250));
        }
        self.step();
    }

    pub fn report(&self) -> Report {
        self.watcher.as_ref().unwrap().report()
    }

    /// Runs a drain to its end.
    pub fn drain(&mut self) -> Report {
        self.config.drain = true;
        self.start();
        for _ in 0..4000 {
            self.step();
            if self.report().finished {
                return self.report();
            }
            self.clock.advance(Duration::from_millis(100));
        }
        panic!("the drain has no end: {:?}", self.report());
    }

    pub fn said(&self) -> Vec<Said> {
        said(&self.queue, self.config.partitions)
    }

    pub fn lines(&self) -> Vec<Line> {
        lines(&self.queue, self.config.partitions)
    }

    /// The texts of all lines, sorted.
    pub fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.lines().into_iter().map(|line| line.text).collect();
        texts.sort();
        texts
    }

    /// The mark that each partition heard last.
    pub fn marks(&self) -> Vec<SourceMark> {
        let said = self.said();
        let last = |p| said.iter().rev().find(|said| said.partition == p).map(|said| said.mark);
        (0..self.config.partitions).map(|p| last(p).unwrap()).collect()
    }

    /// The one mark that every partition heard last.
    pub fn mark(&self) -> SourceMark {
        let marks = self.marks();
        assert!(marks.iter().all(|mark| *mark == marks[0]), "{marks:?}");
        marks[0]
    }
}

pub fn append(path: &Path, text: &[u8]) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text).unwrap();
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn said(queue: &dyn Queue, partitions: u32) -> Vec<Said> {
    let mut all = Vec::new();
    for partition in 0..partitions {
        let of = TopicPartition::new(TOPIC, partition);
        let mut from = Offset(0);
        loop {
            let records = queue.read(&of, from, 1 << 20).unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset.next();
            for fetched in records {
                let header = fetched.record.header(SourceHeader::KEY).unwrap();
                let header = SourceHeader::decode(header).unwrap();
                let lines = lines_of(&fetched.record.value, !header.origin.runs.is_empty());
                let lines = lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect();
                all.push(Said { partition, source: header.source.to_string(), mark: header.mark, lines });
            }
        }
    }
    all
}

pub fn lines(queue: &dyn Queue, partitions: u32) -> Vec<Line> {
    let mut all = Vec::new();
    for partition in 0..partitions {
        let of = TopicPartition::new(TOPIC, partition);
        let mut from = Offset(0);
        loop {
            let records = queue.read(&of, from, 1 << 20).unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset.next();
            for fetched in records {
                let header = SourceHeader::decode(fetched.record.header(SourceHeader::KEY).unwrap()).unwrap();
                let has_lines = !header.origin.runs.is_empty();
                for (i, line) in lines_of(&fetched.record.value, has_lines).enumerate() {
                    let (file, offset) = header.origin.of_line(i).unwrap();
                    let file = Path::new(file).file_name().unwrap().to_str().unwrap().to_owned();
                    let text = String::from_utf8_lossy(line).into_owned();
                    all.push(Line { text, file, offset, partition });
                }
            }
        }
    }
    all
}

/// A click line of this time.
pub fn click(time: Timestamp, user: u64) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').split('.').next().unwrap().replace('T', " ");
    format!("[AdClickEvent] ad{}, {text}, user {user}, 10.0.0.1, USA", user % 7)
}

/// A time of 2021: minutes and seconds after midnight of the first of January.
pub fn at(minute: i64, second: i64) -> Timestamp {
    Timestamp::from_secs(1_609_459_200 + minute * 60 + second)
}
