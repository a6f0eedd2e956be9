//! What is stored in the compacted topic `log-positions`: a row per file, a row per source, and who runs it.
//!
//! Keys are text: `file:SOURCE:ID`, `source:SOURCE`, `owner:SOURCE`. A file's id is a number of the watcher's own, since neither its name nor its inode
//! is its identity.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clickmill_model::codec::{Reader, Writer};
use clickmill_model::records::LOG_POSITIONS;
use clickmill_model::{CodecError, Offset, SourceName, Timestamp};
use clickmill_queue::{Fetched, Queue, Record, StageError, TopicPartition};

use crate::identity::{PRINT_BYTES, Place, Print};

const VERSION: u8 = 1;
const FILE: &str = "a log file's position";
const SOURCE: &str = "a log watcher's row";

/// How much of the topic is read at a time.
const READ_BYTES: usize = 1 << 20;

/// The number of a file's content within its source.
pub(crate) type FileId = u64;

/// Where the watcher is in a file's content, and what tells that content from every other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FileRow {
    /// Its name when it was seen last.
    pub(crate) path: PathBuf,
    /// Where it lay then.
    pub(crate) place: Place,
    /// Every line of the content before this offset was sent.
    pub(crate) offset: u64,
    /// The content's first bytes, whether sent or not.
    pub(crate) head: Print,
    /// The bytes just before `offset`, as many as were read at once.
    pub(crate) tail: Print,
    /// The highest event time sent of it that no clock forbids.
    pub(crate) highest: Option<Timestamp>,
    /// Its size on the disk when it was seen last.
    pub(crate) size_bytes: u64,
    /// How much of that was used up.
    pub(crate) used_bytes: u64,
    /// Whether it is compressed.
    pub(crate) gzip: bool,
    /// `offset` lies in a line that is too long: what is left of it up to its end is passed over.
    pub(crate) in_long_line: bool,
    /// It had another name before: nobody will complete its last line.
    pub(crate) renamed: bool,
}

impl FileRow {
    /// On the wire: version 1; path; device; inode; offset; head's length and hash, tail's; 0, or 1 and the highest event time in
    /// microseconds (zigzag); size; used; flags (1 compressed, 2 in a long line, 4 renamed).
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.bytes(self.path.as_os_str().as_bytes());
        out.uint(self.place.device);
        out.uint(self.place.inode);
        out.uint(self.offset);
        for print in [self.head, self.tail] {
            out.uint(print.len as u64);
            out.raw(&print.hash.to_le_bytes());
        }
        write_time(&mut out, self.highest);
        out.uint(self.size_bytes);
        out.uint(self.used_bytes);
        out.u8(u8::from(self.gzip) | u8::from(self.in_long_line) << 1 | u8::from(self.renamed) << 2);
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, FILE, VERSION)?;
        let path = PathBuf::from(OsString::from_vec(input.bytes()?.to_vec()));
        let place = Place { device: input.uint()?, inode: input.uint()? };
        let offset = input.uint()?;
        let (head, tail) = (read_print(&mut input)?, read_print(&mut input)?);
        let highest = read_time(&mut input)?;
        let (size_bytes, used_bytes) = (input.uint()?, input.uint()?);
        let flags = input.u8()?;
        if flags > 7 {
            return Err(input.corrupt("unknown flags"));
        }
        input.finish()?;
        let (gzip, in_long_line, renamed) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        Ok(Self { path, place, offset, head, tail, highest, size_bytes, used_bytes, gzip, in_long_line, renamed })
    }

    /// Bytes on the disk that were known and not used up.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.size_bytes.saturating_sub(self.used_bytes)
    }
}

fn read_print(input: &mut Reader<'_>) -> Result<Print, CodecError> {
    let len = usize::try_from(input.uint()?).ok().filter(|len| *len <= PRINT_BYTES);
    let len = len.ok_or_else(|| input.corrupt("a print of too many bytes"))?;
    let mut hash = [0; 8];
    hash.copy_from_slice(input.raw(8)?);
    Ok(Print { len, hash: u64::from_le_bytes(hash) })
}

fn write_time(out: &mut Writer, time: Option<Timestamp>) {
    out.u8(time.is_some().into());
    if let Some(time) = time {
        out.int(time.as_micros());
    }
}

fn read_time(input: &mut Reader<'_>) -> Result<Option<Timestamp>, CodecError> {
    match input.u8()? {
        0 => Ok(None),
        1 => Ok(Some(Timestamp::from_micros(input.int()?))),
        _ => Err(input.corrupt("neither a time nor none")),
    }
}

/// What a source tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SourceRow {
    /// The highest event time ever sent that no clock forbids: where a drain ends.
    pub(crate) highest: Option<Timestamp>,
    /// The watermark said last.
    pub(crate) mark: Option<Timestamp>,
    /// Whether it has files that are not read to their end.
    pub(crate) catching_up: bool,
}

impl SourceRow {
    /// On the wire: version 1; highest event time and watermark, each 0, or 1 and microseconds (zigzag); 1 while catching up, else 0.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        write_time(&mut out, self.highest);
        write_time(&mut out, self.mark);
        out.u8(self.catching_up.into());
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, SOURCE, VERSION)?;
        let (highest, mark) = (read_time(&mut input)?, read_time(&mut input)?);
        let catching_up = input.u8()? != 0;
        input.finish()?;
        Ok(Self { highest, mark, catching_up })
    }
}

/// The topic's one partition.
pub(crate) fn place() -> TopicPartition {
    TopicPartition::new(LOG_POSITIONS, 0)
}

/// The row of a file; `None` removes it.
pub(crate) fn file_record(source: &SourceName, id: FileId, row: Option<&FileRow>) -> Record {
    record(format!("file:{source}:{id}"), row.map(FileRow::encode).unwrap_or_default())
}

/// The row of a source.
pub(crate) fn source_record(source: &SourceName, row: &SourceRow) -> Record {
    record(format!("source:{source}"), row.encode())
}

/// Who runs a source, as text for people.
pub(crate) fn owner_record(source: &SourceName, owner: &str) -> Record {
    record(format!("owner:{source}"), owner.as_bytes().to_vec())
}

fn record(key: String, value: Vec<u8>) -> Record {
    Record { key: Some(key.into_bytes()), headers: Vec::new(), value }
}

/// What stands in the topic, read as it comes.
pub(crate) struct Positions {
    source: SourceName,
    next: Option<Offset>,
    /// This source's files. Emptied once it has read them back: from then on it knows better.
    pub(crate) files: BTreeMap<FileId, FileRow>,
    /// What this source had told.
    pub(crate) own: SourceRow,
    /// Who runs this source.
    pub(crate) owner: Option<String>,
    others: HashMap<String, (SourceRow, Timestamp)>,
    latest_arrival: Timestamp,
}

impl Positions {
    pub(crate) fn new(source: SourceName) -> Self {
        Self {
            source,
            next: None,
            files: BTreeMap::new(),
            own: SourceRow::default(),
            owner: None,
            others: HashMap::new(),
            latest_arrival: Timestamp::MIN,
        }
    }

    /// Reads to the end.
    pub(crate) fn refresh(&mut self, queue: &dyn Queue) -> Result<(), StageError> {
        let mut next = match self.next {
            Some(next) => next,
            None => queue.range(&place())?.start,
        };
        loop {
            let records = queue.read(&place(), next, READ_BYTES)?;
            let Some(last) = records.last() else { break };
            next = last.offset.next();
            for fetched in &records {
                self.take(fetched)?;
            }
        }
        self.next = Some(next);
        Ok(())
    }

    fn take(&mut self, fetched: &Fetched) -> Result<(), StageError> {
        self.latest_arrival = self.latest_arrival.max(fetched.arrival);
        let key = fetched.record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        let damaged = || StageError::Broken(format!("{}@{} has no key that is known here", place(), fetched.offset));
        let (kind, name) = key.and_then(|key| key.split_once(':')).ok_or_else(damaged)?;
        let value = fetched.record.value.as_slice();
        match kind {
            "file" => {
                let (source, id) = name.rsplit_once(':').ok_or_else(damaged)?;
                if source == &*self.source.0 {
                    let id: FileId = id.parse().map_err(|_| damaged())?;
                    match value {
                        [] => self.files.remove(&id),
                        value => self.files.insert(id, FileRow::decode(value)?),
                    };
                }
            }
            "source" if name == &*self.source.0 => self.own = SourceRow::decode(value)?,
            "source" => {
                self.others.insert(name.to_owned(), (SourceRow::decode(value)?, fetched.arrival));
            }
            "owner" if name == &*self.source.0 => self.owner = Some(String::from_utf8_lossy(value).into_owned()),
            // The owners of others; a newer clickmill may keep more here.
            _ => {}
        }
        Ok(())
    }

    /// The lowest watermark of the other sources that catch up; one that was not heard for `timeout` is not waited for.
    pub(crate) fn slowest_other(&self, timeout: std::time::Duration) -> Option<Timestamp> {
        let live = self
            .others
            .values()
            .filter(|(row, arrival)| row.catching_up && self.latest_arrival.since(*arrival) <= timeout);
        live.filter_map(|(row, _)| row.mark).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> FileRow {
        FileRow {
            path: PathBuf::from(OsString::from_vec(b"/logs/\xff.log".to_vec())),
            place: Place { device: 64_769, inode: 1 << 40 },
            offset: 4711,
            head: Print { len: 1024, hash: 0x0123_4567_89ab_cdef },
            tail: Print { len: 75, hash: u64::MAX },
            highest: Some(Timestamp::from_secs(-1)),
            size_bytes: 5000,
            used_bytes: 4711,
            gzip: true,
            in_long_line: false,
            renamed: true,
        }
    }

    /// Version 1, as the first release writes it.
    const FILE_V1: &str = "010b2f6c6f67732fff2e6c6f6781fa03808080808020e7248008efcdab89674523014bffffffffffffffff01ff\
        887a8827e72405";
    const SOURCE_V1: &str = "0101010001";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn rows_of_version_1_are_read_for_good() {
        assert_eq!(FileRow::decode(&bytes(FILE_V1)), Ok(row()));
        let source = SourceRow { highest: Some(Timestamp::from_micros(-1)), mark: None, catching_up: true };
        assert_eq!(SourceRow::decode(&bytes(SOURCE_V1)), Ok(source));
        assert_eq!(SourceRow::decode(&source.encode()), Ok(source));
    }

    #[test]
    fn what_was_written_is_read() {
        for row in [row(), FileRow { highest: None, in_long_line: true, gzip: false, ..row() }, FileRow::default()] {
            assert_eq!(FileRow::decode(&row.encode()), Ok(row));
        }
    }

    #[test]
    fn a_newer_row_and_a_damaged_one_are_refused() {
        let mut newer = row().encode();
        newer[0] = 2;
        assert!(matches!(FileRow::decode(&newer), Err(CodecError::TooNew { found: 2, known: 1, .. })));
        let cut = row().encode();
        assert!(FileRow::decode(&cut[..cut.len() - 1]).is_err());
    }
}
