//! Connections for reading.

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::fault::Result;
use super::schema;

/// Up to a number of connections, opened as they are needed. Who finds none waits.
#[derive(Debug)]
pub(super) struct Pool {
    file: PathBuf,
    busy: Duration,
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    out: usize,
}

impl Pool {
    /// None is opened yet.
    pub(super) fn new(file: PathBuf, busy: Duration, most: usize) -> Self {
        Self { file, busy, most: most.max(1), state: Mutex::default(), returned: Condvar::new() }
    }

    /// A snapshot to read from; what a read sees does not change before it ends. `None` where there is no store yet.
    pub(super) fn snapshot(&self) -> Result<Option<Snapshot<'_>>> {
        let mut state = self.state.lock();
        while state.out >= self.most {
            self.returned.wait(&mut state);
        }
        state.out += 1;
        let idle = state.idle.pop();
        drop(state);
        // From here on dropping the lease gives the place back, whatever happens.
        let mut lease = Lease { pool: self, conn: idle };
        if lease.conn.is_none() {
            lease.conn = schema::open_reader(&self.file, self.busy)?;
        }
        let Some(conn) = lease.conn.take() else { return Ok(None) };
        conn.prepare_cached("BEGIN")?.execute(())?;
        Ok(Some(Snapshot { conn, lease }))
    }
}

#[derive(Debug)]
struct Lease<'a> {
    pool: &'a Pool,
    conn: Option<Connection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.out -= 1;
        // Only what is between transactions is used again.
        state.idle.extend(self.conn.take().filter(Connection::is_autocommit));
        drop(state);
        self.pool.returned.notify_one();
    }
}

/// A connection in a read transaction.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    conn: Connection,
    lease: Lease<'a>,
}

impl Snapshot<'_> {
    /// Ends the read. One that is dropped without this, after an error, closes its connection: the next one is opened anew.
    pub(super) fn end(self) -> Result<()> {
        let Self { conn, mut lease } = self;
        conn.prepare_cached("COMMIT")?.execute(())?;
        lease.conn = Some(conn);
        Ok(())
    }
}

impl Deref for Snapshot<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}
