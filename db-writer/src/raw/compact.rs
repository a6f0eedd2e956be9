//! Small files become large ones: which, and how that is done so that no reader of ours misses a line or sees one twice.
//!
//! A merged file holds the lines of consecutive files of one partition. Its name says its first line and its last record (`….to-{last offset}.parquet`), so that it never takes a name that a writer would give. It is
//! created whole, read back and compared, and only then the files that it covers are deleted. From its creation on readers pass them over ([`super::each_line_once`]). A crash leaves files that another one covers: they
//! are compared and deleted the next time. What a writer that was suspended long ago still creates goes in the same way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, PrimitiveArray, RecordBatch};
use clickmill_model::records::LATE_CLICKS;
use clickmill_model::{Offset, RawPartition, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;

use super::build::unwritable;
use super::files::{Files, FilesError, Listed, Published, Sink};
use super::read;
use super::schema::{in_file, properties};
use super::span::{Before, FileSpan, Part};

/// Files below this are merged: a reader opens as many files as there are.
const SMALL_BYTES: u64 = 32 << 20;

/// A merged file is complete at so many bytes. It holds less than [`SMALL_BYTES`] more.
const TARGET_BYTES: u64 = 64 << 20;

/// Whose lines are settled: nobody will write them again under the name of a file.
pub trait Settled {
    /// Every line of the partition before this offset is. `None`: all of them, for nobody writes lines of it any more.
    fn before(&self, raw: &RawPartition) -> Option<Offset>;
}

/// Files that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it holds.
    pub span: FileSpan,
    /// The files, oldest first, each with the record from which on its lines are taken.
    pub parts: Vec<Part>,
    /// How many bytes they have together.
    pub bytes: u64,
}

/// A file whose lines another one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// Its path.
    pub path: String,
    /// What it holds.
    pub span: FileSpan,
    /// The file that has all of it.
    pub by: String,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Files to delete, once they are compared.
    pub covered: Vec<Covered>,
    /// Files to merge.
    pub groups: Vec<Group>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Files that were written.
    pub written: u64,
    /// Files that were deleted, since another one has their lines.
    pub deleted: u64,
}

/// Says what is to be done with the files of a folder.
pub fn plan(files: &[(Listed, FileSpan)], settled: &impl Settled) -> Work {
    let mut by_partition: BTreeMap<&RawPartition, Vec<&(Listed, FileSpan)>> = BTreeMap::new();
    for file in files {
        let (_, span) = file;
        // Whoever has not committed it yet relies on it under its own name.
        if settled.before(&span.from).is_none_or(|before| span.last_offset < before) {
            by_partition.entry(&span.from).or_default().push(file);
        }
    }
    let mut work = Work::default();
    for mut files in by_partition.into_values() {
        files.sort_by(|(a, of_a), (b, of_b)| {
            let key = |span: &FileSpan| (span.first_arrival, span.first_offset, std::cmp::Reverse(span.last_offset));
            // Of two that hold the same the merged one stays: its path is the longer one.
            key(of_a).cmp(&key(of_b)).then(b.path.len().cmp(&a.path.len())).then(a.path.cmp(&b.path))
        });
        let mut kept: Vec<&(Listed, FileSpan)> = Vec::new();
        for file in files {
            let (listed, span) = file;
            match kept.iter().find(|(_, other)| other.covers(span)) {
                Some((other, _)) => {
                    work.covered.push(Covered {
                        path: listed.path.clone(),
                        span: span.clone(),
                        by: other.path.clone(),
                    });
                }
                None => kept.push(file),
            }
        }
        groups(&kept, &mut work.groups);
    }
    work
}

/// Runs of small files of one partition that follow each other within a day of arrivals.
fn groups(files: &[&(Listed, FileSpan)], found: &mut Vec<Group>) {
    let mut run: Vec<&(Listed, FileSpan)> = Vec::new();
    let mut end = |run: &mut Vec<&(Listed, FileSpan)>| {
        if run.len() > 1 {
            found.extend(merged(run));
        }
        run.clear();
    };
    for file in files {
        let (listed, span) = *file;
        if run.last().is_some_and(|(last, before)| day_of(&last.path) != day_of(&listed.path) || !follows(before, span))
        {
            end(&mut run);
        }
        if listed.size_bytes >= SMALL_BYTES {
            end(&mut run);
            continue;
        }
        run.push(file);
        if run.iter().map(|(listed, _)| listed.size_bytes).sum::<u64>() >= TARGET_BYTES {
            end(&mut run);
        }
    }
    end(&mut run);
}

fn day_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// True where it is known that no line stands between two files: a merged one would hide that it is missing.
fn follows(before: &FileSpan, span: &FileSpan) -> bool {
    let ended = Before::File { last_offset: before.last_offset, last_arrival: before.last_arrival };
    let is_later = before.last_arrival <= span.first_arrival && before.last_offset < span.first_offset;
    // The rows of `late/` have offsets of other partitions, by which none can be left out.
    let overlaps = span.first_arrival <= before.last_arrival
        && span.first_offset <= before.last_offset
        && *span.from.topic != *LATE_CLICKS;
    overlaps || is_later && (span.before == ended || before.last_offset.next() == span.first_offset)
}

/// The group of a run of files, of which none covers another, so that the last one reaches furthest.
fn merged(run: &[&(Listed, FileSpan)]) -> Option<Group> {
    let ((_, first), (_, last)) = (run.first()?, run.last()?);
    let mut parts: Vec<Part> = Vec::new();
    for (listed, span) in run {
        let behind = parts.last().map_or(Offset(0), |last| last.span.last_offset.next());
        let read_from = if behind > span.first_offset { behind } else { Offset(0) };
        parts.push(Part { path: listed.path.clone(), span: span.clone(), read_from });
    }
    let span = FileSpan { last_offset: last.last_offset, last_arrival: last.last_arrival, ..first.clone() };
    Some(Group { span, parts, bytes: run.iter().map(|(listed, _)| listed.size_bytes).sum() })
}

impl Group {
    /// The path of the merged file.
    pub fn path(&self) -> String {
        let first = self.parts.first().map_or("", |part| part.path.as_str());
        FileSpan::path_of_merged(day_of(first), &self.span)
    }
}

/// Does it. `stop` ends it between two files. A file that went meanwhile is no error: what it was part of waits for the next time.
pub fn compact(
    files: &Files,
    work: &Work,
    stop: &AtomicBool,
    mut tell: impl FnMut(String),
) -> Result<Done, FilesError> {
    let mut done = Done::default();
    let mut left = |gone: String| tell(format!("{gone} is gone: what it was part of waits for the next time"));
    let mut held: Option<(&str, Vec<u64>)> = None;
    for covered in &work.covered {
        if stop.load(Ordering::Relaxed) {
            return Ok(done);
        }
        let by = match held.take() {
            Some((path, rows)) if path == covered.by => Ok(rows),
            _ => rows_of(files, &covered.by).map(|(_, rows)| rows),
        };
        match by.and_then(|by| delete_covered(files, covered, &by).map(|()| by)) {
            Ok(by) => {
                held = Some((&covered.by, by));
                done.deleted += 1;
            }
            Err(FilesError::Gone { path }) => left(path),
            Err(error) => return Err(error),
        }
    }
    for group in &work.groups {
        if stop.load(Ordering::Relaxed) {
            return Ok(done);
        }
        match merge(files, group, &mut done) {
            Ok(()) => {}
            Err(FilesError::Gone { path }) => left(path),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The rows of a file, as a number for each.
fn rows_of(files: &Files, path: &str) -> Result<(FileSpan, Vec<u64>), FilesError> {
    let mut all = Vec::new();
    let span = read::batches(files, path, |_, rows| {
        all.extend_from_slice(rows);
        Ok(())
    })?;
    Ok((span, all))
}

/// Deletes a file once it is known, row by row, that another one has all of it.
fn delete_covered(files: &Files, covered: &Covered, by: &[u64]) -> Result<(), FilesError> {
    let (found, rows) = rows_of(files, &covered.path)?;
    if found != covered.span {
        return Err(FilesError::Gone { path: files.shown(&covered.path) });
    }
    if !by.windows(rows.len().max(1)).any(|window| window == rows) {
        return Err(lacks(files, &covered.by, &covered.path));
    }
    files.delete(&covered.path)
}

fn lacks(files: &Files, path: &str, other: &str) -> FilesError {
    let why = format!("it should have all lines of {}, and has not: neither is deleted", files.shown(other));
    FilesError::Damaged { path: files.shown(path), why }
}

fn merge(files: &Files, group: &Group, done: &mut Done) -> Result<(), FilesError> {
    let path = group.path();
    let shown = files.shown(&path);
    let fault = |error: ParquetError| unwritable(&shown, &error);
    let mut span = FileSpan { rows: 0, rejected: 0, minutes: None, ..group.span.clone() };
    let mut expected: Vec<u64> = Vec::new();
    let mut writer: Option<ArrowWriter<Sink>> = None;
    for part in &group.parts {
        // All of a file is read, so that it is known to be whole; of its lines those go on that no file before it has.
        let whole = read::batches(files, &part.path, |batch, rows| {
            let damaged = |why: String| FilesError::Damaged { path: files.shown(&part.path), why };
            let first = first_from(batch, part.read_from).map_err(damaged)?;
            let batch = batch.slice(first, batch.num_rows() - first);
            expected.extend(rows.iter().skip(first));
            tally(&batch, &mut span).map_err(damaged)?;
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(begin(files, &batch, &shown)?),
            };
            writer.write(&batch).map_err(fault)
        })?;
        if whole != part.span {
            // Another one has come under its name.
            return Err(FilesError::Gone { path: files.shown(&part.path) });
        }
    }
    let Some(mut writer) = writer else { return Ok(()) };
    for pair in span.to_metadata() {
        writer.append_key_value_metadata(pair);
    }
    if files.publish(writer.into_inner().map_err(fault)?, &path)? == Published::Created {
        done.written += 1;
    }
    // Whoever wrote it: what it says is what counts from now on.
    let (found, rows) = rows_of(files, &path)?;
    let first = group.parts.first().map_or("", |part| part.path.as_str());
    if found != span || rows != expected {
        return Err(lacks(files, &path, first));
    }
    for part in &group.parts {
        match FileSpan::read(files, &part.path) {
            Ok(now) if now == part.span => {
                files.delete(&part.path)?;
                done.deleted += 1;
            }
            // Not what was read: the next time tells.
            Ok(_) | Err(FilesError::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn begin(files: &Files, batch: &RecordBatch, shown: &str) -> Result<ArrowWriter<Sink>, FilesError> {
    let fault = |error: ParquetError| unwritable(shown, &error);
    let options = ArrowWriterOptions::new()
        .with_properties(properties())
        .with_parquet_schema(in_file().map_err(fault)?)
        .with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(files.begin()?, batch.schema(), options).map_err(fault)
}

/// The first row of a record from this one on. Rows stand in the order of their records; in `late/`, where they do not, no file begins with lines of another.
fn first_from(batch: &RecordBatch, from: Offset) -> Result<usize, String> {
    let offsets = numbers::<Int64Type>(batch, "offset")?.values();
    Ok(offsets.partition_point(|offset| offset.cast_unsigned() < from.0))
}

fn numbers<'a, T: ArrowPrimitiveType>(batch: &'a RecordBatch, name: &str) -> Result<&'a PrimitiveArray<T>, String> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<T>());
    column.ok_or_else(|| format!("it has no column {name} of numbers"))
}

/// Adds rows to what a file is said to hold.
fn tally(batch: &RecordBatch, span: &mut FileSpan) -> Result<(), String> {
    let reason = batch.column_by_name("reason").ok_or("it has no column reason")?;
    let times = numbers::<TimestampMicrosecondType>(batch, "click_timestamp")?;
    span.rows += batch.num_rows() as u64;
    span.rejected += (batch.num_rows() - reason.null_count()) as u64;
    for row in (0..batch.num_rows()).filter(|row| reason.is_null(*row) && times.is_valid(*row)) {
        let minute = Timestamp::from_micros(times.value(row)).minute();
        let (first, last) = span.minutes.unwrap_or((minute, minute));
        span.minutes = Some((first.min(minute), last.max(minute)));
    }
    Ok(())
}
