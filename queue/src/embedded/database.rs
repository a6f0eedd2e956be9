//! The database file: how it is opened, what tables it has, and what its errors mean.
//!
//! Version 1. `sqlite3 queue.db` shows it all; the view `messages` lists the records with their topics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::types::{QueueError, Result};

/// The version of the tables, in `user_version`.
const VERSION: i64 = 1;

/// Marks the file as a queue of clickmill, in `application_id`: "clmq".
const APPLICATION_ID: i64 = 0x636c_6d71;

/// How long a connection waits for another process to finish a transaction.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bits of a record's id that are its offset; the log's id stands above them.
pub(super) const OFFSET_BITS: u32 = 40;

const TABLES: &str = "
CREATE TABLE topics (
    name TEXT PRIMARY KEY,
    partitions INTEGER NOT NULL,
    retention TEXT NOT NULL,               -- JSON: {\"kind\":\"forever\"}, {\"kind\":\"compacted\"}, {\"kind\":\"consumed\",\"by\":[],\"at_least_bytes\":0}
    max_backlog_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (                        -- one for each partition of a topic
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,         -- records before it were deleted
    end_offset INTEGER NOT NULL,           -- the next record's
    total_bytes INTEGER NOT NULL,          -- of all bodies ever appended
    last_arrival INTEGER NOT NULL,         -- microseconds since 1970
    records INTEGER NOT NULL,              -- that are stored now
    bytes INTEGER NOT NULL,                -- of the bodies that are stored now
    UNIQUE (topic, partition)
) STRICT;

CREATE TABLE records (
    id INTEGER PRIMARY KEY,                -- logs.id * 2^40 + offset
    arrival INTEGER NOT NULL,              -- microseconds since 1970
    bytes_before INTEGER NOT NULL,         -- logs.total_bytes when it was appended
    checksum INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE keys (                        -- of compacted topics
    log INTEGER NOT NULL,
    key BLOB NOT NULL,
    newest INTEGER NOT NULL,               -- offset of its newest record
    removed_at INTEGER,                    -- arrival of that record where it removes the key
    PRIMARY KEY (log, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_removed ON keys (removed_at) WHERE removed_at IS NOT NULL;

CREATE TABLE positions (
    grp TEXT NOT NULL,
    log INTEGER NOT NULL,
    committed INTEGER,                     -- the next offset to read; NULL where the group only keeps
    metadata BLOB,
    keep_from INTEGER NOT NULL,
    PRIMARY KEY (grp, log)
) STRICT, WITHOUT ROWID;

CREATE TABLE producers (
    id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
    grp TEXT PRIMARY KEY,
    version INTEGER NOT NULL               -- rises when members or shares change
) STRICT, WITHOUT ROWID;

CREATE TABLE members (
    grp TEXT NOT NULL,
    member TEXT NOT NULL,
    client TEXT NOT NULL,                  -- a file in clients/ that its process holds locked
    topics TEXT NOT NULL,                  -- JSON: [\"a\"]
    leaving INTEGER NOT NULL,              -- 1: gets no more partitions
    PRIMARY KEY (grp, member)
) STRICT, WITHOUT ROWID;

CREATE TABLE shares (
    grp TEXT NOT NULL,
    log INTEGER NOT NULL,
    owner TEXT,                            -- the member that has it
    target TEXT,                           -- the member that shall have it
    epoch INTEGER NOT NULL,                -- how often it was taken
    asked_at INTEGER,                      -- when the owner was asked to give it up, in milliseconds of the machine's steady clock
    PRIMARY KEY (grp, log)
) STRICT, WITHOUT ROWID;

CREATE VIEW messages AS
    SELECT topic, partition, records.id & 1099511627775 AS record_offset,
           strftime('%Y-%m-%d %H:%M:%f', arrival / 1e6, 'unixepoch') AS arrived, length(body) AS stored_bytes
    FROM records JOIN logs ON logs.id = records.id >> 40;
";

/// Where the database is, for opening further connections and for naming it in errors.
#[derive(Debug, Clone)]
pub(super) struct Database {
    file: Arc<Path>,
}

impl Database {
    /// The database in this folder, made if it is not there.
    pub(super) fn open(dir: &Path, max_pages: Option<u32>) -> Result<(Self, Connection)> {
        let database = Self { file: PathBuf::from(dir).join("queue.db").into() };
        let writer = database.connect(32 << 20)?;
        database.check_version(&writer).and_then(|version| match version {
            0 => database.create(&writer),
            _ => Ok(()),
        })?;
        let settings = || {
            writer.pragma_update(None, "journal_size_limit", 256 << 20)?;
            // A backstop only: the background thread writes the log back long before.
            writer.pragma_update(None, "wal_autocheckpoint", 16_384)?;
            if let Some(pages) = max_pages {
                writer.pragma_update(None, "max_page_count", pages)?;
            }
            Ok(())
        };
        settings().map_err(|error| database.error("opening", &error))?;
        Ok((database, writer))
    }

    /// One more connection, for reading.
    pub(super) fn reader(&self) -> Result<Connection> {
        self.connect(1 << 20)
    }

    fn connect(&self, cache_bytes: i64) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(&self.file, flags)?;
            connection.busy_handler(Some(wait_a_little))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -(cache_bytes >> 10))?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        open().map_err(|error| self.error("opening", &error))
    }

    fn check_version(&self, connection: &Connection) -> Result<i64> {
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let look = || Ok((pragma("application_id")?, pragma("user_version")?, pragma("schema_version")?));
        let (id, version, schema) = look().map_err(|error| self.error("opening", &error))?;
        if id != APPLICATION_ID && (id, version, schema) != (0, 0, 0) {
            return Err(QueueError::Broken(format!("{self} is a database, but not a queue of clickmill")));
        }
        if version > VERSION {
            return Err(QueueError::Broken(format!(
                "{self} was written by a newer clickmill (format version {version}; this one reads up to {VERSION}): use a newer one"
            )));
        }
        Ok(version)
    }

    /// Makes the tables. The caller holds the lock on the folder, so that one process does this at a time.
    fn create(&self, connection: &Connection) -> Result<()> {
        let create = || {
            // These two must come before the first write.
            connection.pragma_update(None, "page_size", 16_384)?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
            ))
        };
        create().map_err(|error| self.error("making the tables", &error))
    }

    /// What an error of SQLite means to a caller.
    pub(super) fn error(&self, what: &str, error: &rusqlite::Error) -> QueueError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => QueueError::Broken(format!(
                "{self} is damaged ({error}): restore the queue's folder, or start with a new one and recalculate from the raw files"
            )),
            Some(
                ErrorCode::PermissionDenied
                | ErrorCode::OperationAborted
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::ReadOnly
                | ErrorCode::OperationInterrupted
                | ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SchemaChanged,
            ) => QueueError::Unavailable { what: format!("{what} {self}"), why: error.to_string() },
            _ => QueueError::Broken(format!("{what} {self}: {error}")),
        }
    }
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.display().fmt(f)
    }
}

/// Looks again every millisecond whether the other process is done, so that a transaction that takes one is not waited for a hundred.
fn wait_a_little(times: i32) -> bool {
    std::thread::sleep(Duration::from_millis(1));
    Duration::from_millis(times.unsigned_abs().into()) < PATIENCE
}
