//! Lines of log files become files of an import, those that are durable left as they are.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clickmill_model::{LineParser, Offset, Partition, RawPartition, partition};
use xxhash_rust::xxh3::Xxh3;

use super::ledger::{Brought, Import, LogFile};
use super::log::Log;
use super::{Given, ImportError, Watched, files_of};
use crate::raw::RAW_FOLDER;
use crate::raw::batch::{Line, Place};
use crate::raw::build::{FileBuilder, Outcome};
use crate::raw::files::{Files, FilesError, Published};
use crate::raw::read;
use crate::raw::records::judge;
use crate::raw::span::{Part, each_line_once};
use crate::raw::writer::Rolling;

/// Lines of a partition, one after the other, as a number that is another one for other lines.
#[derive(Default)]
struct Digest(Xxh3);

impl Digest {
    fn add(&mut self, byte_offset: u64, line: &[u8]) {
        self.0.update(&byte_offset.to_le_bytes());
        self.0.update(&(line.len() as u64).to_le_bytes());
        self.0.update(line);
    }

    fn is_same(&self, other: &Self) -> bool {
        self.0.digest128() == other.0.digest128()
    }
}

/// Where an import has come to in a partition.
#[derive(Default)]
struct Reached {
    /// The place of the next line.
    next: u64,
    /// Lines before this place were durable when it began.
    durable: u64,
    /// Those lines, as they are in files, and as the log files have them.
    is_durable: Digest,
    was_read: Digest,
    file: Option<FileBuilder>,
    /// The lines of that file.
    in_file: Digest,
}

/// An import under way.
pub(super) struct Writer<'a> {
    files: &'a Files,
    import: &'a Import,
    rolling: &'a Rolling,
    source: String,
    partitions: BTreeMap<Partition, Reached>,
    brought: Brought,
    parser: LineParser,
    scratch: Vec<u8>,
}

/// How many lines are taken between two looks at how much memory the files take.
const LINES_BETWEEN_LOOKS: u64 = 4096;

impl<'a> Writer<'a> {
    /// Finds what is durable already.
    pub(super) fn resume(files: &'a Files, import: &'a Import, rolling: &'a Rolling) -> Result<Self, ImportError> {
        let mut spans = Vec::new();
        for path in files_of(files, import.number)? {
            let span = read::verify(files, &path)?;
            let is_ours = *span.from.topic == *import.topic
                && span.first_offset.import() == Some(import.number)
                && (span.first_arrival, span.last_arrival) == (import.arrival, import.arrival);
            if !is_ours {
                let why = format!("it is none of import {}, as its name says", import.number);
                return Err(FilesError::Damaged { path: files.shown(&path), why }.into());
            }
            spans.push((path, span));
        }
        let first = Offset::imported(import.number, 0).ok_or(ImportError::TooMany(import.number))?;
        let mut partitions: BTreeMap<Partition, Reached> = BTreeMap::new();
        for part in each_line_once(spans) {
            let reached = partitions.entry(part.span.from.partition).or_default();
            // What stands behind a gap is written again.
            if part.read_from.0 - first.0 == reached.durable {
                add_rows(files, &part, u64::MAX, &mut reached.is_durable)?;
                reached.durable = part.span.last_offset.next().0 - first.0;
            }
        }
        let source = format!("import {}", import.number);
        let (brought, parser) = (Brought::default(), LineParser::new());
        Ok(Self { files, import, rolling, source, partitions, brought, parser, scratch: Vec::new() })
    }

    /// Takes the lines of a log file that was given, which the list knows as `known`.
    pub(super) fn take_in(
        &mut self,
        given: &Given<'_>,
        known: &LogFile,
        watched: &mut Watched<'_>,
    ) -> Result<(), ImportError> {
        let failed = |error| ImportError::Log { path: given.path.to_owned(), error };
        let mut log = Log::open(given.path, given.log.content.bytes).map_err(failed)?;
        let before = watched.progress.bytes;
        let mut line = Vec::new();
        let mut until_look = LINES_BETWEEN_LOOKS;
        while let Some(at) = log.next_line(&mut line).map_err(failed)? {
            if !self.add(known, at, &line)? {
                return Err(self.changed(given));
            }
            watched.progress.lines += 1;
            until_look -= 1;
            if until_look == 0 {
                until_look = LINES_BETWEEN_LOOKS;
                watched.progress.bytes = before + log.bytes();
                (watched.tell)(watched.progress);
                watched.check()?;
                self.publish_due()?;
            }
        }
        watched.progress.bytes = before + log.bytes();
        if log.content() == given.log.content { Ok(()) } else { Err(self.changed(given)) }
    }

    fn changed(&self, given: &Given<'_>) -> ImportError {
        ImportError::Changed { path: given.path.to_owned(), import: self.import.number }
    }

    /// Takes a line of a log file. False where other lines are durable in the places of those that were read.
    fn add(&mut self, log: &LogFile, at: u64, line: &[u8]) -> Result<bool, ImportError> {
        let import = self.import;
        let parsed = self.parser.parse(line);
        let by = import.partition_by;
        let partition = partition::of_line(line, parsed.ok(), by, import.partitions, &mut self.scratch);
        let latest = import.arrival.after(Duration::from_millis(import.max_clock_skew_ms));
        let (click, reason) = judge(parsed, latest);
        match (&click, reason) {
            (_, Some(_)) => self.brought.rejected += 1,
            (Some(click), None) => {
                let minute = click.timestamp.minute();
                let (first, last) = self.brought.minutes.unwrap_or((minute, minute));
                self.brought.minutes = Some((first.min(minute), last.max(minute)));
            }
            (None, None) => {}
        }
        let reached = self.partitions.entry(partition).or_default();
        let place = reached.next;
        reached.next += 1;
        if place < reached.durable {
            reached.was_read.add(at, line);
            return Ok(place + 1 < reached.durable || reached.was_read.is_same(&reached.is_durable));
        }
        let offset = Offset::imported(import.number, place).ok_or(ImportError::TooMany(import.number))?;
        let file = match &mut reached.file {
            Some(file) => file,
            empty => {
                let from = RawPartition::new(&import.topic, partition);
                let sink = self.files.begin()?;
                let file = FileBuilder::begin(self.files, sink, RAW_FOLDER, from, offset, import.arrival)?;
                reached.in_file = Digest::default();
                empty.insert(file)
            }
        };
        file.place(&Place {
            topic: &import.topic,
            partition,
            offset,
            arrival: import.arrival,
            source: Some(&self.source),
        });
        let name = file.file(&log.path);
        file.push(&Line { number: 0, origin: Some((name, at)), bytes: line, click, reason })?;
        file.cover(offset, import.arrival);
        reached.in_file.add(at, line);
        Ok(true)
    }

    /// Publishes the files that are complete, and the largest ones while all together take too much memory.
    fn publish_due(&mut self) -> Result<(), ImportError> {
        let is_due =
            |file: &FileBuilder| file.span().rows >= self.rolling.rows || file.file_bytes() >= self.rolling.file_bytes;
        let due: Vec<Partition> = self
            .partitions
            .iter()
            .filter(|(_, reached)| reached.file.as_ref().is_some_and(is_due))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in due {
            self.publish(partition)?;
        }
        let memory = |reached: &Reached| reached.file.as_ref().map_or(0, FileBuilder::memory_bytes);
        while self.partitions.values().map(memory).sum::<usize>() > self.rolling.memory_bytes {
            let largest = self.partitions.iter().max_by_key(|(_, reached)| memory(reached));
            let Some((partition, _)) = largest else { break };
            self.publish(*partition)?;
        }
        Ok(())
    }

    fn publish(&mut self, partition: Partition) -> Result<(), ImportError> {
        let Some(reached) = self.partitions.get_mut(&partition) else { return Ok(()) };
        let Some(file) = reached.file.take() else { return Ok(()) };
        let Outcome { published, span, path } = file.publish(self.files)?;
        if published == Published::Created {
            return Ok(());
        }
        // Another process wrote it, or this one did and was not told.
        let other = read::verify(self.files, &path)?;
        let part = Part { read_from: other.first_offset, path, span: other };
        let mut in_other = Digest::default();
        add_rows(self.files, &part, span.rows, &mut in_other)?;
        if in_other.is_same(&reached.in_file) { Ok(()) } else { Err(ImportError::Beside(self.import.number)) }
    }

    /// Publishes all files. Returns what the import brought.
    pub(super) fn finish(mut self) -> Result<Brought, ImportError> {
        if self.partitions.values().any(|reached| reached.next < reached.durable) {
            // There are lines that none of the log files has.
            let path = self.import.files.last().map_or(PathBuf::new(), |log| PathBuf::from(&log.path));
            return Err(ImportError::Changed { path, import: self.import.number });
        }
        let partitions: Vec<Partition> = self.partitions.keys().copied().collect();
        for partition in partitions {
            self.publish(partition)?;
        }
        let lines = self.partitions.iter().map(|(partition, reached)| (*partition, reached.next));
        self.brought.lines = lines.filter(|(_, lines)| *lines > 0).collect();
        Ok(self.brought)
    }
}

/// Adds the first rows of a file.
fn add_rows(files: &Files, part: &Part, most: u64, digest: &mut Digest) -> Result<(), FilesError> {
    let mut left = most;
    read::rows(files, part, |row| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        digest.add(row.origin.map_or(0, |(_, at)| at), row.line);
        ControlFlow::Continue(())
    })?;
    Ok(())
}
