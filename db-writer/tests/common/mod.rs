//! A queue in memory, files in memory or in a folder, and writers that can be stopped anywhere.
#![allow(dead_code, unreachable_pub)]

pub mod fuse;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_config::Place;
use clickmill_db_writer::raw::{FileSpan, Files, Part, RawConfig, RawWriter, Rolling, parts, read};
use clickmill_model::records::{Origin, PIPELINE, SourceHeader, SourceMark};
use clickmill_model::{Definition, InputTopic, Offset, Timestamp};
use clickmill_queue::memory::MemoryQueue;
use clickmill_queue::{
    ManualClock, Progress, Queue, Record, Retention, Stage, StageError, TopicPartition, TopicSpec, Transaction,
};
use clickmill_s3::{BUCKET, S3};

pub const TOPIC: &str = "ad-clicks";
pub const GROUP: &str = "raw-writer";

/// 2021-01-01 00:00.
pub const START: Timestamp = Timestamp::from_secs(1_609_459_200);

pub struct Rig {
    pub clock: Arc<ManualClock>,
    pub queue: MemoryQueue,
    pub files: Arc<Files>,
    pub flush: Arc<AtomicBool>,
}

/// A line as it is in a file: topic, partition, offset, place, arrival, bytes.
pub type Found = (String, u32, u64, u32, Timestamp, Vec<u8>);

pub fn spec(topic: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: topic.into(), partitions, retention: Retention::Forever, max_backlog_bytes: 0 }
}

/// A definition with these topics of one partition as inputs.
pub fn reading(topics: &[&str]) -> Definition {
    let inputs = topics.iter().map(|topic| InputTopic { topic: (*topic).into(), partitions: 1 }).collect();
    Definition { inputs, ..Definition::default() }
}

impl Rig {
    /// With these topics as inputs from the beginning.
    pub fn of_topics(topics: &[&str]) -> Self {
        let mut rig = Self::in_memory();
        rig.begin_with(topics);
        rig
    }

    /// Starts the topic of definitions anew, and makes these topics.
    pub fn begin_with(&mut self, topics: &[&str]) {
        self.queue.delete_topic(PIPELINE);
        self.queue.create_topics(&[spec(PIPELINE, 1)]).unwrap();
        self.queue.create_topics(&topics.iter().map(|topic| spec(topic, 1)).collect::<Vec<_>>()).unwrap();
        assert!(clickmill_queue::definitions::append(&self.queue, &reading(topics)).unwrap());
    }

    pub fn new(files: Files) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let queue = MemoryQueue::new(Arc::<ManualClock>::clone(&clock));
        queue.create_topics(&[spec(TOPIC, 1), spec(PIPELINE, 1)]).unwrap();
        assert!(clickmill_queue::definitions::append(&queue, &reading(&[TOPIC])).unwrap());
        Self { clock, queue, files: Arc::new(files), flush: Arc::default() }
    }

    pub fn in_memory() -> Self {
        Self::new(Files::new(Arc::new(object_store::memory::InMemory::new())).unwrap())
    }

    pub fn now(&self) -> Timestamp {
        clickmill_queue::Clock::now(&*self.clock)
    }

    pub fn send(&self, topic: &str, record: Record) {
        self.clock.advance(Duration::from_millis(1));
        let mut producer = self.queue.producer("test").unwrap();
        let mut transaction = Transaction::default();
        transaction.send(TopicPartition::new(topic, 0), record);
        producer.commit(&transaction, None).unwrap();
    }

    /// A record of a log watcher with these lines.
    pub fn send_lines(&self, lines: &[&[u8]]) {
        self.send(TOPIC, watched(lines));
    }

    pub fn send_heartbeat(&self) {
        self.send(TOPIC, watched(&[]));
    }

    pub fn config(&self, name: &str) -> RawConfig {
        RawConfig { name: name.into(), flush: Arc::clone(&self.flush), ..RawConfig::default() }
    }

    pub fn writer(&self, name: &str) -> RawWriter {
        self.writer_of(self.config(name))
    }

    pub fn writer_of(&self, config: RawConfig) -> RawWriter {
        RawWriter::start(Arc::new(self.queue.clone()), Arc::clone(&self.files), config).unwrap()
    }

    /// The name in the group of the writer that joined it last.
    pub fn newest_member(&self) -> String {
        self.queue.members(GROUP).pop().unwrap()
    }

    pub fn step(&self, writer: &mut impl Stage) -> Result<Progress, StageError> {
        writer.step(self.now(), Duration::ZERO)
    }

    /// Steps until nothing is left to do.
    pub fn settle(&self, writer: &mut impl Stage) -> Result<(), StageError> {
        for _ in 0..1000 {
            if self.step(writer)? == Progress::Idle && self.step(writer)? == Progress::Idle {
                return Ok(());
            }
        }
        panic!("the writer does not come to rest");
    }

    /// Has a new writer write all that is left.
    pub fn drain(&self, name: &str) -> Result<(), StageError> {
        self.flush.store(true, Ordering::SeqCst);
        let mut writer = self.writer(name);
        let end = self.settle(&mut writer);
        self.flush.store(false, Ordering::SeqCst);
        Box::new(writer).stop().unwrap();
        end
    }

    pub fn committed(&self) -> Option<Offset> {
        self.queue.committed(GROUP, TOPIC).unwrap().first().map(|(_, committed)| committed.offset)
    }

    /// What clickmill's own readers see.
    pub fn lines(&self, folder: &str) -> Vec<Found> {
        self.lines_of(&parts(&self.files, folder).unwrap())
    }

    /// What a reader sees that knows of nothing but files.
    pub fn lines_of_every_file(&self, folder: &str) -> Vec<Found> {
        let parts: Vec<Part> = self
            .files
            .list(folder)
            .unwrap()
            .into_iter()
            .map(|file| {
                let span = FileSpan::read(&self.files, &file.path).unwrap();
                Part { path: file.path, read_from: span.first_offset, span }
            })
            .collect();
        self.lines_of(&parts)
    }

    fn lines_of(&self, parts: &[Part]) -> Vec<Found> {
        let mut found = Vec::new();
        for part in parts {
            let end = read::rows(&self.files, part, |row| {
                found.push((
                    row.topic.to_owned(),
                    row.partition.0,
                    row.offset.0,
                    row.line_number,
                    row.arrival,
                    row.line.to_vec(),
                ));
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(end.unwrap(), None);
        }
        found.sort();
        found
    }

    pub fn paths(&self, folder: &str) -> Vec<String> {
        self.files.list(folder).unwrap().into_iter().map(|file| file.path).collect()
    }
}

/// How the server of a test is reached.
pub fn settings(s3: &S3) -> clickmill_config::S3 {
    clickmill_config::S3 {
        endpoint: Some(s3.endpoint()),
        region: Some("us-east-1".into()),
        access_key_id: Some(clickmill_s3::ACCESS_KEY.into()),
        secret_access_key: Some(clickmill_config::Secret(clickmill_s3::SECRET_KEY.into())),
        allow_http: true,
        timeout: Duration::from_secs(2),
        ..clickmill_config::S3::default()
    }
}

/// Files in a bucket, as the programs open them.
pub fn files_of(url: String, s3: clickmill_config::S3) -> Files {
    let files = clickmill_config::Files { url: Some(url), s3, ..clickmill_config::Files::default() };
    files.check().unwrap();
    match files.place(std::path::Path::new("nowhere")).unwrap() {
        Place::Store { store, root } => Files::named(store, &root).unwrap(),
        Place::Folder(folder) => panic!("{folder:?}"),
    }
}

/// Files of a server, below a prefix.
pub fn in_s3(s3: &S3, prefix: &str) -> Files {
    files_of(format!("s3://{BUCKET}/{prefix}"), settings(s3))
}

pub fn watched(lines: &[&[u8]]) -> Record {
    let offsets = (0..lines.len() as u64).map(|i| 1000 + 70 * i).collect();
    let runs = if lines.is_empty() { vec![] } else { vec![("/var/log/ads/a.log".to_owned(), offsets)] };
    let header = SourceHeader { source: "web-17".into(), mark: SourceMark::At(START), origin: Origin { runs } };
    Record { key: None, headers: vec![(SourceHeader::KEY.into(), header.encode())], value: lines.join(&b'\n') }
}

/// A line that differs from every other number's.
pub fn line(number: usize) -> String {
    format!("[AdClickEvent] ad{number:03}, 2021-01-01 00:00:01, user {number}, 207.148.22.22, USA")
}

/// Files become complete by themselves only when they are old.
pub fn rolling_at(rows: u64) -> Rolling {
    Rolling { rows, ..Rolling::default() }
}
