//! The one writing connection of a process, and how commits of several threads share a transaction.
//!
//! Whoever gets the connection performs everything that waits, in one SQLite transaction with one sync to disk, and hands out the results. So six stages
//! that commit at the same time wait for the disk once, not six times.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};

use super::database::Database;
use crate::types::{QueueError, Result};

/// Why a job ends without its result.
#[derive(Debug)]
pub(super) enum Stop {
    /// It may not be done. The job has written nothing; others in the same transaction are not touched.
    Refused(QueueError),
    /// SQLite failed: nothing of the whole transaction is done.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<QueueError> for Stop {
    fn from(error: QueueError) -> Self {
        Self::Refused(error)
    }
}

/// The writing connection.
pub(super) struct Writer {
    database: Database,
    connection: Mutex<Connection>,
    waiting: Mutex<Vec<Arc<dyn Work>>>,
}

trait Work: Send + Sync {
    /// Does it, as a part of a transaction.
    fn perform(&self, connection: &Connection) -> Result<(), rusqlite::Error>;
    /// The transaction failed.
    fn fail(&self, error: QueueError);
}

struct Ticket<T, F>(Mutex<State<T, F>>);

enum State<T, F> {
    Waiting(F),
    Done(Result<T>),
    Taken,
}

impl<T, F> Work for Ticket<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Stop> + Send,
{
    fn perform(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let state = &mut *self.0.lock();
        if let State::Waiting(job) = std::mem::replace(state, State::Taken) {
            *state = State::Done(match job(connection) {
                Ok(value) => Ok(value),
                Err(Stop::Refused(error)) => Err(error),
                Err(Stop::Failed(error)) => return Err(error),
            });
        }
        Ok(())
    }

    fn fail(&self, error: QueueError) {
        *self.0.lock() = State::Done(Err(error));
    }
}

/// What a failure means for the jobs of a transaction.
enum Failure {
    /// Nothing was done.
    Before(rusqlite::Error),
    /// Nobody knows whether the transaction is on disk.
    Unknown(rusqlite::Error),
}

impl Writer {
    pub(super) fn new(database: Database, connection: Connection) -> Self {
        Self { database, connection: Mutex::new(connection), waiting: Mutex::default() }
    }

    /// Runs a job in a transaction, with whatever other jobs wait. A job must check everything before it writes anything: after [`Stop::Refused`] the
    /// transaction goes on without it.
    pub(super) fn run<T, F>(&self, what: &str, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Stop> + Send + 'static,
    {
        let ticket = Arc::new(Ticket(Mutex::new(State::Waiting(job))));
        self.waiting.lock().push(Arc::clone(&ticket) as Arc<dyn Work>);
        let connection = self.connection.lock();
        // Who had the connection before may have done it already.
        if !matches!(*ticket.0.lock(), State::Done(_)) {
            let batch = std::mem::take(&mut *self.waiting.lock());
            self.perform(what, &connection, &batch);
        }
        drop(connection);
        match std::mem::replace(&mut *ticket.0.lock(), State::Taken) {
            State::Done(result) => result,
            State::Waiting(_) | State::Taken => Err(QueueError::Unknown(format!("{what} {}", self.database))),
        }
    }

    fn perform(&self, what: &str, connection: &Connection, batch: &[Arc<dyn Work>]) {
        let Err(failure) = attempt(connection, batch) else { return };
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, file = %self.database, "could not roll back");
        }
        for work in batch {
            work.fail(match &failure {
                Failure::Before(error) => self.database.error(what, error),
                Failure::Unknown(error) => match self.database.error(what, error) {
                    QueueError::Broken(why) => QueueError::Broken(why),
                    other => QueueError::Unknown(other.to_string()),
                },
            });
        }
    }

    /// The number that changes when another process commits, if the connection is free soon.
    pub(super) fn foreign_version(&self) -> Option<i64> {
        let connection = self.connection.try_lock_for(Duration::from_millis(50))?;
        data_version(&connection).ok()
    }

    /// Writes the write-ahead log back into the database, up to its end if no other process is writing: the next commit starts it anew then.
    pub(super) fn write_back(&self, helper: &Connection) -> Result<(), rusqlite::Error> {
        let checkpoint =
            |connection: &Connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
        // Most of it while commits go on, the rest while they wait.
        checkpoint(helper)?;
        checkpoint(&self.connection.lock())
    }

    /// Gives up to this many free pages back to the file system.
    pub(super) fn shrink(&self, pages: u32) -> Result<(), rusqlite::Error> {
        let connection = self.connection.lock();
        let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut rows = statement.query(())?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

fn attempt(connection: &Connection, batch: &[Arc<dyn Work>]) -> Result<(), Failure> {
    let run = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute(()));
    run("BEGIN IMMEDIATE").map_err(Failure::Before)?;
    for work in batch {
        work.perform(connection).map_err(Failure::Before)?;
    }
    run("COMMIT").map(|_| ()).map_err(|error| match error.sqlite_error_code() {
        // The frames may be in the file, only their sync failed: the next start would take them for committed.
        Some(ErrorCode::SystemIoFailure) => Failure::Unknown(error),
        _ => Failure::Before(error),
    })
}

/// A number that changes when another connection commits.
pub(super) fn data_version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.prepare_cached("PRAGMA data_version")?.query_row((), |row| row.get(0))
}
