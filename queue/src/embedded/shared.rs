//! What the handles of one open queue share: the writer, spare readers, what is known of topics, and who waits for what.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::Options;
use super::client::{Client, steady_millis};
use super::database::Database;
use super::topics::{self, Topic};
use super::writer::{Stop, Writer};
use crate::check;
use crate::clock::Clock;
use crate::types::{ConsumerIdentity, Result, TopicPartition};

/// Spare read connections that are kept open.
const SPARE_READERS: usize = 4;

pub(super) struct Shared {
    pub(super) database: Database,
    pub(super) writer: Writer,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    pub(super) client: Client,
    /// The folder of the clients' files.
    pub(super) clients: PathBuf,
    /// Bytes committed since the write-ahead log was written back.
    pub(super) unwritten_bytes: AtomicU64,
    topics: Mutex<BTreeMap<String, Arc<Topic>>>,
    readers: Mutex<Vec<Connection>>,
    members: Mutex<Vec<Weak<Member>>>,
}

/// A consumer of this process, as the others see it.
pub(super) struct Member {
    pub(super) who: ConsumerIdentity,
    pub(super) topics: Vec<String>,
    /// When it polled or committed last, in milliseconds of the steady clock.
    active_at: AtomicI64,
    has_news: Mutex<bool>,
    news: Condvar,
}

impl Member {
    pub(super) fn new(who: ConsumerIdentity, topics: Vec<String>) -> Self {
        let active_at = AtomicI64::new(steady_millis());
        Self { who, topics, active_at, has_news: Mutex::new(true), news: Condvar::new() }
    }

    /// Notes that it does something.
    pub(super) fn touch(&self) {
        self.active_at.store(steady_millis(), Ordering::Relaxed);
    }

    /// How long it has done nothing.
    pub(super) fn inactive(&self) -> Duration {
        Duration::from_millis((steady_millis() - self.active_at.load(Ordering::Relaxed)).max(0).unsigned_abs())
    }

    fn wake(&self) {
        *self.has_news.lock() = true;
        self.news.notify_one();
    }

    /// Forgets the news: call it before looking.
    pub(super) fn forget_news(&self) {
        *self.has_news.lock() = false;
    }

    /// Waits for news.
    pub(super) fn wait_for_news(&self, until: Instant) {
        let mut has_news = self.has_news.lock();
        self.news.wait_while_until(&mut has_news, |has| !*has, until);
    }
}

impl Shared {
    pub(super) fn new(
        (database, writer): (Database, Connection),
        clock: Arc<dyn Clock>,
        options: Options,
        client: Client,
        clients: PathBuf,
    ) -> Self {
        Self {
            writer: Writer::new(database.clone(), writer),
            database,
            clock,
            options,
            client,
            clients,
            unwritten_bytes: AtomicU64::new(0),
            topics: Mutex::default(),
            readers: Mutex::default(),
            members: Mutex::default(),
        }
    }

    /// Reads with a spare connection, in one snapshot.
    pub(super) fn read<T>(&self, what: &str, read: impl FnOnce(&Connection) -> Result<T, Stop>) -> Result<T> {
        let spare = self.readers.lock().pop();
        let connection = match spare {
            Some(connection) => connection,
            None => self.database.reader()?,
        };
        let result = self.snapshot(what, &connection, read);
        let mut readers = self.readers.lock();
        if readers.len() < SPARE_READERS {
            readers.push(connection);
        }
        result
    }

    /// Reads with this connection, in one snapshot.
    pub(super) fn snapshot<T>(
        &self,
        what: &str,
        connection: &Connection,
        read: impl FnOnce(&Connection) -> Result<T, Stop>,
    ) -> Result<T> {
        let snapshot = connection.unchecked_transaction().map_err(|error| self.database.error(what, &error))?;
        read(&snapshot).map_err(|stop| match stop {
            Stop::Refused(error) => error,
            Stop::Failed(error) => self.database.error(what, &error),
        })
    }

    /// What is known of a topic.
    pub(super) fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        self.find_topic(name)?.ok_or_else(|| check::no_topic(name))
    }

    pub(super) fn find_topic(&self, name: &str) -> Result<Option<Arc<Topic>>> {
        if let Some(topic) = self.topics.lock().get(name) {
            return Ok(Some(Arc::clone(topic)));
        }
        let Some(topic) = self.read("reading", |connection| topics::load(connection, name))? else { return Ok(None) };
        let topic = Arc::new(topic);
        self.topics.lock().insert(name.to_owned(), Arc::clone(&topic));
        Ok(Some(topic))
    }

    /// Looks topics up anew when they are asked for next.
    pub(super) fn forget_topics(&self) {
        self.topics.lock().clear();
    }

    /// The log of a partition.
    pub(super) fn log(&self, of: &TopicPartition) -> Result<i64> {
        self.topic(&of.topic)?.log(of)
    }

    pub(super) fn register(&self, member: &Arc<Member>) {
        let mut members = self.members.lock();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    /// The consumers of this process.
    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn wake_if(&self, concerns: impl Fn(&Member) -> bool) {
        for member in self.members().iter().filter(|member| concerns(member)) {
            member.wake();
        }
    }

    /// Wakes the members of a group.
    pub(super) fn wake_group(&self, group: &str) {
        self.wake_if(|member| member.who.group == group);
    }
}
