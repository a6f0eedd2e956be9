//! Old log files become raw lines, apart from the stream: each line once, whatever is interrupted and whoever does it again.
//!
//! An import is first written into a list ([`ledger`]), with the content of its files, its number, and when its lines arrived. From then on everything about its lines is settled: their order, their partitions, their
//! offsets ([`Offset::imported`]). Whoever begins it again, here or elsewhere, takes what is durable by then and writes the rest. When all of it is durable its end is written into the list; until then no reader
//! of ours takes any of its lines. A file is known by its content: under whatever name, compressed or not, its lines are imported once.
//!
//! The lines stand in the partitions of a raw topic, behind all that came through its queue, so that a click that the pipeline has counted already is the duplicate that it is.

mod ledger;
mod log;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_model::{Offset, PartitionBy, Timestamp};
use thiserror::Error;

use super::RAW_FOLDER;
use super::files::{Files, FilesError};
use super::span::FileSpan;
use super::writer::Rolling;
use log::Surveyed;
use writer::Writer;

pub use ledger::{Brought, Content, End, Entry, IMPORTS_FOLDER, Import, LogFile, imports};

/// Why log files could not be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// A log file cannot be read.
    #[error("{}: {error}", path.display())]
    Log {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: io::Error,
    },
    /// A log file is not what it was when the import began.
    #[error("{} was changed while it was read: import {import} is given up, and nothing of it counts; run it again", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// The import.
        import: u32,
    },
    /// A log file was imported when it was shorter.
    #[error("the first {bytes} bytes of {} are in import {import} already: give a file with what comes after them", path.display())]
    Grown {
        /// Which file.
        path: PathBuf,
        /// How much of it.
        bytes: u64,
        /// The import.
        import: u32,
    },
    /// The last line of a log file has no end.
    #[error("the last line of {} has no end: wait until it is written whole, or say by --complete that it is", path.display())]
    Unended {
        /// Which file.
        path: PathBuf,
    },
    /// A file was imported to another topic.
    #[error("{path} belongs to import {import}, which is told with {topic}")]
    OtherTopic {
        /// Which file.
        path: String,
        /// The import.
        import: u32,
        /// Its topic.
        topic: String,
    },
    /// A file belongs to an import that has not come to its end.
    #[error(
        "{path} belongs to import {import}, which has not come to its end: wait where another process writes it, else give its other files too ({missing}), or give it up (--drop {import})"
    )]
    Unfinished {
        /// A file that was given.
        path: String,
        /// The import.
        import: u32,
        /// Where the files were that were not given.
        missing: String,
    },
    /// Another process ended the import.
    #[error("import {0} was dropped meanwhile")]
    Dropped(u32),
    /// An import that has ended cannot be dropped.
    #[error("import {0} is done: it cannot be dropped")]
    Done(u32),
    /// There is no such import.
    #[error("there is no import {0}")]
    Unknown(u32),
    /// Another process writes the same import.
    #[error("another process writes import {0} too: wait for it, or run this again when it has ended")]
    Beside(u32),
    /// Numbers have an end.
    #[error("import {0} would have more lines than can be numbered, or is one too many")]
    TooMany(u32),
    /// The files cannot be written or read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// It was told to stop.
    #[error("it was stopped; run it again to go on")]
    Stopped,
}

/// How lines are imported.
#[derive(Debug, Clone)]
pub struct Request {
    /// The raw topic whose clicks the lines are told with.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// What chooses the partition of a line.
    pub partition_by: PartitionBy,
    /// How far a click may be ahead of `now` before its clock is wrong.
    pub max_clock_skew: Duration,
    /// Whether a last line without an end is a whole one.
    pub is_complete: bool,
    /// The time, by which the lines arrived.
    pub now: Timestamp,
    /// When files are complete.
    pub rolling: Rolling,
}

/// What became of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is part of this import now.
    Imported(u32),
    /// It was part of this import already.
    Before(u32),
    /// Another file that was given has the same content.
    Same(PathBuf),
    /// There is nothing in it.
    Empty,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What became of each file, in the order in which they were given.
    pub files: Vec<(PathBuf, Fate)>,
    /// What the imports brought that came to their end.
    pub brought: Vec<(u32, Brought)>,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of log files that were read: each is read twice, to know it and to take its lines.
    pub bytes: u64,
    /// Lines that were taken.
    pub lines: u64,
}

/// What is read, and what watches it.
struct Watched<'a> {
    stop: &'a AtomicBool,
    tell: &'a mut dyn FnMut(Progress),
    progress: Progress,
}

impl Watched<'_> {
    fn check(&self) -> Result<(), ImportError> {
        if self.stop.load(Ordering::Relaxed) { Err(ImportError::Stopped) } else { Ok(()) }
    }
}

/// A file that was given, and what it holds.
struct Given<'a> {
    path: &'a Path,
    log: LogFile,
}

/// How often another process may take the number that was to be the next.
const MOST_NUMBERS: u32 = 1000;

/// Imports log files: ends first what an earlier run began with them, passes over what is imported already, and brings the rest as one import. With `dry_run` nothing is written.
pub fn import(
    files: &Files,
    request: &Request,
    paths: &[PathBuf],
    dry_run: bool,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Progress),
) -> Result<Summary, ImportError> {
    let mut watched = Watched { stop, tell, progress: Progress { bytes: 0, lines: 0 } };
    let given = survey(files, request.is_complete, paths, &mut watched)?;
    let mut summary = Summary::default();
    for _ in 0..MOST_NUMBERS {
        let entries = imports(files)?;
        let (fates, unfinished) = fates(&given, &request.topic, &entries)?;
        if let Some(import) = unfinished.first().filter(|_| !dry_run) {
            let brought = write(files, import, &request.rolling, &given, &mut watched)?;
            summary.brought.push((import.number, brought));
            continue;
        }
        let new: Vec<&Given<'_>> =
            given.iter().zip(&fates).filter(|(_, fate)| fate.is_none()).map(|(given, _)| given).collect();
        let newest = entries.last().map(|entry| &entry.import);
        let number = newest.map_or(1, |newest| newest.number + 1);
        let all = fates.into_iter().map(|fate| fate.unwrap_or(Fate::Imported(number)));
        summary.files = given.iter().map(|given| given.path.to_owned()).zip(all).collect();
        if new.is_empty() || dry_run {
            return Ok(summary);
        }
        if Offset::imported(number, 0).is_none() {
            return Err(ImportError::TooMany(number));
        }
        let arrival = newest
            .map_or(request.now, |newest| request.now.max(Timestamp::from_micros(newest.arrival.as_micros() + 1)));
        let import = Import {
            format: ledger::FORMAT,
            number,
            topic: request.topic.clone(),
            partitions: request.partitions,
            partition_by: request.partition_by,
            arrival,
            max_clock_skew_ms: u64::try_from(request.max_clock_skew.as_millis()).unwrap_or(u64::MAX),
            files: new.iter().map(|given| given.log.clone()).collect(),
        };
        // Another process may have begun an import with this number, maybe with these files.
        if !ledger::begin(files, &import)? {
            continue;
        }
        let brought = write(files, &import, &request.rolling, &given, &mut watched)?;
        summary.brought.push((number, brought));
        return Ok(summary);
    }
    let (path, why) = (files.shown(IMPORTS_FOLDER), "others begin imports faster than this one can".to_owned());
    Err(FilesError::Unavailable { what: "beginning an import in", path, why }.into())
}

/// Gives an import up that has not come to its end. Its lines never counted; its files are deleted. Returns how many went.
pub fn drop_import(files: &Files, number: u32) -> Result<u64, ImportError> {
    let entries = imports(files)?;
    if !entries.iter().any(|entry| entry.import.number == number) {
        return Err(ImportError::Unknown(number));
    }
    match ledger::end(files, number, End::Dropped)? {
        End::Done(_) => return Err(ImportError::Done(number)),
        End::Dropped => {}
    }
    let mut deleted = 0;
    for path in files_of(files, number)? {
        files.delete(&path)?;
        deleted += 1;
    }
    Ok(deleted)
}

/// The files with lines of an import, as their names say.
fn files_of(files: &Files, number: u32) -> Result<Vec<String>, FilesError> {
    let of_import = |path: &str| FileSpan::first_line_of(path).and_then(|(_, first, _)| first.import()) == Some(number);
    let listed = files.list(RAW_FOLDER)?;
    Ok(listed.into_iter().map(|file| file.path).filter(|path| of_import(path)).collect())
}

/// Reads each file once, to know it by its content. Refuses one that was imported when it was shorter.
fn survey<'a>(
    files: &Files,
    is_complete: bool,
    paths: &'a [PathBuf],
    watched: &mut Watched<'_>,
) -> Result<Vec<Given<'a>>, ImportError> {
    let entries = imports(files)?;
    let known: BTreeMap<Content, (u32, bool)> = entries
        .iter()
        .filter(|entry| !entry.is_dropped())
        .flat_map(|Entry { import, end }| {
            import.files.iter().map(|log| (log.content.clone(), (import.number, end.is_some())))
        })
        .collect();
    let contents: BTreeSet<Content> = known.keys().cloned().collect();
    let mut all = Vec::new();
    for path in paths {
        let before = watched.progress.bytes;
        let read = log::survey(path, &contents, |bytes| {
            watched.progress.bytes = before + bytes;
            (watched.tell)(watched.progress);
            if watched.stop.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        });
        watched.check()?;
        let Surveyed { mut content, begins_with, is_ended } =
            read.map_err(|error| ImportError::Log { path: path.clone(), error })?;
        match begins_with.last().and_then(|begins| known.get_key_value(begins)) {
            // It grew since an import of it was interrupted, which goes on with what it was.
            Some((shorter, (_, false))) => content = shorter.clone(),
            Some((shorter, (import, true))) => {
                return Err(ImportError::Grown { path: path.clone(), bytes: shorter.bytes, import: *import });
            }
            None if !is_ended && !is_complete && !known.contains_key(&content) => {
                return Err(ImportError::Unended { path: path.clone() });
            }
            None => {}
        }
        all.push(Given { path, log: LogFile { path: path.display().to_string(), content } });
    }
    Ok(all)
}

/// What becomes of each file, `None`: it is to be imported; and which imports are to be ended first.
fn fates(given: &[Given<'_>], topic: &str, entries: &[Entry]) -> Result<(Vec<Option<Fate>>, Vec<Import>), ImportError> {
    let mut fates = Vec::new();
    let mut unfinished: Vec<Import> = Vec::new();
    for (at, Given { path, log }) in given.iter().enumerate() {
        let is_it = |other: &LogFile| other.content == log.content;
        let same = given.iter().take(at).find(|other| is_it(&other.log));
        let mut in_force = entries.iter().filter(|entry| !entry.is_dropped());
        let entry = in_force.find(|entry| entry.import.files.iter().any(is_it));
        if let Some(Entry { import, .. }) = entry.filter(|entry| entry.import.topic != topic) {
            let (path, topic) = (path.display().to_string(), import.topic.clone());
            return Err(ImportError::OtherTopic { path, import: import.number, topic });
        }
        fates.push(match (same, entry) {
            (Some(same), _) => Some(Fate::Same(same.path.to_owned())),
            (None, _) if log.content.bytes == 0 => Some(Fate::Empty),
            (None, Some(Entry { import, end: Some(_) })) => Some(Fate::Before(import.number)),
            (None, Some(Entry { import, end: None })) => {
                let is_given = |file: &&LogFile| given.iter().any(|given| given.log.content == file.content);
                let missing: Vec<&str> =
                    import.files.iter().filter(|file| !is_given(file)).map(|file| file.path.as_str()).collect();
                if !missing.is_empty() {
                    let (path, missing) = (path.display().to_string(), missing.join(", "));
                    return Err(ImportError::Unfinished { path, import: import.number, missing });
                }
                if !unfinished.contains(import) {
                    unfinished.push(import.clone());
                }
                Some(Fate::Imported(import.number))
            }
            (None, None) => None,
        });
    }
    Ok((fates, unfinished))
}

/// Writes the lines of an import that are not durable, and ends it.
fn write(
    files: &Files,
    import: &Import,
    rolling: &Rolling,
    given: &[Given<'_>],
    watched: &mut Watched<'_>,
) -> Result<Brought, ImportError> {
    let mut writer = Writer::resume(files, import, rolling)?;
    let taken = import.files.iter().try_for_each(|log| {
        let given = given.iter().find(|given| given.log.content == log.content);
        given.map_or(Ok(()), |given| writer.take_in(given, log, watched))
    });
    let brought = match taken.and_then(|()| writer.finish()) {
        // Lines of other content may be durable by now, in the places of those that were to come.
        Err(error @ ImportError::Changed { .. }) => {
            drop_import(files, import.number)?;
            return Err(error);
        }
        brought => brought?,
    };
    match ledger::end(files, import.number, End::Done(brought))? {
        End::Done(brought) => Ok(brought),
        End::Dropped => {
            // What was written since then.
            drop_import(files, import.number)?;
            Err(ImportError::Dropped(import.number))
        }
    }
}
