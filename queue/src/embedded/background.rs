//! Two threads for each open queue. One keeps watch: it notes that the process is alive, sees what other processes did and whether they are
//! gone. The other tidies up: it deletes what nobody needs and writes the write-ahead log back into the database.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::client::{self, Vital, steady_millis};
use super::groups;
use super::retention;
use super::shared::Shared;
use super::topics;
use crate::types::{ConsumerIdentity, QueueError, Result};

/// How often the commits of other processes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often it is looked whether other processes live.
const VITALS_EVERY: Duration = Duration::from_millis(100);

/// How often what is no longer needed is deleted.
const TIDY_EVERY: Duration = Duration::from_millis(500);

/// The write-ahead log is written back when it has grown by so much.
const WRITE_BACK_BYTES: u64 = 32 << 20;

/// Free pages are given back to the file system above so many, and where they are more than half of the file.
const SPARE_PAGES: i64 = 8192;
const SHRINK_PAGES: u32 = 512;

/// Tells a thread to look, or to end.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    rung: Condvar,
}

#[derive(Default)]
struct Rung {
    look: bool,
    end: bool,
}

impl Bell {
    fn ring(&self, end: bool) {
        let mut state = self.state.lock();
        state.look = true;
        state.end |= end;
        self.rung.notify_all();
    }

    fn is_end(&self) -> bool {
        self.state.lock().end
    }

    /// Waits for it. False at the end.
    fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        self.rung.wait_while_for(&mut state, |state| !state.look && !state.end, at_most);
        state.look = false;
        !state.end
    }
}

/// A background thread, which ends when this goes.
pub(super) struct Background {
    shared: Arc<Shared>,
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(shared: &Arc<Shared>, name: &str, run: fn(&Shared, &Bell)) -> Result<Self> {
        let bell = Arc::new(Bell::default());
        let (theirs, its_bell) = (Arc::clone(shared), Arc::clone(&bell));
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || run(&theirs, &its_bell))
            .map_err(|error| QueueError::Unavailable { what: "starting a thread".into(), why: error.to_string() })?;
        Ok(Self { shared: Arc::clone(shared), bell, thread: Some(thread) })
    }

    pub(super) fn watch(shared: &Arc<Shared>) -> Result<Self> {
        Self::start(shared, "queue-watch", watch)
    }

    pub(super) fn upkeep(shared: &Arc<Shared>) -> Result<Self> {
        Self::start(shared, "queue-upkeep", upkeep)
    }

    /// Makes the thread look now if there is much to write back.
    pub(super) fn look(&self) {
        if self.shared.unwritten_bytes.load(Ordering::Relaxed) >= WRITE_BACK_BYTES {
            self.bell.ring(false);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.bell.ring(true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("a background thread of the queue panicked");
        }
    }
}

fn watch(shared: &Shared, bell: &Bell) {
    let mut version = None;
    let mut next_look_at_others = Instant::now();
    let mut next_beat = Instant::now();
    let beat_every = (shared.options.session_timeout / 10).min(Duration::from_secs(1));
    let mut is_troubled = false;
    while bell.wait(LOOK_EVERY) {
        let now = Instant::now();
        if now >= next_beat {
            next_beat = now + beat_every;
            if let Err(error) = shared.client.beat() {
                tracing::warn!(%error, "cannot note that this process is alive");
            }
        }
        if let Some(found) = shared.writer.foreign_version()
            && version.replace(found) != Some(found)
        {
            shared.wake_if(|_| true);
        }
        if now >= next_look_at_others {
            next_look_at_others = now + VITALS_EVERY;
            let looked = look_at_members(shared);
            if let (Err(error), false) = (&looked, is_troubled) {
                // Once for a spell of trouble, not ten times a second: the stages say that it lasts.
                tracing::warn!(%error, "cannot look whether the members of groups are alive");
            }
            is_troubled = looked.is_err();
        }
    }
}

/// Removes the members whose process is gone or silent, and this process's own that no longer poll or no longer are there.
fn look_at_members(shared: &Shared) -> Result<()> {
    let session = shared.options.session_timeout;
    let asked_until = steady_millis() - i64::try_from(session.as_millis()).unwrap_or(i64::MAX);
    let (clients, some_are_deaf) = shared.read("reading", |connection| {
        let deaf = connection.prepare_cached("SELECT 1 FROM shares WHERE asked_at <= ?")?.exists([asked_until])?;
        Ok((groups::by_client(connection)?, deaf))
    })?;
    let mut gone: Vec<ConsumerIdentity> = Vec::new();
    for (name, members) in clients {
        if name == shared.client.name {
            let active = shared.members();
            gone.extend(
                members
                    .into_iter()
                    .filter(|who| !active.iter().any(|m| m.who == *who && m.inactive() <= shared.options.poll_timeout)),
            );
            continue;
        }
        match client::look(&shared.clients, &name, session) {
            Vital::Alive => {}
            Vital::Silent(silent) => {
                tracing::warn!(client = name, ?silent, "a process says nothing any more: its partitions go to others");
                gone.extend(members);
            }
            Vital::Dead => gone.extend(members),
        }
    }
    if gone.is_empty() && !some_are_deaf {
        return Ok(());
    }
    let groups = shared.writer.run("looking after the groups of", move |connection| {
        let mut groups = groups::remove(connection, &gone)?;
        groups.extend(groups::take_from_deaf(connection, asked_until)?);
        Ok(groups)
    })?;
    for group in groups {
        shared.wake_group(&group);
    }
    Ok(())
}

fn upkeep(shared: &Shared, bell: &Bell) {
    let mut helper = None;
    let mut next_tidy = Instant::now();
    while bell.wait(TIDY_EVERY) {
        let result = write_back(shared, &mut helper).and_then(|()| {
            if Instant::now() < next_tidy {
                return Ok(());
            }
            next_tidy = Instant::now() + TIDY_EVERY;
            retention::run(shared, || bell.is_end())?;
            report(shared)?;
            shrink(shared)
        });
        if let Err(error) = result {
            tracing::warn!(%error, "cannot tidy up the queue");
        }
    }
}

fn write_back(shared: &Shared, helper: &mut Option<Connection>) -> Result<()> {
    if shared.unwritten_bytes.load(Ordering::Relaxed) < WRITE_BACK_BYTES {
        return Ok(());
    }
    let connection = match helper.take() {
        Some(connection) => connection,
        None => shared.database.reader()?,
    };
    shared.unwritten_bytes.store(0, Ordering::Relaxed);
    shared.writer.write_back(&connection).map_err(|error| shared.database.error("writing back", &error))?;
    *helper = Some(connection);
    Ok(())
}

/// Exports how much is stored, and how much of it each group has not read.
fn report(shared: &Shared) -> Result<()> {
    for size in shared.read("reading", |connection| Ok(topics::sizes(connection)?))? {
        metrics::gauge!("clickmill_queue_records", "topic" => size.topic.clone()).set(size.records as f64);
        metrics::gauge!("clickmill_queue_bytes", "topic" => size.topic).set(size.bytes as f64);
    }
    shared.read("reading", |connection| {
        let mut statement = connection.prepare_cached(
            "SELECT grp, topic, partition, end_offset - committed FROM positions JOIN logs ON logs.id = log
             WHERE committed IS NOT NULL",
        )?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let (group, topic, partition): (String, String, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let labels = [("group", group), ("topic", topic), ("partition", partition.to_string())];
            metrics::gauge!("clickmill_queue_lag_records", &labels).set(row.get::<_, i64>(3)? as f64);
        }
        Ok(())
    })
}

/// Gives pages back to the file system where far more are free than used.
fn shrink(shared: &Shared) -> Result<()> {
    let (free, all) = shared.read("reading", |connection| {
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        Ok((pragma("freelist_count")?, pragma("page_count")?))
    })?;
    if free > SPARE_PAGES && free > all / 2 {
        shared.writer.shrink(SHRINK_PAGES).map_err(|error| shared.database.error("shrinking", &error))?;
    }
    Ok(())
}
