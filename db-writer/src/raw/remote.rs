//! A file of an object store, read in blocks: a reader of Parquet asks for many small pieces that lie side by side, and each request takes its time.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use parquet::errors::ParquetError;
use tokio::runtime::Runtime;

use super::files::{FilesError, of_store};

/// How much is fetched at once, at least: about two row groups.
const BLOCK_BYTES: u64 = 4 << 20;

/// How much of a file's end is fetched at once: a footer with its page index, most often.
const TAIL_BYTES: u64 = 128 << 10;

/// How many blocks are held, besides the end.
const BLOCKS_HELD: usize = 2;

/// A file that is being read. What it holds in memory is bounded, however large the file is.
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    path: StorePath,
    shown: String,
    size: u64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    tail: Option<(u64, Bytes)>,
    /// Where each begins, the one fetched last at the end.
    blocks: Vec<(u64, Bytes)>,
    /// The first thing that went wrong, since Parquet's readers keep a text of it alone.
    fault: Option<FilesError>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.shown)
    }
}

impl Remote {
    /// Finds the file.
    pub(super) fn open(
        store: Arc<dyn ObjectStore>,
        runtime: Arc<Runtime>,
        path: StorePath,
        shown: String,
    ) -> Result<Self, FilesError> {
        let found = runtime.block_on(store.head(&path)).map_err(|error| of_store("opening", &shown, &error))?;
        Ok(Self { store, runtime, path, shown, size: found.size, held: Mutex::default() })
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What went wrong, if anything did.
    pub(super) fn fault(&self) -> Option<FilesError> {
        self.held.lock().fault.clone()
    }

    /// These bytes.
    pub(super) fn get(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        if range.end > self.size || range.start > range.end {
            return Err(ParquetError::EOF(format!(
                "it has {} bytes, {}..{} are read",
                self.size, range.start, range.end
            )));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        // Held while it is fetched: threads that read the same file want the same block, most often.
        let mut held = self.held.lock();
        let of = |(start, bytes): &(u64, Bytes)| {
            let inside = *start <= range.start && range.end <= start + bytes.len() as u64;
            inside.then(|| bytes.slice((range.start - start) as usize..(range.end - start) as usize))
        };
        if let Some(found) = held.tail.iter().chain(&held.blocks).find_map(of) {
            return Ok(found);
        }
        let tail = self.size.saturating_sub(TAIL_BYTES);
        let wanted = if range.start >= tail {
            tail..self.size
        } else {
            let start = range.start - range.start % BLOCK_BYTES;
            start..range.end.max(start + BLOCK_BYTES).min(self.size)
        };
        let fetched = (wanted.start, self.fetch(&wanted).inspect_err(|error| held.note(error)).map_err(external)?);
        let found = of(&fetched);
        if wanted.start == tail {
            held.tail = Some(fetched);
        } else {
            if held.blocks.len() == BLOCKS_HELD {
                held.blocks.remove(0);
            }
            held.blocks.push(fetched);
        }
        found.ok_or_else(|| ParquetError::General("a block without what it was fetched for".into()))
    }

    fn fetch(&self, range: &Range<u64>) -> Result<Bytes, FilesError> {
        let fetched = self.runtime.block_on(self.store.get_range(&self.path, range.clone()));
        let bytes = fetched.map_err(|error| of_store("reading", &self.shown, &error))?;
        let expected = range.end - range.start;
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(FilesError::Unavailable {
            what: "reading",
            path: self.shown.clone(),
            why: format!("the object store answered with {} bytes of {expected}", bytes.len()),
        })
    }
}

impl Held {
    fn note(&mut self, error: &FilesError) {
        self.fault.get_or_insert_with(|| error.clone());
    }
}

fn external(error: FilesError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// A file from somewhere to its end.
pub(super) struct From {
    file: Arc<Remote>,
    at: u64,
    piece: Bytes,
}

/// How much a reader from somewhere on takes at once: headers of pages are small.
const PIECE_BYTES: u64 = 64 << 10;

impl From {
    pub(super) fn new(file: Arc<Remote>, at: u64) -> Self {
        Self { file, at, piece: Bytes::new() }
    }
}

impl Read for From {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.at < self.file.size {
            // Not beyond the block: its neighbour may never be wanted.
            let block_end = self.at - self.at % BLOCK_BYTES + BLOCK_BYTES;
            let end = (self.at + PIECE_BYTES).min(block_end).min(self.file.size);
            self.piece = self.file.get(self.at..end).map_err(io::Error::other)?;
            self.at = end;
        }
        let count = to.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut to[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use parquet::file::reader::{ChunkReader, Length};

    use super::super::files::Source;
    use super::*;

    #[test]
    fn any_piece_is_what_the_file_has_there() {
        let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap());
        let size = 9_500_000_u64;
        let all: Vec<u8> = (0..size).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = StorePath::from("a");
        runtime.block_on(store.put(&path, all.clone().into())).unwrap();
        let remote = Arc::new(Remote::open(store, runtime, path, "a".into()).unwrap());
        let source = Source::remote(Arc::clone(&remote));
        assert_eq!(source.len(), size);
        let block = BLOCK_BYTES;
        let tail = size - TAIL_BYTES;
        let starts = [0, 1, block - 1, block, 2 * block - 7, tail - 3, tail, size - 8, size - 1];
        for start in starts.into_iter().chain(starts) {
            for length in [0, 1, 7, 70_000, block, block + 5] {
                let end = start + length;
                let found = source.get_bytes(start, length as usize);
                match all.get(start as usize..end as usize) {
                    Some(expected) => assert!(found.unwrap() == expected, "{start} {length}"),
                    None => assert!(found.is_err(), "{start} {length}"),
                }
            }
            let mut rest = Vec::new();
            source.get_read(start).unwrap().read_to_end(&mut rest).unwrap();
            assert!(rest == all[start as usize..], "{start}");
        }
        assert!(remote.held.lock().blocks.len() <= BLOCKS_HELD);
    }
}
