//! The store on one machine: one SQLite file, in WAL mode.
//!
//! - **A write is one transaction**, on disk before it is acknowledged: figures, what they replace, ad ids and progress at once.
//! - **A read is one snapshot.** Any number of processes may read while one writes.
//! - **Counts are packed**: not a row an ad, but a block for each 4,096 ads of a span (`block.rs`), so that a minute of a million ads takes a fraction of a second to write
//!   and sixty minutes of one ad take less than 0.1 ms to read. The tables are described in `schema.rs`.
//! - **Damage is found**: every block carries checksums; what does not match is refused with the file, the table and the key.
//!
//! Writers of several processes wait for each other. A writer that was replaced without knowing it does no harm: what it writes is what is there already, and its older progress does not win.

mod ads;
mod block;
mod expire;
mod fault;
mod pool;
mod ranked;
mod read;
mod revisions;
mod schema;
mod verdict;
mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clickmill_model::{Definition, FilterId, Minute, Revision, SpanKind, Timestamp, Window};
use parking_lot::Mutex;
use rusqlite::Connection;

use self::ads::Dictionary;
use self::fault::Fault;
use self::pool::{Pool, Snapshot};
use crate::{
    AggregateStore, Began, ClosedWrite, EachCount, MinuteRange, RankedWrite, Recalculation, Result, RevisionRow,
    RevisionState, StoreError, StoreProgress, StoredRanking, Switch, TopAds, View,
};

/// The store's file in its folder.
pub const FILE_NAME: &str = "store.db";

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many reads may run at once; more wait. Each keeps up to 16 MiB of pages.
    pub readers: usize,
    /// How long to wait for another process that writes.
    pub busy: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { readers: 8, busy: Duration::from_secs(10) }
    }
}

/// The store in one file of a folder.
#[derive(Debug)]
pub struct EmbeddedStore {
    file: PathBuf,
    busy: Duration,
    readers: Pool,
    writer: Writer,
    dictionary: Dictionary,
}

#[derive(Debug)]
enum Writer {
    ReadOnly,
    /// Opened again after an error: whatever state that left it in.
    Open(Mutex<Option<Connection>>),
}

impl EmbeddedStore {
    /// Opens the store of this folder, and makes both where they are not there.
    ///
    /// # Errors
    /// [`StoreError::Broken`] where the file is damaged, is not a store, or was written by a newer clickmill; [`StoreError::Unavailable`] where the folder cannot be written.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| StoreError::Unavailable {
            what: format!("making the folder {}", dir.display()),
            why: error.to_string(),
        })?;
        let store = Self::new(dir, &options, Writer::Open(Mutex::new(None)));
        store.write("opening the store", |_| Ok(()))?;
        // Keeps a connection open for reading: the files beside the database, which a full disk has no room to make again, stay.
        store.progress()?;
        Ok(store)
    }

    /// Opens the store of this folder for reading only, beside a process that writes. Where there is none yet it answers as an empty one does, until there is.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn open_read_only(dir: &Path, options: Options) -> Result<Self> {
        let store = Self::new(dir, &options, Writer::ReadOnly);
        store.progress()?;
        Ok(store)
    }

    fn new(dir: &Path, options: &Options, writer: Writer) -> Self {
        let file = dir.join(FILE_NAME);
        let readers = Pool::new(file.clone(), options.busy, options.readers);
        Self { file, busy: options.busy, readers, writer, dictionary: Dictionary::default() }
    }

    /// Reads from one snapshot; `None` where there is no store yet.
    fn read<T>(&self, what: &str, read: impl FnOnce(&Snapshot<'_>) -> fault::Result<T>) -> Result<Option<T>> {
        let run = || {
            let Some(snapshot) = self.readers.snapshot()? else { return Ok(None) };
            let value = read(&snapshot)?;
            snapshot.end()?;
            Ok(Some(value))
        };
        run().map_err(|fault: Fault| fault.explain(&self.file, what))
    }

    /// Writes in one transaction: all of it or nothing.
    fn write<T>(&self, what: &str, write: impl FnOnce(&Connection) -> fault::Result<T>) -> Result<T> {
        let Writer::Open(place) = &self.writer else {
            return Err(StoreError::Broken(format!("{}: opened for reading only ({what})", self.file.display())));
        };
        let mut place = place.lock();
        let run = || {
            let conn = match place.take() {
                Some(conn) => conn,
                None => schema::open_writer(&self.file, self.busy)?,
            };
            // Dropped before it is committed, the connection undoes it.
            conn.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
            let value = write(&conn)?;
            conn.prepare_cached("COMMIT")?.execute(())?;
            *place = Some(conn);
            Ok(value)
        };
        run().map_err(|fault: Fault| fault.explain(&self.file, what))
    }
}

impl AggregateStore for EmbeddedStore {
    fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        self.write("writing counts", |conn| write::write_closed(conn, &self.dictionary, write))
    }

    fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        self.write("writing rankings", |conn| ranked::write_ranked(conn, &self.dictionary, write))
    }

    fn write_verdict(&self, verdict: &crate::Verdict) -> Result<()> {
        self.write("writing a verdict", |conn| verdict::write(conn, verdict))
    }

    fn last_verdict(&self) -> Result<Option<crate::Verdict>> {
        Ok(self.read("reading the last reconciliation", |conn| verdict::last(conn))?.flatten())
    }

    fn write_definition(&self, definition: &Definition) -> Result<()> {
        self.write("writing a definition", |conn| write::write_definition(conn, definition))
    }

    fn definitions(&self) -> Result<Vec<Definition>> {
        Ok(self.read("reading definitions", |conn| read::definitions(conn))?.unwrap_or_default())
    }

    fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
        Ok(self.read("reading the progress", |conn| read::progress(conn, revision))?.unwrap_or_default())
    }

    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        Ok(self.read("reading the revisions", |conn| revisions::all(conn))?.unwrap_or_default())
    }

    fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        self.write("beginning a revision", |conn| revisions::begin(conn, new))
    }

    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        self.write("switching a revision", |conn| revisions::switch(conn, revision, switch))
    }

    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        let of = (view, filter);
        let read = self.read("reading counts", |conn| read::counts(conn, &self.dictionary, ads, of, range))?;
        Ok(read.unwrap_or_else(|| vec![0; ads.len()]))
    }

    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        let mut series = read::empty_series(range, step);
        let of = (view, filter);
        self.read("reading counts", |conn| read::series(conn, &self.dictionary, ad, of, range, step, &mut series))?;
        Ok(series)
    }

    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        self.read("reading counts", |conn| {
            read::each_count(conn, &self.dictionary, (view, kind, filter), range, visit)
        })?;
        Ok(())
    }

    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        let read =
            self.read("reading rankings", |conn| ranked::rankings(conn, &self.dictionary, view, filter, which))?;
        Ok(read.unwrap_or_else(|| vec![StoredRanking::Nothing; which.len()]))
    }

    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
        let of = (view, filter);
        let read = self.read("merging counts", |conn| read::top(conn, &self.dictionary, of, range, n))?;
        Ok(read.unwrap_or(Some(Vec::new())))
    }

    fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64> {
        let mut deleted = 0;
        // One small transaction after the other: others write in between.
        for (before, step) in [(counts_before, expire::counts as expire::Step), (rankings_before, expire::rankings)] {
            loop {
                let gone = self.write("deleting old figures", |conn| step(conn, before))?;
                deleted += gone;
                if gone == 0 {
                    break;
                }
            }
        }
        Ok(deleted)
    }
}
