//! Which raw files there are, what their footers say, and which lines to take from which.
//!
//! Written for the auditor alone, from the description of the format (`db-writer/src/raw/span.rs`): the writer's own reader is not asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clickmill_model::{Minute, Offset, Partition, RawPartition, Timestamp};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde::Serialize;

use crate::error::{Held, ReconcileError, Result};
use crate::imports::{Imported, Imports, imports};
use crate::time::minute_of;

/// The newest format of raw files that is understood.
const FORMAT: u32 = 2;

/// The columns that are read, each of which a raw file must have.
const COLUMNS: [&str; 12] = [
    "topic",
    "partition",
    "offset",
    "line_number",
    "arrival",
    "ad_id",
    "click_timestamp",
    "user_id",
    "ip",
    "country",
    "reason",
    "line",
];

/// Where the files are.
#[derive(Debug, Clone)]
pub struct FileStore {
    /// The store, whose root holds `raw/` and `late/`.
    pub store: Arc<dyn ObjectStore>,
    /// The root as people know it, so that they are told paths that they can open.
    pub root: String,
}

impl FileStore {
    /// A file's path as people know it.
    pub fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    /// Reads a file to its end, which is where its listing said.
    pub(crate) async fn fetch(&self, file: &ObjectMeta) -> object_store::Result<()> {
        let mut pieces = self.store.get(&file.location).await?.into_stream();
        let mut count = 0;
        while let Some(piece) = pieces.try_next().await? {
            count += piece.len() as u64;
        }
        demand(file.size, count)
    }

    /// Why the bytes of a file cannot be had: it is gone, or whatever holds it does not answer, which says nothing about the file.
    pub(crate) fn unreadable(&self, path: &str, file: Option<&RawFile>, error: &object_store::Error) -> ReconcileError {
        let path = self.shown(path);
        match error {
            object_store::Error::NotFound { .. } => {
                let held = file.map(|file| {
                    let RawFile { raw, offsets, arrivals, minutes, .. } = file.clone();
                    Box::new(Held { raw, offsets, arrivals, minutes })
                });
                ReconcileError::Gone { path, held }
            }
            error => ReconcileError::Unavailable { what: format!("reading {path}"), why: error.to_string() },
        }
    }
}

/// Refuses an answer that is shorter than what was asked for: an object store may break off, and say that this was all.
fn demand(wanted: u64, found: u64) -> object_store::Result<()> {
    if wanted == found {
        return Ok(());
    }
    let source = format!("it answered with {found} bytes of {wanted}").into();
    Err(object_store::Error::Generic { store: "the object store", source })
}

/// A run of rows of a file, as its statistics describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: u64,
    /// The first and the last minute of clicks by the columns. `None`: there is no click.
    pub(crate) minutes: Option<(Minute, Minute)>,
    /// Whether lines are kept beside the columns.
    pub(crate) keeps_lines: bool,
}

/// A raw file, by its footer.
#[derive(Debug, Clone)]
pub(crate) struct RawFile {
    pub(crate) meta: ObjectMeta,
    pub(crate) raw: RawPartition,
    pub(crate) offsets: (Offset, Offset),
    pub(crate) arrivals: (Timestamp, Timestamp),
    pub(crate) rejected: u64,
    pub(crate) minutes: Option<(Minute, Minute)>,
    /// Where the file before it ended. `Some(None)`: there was none; `None`: not known.
    pub(crate) before: Option<Option<(Offset, Timestamp)>>,
    pub(crate) groups: Vec<Group>,
    /// Which offsets to take from it: the others stand in files that are taken before.
    pub(crate) take: Range<u64>,
}

/// A file that was left out, as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Which file.
    pub path: String,
    /// What is wrong with it, and what it held.
    pub why: String,
}

/// How far the writer of raw lines has come with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Every line before this offset is in a file.
    pub next: Offset,
    /// The last record of the last file, where there is one and it is known.
    pub last: Option<(Offset, Timestamp)>,
}

/// What to take from `raw/` or `late/`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) files: Vec<RawFile>,
    /// The imports whose lines are taken.
    pub(crate) imports: Vec<Imported>,
    /// How many files were passed over because others hold their lines.
    pub(crate) covered: u64,
    pub(crate) skipped: Vec<Skipped>,
}

/// Why a folder cannot be listed.
pub(crate) fn unlisted(files: &FileStore, folder: &str, error: &object_store::Error) -> ReconcileError {
    use object_store::Error as Store;
    let (what, why) = (format!("listing {}", files.shown(folder)), error.to_string());
    // Of a folder that is not there an empty list would have come. S3's listings tell their status in words alone.
    let is_refused =
        matches!(error, Store::PermissionDenied { .. } | Store::Unauthenticated { .. } | Store::NotFound { .. })
            || ["status code: 401", "status code: 403", "<Code>NoSuchBucket</Code>"]
                .iter()
                .any(|said| why.contains(said));
    if is_refused { ReconcileError::Refused { what, why } } else { ReconcileError::Unavailable { what, why } }
}

/// How far the clocks of the queue and of what holds the files are apart at most.
const CLOCKS_APART: Duration = Duration::from_secs(86_400);

/// How many footers are read at once: where each is a request, waiting for many takes as long as for one.
const FOOTERS_AT_ONCE: usize = 16;

/// Lists a folder and reads the footer of each file that may hold lines which arrived after `since`: one that was written before that holds none. What cannot be relied on is an error, or is skipped and told of.
/// Imported lines are taken as the list says that was read before.
pub(crate) async fn list(
    files: &FileStore,
    folder: &str,
    Imports { done, mut known }: Imports,
    since: Timestamp,
    skip_damaged: bool,
) -> Result<Catalog> {
    let may_matter =
        |meta: &ObjectMeta| Timestamp::from_micros(meta.last_modified.timestamp_micros()).after(CLOCKS_APART) >= since;
    let unavailable = |error: object_store::Error| unlisted(files, folder, &error);
    let list = || async {
        let folder = object_store::path::Path::from(folder);
        let all: Vec<ObjectMeta> = files.store.list(Some(&folder)).try_collect().await.map_err(unavailable)?;
        let files = all.into_iter().filter(|meta| meta.location.as_ref().ends_with(".parquet"));
        Ok::<Vec<ObjectMeta>, ReconcileError>(files.collect())
    };
    let mut before = list().await?;
    'anew: for _ in 0..MOST_LOOKS {
        // A listing takes a while. Files may be merged meanwhile, into one that stands where it has been already: what was there when this one began is whole only if nothing of the one before is gone.
        let listed = list().await?;
        let now: HashSet<&str> = listed.iter().map(|meta| meta.location.as_ref()).collect();
        let is_whole = before.iter().all(|meta| now.contains(meta.location.as_ref()));
        before.clone_from(&listed);
        if !is_whole {
            continue;
        }
        let named = |meta: &ObjectMeta| offset_in_name(meta.location.as_ref());
        let import_of = |meta: &ObjectMeta| named(meta).and_then(Offset::import);
        if listed.iter().filter_map(import_of).any(|number| !known.contains(&number)) {
            // It may have begun since the list was read.
            known = imports(files).await?.known;
            if let Some(number) = listed.iter().filter_map(import_of).find(|number| !known.contains(number)) {
                let why = format!("the list of imports lacks import {number}, of which there are lines: restore it");
                return Err(ReconcileError::Damaged { path: files.shown("imports"), minutes: None, why });
            }
        }
        let mut catalog = Catalog { imports: done.clone(), ..Catalog::default() };
        let counts =
            |line: Offset| line.import().is_none_or(|number| done.iter().any(|import| import.number == number));
        // What an import began to write that never ended may be anything.
        let wanted = listed.into_iter().filter(|meta| may_matter(meta) && named(meta).is_none_or(counts));
        let mut footers =
            futures_util::stream::iter(wanted.map(|meta| read_footer(files, meta))).buffered(FOOTERS_AT_ONCE);
        while let Some(footer) = footers.next().await {
            match footer {
                Ok(file) if !counts(file.offsets.0) => {}
                Ok(file) => catalog.files.push(file),
                Err(ReconcileError::Gone { .. }) => continue 'anew,
                Err(error) => skip(&mut catalog.skipped, error, skip_damaged)?,
            }
        }
        take_each_line_once(&mut catalog);
        return Ok(catalog);
    }
    let why = "files go faster than they can be listed".to_owned();
    Err(ReconcileError::Unavailable { what: format!("listing {}", files.shown(folder)), why })
}

impl Catalog {
    /// Refuses, or notes, that a file is gone of which no other one has the lines.
    pub(crate) fn must_hold(&mut self, path: &str, held: &Held, skip_damaged: bool) -> Result<()> {
        let Held { raw, offsets, arrivals, minutes } = held;
        let has_it = |file: &RawFile| {
            let within = file.offsets.0 <= offsets.0 && offsets.1 <= file.offsets.1;
            file.raw == *raw && within && file.arrivals.0 <= arrivals.0 && arrivals.1 <= file.arrivals.1
        };
        if self.files.iter().any(has_it) {
            return Ok(());
        }
        let (path, why) = (path.to_owned(), "it was deleted after it was listed".to_owned());
        skip(&mut self.skipped, ReconcileError::Damaged { path, minutes: *minutes, why }, skip_damaged)
    }
}

/// How often files are listed for one answer. Each time another one went meanwhile.
const MOST_LOOKS: u32 = 1000;

/// Notes what is left out, where that was asked.
pub(crate) fn skip(skipped: &mut Vec<Skipped>, error: ReconcileError, skip_damaged: bool) -> Result<()> {
    let (path, why) = match &error {
        ReconcileError::Damaged { path, why, minutes } => {
            let held = minutes.map_or_else(String::new, |(first, last)| format!(" (clicks of {first} to {last})"));
            (path.clone(), format!("{why}{held}"))
        }
        ReconcileError::Missing { raw, .. } => (raw.to_string(), error.to_string()),
        _ => return Err(error),
    };
    if !skip_damaged {
        return Err(error);
    }
    if !skipped.iter().any(|other| other.path == path && other.why == why) {
        skipped.push(Skipped { path, why });
    }
    Ok(())
}

/// The offset of the first line, as a file's name says it: `{topic}-{partition}-{offset}-{arrival}`, and for a merged one `.to-{offset}`.
fn offset_in_name(path: &str) -> Option<Offset> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let name = name.split_once(".to-").map_or(name, |(first, _)| first);
    let (name, _) = name.rsplit_once('-')?;
    let (_, offset) = name.rsplit_once('-')?;
    offset.parse().ok().map(Offset)
}

async fn read_footer(files: &FileStore, meta: ObjectMeta) -> Result<RawFile> {
    let path = files.shown(meta.location.as_ref());
    let damaged = |why: String| ReconcileError::Damaged { path: path.clone(), minutes: None, why };
    if meta.size == 0 {
        return Err(damaged("it is empty".into()));
    }
    let fetch = Fetch { store: &*files.store, path: &meta.location };
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    let footer = match reader.load_and_finish(fetch, meta.size).await {
        Ok(footer) => footer,
        Err(ParquetError::External(error)) if error.is::<object_store::Error>() => {
            return Err(match error.downcast_ref() {
                Some(error) => files.unreadable(meta.location.as_ref(), None, error),
                None => damaged(error.to_string()),
            });
        }
        Err(error) => return Err(damaged(error.to_string())),
    };
    RawFile::of_footer(meta, &footer).map_err(damaged)
}

/// Fetches parts of a file.
struct Fetch<'a> {
    store: &'a dyn ObjectStore,
    path: &'a object_store::path::Path,
}

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let (store, path) = (self.store, self.path);
        let fetched = async move {
            let bytes = store.get_range(path, range.clone()).await?;
            demand(range.end - range.start, bytes.len() as u64).map(|()| bytes)
        };
        Box::pin(fetched.map_err(|error: object_store::Error| ParquetError::External(Box::new(error))))
    }
}

impl RawFile {
    /// The import that brought its lines, if one did.
    pub(crate) fn import(&self) -> Option<u32> {
        self.offsets.0.import()
    }

    fn of_footer(meta: ObjectMeta, footer: &ParquetMetaData) -> Result<Self, String> {
        let pairs = footer.file_metadata().key_value_metadata().map(Vec::as_slice).unwrap_or_default();
        let values: HashMap<&str, &str> =
            pairs.iter().filter_map(|pair| Some((pair.key.as_str(), pair.value.as_deref()?))).collect();
        let text = |key: &str| {
            let found = values.get(format!("clickmill.{key}").as_str()).copied();
            found.ok_or_else(|| format!("it is none of clickmill's files: its footer has no clickmill.{key}"))
        };
        let number = |key: &str| text(key)?.parse::<i64>().map_err(|_| format!("clickmill.{key} is no number"));
        let offset =
            |key: &str| u64::try_from(number(key)?).map(Offset).map_err(|_| format!("clickmill.{key} is negative"));
        let time = |key: &str| number(key).map(Timestamp::from_micros);
        let minute = |key: &str| {
            let text = text(key)?;
            Minute::parse(text).ok_or_else(|| format!("clickmill.{key} is {text:?}, which is no minute"))
        };
        let format = number("format")?;
        if format > i64::from(FORMAT) {
            return Err(format!("it has format {format}, this program reads up to {FORMAT}: use a newer one"));
        }
        for name in COLUMNS {
            if !footer.file_metadata().schema_descr().columns().iter().any(|column| column.name() == name) {
                return Err(format!("it has another schema: there is no column {name}"));
            }
        }
        let partition =
            u32::try_from(number("partition")?).map_err(|_| "clickmill.partition is negative".to_owned())?;
        let before = match values.get("clickmill.before_offset") {
            None => None,
            Some(&"none") => Some(None),
            Some(_) => Some(Some((offset("before_offset")?, time("before_arrival")?))),
        };
        let has_minutes = values.contains_key("clickmill.first_minute");
        let minutes = if has_minutes { Some((minute("first_minute")?, minute("last_minute")?)) } else { None };
        let rows = u64::try_from(number("rows")?).unwrap_or_default();
        let counted: i64 = footer.row_groups().iter().map(RowGroupMetaData::num_rows).sum();
        if u64::try_from(counted) != Ok(rows) {
            return Err(format!("it has {counted} rows, its footer says {rows}"));
        }
        let offsets = (offset("first_offset")?, offset("last_offset")?);
        Ok(Self {
            meta,
            raw: RawPartition::new(text("topic")?, Partition(partition)),
            offsets,
            arrivals: (time("first_arrival")?, time("last_arrival")?),
            rejected: u64::try_from(number("rejected")?).unwrap_or_default(),
            minutes,
            before,
            groups: footer.row_groups().iter().map(Group::of).collect(),
            take: offsets.0.0..offsets.1.0.saturating_add(1),
        })
    }
}

impl Group {
    fn of(group: &RowGroupMetaData) -> Self {
        let rows = u64::try_from(group.num_rows()).unwrap_or_default();
        let statistics = |name: &str| {
            let column = group.columns().iter().find(|column| column.column_descr().name() == name)?;
            column.statistics()
        };
        let minutes = match statistics("click_timestamp") {
            Some(Statistics::Int64(times)) => {
                times.min_opt().zip(times.max_opt()).map(|(first, last)| (minute_of(*first), minute_of(*last)))
            }
            _ => None,
        };
        // What is not known may be anything.
        let nulls = statistics("line").and_then(Statistics::null_count_opt);
        Self { rows, minutes, keeps_lines: nulls != Some(rows) }
    }
}

/// Decides which offsets to take from which file. Within a partition the files are taken in the order of their arrivals, the longest first: what reaches no further than those before is passed over, what overlaps
/// them is taken from behind them. A topic that was made anew begins again at a low offset, but arrives later than all that was before.
/// Imports stand behind the partition's queue, each by itself.
fn take_each_line_once(catalog: &mut Catalog) {
    let mut reached: BTreeMap<(RawPartition, Option<u32>), (Offset, Timestamp)> = BTreeMap::new();
    catalog.files.sort_by(|a, b| {
        (&a.raw, a.import(), a.arrivals.0, a.offsets.0)
            .cmp(&(&b.raw, b.import(), b.arrivals.0, b.offsets.0))
            .then(b.offsets.1.cmp(&a.offsets.1))
    });
    let before = catalog.files.len();
    catalog.files.retain_mut(|file| {
        let end = (file.offsets.1, file.arrivals.1);
        let of = (file.raw.clone(), file.import());
        match reached.get(&of) {
            Some((offset, arrival)) if file.arrivals.0 <= *arrival => {
                if file.offsets.1 <= *offset {
                    return false;
                }
                file.take.start = file.take.start.max(offset.0 + 1);
            }
            _ => {}
        }
        reached.insert(of, end);
        true
    });
    catalog.covered = (before - catalog.files.len()) as u64;
}

impl Catalog {
    /// Names the files that should be there, as those behind them say, or as the writer does, and whose lines may be clicks of the minutes `[from, to)`: no click is later than its arrival and what a clock
    /// may be ahead.
    pub(crate) fn missing(
        &self,
        written: &BTreeMap<RawPartition, Written>,
        (from, to): (Minute, Minute),
        skew: Duration,
    ) -> Vec<ReconcileError> {
        let mut ends: BTreeMap<&RawPartition, Offset> = BTreeMap::new();
        let mut missing = Vec::new();
        let mut look = |raw: &RawPartition, end: Option<(Offset, Timestamp)>, have: Option<Offset>, told_by: String| {
            if let Some((last_offset, last_arrival)) = end
                && have.is_none_or(|have| have < last_offset)
                && last_arrival.after(skew) >= from.start()
            {
                missing.push(ReconcileError::Missing { raw: raw.clone(), last_offset, last_arrival, told_by });
            }
        };
        for file in self.files.iter().filter(|file| file.import().is_none()) {
            look(&file.raw, file.before.flatten(), ends.get(&file.raw).copied(), file.meta.location.to_string());
            ends.insert(&file.raw, file.offsets.1);
        }
        for (raw, written) in written {
            look(raw, written.last, ends.get(raw).copied(), "the writer of raw lines".into());
        }
        missing.extend(self.imports.iter().flat_map(|import| import.missing(&self.files, (from, to), skew)));
        missing
    }

    /// Leaves out lines that were written after these offsets were noted, so that all steps see the same. Of a topic that was made anew, the offset is one of the newest.
    pub(crate) fn pin(&mut self, written: &BTreeMap<RawPartition, Written>) {
        let mut next: Option<(RawPartition, Offset)> = None;
        let mut is_older = false;
        for file in self.files.iter_mut().rev() {
            if file.import().is_some() {
                continue;
            }
            is_older = match &next {
                Some((raw, first)) if *raw == file.raw => is_older || file.offsets.0 >= *first,
                _ => false,
            };
            next = Some((file.raw.clone(), file.offsets.0));
            if let Some(pin) = written.get(&file.raw).filter(|_| !is_older) {
                file.take.end = file.take.end.min(pin.next.0);
            }
        }
        self.files.retain(|file| !file.take.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(offsets: (u64, u64), arrivals: (i64, i64)) -> RawFile {
        RawFile {
            meta: ObjectMeta {
                location: format!("raw/{}-{}", offsets.0, offsets.1).into(),
                last_modified: Default::default(),
                size: 1,
                e_tag: None,
                version: None,
            },
            raw: RawPartition::new("ad-clicks", Partition(0)),
            offsets: (Offset(offsets.0), Offset(offsets.1)),
            arrivals: (Timestamp::from_secs(arrivals.0), Timestamp::from_secs(arrivals.1)),
            rejected: 0,
            minutes: None,
            before: None,
            groups: Vec::new(),
            take: offsets.0..offsets.1 + 1,
        }
    }

    type Given<'a> = &'a [((u64, u64), (i64, i64))];

    fn catalog(given: Given<'_>) -> Catalog {
        let files = given.iter().map(|(offsets, arrivals)| file(*offsets, *arrivals)).collect();
        let mut catalog = Catalog { files, ..Catalog::default() };
        take_each_line_once(&mut catalog);
        catalog
    }

    #[test]
    fn each_line_is_taken_from_one_file() {
        let check = |given: Given<'_>, expected: &[(u64, u64)]| {
            for rotation in 0..given.len() {
                let mut given = given.to_vec();
                given.rotate_left(rotation);
                let catalog = catalog(&given);
                let taken: Vec<_> = catalog.files.iter().map(|file| (file.take.start, file.take.end)).collect();
                assert_eq!(taken, expected, "{given:?}");
                assert_eq!(catalog.covered, (given.len() - expected.len()) as u64);
            }
        };
        check(&[((0, 9), (1, 2)), ((10, 19), (2, 3))], &[(0, 10), (10, 20)]);
        check(&[((0, 5), (1, 2)), ((0, 9), (1, 2))], &[(0, 10)]);
        check(&[((0, 19), (1, 4)), ((0, 5), (1, 2)), ((10, 19), (3, 4))], &[(0, 20)]);
        check(&[((0, 9), (1, 3)), ((5, 12), (2, 4)), ((13, 14), (4, 4))], &[(0, 10), (10, 13), (13, 15)]);
        // A topic made anew.
        check(&[((0, 99), (1, 2)), ((0, 9), (3, 4)), ((10, 19), (4, 5))], &[(0, 100), (0, 10), (10, 20)]);
    }

    #[test]
    fn lines_behind_a_pin_are_left_out_of_the_newest_log_alone() {
        let mut catalog = catalog(&[((0, 99), (1, 2)), ((0, 9), (3, 4)), ((10, 19), (4, 5)), ((20, 29), (5, 6))]);
        let raw = RawPartition::new("ad-clicks", Partition(0));
        catalog.pin(&[(raw, Written { next: Offset(15), last: None })].into());
        let taken: Vec<_> = catalog.files.iter().map(|file| file.take.clone()).collect();
        assert_eq!(taken, [0..100, 0..10, 10..15]);
    }

    #[test]
    fn a_file_that_is_gone_is_missed_by_the_next_one_or_by_the_writer() {
        let mut catalog = catalog(&[((0, 9), (60, 120)), ((20, 29), (240, 300))]);
        catalog.files[1].before = Some(Some((Offset(19), Timestamp::from_secs(200))));
        let raw = RawPartition::new("ad-clicks", Partition(0));
        let check = |from: i64, last: u64, expected: usize| {
            let written =
                [(raw.clone(), Written { next: Offset(0), last: Some((Offset(last), Timestamp::from_secs(400))) })]
                    .into();
            let span = (Minute::from_epoch(from), Minute::from_epoch(1000));
            let missing = catalog.missing(&written, span, Duration::from_secs(60));
            assert_eq!(missing.len(), expected, "{missing:?}");
        };
        check(4, 29, 1);
        check(4, 39, 2);
        // All of it arrived, with what its clocks may be ahead, before the span.
        check(5, 29, 0);
        check(8, 39, 0);
    }
}
