//! The imports of old log files that are done, from the list in `imports/`. Written for the auditor alone, from the description in `docs/raw-files.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickmill_model::{Minute, Offset, Partition, RawPartition, Timestamp};
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{ReconcileError, Result};
use crate::files::{FileStore, RawFile, unlisted};

/// The folder of the list.
const FOLDER: &str = "imports";

/// The newest format of the list that is understood.
const FORMAT: u32 = 1;

/// How an import begins, as far as that matters here.
#[derive(Debug, Deserialize)]
struct Begun {
    format: u32,
    number: u32,
    topic: String,
    arrival: i64,
}

/// How it ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    Done(Brought),
    Dropped,
}

#[derive(Debug, Clone, Deserialize)]
struct Brought {
    lines: BTreeMap<Partition, u64>,
    rejected: u64,
    minutes: Option<(Minute, Minute)>,
}

/// An import that is done.
#[derive(Debug, Clone)]
pub(crate) struct Imported {
    pub(crate) number: u32,
    topic: String,
    arrival: Timestamp,
    brought: Brought,
}

/// The list.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    /// Those that are done, by number.
    pub(crate) done: Vec<Imported>,
    /// The numbers of all.
    pub(crate) known: BTreeSet<u32>,
}

/// Reads the list.
pub(crate) async fn imports(files: &FileStore) -> Result<Imports> {
    let folder = object_store::path::Path::from(FOLDER);
    let listed: Vec<ObjectMeta> =
        files.store.list(Some(&folder)).try_collect().await.map_err(|error| unlisted(files, FOLDER, &error))?;
    let mut done = Vec::new();
    for end in listed.iter().filter(|meta| meta.location.as_ref().ends_with(".end.json")) {
        let Ended::Done(brought) = read(files, &end.location).await? else { continue };
        let begun = end.location.as_ref().replace(".end.json", ".json");
        let Begun { format, number, topic, arrival } = read(files, &begun.as_str().into()).await?;
        if format > FORMAT {
            let why = format!("it has format {format}, this program reads up to {FORMAT}: use a newer one");
            return Err(ReconcileError::Damaged { path: files.shown(&begun), minutes: None, why });
        }
        done.push(Imported { number, topic, arrival: Timestamp::from_micros(arrival), brought });
    }
    done.sort_by_key(|import| import.number);
    let names = listed.iter().filter_map(|meta| meta.location.filename()?.strip_suffix(".json")?.parse().ok());
    Ok(Imports { done, known: names.collect() })
}

async fn read<T: DeserializeOwned>(files: &FileStore, path: &object_store::path::Path) -> Result<T> {
    let unreadable = |error: object_store::Error| files.unreadable(path.as_ref(), None, &error);
    let bytes = files.store.get(path).await.map_err(unreadable)?.bytes().await.map_err(unreadable)?;
    serde_json::from_slice(&bytes).map_err(|error| ReconcileError::Damaged {
        path: files.shown(path.as_ref()),
        minutes: None,
        why: error.to_string(),
    })
}

impl Imported {
    /// Names lines of it that no file holds (the files are in the order of their offsets), where it may have clicks of the minutes `[from, to)`.
    pub(crate) fn missing(
        &self,
        files: &[RawFile],
        (from, to): (Minute, Minute),
        skew: Duration,
    ) -> Vec<ReconcileError> {
        let Brought { lines, rejected, minutes } = &self.brought;
        // A line that was refused may be a click, of a minute up to its arrival and what a clock may be ahead.
        let may_be_one = *rejected > 0 && self.arrival.after(skew) >= from.start();
        if !may_be_one && minutes.is_none_or(|(first, last)| last < from || to <= first) {
            return Vec::new();
        }
        let mut missing = Vec::new();
        for (partition, lines) in lines {
            let raw = RawPartition::new(&self.topic, *partition);
            let (Some(mut next), Some(last_offset)) =
                (Offset::imported(self.number, 0), Offset::imported(self.number, lines.saturating_sub(1)))
            else {
                continue;
            };
            for file in files.iter().filter(|file| file.raw == raw && file.import() == Some(self.number)) {
                if file.offsets.0 > next {
                    break;
                }
                next = file.offsets.1.next();
            }
            if next <= last_offset {
                let told_by = format!("the list of imports (import {})", self.number);
                missing.push(ReconcileError::Missing { raw, last_offset, last_arrival: self.arrival, told_by });
            }
        }
        missing
    }
}
