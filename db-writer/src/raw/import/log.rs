//! Old log files, read from front to back: as they are, or decompressed where they begin as gzip files do.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use clickmill_model::line::MAX_LINE_BYTES;
use flate2::bufread::MultiGzDecoder;
use memchr::memchr;
use xxhash_rust::xxh3::Xxh3;

use super::ledger::Content;

/// How much is read at a time.
const STEP_BYTES: usize = 1 << 20;

/// The first bytes of a gzip file (RFC 1952, section 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The first bytes of files that other programs compressed, none of which begins a line of text.
const OTHER_MAGIC: [(&str, &[u8]); 3] =
    [("zstd", &[0x28, 0xb5, 0x2f, 0xfd]), ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]), ("bzip2", b"BZh")];

/// A log file's content, from where it has been read.
pub(super) struct Log {
    content: Box<dyn BufRead>,
    hash: Xxh3,
    bytes: u64,
    last: Option<u8>,
    /// What lies behind so many bytes is not read.
    until: u64,
}

impl Log {
    /// Opens the first `until` bytes of a file's content.
    pub(super) fn open(path: &Path, until: u64) -> io::Result<Self> {
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut file = BufReader::with_capacity(STEP_BYTES, File::open(path)?);
        let begins = file.fill_buf()?;
        if let Some((program, _)) = OTHER_MAGIC.iter().find(|(_, magic)| begins.starts_with(magic)) {
            let why = format!("it is compressed by {program}: only gzip is read");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let content: Box<dyn BufRead> = if begins.starts_with(&GZIP_MAGIC) {
            Box::new(BufReader::with_capacity(STEP_BYTES, MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { content, hash: Xxh3::new(), bytes: 0, last: None, until })
    }

    /// How many bytes were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was read so far.
    pub(super) fn content(&self) -> Content {
        Content { bytes: self.bytes, xxh3: format!("{:032x}", self.hash.digest128()) }
    }

    /// Reads some more without looking into it, at most to this byte. False where it has come there, or to the end.
    fn skim(&mut self, until: u64) -> io::Result<bool> {
        let held = self.held()?.min(usize::try_from(until.saturating_sub(self.bytes)).unwrap_or(usize::MAX));
        self.take(held, None)?;
        Ok(held > 0)
    }

    /// Reads the next line into `line`, without its newline; of one that is longer than any click, the first `MAX_LINE_BYTES + 1` bytes. Returns where it begins. `None`: there is no more.
    pub(super) fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
        line.clear();
        let begins = self.bytes;
        loop {
            let length = self.held()?;
            if length == 0 {
                return Ok((self.bytes > begins).then_some(begins));
            }
            let end = self.content.fill_buf()?.get(..length).and_then(|held| memchr(b'\n', held));
            self.take(end.unwrap_or(length), Some(line))?;
            if end.is_some() {
                self.take(1, None)?;
                return Ok(Some(begins));
            }
        }
    }

    /// How many bytes can be taken without waiting.
    fn held(&mut self) -> io::Result<usize> {
        let left = usize::try_from(self.until - self.bytes).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(0);
        }
        Ok(self.content.fill_buf()?.len().min(left))
    }

    /// Uses up so many of the bytes that are held.
    fn take(&mut self, length: usize, line: Option<&mut Vec<u8>>) -> io::Result<()> {
        let held = self.content.fill_buf()?;
        let taken = held.get(..length).unwrap_or(held);
        self.hash.update(taken);
        self.last = taken.last().copied().or(self.last);
        if let Some(line) = line {
            let room = (MAX_LINE_BYTES + 1).saturating_sub(line.len());
            line.extend_from_slice(taken.get(..room).unwrap_or(taken));
        }
        let length = taken.len();
        self.content.consume(length);
        self.bytes += length as u64;
        Ok(())
    }
}

/// What a file is.
pub(super) struct Surveyed {
    pub(super) content: Content,
    /// Which of the shorter contents that are known it begins with, the shortest first.
    pub(super) begins_with: Vec<Content>,
    /// Whether its last line is a whole one.
    pub(super) is_ended: bool,
}

/// Reads a file to its end.
pub(super) fn survey(
    path: &Path,
    known: &BTreeSet<Content>,
    mut so_far: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Surveyed> {
    let mut log = Log::open(path, u64::MAX)?;
    let mut begins_with = Vec::new();
    let mut so_far = |log: &mut Log, until| {
        while log.skim(until)? {
            so_far(log.bytes())?;
        }
        Ok::<_, io::Error>(log.content())
    };
    for shorter in known.iter().filter(|known| known.bytes > 0) {
        if so_far(&mut log, shorter.bytes)? == *shorter {
            begins_with.push(shorter.clone());
        }
    }
    let content = so_far(&mut log, u64::MAX)?;
    begins_with.retain(|shorter| *shorter != content);
    Ok(Surveyed { content, begins_with, is_ended: log.last.is_none_or(|last| last == b'\n') })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn lines(content: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(content).unwrap();
        let mut log = Log::open(file.path(), u64::MAX).unwrap();
        let (mut line, mut found) = (Vec::new(), Vec::new());
        while let Some(at) = log.next_line(&mut line).unwrap() {
            found.push((at, line.clone()));
        }
        let surveyed = survey(file.path(), &BTreeSet::new(), |_| Ok(())).unwrap();
        assert_eq!(surveyed.content, log.content());
        assert_eq!(surveyed.is_ended, content.last().is_none_or(|last| *last == b'\n' || content[0] == GZIP_MAGIC[0]));
        found
    }

    #[test]
    fn lines_are_told_with_where_they_begin() {
        let found = lines(b"one\n\nthree\r\nlast");
        let expected: [(u64, &[u8]); 4] = [(0, b"one"), (4, b""), (5, b"three\r"), (12, b"last")];
        assert_eq!(found, expected.map(|(at, line)| (at, line.to_vec())));
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn of_a_long_line_the_beginning_is_kept() {
        let long = vec![b'x'; 3 * STEP_BYTES];
        let found = lines(&[&long[..], b"\nnext\n"].concat());
        let expected = [(0, vec![b'x'; MAX_LINE_BYTES + 1]), (3 * STEP_BYTES as u64 + 1, b"next".to_vec())];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_compressed_file_is_its_content_whatever_its_name() {
        let member = |content: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        let whole = [member(b"one\ntw"), member(b"o\nthree\n")].concat();
        assert_eq!(lines(&whole), lines(b"one\ntwo\nthree\n"));
        let cut = tempfile::NamedTempFile::new().unwrap();
        cut.as_file().write_all(&whole[..whole.len() - 3]).unwrap();
        let error = survey(cut.path(), &BTreeSet::new(), |_| Ok(())).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // What another program compressed is not taken for lines.
        std::fs::write(cut.path(), [0x28, 0xb5, 0x2f, 0xfd, 0x04]).unwrap();
        let error = survey(cut.path(), &BTreeSet::new(), |_| Ok(())).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("zstd"), "{error}");
    }

    #[test]
    fn a_file_that_grew_is_known_by_its_beginning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let survey = |known: &[&Content]| {
            let known = known.iter().copied().cloned().collect();
            let surveyed = survey(file.path(), &known, |_| Ok(())).unwrap();
            (surveyed.content, surveyed.begins_with)
        };
        file.as_file().write_all(b"one\ntwo").unwrap();
        let (old, _) = survey(&[]);
        assert_eq!(survey(&[&old]), (old.clone(), vec![]));
        file.as_file().write_all(b"\nthree\n").unwrap();
        let other = Content { bytes: 9, xxh3: old.xxh3.clone() };
        let (new, begins_with) = survey(&[&old, &other]);
        assert_eq!((new.bytes, begins_with), (14, vec![old.clone()]));
        // What was surveyed is what is read, though there is more by now.
        let mut log = Log::open(file.path(), old.bytes).unwrap();
        let mut line = Vec::new();
        while log.next_line(&mut line).unwrap().is_some() {}
        assert_eq!((line.as_slice(), log.content()), (&b""[..], old));
    }
}
