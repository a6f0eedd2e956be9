//! Where the files are: a local folder or any object store, written to by put-if-absent only.
//!
//! In a local folder a file is written under a temporary name in `.tmp`, synced, linked to its name (which fails if the name is there), and the folder synced. Other stores have
//! an atomic put that fails if the name is there: S3's, by `If-None-Match: *`.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clickmill_model::Timestamp;
use clickmill_queue::StageError;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parquet::file::reader::{ChunkReader, Length};
use thiserror::Error;
use tokio::runtime::Runtime;

use super::remote::{self, Remote};

/// Why a file could not be written or read.
#[derive(Debug, Clone, Error)]
pub enum FilesError {
    /// A passing fault: the disk is full, the store is away.
    #[error("{what} {path}: {why}")]
    Unavailable {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: String,
        /// What came back.
        why: String,
    },
    /// A file that is not what clickmill wrote, or was written by a newer one. It is never taken for an empty one.
    #[error("{path} cannot be read: {why}; move it away if it is not needed, or restore it")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file that was there is there no more.
    #[error("{path} is gone: it was deleted after it was listed")]
    Gone {
        /// Which file.
        path: String,
    },
    /// The object store does not let us: who we are, what we may, or the bucket is wrong.
    #[error("{what} {path}: the object store refuses it: {why}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: String,
        /// What came back.
        why: String,
    },
}

impl From<FilesError> for StageError {
    fn from(error: FilesError) -> Self {
        match error {
            // Rights may be given back.
            FilesError::Unavailable { .. } | FilesError::Gone { .. } | FilesError::Refused { .. } => {
                Self::Unavailable(error.to_string())
            }
            FilesError::Damaged { .. } => Self::Broken(error.to_string()),
        }
    }
}

/// What became of a file that should be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is there, and durable.
    Created,
    /// Another file has the name, and is durable. Nothing was changed.
    Taken,
}

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path from the root of the files, with `/`.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was written, by the clock of what holds it: after all of its lines arrived.
    pub written: Timestamp,
}

/// A folder of Parquet files, local or elsewhere. Its methods block: don't call them from an async task.
pub struct Files {
    store: Arc<dyn ObjectStore>,
    root: Root,
    runtime: Arc<Runtime>,
}

/// What the files are in.
enum Root {
    /// A local folder.
    Local(PathBuf),
    /// Something else, as people know it; with a `/` at its end where it has a name.
    Remote(String),
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({})", self.store)
    }
}

/// How often files are listed for one answer. Each time another one went meanwhile.
const MOST_LISTINGS: u32 = 1000;

/// How the names of files with lines end.
const PARQUET: &str = ".parquet";

/// How large a file may be that is read as a whole.
const MOST_DOCUMENT_BYTES: usize = 64 << 20;

/// The folder of files under way, beside `raw` and `late`.
const TEMPORARY: &str = ".tmp";

/// What lies in the folder of files under way for so long was left there by a process that died.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

impl Files {
    /// The files in a local folder, which is made if it is not there. Temporary files that a dead process left are removed.
    pub fn local(dir: &Path) -> Result<Self, FilesError> {
        let fault = |what| move |error: io::Error| unavailable(what, dir.display(), &error);
        let temporary = dir.join(TEMPORARY);
        std::fs::create_dir_all(&temporary).map_err(fault("making the folder"))?;
        let dir = dir.canonicalize().map_err(fault("opening the folder"))?;
        let store = LocalFileSystem::new_with_prefix(&dir)
            .map_err(|error| unavailable("opening the folder", dir.display(), &error))?;
        remove_abandoned(&temporary);
        Ok(Self { store: Arc::new(store), root: Root::Local(dir), runtime: runtime()? })
    }

    /// The files in any object store that can put if absent.
    pub fn new(store: Arc<dyn ObjectStore>) -> Result<Self, FilesError> {
        Ok(Self { store, root: Root::Remote(String::new()), runtime: runtime()? })
    }

    /// The files in an object store whose root people know by this name.
    pub fn named(store: Arc<dyn ObjectStore>, root: &str) -> Result<Self, FilesError> {
        Ok(Self { store, root: Root::Remote(format!("{root}/")), runtime: runtime()? })
    }

    /// Asks once, so that a wrong name or wrong rights are known before something depends on them.
    pub fn check(&self) -> Result<(), FilesError> {
        let path = self.shown("");
        match self.runtime.block_on(self.store.list_with_delimiter(None)) {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::NotFound { .. }) => {
                Err(FilesError::Refused { what: "listing", path, why: in_short(&error) })
            }
            Err(error) => Err(of_store("listing", &path, &error)),
        }
    }

    /// How many files are looked into at once: where each is a request, waiting for many takes as long as for one.
    pub(super) fn at_once(&self) -> usize {
        match &self.root {
            Root::Local(_) => 1,
            Root::Remote(_) => 16,
        }
    }

    fn local_root(&self) -> Option<&Path> {
        match &self.root {
            Root::Local(root) => Some(root),
            Root::Remote(_) => None,
        }
    }

    /// Begins a file. Its name is given when it is complete.
    pub fn begin(&self) -> Result<Sink, FilesError> {
        let Some(root) = self.local_root() else { return Ok(Sink(Inner::Memory(Vec::new()))) };
        // Random, since processes that share the folder may have the same process number on two machines.
        let number = RandomState::new().build_hasher().finish();
        let path = root.join(TEMPORARY).join(format!("{number:016x}.parquet"));
        let file = File::create_new(&path).map_err(|error| unavailable("creating", path.display(), &error))?;
        Ok(Sink(Inner::File { file, temporary: Temporary(path) }))
    }

    /// Gives a complete file its name, unless that is taken. When this returns, the file of this name is durable.
    pub fn publish(&self, sink: Sink, path: &str) -> Result<Published, FilesError> {
        match sink.0 {
            Inner::Memory(bytes) => {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let target = stored(path)?;
                match self.runtime.block_on(self.store.put_opts(&target, PutPayload::from(bytes), options)) {
                    Ok(_) => Ok(Published::Created),
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(Published::Taken),
                    Err(error) => Err(of_store("writing", &self.shown(path), &error)),
                }
            }
            Inner::File { file, temporary } => {
                let target = self.local_root().unwrap_or(Path::new("")).join(path);
                link_durably(&file, &temporary.0, &target)
                    .map_err(|error| unavailable("writing", target.display(), &error))
            }
        }
    }

    /// The Parquet files below a folder, by path. A listing takes a while: files may be merged meanwhile, into one that stands where it has been already. So they are listed until nothing of one listing is gone in the
    /// next: all that was there when the first began is then in the second, or in a file of it.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>, FilesError> {
        let mut before = self.list_where(folder, PARQUET, |_| true)?;
        for _ in 0..MOST_LISTINGS {
            let now = self.list_where(folder, PARQUET, |_| true)?;
            let is_there = |file: &Listed| now.binary_search_by(|other| other.path.cmp(&file.path)).is_ok();
            if before.iter().all(is_there) {
                return Ok(now);
            }
            before = now;
        }
        Err(FilesError::Unavailable {
            what: "listing",
            path: self.shown(folder),
            why: "files go faster than they can be listed".into(),
        })
    }

    /// The Parquet files of those days (`yyyy-MM-dd`) of a folder that are wanted, by path.
    pub(super) fn list_of_days(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Listed>, FilesError> {
        self.list_where(folder, PARQUET, |path| {
            let day = path.filename().and_then(|name| name.strip_prefix("date="));
            day.is_some_and(&wanted)
        })
    }

    /// The paths of the JSON files in a folder. None of them is ever deleted.
    pub(super) fn list_documents(&self, folder: &str) -> Result<Vec<String>, FilesError> {
        let listed = self.list_where(folder, ".json", |_| false)?;
        Ok(listed.into_iter().map(|file| file.path).collect())
    }

    /// The whole content of a small file.
    pub(super) fn read(&self, path: &str) -> Result<Bytes, FilesError> {
        let source = self.open(path)?;
        let length = usize::try_from(Length::len(&source)).unwrap_or(usize::MAX);
        if length > MOST_DOCUMENT_BYTES {
            return Err(source.failed(format!("it has {length} bytes, which is too much for what it should be")));
        }
        source.get_bytes(0, length).map_err(|error| source.failed(error))
    }

    /// The files below a folder whose names end so, in those folders that are wanted, by path.
    fn list_where(
        &self,
        folder: &str,
        suffix: &str,
        wanted: impl Fn(&StorePath) -> bool,
    ) -> Result<Vec<Listed>, FilesError> {
        let mut found = Vec::new();
        let mut folders = vec![StorePath::from(folder)];
        while let Some(next) = folders.pop() {
            let listing = self
                .runtime
                .block_on(self.store.list_with_delimiter(Some(&next)))
                .map_err(|error| of_store("listing", &self.shown(next.as_ref()), &error))?;
            folders.extend(listing.common_prefixes.into_iter().filter(&wanted));
            found.extend(
                listing
                    .objects
                    .into_iter()
                    .map(|object| Listed {
                        path: object.location.to_string(),
                        size_bytes: object.size,
                        written: Timestamp::from_micros(object.last_modified.timestamp_micros()),
                    })
                    .filter(|file| file.path.ends_with(suffix)),
            );
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Deletes a file; one that is gone already is no error.
    pub fn delete(&self, path: &str) -> Result<(), FilesError> {
        let Some(root) = self.local_root() else {
            return match self.runtime.block_on(self.store.delete(&stored(path)?)) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(of_store("deleting", &self.shown(path), &error)),
            };
        };
        let path = root.join(path);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unavailable("deleting", path.display(), &error)),
        }
        if let Some(day) = path.parent() {
            // Only an empty folder goes; whoever wants to write into it just then makes it again.
            let _ = std::fs::remove_dir(day);
        }
        Ok(())
    }

    /// A file's path as people know it.
    pub fn shown(&self, path: &str) -> String {
        match &self.root {
            Root::Local(root) => root.join(path).display().to_string(),
            Root::Remote(root) => format!("{root}{path}"),
        }
    }

    /// Opens a file to read it.
    pub(super) fn open(&self, path: &str) -> Result<Source, FilesError> {
        let Some(root) = self.local_root() else {
            let (store, runtime) = (Arc::clone(&self.store), Arc::clone(&self.runtime));
            return Ok(Source::remote(Arc::new(Remote::open(store, runtime, stored(path)?, self.shown(path))?)));
        };
        match File::open(root.join(path)) {
            Ok(file) => Ok(Source(Opened::File(Arc::new(file)), self.shown(path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FilesError::Gone { path: self.shown(path) }),
            Err(error) => Err(unavailable("opening", self.shown(path), &error)),
        }
    }
}

/// A path as the object store has it.
fn stored(path: &str) -> Result<StorePath, FilesError> {
    StorePath::parse(path).map_err(|error| unavailable("naming", path, &error))
}

/// What an object store answered.
pub(super) fn of_store(what: &'static str, shown: &str, error: &object_store::Error) -> FilesError {
    use object_store::Error as Store;
    let (path, why) = (shown.to_owned(), in_short(error));
    match error {
        Store::NotFound { .. } => FilesError::Gone { path },
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => FilesError::Refused { what, path, why },
        // Listings tell it in words alone.
        _ if REFUSALS.iter().any(|refusal| why.contains(refusal)) => FilesError::Refused { what, path, why },
        _ => FilesError::Unavailable { what, path, why },
    }
}

/// How S3 says that it will not, as opposed to cannot.
const REFUSALS: [&str; 3] = ["status code: 401", "status code: 403", "<Code>NoSuchBucket</Code>"];

/// How much of an answer is told at most.
const MOST_TOLD: usize = 600;

/// An error on one line: servers answer with pages of XML.
fn in_short(error: &object_store::Error) -> String {
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn unavailable(what: &'static str, path: impl ToString, why: &impl ToString) -> FilesError {
    FilesError::Unavailable { what, path: path.to_string(), why: why.to_string() }
}

fn runtime() -> Result<Arc<Runtime>, FilesError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(Arc::new)
        .map_err(|error| unavailable("starting the runtime for", "the files", &error))
}

fn remove_abandoned(temporary: &Path) {
    let Ok(entries) = std::fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let age =
            entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        // A zombie whose file goes away here fails to link it, which is no loss.
        if age.is_some_and(|age| age > ABANDONED_AFTER) && std::fs::remove_file(entry.path()).is_ok() {
            tracing::info!(file = %entry.path().display(), "removed a file that a process left half written");
        }
    }
}

/// Syncs the content, links it to its name, and syncs the folder, whoever's file has the name then.
fn link_durably(file: &File, temporary: &Path, target: &Path) -> io::Result<Published> {
    file.sync_all()?;
    let folder = target.parent().unwrap_or(Path::new("."));
    if !folder.is_dir() {
        std::fs::create_dir_all(folder)?;
        for above in folder.ancestors().skip(1).take(2) {
            sync_folder(above)?;
        }
    }
    let published = match std::fs::hard_link(temporary, target) {
        Ok(()) => Published::Created,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Published::Taken,
        Err(error) => return Err(error),
    };
    sync_folder(folder)?;
    Ok(published)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file that is being written. Dropped without [`Files::publish`], it is gone.
#[derive(Debug)]
pub struct Sink(Inner);

#[derive(Debug)]
enum Inner {
    Memory(Vec<u8>),
    File { file: File, temporary: Temporary },
}

#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now is removed as abandoned later.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Sink {
    /// True where what is written takes memory until it is published.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.0, Inner::Memory(_))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Memory(held) => held.write(bytes),
            Inner::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An opened file. Copies of it are the same file.
#[derive(Debug, Clone)]
pub(super) struct Source(Opened, String);

#[derive(Debug, Clone)]
enum Opened {
    /// On a local disk.
    File(Arc<File>),
    /// Elsewhere.
    Remote(Arc<Remote>),
}

impl Source {
    pub(super) fn remote(file: Arc<Remote>) -> Self {
        let shown = file.shown().to_owned();
        Self(Opened::Remote(file), shown)
    }

    /// Why it cannot be read: what went wrong on the way to it, or else what is wrong with it.
    pub(super) fn failed(&self, why: impl ToString) -> FilesError {
        let fault = match &self.0 {
            Opened::File(_) => None,
            Opened::Remote(file) => file.fault(),
        };
        fault.unwrap_or_else(|| FilesError::Damaged { path: self.1.clone(), why: why.to_string() })
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match &self.0 {
            Opened::File(file) => Length::len(&**file),
            Opened::Remote(file) => file.size(),
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn io::Read>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(match &self.0 {
            Opened::File(file) => Box::new(file.get_read(start)?),
            Opened::Remote(file) => Box::new(remote::From::new(Arc::clone(file), start)),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        match &self.0 {
            Opened::File(file) => file.get_bytes(start, length),
            Opened::Remote(file) => file.get(start..start.saturating_add(length as u64)),
        }
    }
}

#[cfg(test)]
impl Sink {
    /// A file on a disk that is full.
    pub(super) fn on_full_disk() -> Self {
        let file = File::options().write(true).open("/dev/full").unwrap();
        Self(Inner::File { file, temporary: Temporary(PathBuf::from("/nowhere")) })
    }
}
