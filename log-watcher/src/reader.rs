//! Opens files and reads their content, compressed or not.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::gzip::{End, Gunzip};
use crate::identity::Place;

/// What of a file's beginning is looked at to find its first click.
const HEAD_BYTES: usize = 64 * 1024;

/// An open file.
pub(crate) enum Content {
    /// Its bytes are its content.
    Plain(File),
    /// It is compressed.
    Gzip(Box<Gunzip>),
}

/// What a look at a file's metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) place: Place,
    pub(crate) size_bytes: u64,
    /// When it was modified last, in microseconds since the epoch.
    pub(crate) modified: i64,
    /// How many names it has.
    pub(crate) names: u64,
}

impl Look {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            place: Place { device: metadata.dev(), inode: metadata.ino() },
            size_bytes: metadata.size(),
            modified: metadata.mtime().saturating_mul(1_000_000).saturating_add(metadata.mtime_nsec() / 1000),
            names: metadata.nlink(),
        }
    }
}

impl Content {
    /// Opens a regular file and tells by its first bytes whether it is compressed.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Look)> {
        // A pipe that took the file's name must not stop the watcher.
        let no_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(no_waiting).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "is no regular file"));
        }
        let look = Look::of(&metadata);
        let mut magic = [0; 6];
        let n = fill(&file, 0, &mut magic)?;
        let content = match &magic[..n] {
            [0x1f] | [0x1f, 0x8b, ..] => Self::Gzip(Box::new(Gunzip::new(file))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(compressed_by("zstd")),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(compressed_by("xz")),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => return Err(compressed_by("bzip2")),
            [b'P', b'K', 3, 4, ..] => return Err(compressed_by("zip")),
            _ => Self::Plain(file),
        };
        Ok((content, look))
    }

    /// Fills `buf` with the content from `offset` on. A compressed file is read from front to back only.
    pub(crate) fn fill(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<(usize, End)> {
        match self {
            Self::Plain(file) => {
                let n = fill(file, offset, buf)?;
                Ok((n, if n < buf.len() { End::Whole } else { End::More }))
            }
            Self::Gzip(gunzip) => gunzip.fill(offset, buf),
        }
    }

    /// The first bytes of the content, as many as are needed to know the file again and to find its first click.
    pub(crate) fn head(&mut self) -> io::Result<(Vec<u8>, End)> {
        let mut head = vec![0; HEAD_BYTES];
        let (n, end) = self.fill(0, &mut head)?;
        head.truncate(n);
        Ok((head, end))
    }

    /// A look at the open file, whatever its name is now.
    pub(crate) fn look(&self) -> io::Result<Look> {
        let file = match self {
            Self::Plain(file) => Some(file),
            Self::Gzip(gunzip) => gunzip.file(),
        };
        let file = file.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the compressed data is damaged"))?;
        file.metadata().map(|metadata| Look::of(&metadata))
    }

    pub(crate) fn is_gzip(&self) -> bool {
        matches!(self, Self::Gzip(_))
    }
}

fn compressed_by(what: &str) -> io::Error {
    let why = format!("is compressed by {what}, which is not read here: recompress it with gzip, or unpack it");
    io::Error::new(ErrorKind::Unsupported, why)
}

/// Reads until `buf` is full or the file ends.
fn fill(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read_at(&mut buf[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}
