//! The list of imports: small JSON files in `imports/`, numbered from 1, each created once and never changed.
//!
//! `000001.json` says what an import brings ([`Import`]), and is there before any of its lines. `000001.end.json` says how it ended ([`End`]): all its lines are durable, or it was dropped. Whoever reads raw lines
//! takes those of imports that are done, and no others. Both are created by put-if-absent: of several processes that begin the same number, or end the same import, one does.

use std::collections::BTreeMap;

use clickmill_model::{Minute, Partition, PartitionBy, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::raw::files::{Files, FilesError, Published};

/// The folder of the list.
pub const IMPORTS_FOLDER: &str = "imports";

/// The newest format of its files that is understood, and the one that is written.
pub(super) const FORMAT: u32 = 1;

/// What a log file holds, or a part of it from its beginning on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Content {
    /// How many bytes, decompressed.
    pub bytes: u64,
    /// XXH3 (128 bits) of these bytes, in hexadecimal digits.
    pub xxh3: String,
}

/// A log file, by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Where it was when it was imported.
    pub path: String,
    /// What it held.
    #[serde(flatten)]
    pub content: Content,
}

/// What an import brings: the lines of these files, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The format of this description.
    pub format: u32,
    /// Its number, from 1.
    pub number: u32,
    /// The raw topic whose clicks the lines are told with: duplicates are removed among both.
    pub topic: String,
    /// How many partitions that has.
    pub partitions: u32,
    /// What chooses the partition of a line.
    pub partition_by: PartitionBy,
    /// When it began, which is when its lines arrived, in microseconds since the epoch. Later than that of the import before.
    pub arrival: Timestamp,
    /// How far a click may be ahead of that before its clock is wrong, in milliseconds.
    pub max_clock_skew_ms: u64,
    /// The files.
    pub files: Vec<LogFile>,
}

/// What an import brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// How many lines into each partition.
    pub lines: BTreeMap<Partition, u64>,
    /// How many of all of them are no clicks, or have a wrong clock.
    pub rejected: u64,
    /// The first and the last minute of the others. `None`: there is none.
    pub minutes: Option<(Minute, Minute)>,
}

/// How an import ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All of its lines are durable.
    Done(Brought),
    /// It was given up. None of its lines counts.
    Dropped,
}

/// An import and how it ended, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it brings.
    pub import: Import,
    /// How it ended.
    pub end: Option<End>,
}

impl Entry {
    /// True where it was given up.
    pub fn is_dropped(&self) -> bool {
        self.end == Some(End::Dropped)
    }

    /// What it brought, where it is done.
    pub fn brought(&self) -> Option<&Brought> {
        match &self.end {
            Some(End::Done(brought)) => Some(brought),
            Some(End::Dropped) | None => None,
        }
    }
}

/// All imports, by their numbers.
pub fn imports(files: &Files) -> Result<Vec<Entry>, FilesError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut ends: BTreeMap<u32, String> = BTreeMap::new();
    // An end is listed with its beginning or without: it came later.
    for path in files.list_documents(IMPORTS_FOLDER)? {
        let Some(name) = path.rsplit('/').next().and_then(|name| name.strip_suffix(".json")) else { continue };
        if let Some(number) = name.strip_suffix(".end").and_then(|number| number.parse().ok()) {
            ends.insert(number, path);
        } else if let Ok(number) = name.parse::<u32>() {
            let import: Import = read(files, &path)?;
            if import.format > FORMAT {
                let (format, path) = (import.format, files.shown(&path));
                let why = format!("it has format {format}, this clickmill reads up to {FORMAT}: use a newer one");
                return Err(FilesError::Damaged { path, why });
            }
            if import.number != number {
                let why = format!("it describes import {}, not the one of its name", import.number);
                return Err(FilesError::Damaged { path: files.shown(&path), why });
            }
            entries.push(Entry { import, end: None });
        }
    }
    entries.sort_by_key(|entry| entry.import.number);
    for entry in &mut entries {
        if let Some(path) = ends.get(&entry.import.number) {
            entry.end = Some(read(files, path)?);
        }
    }
    Ok(entries)
}

/// Begins an import under its number. False where another one has that.
pub(super) fn begin(files: &Files, import: &Import) -> Result<bool, FilesError> {
    let published = write(files, &format!("{IMPORTS_FOLDER}/{:06}.json", import.number), import)?;
    Ok(published == Published::Created)
}

/// Ends an import, unless it has ended. Returns how it did.
pub(super) fn end(files: &Files, number: u32, end: End) -> Result<End, FilesError> {
    let path = format!("{IMPORTS_FOLDER}/{number:06}.end.json");
    match write(files, &path, &end)? {
        Published::Created => Ok(end),
        Published::Taken => read(files, &path),
    }
}

fn read<T: DeserializeOwned>(files: &Files, path: &str) -> Result<T, FilesError> {
    let bytes = files.read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| FilesError::Damaged { path: files.shown(path), why: error.to_string() })
}

fn write<T: Serialize>(files: &Files, path: &str, content: &T) -> Result<Published, FilesError> {
    let unwritable = |why: String| FilesError::Unavailable { what: "writing", path: files.shown(path), why };
    let mut sink = files.begin()?;
    serde_json::to_writer_pretty(&mut sink, content).map_err(|error| unwritable(error.to_string()))?;
    files.publish(sink, path)
}
