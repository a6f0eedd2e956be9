//! What a file holds, as its name and its footer say, and which lines to take from which file.
//!
//! Name: `{folder}/date={day of the first arrival}/{topic}-{partition}-{first offset}-{first arrival}.parquet`, the offset with twenty digits, the arrival in milliseconds since the epoch.
//! It depends on the first line alone. A file that [`super::compact`] made of several has `.to-{last offset}` before its ending. A character of the topic that a file name should not hold is written `%XX`.
//!
//! Footer, as key-value metadata, version 2: `clickmill.format` (2 where the lines were imported, else 1: the rest is the same), `clickmill.topic`, `clickmill.partition`, `clickmill.first_offset` (of the first line),
//! `clickmill.last_offset` (of the last record that the file covers, with lines or without), `clickmill.first_arrival` and `clickmill.last_arrival` of these two (microseconds
//! since the epoch), `clickmill.rows`, `clickmill.rejected` (rows with a reason), `clickmill.before_offset` and `clickmill.before_arrival` (the last ones of the file before this one; the first is `none`
//! where none was before; both are missing where that is not known, as in files of older versions), and where there is a click without one, `clickmill.first_minute` and
//! `clickmill.last_minute` of those (`yyyyMMddHHmm`). Topic, partition and offsets are those of the topic that was read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use clickmill_model::{Minute, Offset, Partition, RawPartition, Timestamp};
use object_store::path::PathPart;
use parking_lot::Mutex;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::files::{Files, FilesError, Listed};

/// The newest format that this code reads, and writes where lines were imported: who does not know of offsets of imports ([`Offset::imported`]) must not read them.
pub const FORMAT: u32 = 2;

/// The format of files whose lines came through a queue.
const FORMAT_OF_STREAM: u32 = 1;

/// In place of the offset at which the file before ended, where none was.
const NONE: &str = "none";

/// The file of the same partition before another one, so that a file that is gone is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Before {
    /// Nobody knows.
    #[default]
    Unknown,
    /// There was none: the partition's first line is in this one.
    Nothing,
    /// One that ended here.
    File {
        /// The last record that it covers.
        last_offset: Offset,
        /// The arrival of that record.
        last_arrival: Timestamp,
    },
}

impl Before {
    /// What is committed beside the writer's offset: version 1; 0 for none, 1 for a file, followed by offset and arrival (8 bytes each, little endian). Nothing at all where nothing is known.
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Unknown => Vec::new(),
            Self::Nothing => vec![1, 0],
            Self::File { last_offset, last_arrival } => {
                let numbers = [last_offset.0.to_le_bytes(), last_arrival.as_micros().to_le_bytes()];
                [1, 1].into_iter().chain(numbers.into_iter().flatten()).collect()
            }
        }
    }

    /// Reads what a writer of raw lines committed beside its offset: where its last file ended. What is not understood, such as a newer version's, is not known.
    pub fn committed(metadata: &[u8]) -> Self {
        match metadata {
            [1, 0] => Self::Nothing,
            [1, 1, numbers @ ..] => match numbers.as_chunks::<8>() {
                ([offset, arrival], []) => Self::File {
                    last_offset: Offset(u64::from_le_bytes(*offset)),
                    last_arrival: Timestamp::from_micros(i64::from_le_bytes(*arrival)),
                },
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    /// The partition that it was read from.
    pub from: RawPartition,
    /// The offset of the first line's record.
    pub first_offset: Offset,
    /// Every line of the records from `first_offset` to this one is in the file.
    pub last_offset: Offset,
    /// The arrival of the record at `first_offset`.
    pub first_arrival: Timestamp,
    /// The arrival of the record at `last_offset`.
    pub last_arrival: Timestamp,
    /// How many lines it holds.
    pub rows: u64,
    /// How many of them have a reason why they were not counted.
    pub rejected: u64,
    /// The first and the last minute of its clicks without such a reason. `None`: there is none.
    pub minutes: Option<(Minute, Minute)>,
    /// The file before it.
    pub before: Before,
}

impl FileSpan {
    /// True where the file may hold a click of the minutes `[from, to)` that had no reason not to be counted when it was written.
    pub fn may_hold(&self, from: Minute, to: Minute) -> bool {
        self.minutes.is_some_and(|(first, last)| first < to && from <= last)
    }

    /// The import that brought its lines. `None`: they came through a queue.
    pub fn import(&self) -> Option<u32> {
        self.first_offset.import()
    }

    /// True where every line of another file is in this one too.
    pub fn covers(&self, other: &Self) -> bool {
        // Of a topic that was made anew offsets come again, but with later arrivals.
        self.from == other.from
            && self.first_offset <= other.first_offset
            && other.last_offset <= self.last_offset
            && self.first_arrival <= other.first_arrival
            && other.last_arrival <= self.last_arrival
    }

    /// The path of the file that begins with this line.
    pub(crate) fn path(folder: &str, from: &RawPartition, first_offset: Offset, first_arrival: Timestamp) -> String {
        let arrival = first_arrival.to_string();
        let day = arrival.split_once('T').map_or(arrival.as_str(), |(day, _)| day);
        let topic = PathPart::from(from.topic.as_ref());
        let millis = first_arrival.as_millis();
        format!("{folder}/date={day}/{}-{}-{:020}-{millis}.parquet", topic.as_ref(), from.partition, first_offset.0)
    }

    /// The path of the merged file of a folder that holds this.
    pub(super) fn path_of_merged(folder: &str, span: &Self) -> String {
        let topic = PathPart::from(span.from.topic.as_ref());
        let (partition, first, millis) = (span.from.partition, span.first_offset.0, span.first_arrival.as_millis());
        format!("{folder}/{}-{partition}-{first:020}-{millis}.to-{:020}.parquet", topic.as_ref(), span.last_offset.0)
    }

    /// The first arrival, as the name of a file says it.
    pub(crate) fn first_arrival_of(path: &str) -> Option<Timestamp> {
        let path = path.strip_suffix(".parquet")?;
        let (_, millis) = path.rsplit_once(".to-").map_or(path, |(first, _)| first).rsplit_once('-')?;
        Some(Timestamp::from_millis(millis.parse().ok()?))
    }

    /// The first line, as the name of a file says it: its partition, its record, and when that arrived, to the millisecond.
    pub fn first_line_of(path: &str) -> Option<(RawPartition, Offset, Timestamp)> {
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let arrival = Self::first_arrival_of(name)?;
        let name = name.rsplit_once(".to-").map_or(name, |(first, _)| first);
        let (name, _) = name.rsplit_once('-')?;
        let (name, offset) = name.rsplit_once('-')?;
        let (topic, partition) = name.rsplit_once('-')?;
        Some((RawPartition::new(topic, Partition(partition.parse().ok()?)), Offset(offset.parse().ok()?), arrival))
    }

    pub(crate) fn to_metadata(&self) -> Vec<KeyValue> {
        let format = if self.import().is_some() { FORMAT } else { FORMAT_OF_STREAM };
        let mut all = vec![
            ("format", format.to_string()),
            ("topic", self.from.topic.to_string()),
            ("partition", self.from.partition.to_string()),
            ("first_offset", self.first_offset.to_string()),
            ("last_offset", self.last_offset.to_string()),
            ("first_arrival", self.first_arrival.as_micros().to_string()),
            ("last_arrival", self.last_arrival.as_micros().to_string()),
            ("rows", self.rows.to_string()),
            ("rejected", self.rejected.to_string()),
        ];
        match self.before {
            Before::Unknown => {}
            Before::Nothing => all.push(("before_offset", NONE.to_owned())),
            Before::File { last_offset, last_arrival } => {
                all.push(("before_offset", last_offset.to_string()));
                all.push(("before_arrival", last_arrival.as_micros().to_string()));
            }
        }
        if let Some((first, last)) = self.minutes {
            all.push(("first_minute", first.to_string()));
            all.push(("last_minute", last.to_string()));
        }
        all.into_iter().map(|(key, value)| KeyValue::new(format!("clickmill.{key}"), value)).collect()
    }

    /// Reads it from a file's footer.
    pub fn read(files: &Files, path: &str) -> Result<Self, FilesError> {
        let source = files.open(path)?;
        let metadata = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Skip)
            .parse_and_finish(&source)
            .map_err(|error| source.failed(error))?;
        Self::of_metadata(&metadata).map_err(|why| source.failed(why))
    }

    pub(crate) fn of_metadata(metadata: &ParquetMetaData) -> Result<Self, String> {
        let pairs = metadata.file_metadata().key_value_metadata();
        let values: BTreeMap<&str, &str> = pairs
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair.key.strip_prefix("clickmill.")?, pair.value.as_deref()?)))
            .collect();
        let get = |key: &str| values.get(key).copied().ok_or_else(|| format!("its footer has no clickmill.{key}"));
        let format: u32 = number(get("format")?)?;
        if format > FORMAT {
            return Err(format!("it has format {format}, this clickmill reads up to {FORMAT}: use a newer one"));
        }
        let minute = |key: &str| -> Result<Minute, String> {
            let text = get(key)?;
            Minute::parse(text).ok_or_else(|| format!("{text:?} is no minute"))
        };
        let before = match values.get("before_offset") {
            None => Before::Unknown,
            Some(&NONE) => Before::Nothing,
            Some(offset) => Before::File {
                last_offset: Offset(number(offset)?),
                last_arrival: Timestamp::from_micros(number(get("before_arrival")?)?),
            },
        };
        let has_minutes = values.contains_key("first_minute");
        let span = Self {
            from: RawPartition::new(get("topic")?, Partition(number(get("partition")?)?)),
            first_offset: Offset(number(get("first_offset")?)?),
            last_offset: Offset(number(get("last_offset")?)?),
            first_arrival: Timestamp::from_micros(number(get("first_arrival")?)?),
            last_arrival: Timestamp::from_micros(number(get("last_arrival")?)?),
            rows: number(get("rows")?)?,
            rejected: number(get("rejected")?)?,
            minutes: if has_minutes { Some((minute("first_minute")?, minute("last_minute")?)) } else { None },
            before,
        };
        let rows = metadata.file_metadata().num_rows();
        if u64::try_from(rows) != Ok(span.rows) {
            return Err(format!("it has {rows} rows, its footer says {}", span.rows));
        }
        Ok(span)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// A file to read, and from which record on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The file's path.
    pub path: String,
    /// What it holds.
    pub span: FileSpan,
    /// Lines of records before this one are in another part.
    pub read_from: Offset,
}

/// Chooses from files what holds each line once: a file whose lines others hold is passed over, and one that begins with lines of another is read from behind those.
///
/// A topic that was deleted and made anew begins again at offset 0. Its records arrived later than all of the old one's, so that only files whose arrivals overlap too have lines in common.
///
/// The parts of a partition come one after the other: first what came through its queue, then import by import.
pub fn each_line_once(files: impl IntoIterator<Item = (String, FileSpan)>) -> Vec<Part> {
    let mut files: Vec<(String, FileSpan)> = files.into_iter().collect();
    files.sort_by_cached_key(|(_, span)| {
        let FileSpan { first_arrival, first_offset, last_offset, .. } = *span;
        (span.from.clone(), span.import(), first_arrival, first_offset, std::cmp::Reverse(last_offset))
    });
    let mut parts: Vec<Part> = Vec::new();
    for (path, span) in files {
        let before = parts.last().map(|part| &part.span).filter(|before| {
            before.from == span.from && before.import() == span.import() && span.first_arrival <= before.last_arrival
        });
        let read_from = match before {
            Some(before) if span.last_offset <= before.last_offset => continue,
            Some(before) => span.first_offset.max(before.last_offset.next()),
            None => span.first_offset,
        };
        parts.push(Part { path, span, read_from });
    }
    parts
}

/// The parts that hold each line of a folder (`raw` or `late`) once.
pub fn parts(files: &Files, folder: &str) -> Result<Vec<Part>, FilesError> {
    Ok(each_line_once(spans(files, folder)?.into_iter().map(|(listed, span)| (listed.path, span))))
}

/// Reads the footers of these files, several at once where that helps. In the order in which they were given; none behind one that cannot be had need be among them.
pub fn read_spans(files: &Files, listed: Vec<Listed>) -> Vec<(Listed, Result<FileSpan, FilesError>)> {
    let next = AtomicUsize::new(0);
    let read = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = listed.get(at) else { return };
            let span = FileSpan::read(files, &file.path);
            if !matches!(span, Ok(_) | Err(FilesError::Damaged { .. })) {
                // Nothing that comes after it matters.
                next.store(listed.len(), Ordering::Relaxed);
            }
            read.lock().insert(at, span);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..files.at_once().min(listed.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut read = read.into_inner();
    let all = listed.into_iter().enumerate();
    all.filter_map(|(at, listed)| Some((listed, read.remove(&at)?))).collect()
}

/// How often files are listed for one answer. Each time another one went meanwhile.
const MOST_LOOKS: u32 = 1000;

/// What each file of a folder holds.
pub fn spans(files: &Files, folder: &str) -> Result<Vec<(Listed, FileSpan)>, FilesError> {
    let mut gone = None;
    'anew: for _ in 0..MOST_LOOKS {
        let mut spans = Vec::new();
        for (listed, span) in read_spans(files, files.list(folder)?) {
            match span {
                Ok(span) => spans.push((listed, span)),
                // Its lines may stand in another one by now.
                Err(error @ FilesError::Gone { .. }) => {
                    gone = Some(error);
                    continue 'anew;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(spans);
    }
    Err(gone.unwrap_or(FilesError::Gone { path: files.shown(folder) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(partition: u32, offsets: (u64, u64), arrivals: (i64, i64)) -> FileSpan {
        FileSpan {
            from: RawPartition::new("ad-clicks", Partition(partition)),
            first_offset: Offset(offsets.0),
            last_offset: Offset(offsets.1),
            first_arrival: Timestamp::from_secs(arrivals.0),
            last_arrival: Timestamp::from_secs(arrivals.1),
            rows: 1,
            rejected: 0,
            minutes: None,
            before: Before::Unknown,
        }
    }

    #[test]
    fn the_name_depends_on_the_first_line_alone() {
        let path = |topic: &str, partition, offset, millis| {
            let from = RawPartition::new(topic, Partition(partition));
            FileSpan::path("raw", &from, Offset(offset), Timestamp::from_millis(millis))
        };
        assert_eq!(
            path("ad-clicks", 3, 4711, 1_609_459_201_000),
            "raw/date=2021-01-01/ad-clicks-3-00000000000000004711-1609459201000.parquet"
        );
        assert_eq!(
            path("a/../b", 0, u64::MAX, 1_640_995_199_999),
            "raw/date=2021-12-31/a%2F..%2Fb-0-18446744073709551615-1640995199999.parquet"
        );
    }

    #[test]
    fn the_name_says_when_the_first_line_arrived() {
        let from = RawPartition::new("a-1", Partition(3));
        let path = FileSpan::path("raw", &from, Offset(7), Timestamp::from_millis(1_609_459_201_000));
        assert_eq!(FileSpan::first_arrival_of(&path), Some(Timestamp::from_millis(1_609_459_201_000)));
        assert_eq!(FileSpan::first_arrival_of("raw/date=2021-01-01/notes.parquet"), None);
        assert_eq!(FileSpan::first_line_of(&path), Some((from, Offset(7), Timestamp::from_millis(1_609_459_201_000))));
        let merged = path.replace(".parquet", ".to-00000000000000000099.parquet");
        assert_eq!(FileSpan::first_line_of(&merged), FileSpan::first_line_of(&path));
        assert_eq!(FileSpan::first_line_of("raw/date=2021-01-01/of-somebody-else.parquet"), None);
    }

    #[test]
    fn each_line_is_taken_from_one_file() {
        // Files as (offsets, arrivals); expected: which of them, from where.
        type Given<'a> = &'a [((u64, u64), (i64, i64))];
        let check = |given: Given<'_>, expected: &[(usize, u64)]| {
            let spans: Vec<_> = given.iter().map(|(offsets, arrivals)| span(0, *offsets, *arrivals)).collect();
            for rotation in 0..spans.len() {
                let mut files: Vec<_> = spans.iter().enumerate().map(|(i, s)| (i.to_string(), s.clone())).collect();
                files.rotate_left(rotation);
                let parts = each_line_once(files);
                let found: Vec<_> = parts.iter().map(|p| (p.path.parse().unwrap(), p.read_from.0)).collect();
                assert_eq!(found, expected, "{given:?}");
            }
        };
        check(&[((0, 9), (1, 2)), ((10, 19), (2, 3))], &[(0, 0), (1, 10)]);
        check(&[((0, 5), (1, 2)), ((0, 9), (1, 2))], &[(1, 0)]);
        check(&[((0, 19), (1, 4)), ((0, 5), (1, 2)), ((10, 19), (3, 4))], &[(0, 0)]);
        check(&[((0, 9), (1, 3)), ((5, 12), (2, 4)), ((13, 14), (4, 4))], &[(0, 0), (1, 10), (2, 13)]);
        check(&[((0, 9), (1, 1)), ((10, 19), (1, 1))], &[(0, 0), (1, 10)]);
        // A topic made anew.
        check(&[((0, 9), (1, 2)), ((0, 99), (3, 4))], &[(0, 0), (1, 0)]);
        check(&[((0, 99), (1, 2)), ((0, 9), (3, 4)), ((10, 19), (4, 5))], &[(0, 0), (1, 0), (2, 10)]);
        // Imports, which arrived while lines came through the queue: behind all of those.
        let at = |import, place| Offset::imported(import, place).unwrap().0;
        let (first, second) = ((at(1, 0), at(1, 9)), (at(2, 0), at(2, 5)));
        check(
            &[((0, 9), (1, 5)), ((10, 19), (5, 6)), (first, (3, 3)), (second, (2, 2))],
            &[(0, 0), (1, 10), (2, first.0), (3, second.0)],
        );
        check(&[((at(1, 4), at(1, 9)), (3, 3)), ((at(1, 0), at(1, 6)), (3, 3))], &[(1, at(1, 0)), (0, at(1, 7))]);
    }

    #[test]
    fn what_is_committed_beside_the_offset_is_read_back() {
        let file = Before::File { last_offset: Offset(u64::MAX), last_arrival: Timestamp::from_micros(-5) };
        for before in [Before::Unknown, Before::Nothing, file] {
            assert_eq!(Before::committed(&before.encode()), before);
        }
        for foreign in [&[2, 0][..], &[1], &[1, 1, 0], b"something"] {
            assert_eq!(Before::committed(foreign), Before::Unknown);
        }
    }

    #[test]
    fn partitions_have_nothing_in_common() {
        let files = [(0, "a"), (1, "b")].map(|(p, path)| (path.to_owned(), span(p, (0, 9), (1, 2))));
        assert_eq!(each_line_once(files).len(), 2);
    }
}
