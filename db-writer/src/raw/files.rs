//! Where the files are: a local folder or any object store, written to by put-if-absent only.
//!
//! In a local folder a file is written under a temporary name in `.tmp`, synced, linked to its name (which fails if the name is there), and the folder synced. Other stores have
//! an atomic put that fails if the name is there.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use clickmill_queue::StageError;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parquet::file::reader::{ChunkReader, Length};
use thiserror::Error;
use tokio::runtime::Runtime;

/// Why a file could not be written or read.
#[derive(Debug, Error)]
pub enum FilesError {
    /// A passing fault: the disk is full, the store is away, the file is gone.
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
}

impl From<FilesError> for StageError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Unavailable { .. } => Self::Unavailable(error.to_string()),
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
}

/// A folder of Parquet files, local or elsewhere. Its methods block: don't call them from an async task.
pub struct Files {
    store: Arc<dyn ObjectStore>,
    local: Option<PathBuf>,
    runtime: Runtime,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({})", self.store)
    }
}

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
        Ok(Self { store: Arc::new(store), local: Some(dir), runtime: runtime()? })
    }

    /// The files in any object store that can put if absent.
    pub fn new(store: Arc<dyn ObjectStore>) -> Result<Self, FilesError> {
        Ok(Self { store, local: None, runtime: runtime()? })
    }

    /// Begins a file. Its name is given when it is complete.
    pub fn begin(&self) -> Result<Sink, FilesError> {
        let Some(root) = &self.local else { return Ok(Sink(Inner::Memory(Vec::new()))) };
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
                let target = StorePath::from(path);
                match self.runtime.block_on(self.store.put_opts(&target, PutPayload::from(bytes), options)) {
                    Ok(_) => Ok(Published::Created),
                    Err(object_store::Error::AlreadyExists { .. }) => Ok(Published::Taken),
                    Err(error) => Err(unavailable("writing", path, &error)),
                }
            }
            Inner::File { file, temporary } => {
                let target = self.local.as_deref().unwrap_or(Path::new("")).join(path);
                link_durably(&file, &temporary.0, &target)
                    .map_err(|error| unavailable("writing", target.display(), &error))
            }
        }
    }

    /// The Parquet files below a folder, by path.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>, FilesError> {
        self.list_where(folder, |_| true)
    }

    /// The Parquet files of those days (`yyyy-MM-dd`) of a folder that are wanted, by path.
    pub(super) fn list_of_days(&self, folder: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Listed>, FilesError> {
        self.list_where(folder, |path| {
            let day = path.filename().and_then(|name| name.strip_prefix("date="));
            day.is_some_and(&wanted)
        })
    }

    fn list_where(&self, folder: &str, wanted: impl Fn(&StorePath) -> bool) -> Result<Vec<Listed>, FilesError> {
        let mut found = Vec::new();
        let mut folders = vec![StorePath::from(folder)];
        while let Some(next) = folders.pop() {
            let listing = self
                .runtime
                .block_on(self.store.list_with_delimiter(Some(&next)))
                .map_err(|error| unavailable("listing", &next, &error))?;
            folders.extend(listing.common_prefixes.into_iter().filter(&wanted));
            found.extend(
                listing
                    .objects
                    .into_iter()
                    .map(|object| Listed { path: object.location.to_string(), size_bytes: object.size })
                    .filter(|file| file.path.ends_with(".parquet")),
            );
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Deletes a file; one that is gone already is no error.
    pub(super) fn delete(&self, path: &str) -> Result<(), FilesError> {
        let Some(root) = &self.local else {
            return match self.runtime.block_on(self.store.delete(&StorePath::from(path))) {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(unavailable("deleting", path, &error)),
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
    pub(super) fn shown(&self, path: &str) -> String {
        self.local.as_ref().map_or_else(|| path.to_owned(), |root| root.join(path).display().to_string())
    }

    /// Opens a file to read it.
    pub(super) fn open(&self, path: &str) -> Result<Source, FilesError> {
        if let Some(root) = &self.local {
            let path = root.join(path);
            let file = File::open(&path).map_err(|error| unavailable("opening", path.display(), &error))?;
            return Ok(Source::File(file));
        }
        let read = async { self.store.get(&StorePath::from(path)).await?.bytes().await };
        let bytes = self.runtime.block_on(read).map_err(|error| unavailable("reading", path, &error))?;
        Ok(Source::Memory(bytes))
    }
}

fn unavailable(what: &'static str, path: impl ToString, why: &impl ToString) -> FilesError {
    FilesError::Unavailable { what, path: path.to_string(), why: why.to_string() }
}

fn runtime() -> Result<Runtime, FilesError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
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

/// An opened file.
#[derive(Debug)]
pub(super) enum Source {
    /// On a local disk.
    File(File),
    /// Fetched from elsewhere.
    Memory(Bytes),
}

impl Length for Source {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => Length::len(file),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn io::Read>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(match self {
            Self::File(file) => Box::new(file.get_read(start)?),
            Self::Memory(bytes) => Box::new(bytes.get_read(start)?),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        match self {
            Self::File(file) => file.get_bytes(start, length),
            Self::Memory(bytes) => bytes.get_bytes(start, length),
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
