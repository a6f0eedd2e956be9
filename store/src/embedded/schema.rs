//! The tables, and how their file is opened.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::fault::{Fault, Result};

/// The tables' version, in SQLite's `user_version`.
pub(super) const VERSION: i64 = 2;

/// SQLite's `application_id`: "clks". Keeps us from taking another program's file for ours.
const APPLICATION: i64 = 0x636c_6b73;

/// Bytes of pages that the writer keeps; what goes beyond is written to the log early.
const WRITER_CACHE_BYTES: i64 = 32 << 20;
/// Bytes of pages that each reader keeps.
const READER_CACHE_BYTES: i64 = 16 << 20;
/// After how many pages of 4 KiB the log is carried over to the file: 32 MiB, a few closings at full speed.
const CHECKPOINT_PAGES: i64 = 8192;
/// Down to how many bytes the log is cut once it has been carried over.
const LOG_BYTES: i64 = 64 << 20;
/// Prepared statements that a connection keeps: more than there are.
const STATEMENTS: usize = 64;

/// - `counts`: one packed block (`block.rs`) for each bucket of 4,096 ads of an aggregator partition, filter and span in which one was clicked. The span comes last in the key: a range of minutes of one ad is one sequential scan.
/// - `spans`: which spans were written, with what `counts` has of them, for rewriting and for retention.
/// - `rankings`: one packed list (`ranked.rs`) for each filter, window and last minute.
/// - `ads`, `ad_spaces`: ad ids by number (`ads.rs`). `space` is the aggregator partition, −1 those of rankings.
/// - `revisions` (since version 2): what recalculations there are, with their state, the minutes that they hold, what they are (JSON, `Recalculation`) and what they changed (JSON, `Changed`).
/// - `progress`: the first minute that is not told, by revision, kind (0 counts, 1 rankings) and partition of the stage. `filter_spans`: what the aggregator partition said with it.
///
/// Spans: kind 0 minute, 1 hour, 2 day; minutes are counted from 1970; arrivals are microseconds since 1970.
const TABLES: &str = "
    CREATE TABLE counts (
        revision INTEGER NOT NULL, kind INTEGER NOT NULL, filter INTEGER NOT NULL, space INTEGER NOT NULL, bucket INTEGER NOT NULL,
        start INTEGER NOT NULL, block BLOB NOT NULL,
        PRIMARY KEY (revision, kind, filter, space, bucket, start)
    ) WITHOUT ROWID;
    CREATE TABLE spans (
        revision INTEGER NOT NULL, space INTEGER NOT NULL, kind INTEGER NOT NULL, start INTEGER NOT NULL,
        arrival INTEGER, filters TEXT NOT NULL, buckets INTEGER NOT NULL,
        PRIMARY KEY (revision, space, kind, start)
    ) WITHOUT ROWID;
    CREATE INDEX spans_by_arrival ON spans (arrival) WHERE arrival IS NOT NULL;
    CREATE TABLE rankings (
        revision INTEGER NOT NULL, filter INTEGER NOT NULL, window INTEGER NOT NULL, minute INTEGER NOT NULL,
        arrival INTEGER, block BLOB NOT NULL,
        PRIMARY KEY (revision, filter, window, minute)
    ) WITHOUT ROWID;
    CREATE INDEX rankings_by_arrival ON rankings (arrival) WHERE arrival IS NOT NULL;
    CREATE TABLE ads (space INTEGER NOT NULL, bucket INTEGER NOT NULL, block BLOB NOT NULL, PRIMARY KEY (space, bucket)) WITHOUT ROWID;
    CREATE TABLE ad_spaces (space INTEGER PRIMARY KEY, ads INTEGER NOT NULL);
    CREATE TABLE progress (
        revision INTEGER NOT NULL, kind INTEGER NOT NULL, partition INTEGER NOT NULL, until INTEGER NOT NULL,
        PRIMARY KEY (revision, kind, partition)
    ) WITHOUT ROWID;
    CREATE TABLE filter_spans (
        revision INTEGER NOT NULL, partition INTEGER NOT NULL, filter INTEGER NOT NULL, \"from\" INTEGER NOT NULL, until INTEGER,
        PRIMARY KEY (revision, partition, filter)
    ) WITHOUT ROWID;
    CREATE TABLE definitions (version INTEGER PRIMARY KEY, json TEXT NOT NULL);
    CREATE TABLE deleted_before (what INTEGER PRIMARY KEY, minute INTEGER NOT NULL);
";

/// What makes version 2 of version 1.
const TO_2: &str = "
    CREATE TABLE revisions (
        revision INTEGER PRIMARY KEY, state TEXT NOT NULL, \"from\" INTEGER NOT NULL, until INTEGER NOT NULL, what TEXT NOT NULL, changed TEXT
    );
";

/// Opens the file for writing, and makes it where it is not there.
pub(super) fn open_writer(file: &Path, busy: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(busy)?;
    // Before anything is changed: a newer clickmill's file, or another program's, stays as it is.
    check(&conn)?;
    keep_a_log(&conn, busy)?;
    // An acknowledged write is on disk.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "cache_size", -(WRITER_CACHE_BYTES >> 10))?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.execute_batch("BEGIN IMMEDIATE")?;
    // Looked at again, now that nobody else can make them.
    let found = check(&conn)?;
    if found == State::Empty {
        conn.execute_batch(TABLES)?;
        conn.pragma_update(None, "application_id", APPLICATION)?;
    }
    if matches!(found, State::Empty | State::Ours { version: 1 }) {
        conn.execute_batch(TO_2)?;
        conn.pragma_update(None, "user_version", VERSION)?;
    }
    conn.execute_batch("COMMIT")?;
    Ok(conn)
}

/// Sets the journal to a write-ahead log. SQLite itself does not wait for others who look at the file at that moment.
fn keep_a_log(conn: &Connection, busy: Duration) -> Result<()> {
    let deadline = Instant::now() + busy;
    loop {
        match conn.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return Ok(result?),
        }
    }
}

/// Opens the file for reading. `None` where it is not there, or nobody has made its tables yet.
pub(super) fn open_reader(file: &Path, busy: Duration) -> Result<Option<Connection>> {
    if !file.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    // For writing as far as SQLite is concerned: a reader may have to recover the log after a crash. Where the file may not be written, SQLite itself opens it for reading.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = match Connection::open_with_flags(file, flags) {
        Ok(conn) => conn,
        Err(_) if !file.try_exists().unwrap_or(true) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    conn.busy_timeout(busy)?;
    if check(&conn)? == State::Empty {
        return Ok(None);
    }
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -(READER_CACHE_BYTES >> 10))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(Some(conn))
}

/// False in a file of version 1, which a process that only reads leaves as it is.
pub(super) fn has_revisions(conn: &Connection) -> Result<bool> {
    Ok(conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? >= 2)
}

/// How many tables there are, and the file's two numbers.
fn look(conn: &Connection) -> Result<(i64, i64, i64)> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok((tables, pragma("application_id")?, pragma("user_version")?))
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Empty,
    Ours { version: i64 },
}

fn check(conn: &Connection) -> Result<State> {
    // At one moment: others may be making the store meanwhile.
    conn.execute_batch("SAVEPOINT looking")?;
    let looked = look(conn);
    conn.execute_batch("RELEASE looking")?;
    let (tables, application, version) = looked?;
    if application == 0 && version == 0 && tables == 0 {
        return Ok(State::Empty);
    }
    if application != APPLICATION {
        return Err(Fault::Broken("this is not a store of clickmill".to_owned()));
    }
    if version > VERSION {
        return Err(Fault::Broken(format!(
            "a newer clickmill wrote this store (version {version}, this clickmill reads up to {VERSION}): use that one"
        )));
    }
    Ok(State::Ours { version })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn many_may_make_a_store_at_once() {
        const BUSY: Duration = Duration::from_secs(30);
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("store.db");
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| open_writer(&file, BUSY).map(drop).unwrap());
                    scope.spawn(|| {
                        while open_reader(&file, BUSY).unwrap().is_none() {
                            std::thread::yield_now();
                        }
                    });
                }
            });
        }
    }
}
