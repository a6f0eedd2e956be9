//! The queue of one machine: a SQLite database in a folder, open to several processes at once. No server.
//!
//! ```text
//! queue.db        the database (see `database`), with queue.db-wal and queue.db-shm beside it while it is open
//! clients/        a file for each process that has the queue open, locked as long as it lives
//! open.lock       held for the moment of opening
//! ```
//!
//! - **Commit**: a transaction is compressed outside of any lock, then performed by the one writing connection of the process; what several threads commit
//!   at the same time shares one SQLite transaction and one sync (`writer`). It is on disk when [`crate::Producer::commit`] returns.
//! - **Read**: each consumer has its own connection, and reads from one snapshot. A commit of this process wakes it at once, one of another process
//!   within about 10 ms (`background`).
//! - **Groups**: rows say who has which partition and who shall have it (`groups`). The partitions of a process that ends are free at once, those
//!   of one that hangs or is stopped after the session timeout, those of a consumer that is not used after the poll timeout.
//! - **Damage**: every record carries a checksum; a damaged one is named. A file from a newer clickmill is refused.

mod background;
mod body;
mod client;
mod commit;
mod consumer;
mod database;
mod groups;
mod producer;
mod records;
mod retention;
mod shared;
mod topics;
mod writer;

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Partition};

use self::background::Background;
use self::client::Client;
use self::consumer::EmbeddedConsumer;
use self::database::Database;
use self::producer::EmbeddedProducer;
use self::shared::Shared;
use self::topics::Log;
use crate::clock::Clock;
use crate::types::{
    Committed, Consumer, Fetched, OffsetRange, Producer, Queue, QueueError, Result, TopicPartition, TopicSpec,
};

/// How an embedded queue is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// A process that did not note for so long that it is alive loses its partitions, and so does a consumer that was asked for one and did not give it up.
    pub session_timeout: Duration,
    /// A consumer that neither polled nor committed for so long loses its partitions, though its process lives.
    pub poll_timeout: Duration,
    /// The most pages of 16 KiB that the file may have; `None` for any number. A full queue answers [`QueueError::Unavailable`].
    pub max_pages: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { session_timeout: Duration::from_secs(10), poll_timeout: Duration::from_secs(60), max_pages: None }
    }
}

/// A queue in a folder of this machine.
#[derive(Clone)]
pub struct EmbeddedQueue {
    handle: Arc<Handle>,
}

/// What keeps the queue open: it is closed when the last of its producers, consumers and handles is gone.
struct Handle {
    // These end before what they use.
    upkeep: Background,
    _watch: Background,
    shared: Arc<Shared>,
}

/// What a topic holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSize {
    /// Its name.
    pub topic: String,
    /// Records that are stored now.
    pub records: u64,
    /// Their bytes, compressed.
    pub bytes: u64,
}

impl EmbeddedQueue {
    /// Opens the queue in this folder, and makes it where there is none. The folder must be on a local disk.
    ///
    /// `Broken` where the file is damaged, is something else or comes from a newer clickmill; `Unavailable` where it cannot be opened (rights, a full disk).
    pub fn open(dir: &Path, clock: Arc<dyn Clock>, options: Options) -> Result<Self> {
        let clients = dir.join("clients");
        let unavailable = |path: &Path| {
            let what = format!("opening {}", path.display());
            move |error: std::io::Error| QueueError::Unavailable { what, why: error.to_string() }
        };
        fs::create_dir_all(&clients).map_err(unavailable(&clients))?;
        let lock_path = dir.join("open.lock");
        let lock = File::create(&lock_path).map_err(unavailable(&lock_path))?;
        lock.lock().map_err(unavailable(&lock_path))?;
        client::sweep(&clients);
        let database = Database::open(dir, options.max_pages)?;
        let client = Client::new(&clients)?;
        drop(lock);
        let shared = Arc::new(Shared::new(database, clock, options, client, clients));
        let handle = Handle { upkeep: Background::upkeep(&shared)?, _watch: Background::watch(&shared)?, shared };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// What each topic holds, by name.
    pub fn sizes(&self) -> Result<Vec<TopicSize>> {
        self.handle.shared.read("reading", |connection| Ok(topics::sizes(connection)?))
    }

    /// Throws a member out of its group, as though it had been silent for too long. For tests.
    pub fn expire_member(&self, who: &crate::types::ConsumerIdentity) -> Result<()> {
        let shared = &self.handle.shared;
        let (group, who) = (who.group.clone(), who.clone());
        shared.writer.run("expiring a member in", move |connection| groups::remove(connection, &[who]))?;
        shared.wake_group(&group);
        Ok(())
    }
}

impl Queue for EmbeddedQueue {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<()> {
        let specs = topics.to_vec();
        let shared = &self.handle.shared;
        shared.writer.run("making topics in", move |connection| topics::create(connection, &specs))?;
        shared.forget_topics();
        Ok(())
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.handle.shared.find_topic(topic)?.map(|topic| topic.logs.len() as u32))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(EmbeddedProducer::new(Arc::clone(&self.handle), transactional_id)?))
    }

    fn consumer(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(EmbeddedConsumer::new(Arc::clone(&self.handle), group, topics)?))
    }

    fn range(&self, of: &TopicPartition) -> Result<OffsetRange> {
        let log = self.handle.shared.log(of)?;
        self.handle.shared.read("reading", |connection| Ok(Log::load(connection, log)?.range()))
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>> {
        let Some(topic) = self.handle.shared.find_topic(topic)? else { return Ok(Vec::new()) };
        self.handle.shared.read("reading", |connection| {
            let mut all = Vec::new();
            for (partition, &log) in (0..).zip(&topic.logs) {
                all.extend(groups::committed(connection, group, log)?.map(|c| (Partition(partition), c)));
            }
            Ok(all)
        })
    }

    fn read(&self, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>> {
        let log = self.handle.shared.log(of)?;
        self.handle.shared.read("reading", |connection| {
            let log = Log::load(connection, log)?;
            crate::check::within(of, from, log.range())?;
            records::read(connection, of, &log, topics::column(from), max_bytes)
        })
    }
}
