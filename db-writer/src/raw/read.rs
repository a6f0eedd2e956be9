//! Files read back: rows with their original lines.

use std::ops::ControlFlow;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use clickmill_model::line::original_line;
use clickmill_model::records::LATE_CLICKS;
use clickmill_model::{Offset, Partition, RejectReason, Timestamp};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use xxhash_rust::xxh3::xxh3_64;

use super::files::{Files, FilesError, Source};
use super::span::{FileSpan, Part};

/// The columns of a click, as they stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClickColumns<'a> {
    /// The ad.
    pub ad_id: &'a str,
    /// When it was clicked.
    pub click_timestamp: Timestamp,
    /// Who clicked.
    pub user_id: &'a str,
    /// From where, as the standard library writes it.
    pub ip: &'a str,
    /// The country.
    pub country: &'a str,
    /// The producer's own name of the click.
    pub event_id: Option<&'a str>,
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The raw topic.
    pub topic: &'a str,
    /// The raw partition.
    pub partition: Partition,
    /// The raw record.
    pub offset: Offset,
    /// The line's place in the record, from 0.
    pub line_number: u32,
    /// When the record arrived.
    pub arrival: Timestamp,
    /// The log watcher that sent it; `None`: a foreign producer.
    pub source: Option<&'a str>,
    /// File and byte offset on the source's machine.
    pub origin: Option<(&'a str, u64)>,
    /// What the line tells, if it could be parsed when it was written.
    pub click: Option<ClickColumns<'a>>,
    /// Why it was not counted.
    pub reason: Option<RejectReason>,
    /// The line, byte by byte.
    pub line: &'a [u8],
}

/// How many rows are decoded at once.
const BATCH_ROWS: usize = 8192;

/// Reads the rows of a part in order and hands them to `visit`, until it breaks. Returns what it broke with.
pub fn rows<B>(
    files: &Files,
    part: &Part,
    mut visit: impl FnMut(&Row<'_>) -> ControlFlow<B>,
) -> Result<Option<B>, FilesError> {
    let begins_late = part.read_from > part.span.first_offset;
    if begins_late && *part.span.from.topic == *LATE_CLICKS {
        // Its rows have the offsets of the raw records.
        let why = "another file holds some of its lines".into();
        return Err(FilesError::Damaged { path: files.shown(&part.path), why });
    }
    let (source, _, reader) = open(files, &part.path)?;
    let damaged = |why: String| source.failed(why);
    let mut scratch = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let columns = Columns::of(&batch).map_err(damaged)?;
        for i in 0..batch.num_rows() {
            let row = columns.row(i, &mut scratch).map_err(damaged)?;
            if begins_late && row.offset < part.read_from {
                continue;
            }
            if let ControlFlow::Break(end) = visit(&row) {
                return Ok(Some(end));
            }
        }
    }
    Ok(None)
}

/// Reads all of a file and finds out whether it can be relied on.
pub fn verify(files: &Files, path: &str) -> Result<FileSpan, FilesError> {
    batches(files, path, |_, _| Ok(()))
}

/// Reads all of a file: batches of its rows as they stand there, each with a number for every row that depends on all that the row says. Finds out whether it can be relied on.
pub(super) fn batches(
    files: &Files,
    path: &str,
    mut visit: impl FnMut(&RecordBatch, &[u64]) -> Result<(), FilesError>,
) -> Result<FileSpan, FilesError> {
    let (source, span, reader) = open(files, path)?;
    let damaged = |why: String| source.failed(why);
    let (mut scratch, mut bytes, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    let mut count = 0;
    for batch in reader {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        let columns = Columns::of(&batch).map_err(damaged)?;
        numbers.clear();
        for i in 0..batch.num_rows() {
            numbers.push(columns.row(i, &mut scratch).map_err(damaged)?.number(&mut bytes));
        }
        count += batch.num_rows() as u64;
        visit(&batch, &numbers)?;
    }
    if count != span.rows {
        return Err(damaged(format!("{count} rows could be read of {}", span.rows)));
    }
    Ok(span)
}

impl Row<'_> {
    /// A number that depends on all that the row says.
    fn number(&self, bytes: &mut Vec<u8>) -> u64 {
        let Self { topic, partition, offset, line_number, arrival, source, origin, click, reason, line } = *self;
        bytes.clear();
        let mut text = |text: Option<&[u8]>| {
            // With its length, so that texts do not run into each other.
            bytes.extend(text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.unwrap_or_default());
        };
        let of_click = |field: fn(ClickColumns<'_>) -> &str| click.map(|click| field(click).as_bytes());
        text(Some(topic.as_bytes()));
        text(source.map(str::as_bytes));
        text(origin.map(|(file, _)| file.as_bytes()));
        text(of_click(|click| click.ad_id));
        text(of_click(|click| click.user_id));
        text(of_click(|click| click.ip));
        text(of_click(|click| click.country));
        text(click.and_then(|click| click.event_id).map(str::as_bytes));
        text(reason.map(|reason| reason.as_str().as_bytes()));
        text(Some(line));
        let time = click.map_or(i64::MIN, |click| click.click_timestamp.as_micros());
        for number in [
            u64::from(partition.0),
            offset.0,
            u64::from(line_number),
            arrival.as_micros().cast_unsigned(),
            origin.map_or(u64::MAX, |(_, at)| at),
            time.cast_unsigned(),
        ] {
            bytes.extend(number.to_le_bytes());
        }
        xxh3_64(bytes)
    }
}

fn open(files: &Files, path: &str) -> Result<(Source, FileSpan, ParquetRecordBatchReader), FilesError> {
    let source = files.open(path)?;
    let damaged = |why: String| source.failed(why);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(source.clone()).map_err(|error| damaged(error.to_string()))?;
    let span = FileSpan::of_metadata(builder.metadata()).map_err(damaged)?;
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(error.to_string()))?;
    Ok((source, span, reader))
}

/// The columns of a batch by name.
struct Columns<'a> {
    topic: &'a ArrayRef,
    partition: &'a ArrayRef,
    offset: &'a ArrayRef,
    line_number: &'a ArrayRef,
    arrival: &'a ArrayRef,
    source: &'a ArrayRef,
    file: &'a ArrayRef,
    byte_offset: &'a ArrayRef,
    ad_id: &'a ArrayRef,
    click_timestamp: &'a ArrayRef,
    user_id: &'a ArrayRef,
    ip: &'a ArrayRef,
    country: &'a ArrayRef,
    event_id: &'a ArrayRef,
    reason: &'a ArrayRef,
    line: &'a ArrayRef,
}

fn text(column: &ArrayRef, i: usize) -> Option<&str> {
    column.is_valid(i).then(|| column.as_string::<i32>().value(i))
}

fn int32(column: &ArrayRef, i: usize) -> i32 {
    column.as_primitive::<Int32Type>().value(i)
}

fn int64(column: &ArrayRef, i: usize) -> i64 {
    column.as_primitive::<Int64Type>().value(i)
}

fn time(column: &ArrayRef, i: usize) -> Timestamp {
    Timestamp::from_micros(column.as_primitive::<TimestampMicrosecondType>().value(i))
}

impl<'a> Columns<'a> {
    /// The columns, of the types that [`Columns::row`] relies on.
    fn of(batch: &'a RecordBatch) -> Result<Self, String> {
        let is_time = |found: &DataType| matches!(found, DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, _));
        let column = |name: &str, fits: &dyn Fn(&DataType) -> bool| {
            let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
            let found = column.data_type();
            if fits(found) { Ok(column) } else { Err(format!("its column {name} is of type {found}")) }
        };
        let exactly = |expected: DataType| move |found: &DataType| *found == expected;
        let (text, int32, int64) = (exactly(DataType::Utf8), exactly(DataType::Int32), exactly(DataType::Int64));
        let never_null = |name: &str, column: &'a ArrayRef| {
            if column.null_count() == 0 { Ok(column) } else { Err(format!("its column {name} lacks values")) }
        };
        Ok(Self {
            topic: never_null("topic", column("topic", &text)?)?,
            partition: never_null("partition", column("partition", &int32)?)?,
            offset: never_null("offset", column("offset", &int64)?)?,
            line_number: never_null("line_number", column("line_number", &int32)?)?,
            arrival: never_null("arrival", column("arrival", &is_time)?)?,
            source: column("source", &text)?,
            file: column("file", &text)?,
            byte_offset: column("byte_offset", &int64)?,
            ad_id: column("ad_id", &text)?,
            click_timestamp: column("click_timestamp", &is_time)?,
            user_id: column("user_id", &text)?,
            ip: column("ip", &text)?,
            country: column("country", &text)?,
            event_id: column("event_id", &text)?,
            reason: column("reason", &text)?,
            line: column("line", &exactly(DataType::Binary))?,
        })
    }

    fn row<'r>(&'r self, i: usize, scratch: &'r mut Vec<u8>) -> Result<Row<'r>, String> {
        let click = match text(self.ad_id, i) {
            None => None,
            Some(ad_id) => {
                let lacking = || format!("row {i} lacks fields of its click");
                Some(ClickColumns {
                    ad_id,
                    click_timestamp: self
                        .click_timestamp
                        .is_valid(i)
                        .then(|| time(self.click_timestamp, i))
                        .ok_or_else(lacking)?,
                    user_id: text(self.user_id, i).ok_or_else(lacking)?,
                    ip: text(self.ip, i).ok_or_else(lacking)?,
                    country: text(self.country, i).ok_or_else(lacking)?,
                    event_id: text(self.event_id, i),
                })
            }
        };
        let line = if self.line.is_valid(i) {
            self.line.as_binary::<i32>().value(i)
        } else {
            let Some(click) = click else { return Err(format!("row {i} has neither a line nor a click")) };
            let ClickColumns { ad_id, click_timestamp, user_id, ip, country, .. } = click;
            scratch.clear();
            original_line(ad_id, click_timestamp, user_id, ip, country, scratch);
            scratch.as_slice()
        };
        let reason = match text(self.reason, i) {
            None => None,
            Some(name) => {
                let known = RejectReason::ALL.iter().find(|reason| reason.as_str() == name);
                Some(*known.ok_or_else(|| format!("row {i} has the unknown reason {name:?}"))?)
            }
        };
        let at = self.byte_offset.is_valid(i).then(|| int64(self.byte_offset, i).cast_unsigned());
        Ok(Row {
            topic: text(self.topic, i).unwrap_or_default(),
            partition: Partition(int32(self.partition, i).cast_unsigned()),
            offset: Offset(int64(self.offset, i).cast_unsigned()),
            line_number: int32(self.line_number, i).cast_unsigned(),
            arrival: time(self.arrival, i),
            source: text(self.source, i),
            origin: text(self.file, i).zip(at),
            click,
            reason,
            line,
        })
    }
}
