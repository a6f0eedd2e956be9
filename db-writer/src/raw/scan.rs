//! The lines of some minutes, read from the stretches of a file that may hold them: what batch work reads by.
//!
//! A file says for each page of `click_timestamp` (about 16,000 rows) between which times its clicks lie, and for each row group whether any of its rows has a reason. Nothing else of the file is read
//! where that says that nothing is there.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BinaryArray, PrimitiveArray, RecordBatch, StringArray};
use clickmill_model::line::original_line;
use clickmill_model::{Minute, Offset, Timestamp};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use super::files::{Files, FilesError, Source};
use super::span::{FileSpan, Part};

/// Consecutive rows of a file, with what is known of them without reading them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The row group that they are in.
    pub group: usize,
    /// Which rows of the group.
    pub rows: Range<usize>,
    /// The first and the last minute of those that were clicks when they were written, a wrong clock's too. `None`: there is none.
    pub minutes: Option<(Minute, Minute)>,
    /// True where rows of the group may have a reason why they were not counted.
    pub may_have_rejected: bool,
}

/// A line of raw Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedLine<'a> {
    /// Its record.
    pub offset: Offset,
    /// When the record arrived.
    pub arrival: Timestamp,
    /// The minute of its click, as it was read when it was written. `None`: it was no click then.
    pub minute: Option<Minute>,
    /// True where it was not counted when it was written.
    pub is_rejected: bool,
    /// Its bytes.
    pub line: &'a [u8],
}

/// How many rows are decoded at once.
const BATCH_ROWS: usize = 8192;

const COLUMNS: [&str; 9] =
    ["offset", "arrival", "ad_id", "click_timestamp", "user_id", "ip", "country", "reason", "line"];

/// The stretches of a file, in the order of its rows.
pub fn stretches(files: &Files, part: &Part) -> Result<Vec<Stretch>, FilesError> {
    let (source, metadata) = load(files, part)?;
    let damaged = |why: String| source.failed(why);
    let metadata = metadata.metadata();
    let column = |name: &str| {
        let columns = metadata.file_metadata().schema_descr().columns();
        let found = columns.iter().position(|column| column.path().string() == name);
        found.ok_or_else(|| damaged(format!("it has no column {name}")))
    };
    let (time, reason) = (column("click_timestamp")?, column("reason")?);
    let mut all = Vec::new();
    for group in 0..metadata.num_row_groups() {
        all.extend(stretches_of(metadata, group, time, reason, part).map_err(damaged)?);
    }
    Ok(all)
}

fn stretches_of(
    metadata: &ParquetMetaData,
    group: usize,
    time: usize,
    reason: usize,
    part: &Part,
) -> Result<Vec<Stretch>, String> {
    let of_group = metadata.row_group(group);
    let rows = usize::try_from(of_group.num_rows()).map_err(|_| "a row group of fewer than no rows".to_owned())?;
    let nulls = of_group.column(reason).statistics().and_then(Statistics::null_count_opt);
    let may_have_rejected = nulls.map_or(part.span.rejected > 0, |nulls| nulls < rows as u64);
    let minute = |micros: i64| Timestamp::from_micros(micros).minute();
    let whole = || {
        let minutes = match of_group.column(time).statistics() {
            Some(Statistics::Int64(found)) => match (found.min_opt(), found.max_opt()) {
                (Some(min), Some(max)) => Some((minute(*min), minute(*max))),
                (None, _) | (_, None) => None,
            },
            // Nothing is known of this group alone.
            Some(_) | None => part.span.minutes,
        };
        vec![Stretch { group, rows: 0..rows, minutes, may_have_rejected }]
    };
    let index = metadata.column_index().and_then(|index| index.get(group)?.get(time));
    let pages = metadata.offset_index().and_then(|index| index.get(group)?.get(time));
    let (Some(ColumnIndexMetaData::INT64(index)), Some(pages)) = (index, pages) else { return Ok(whole()) };
    let mut starts = Vec::new();
    for page in pages.page_locations() {
        starts.push(usize::try_from(page.first_row_index).map_err(|_| "a page before the first row".to_owned())?);
    }
    let ends = starts.iter().copied().skip(1).chain([rows]);
    let of_page = |(page, (first, end)): (usize, (&usize, usize))| Stretch {
        group,
        rows: *first..end,
        minutes: index.min_value(page).zip(index.max_value(page)).map(|(min, max)| (minute(*min), minute(*max))),
        may_have_rejected,
    };
    Ok(starts.iter().zip(ends).enumerate().map(of_page).collect())
}

/// Reads the lines of some stretches of a file, in order, and hands them to `visit`, which may say that something is wrong with one.
pub fn lines(
    files: &Files,
    part: &Part,
    stretches: &[&Stretch],
    mut visit: impl FnMut(&ScannedLine<'_>) -> Result<(), String>,
) -> Result<(), FilesError> {
    let expected: usize = stretches.iter().map(|stretch| stretch.rows.len()).sum();
    if expected == 0 {
        return Ok(());
    }
    let (source, metadata) = load(files, part)?;
    let damaged = |why: String| source.failed(why);
    let found = read(source.clone(), metadata, &COLUMNS, stretches, |columns, i, scratch| {
        let line = columns.line(i, &part.span, scratch)?;
        if line.offset < part.read_from { Ok(()) } else { visit(&line) }
    });
    let found = found.map_err(damaged)?;
    if found == expected { Ok(()) } else { Err(damaged(format!("{found} rows could be read of {expected}"))) }
}

/// Reads the lines of some stretches that were not counted when they were written, each with the place of its stretch.
pub fn rejected(
    files: &Files,
    part: &Part,
    stretches: &[Stretch],
    mut visit: impl FnMut(usize, &ScannedLine<'_>) -> Result<(), String>,
) -> Result<(), FilesError> {
    let places: Vec<usize> =
        stretches.iter().enumerate().filter(|(_, stretch)| stretch.may_have_rejected).map(|(place, _)| place).collect();
    let wanted: Vec<&Stretch> = places.iter().filter_map(|place| stretches.get(*place)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (source, metadata) = load(files, part)?;
    // First only where they are, which costs next to nothing.
    let mut rows = wanted.iter().enumerate().flat_map(|(i, stretch)| stretch.rows.clone().map(move |row| (i, row)));
    let mut hits: Vec<(usize, Stretch)> = Vec::new();
    let reasons = read_batches(source.clone(), metadata, &["reason"], &wanted, |batch| {
        let reasons: &StringArray = strings(batch, "reason")?;
        for i in 0..reasons.len() {
            let Some((at, row)) = rows.next() else { return Err("more rows than there should be".into()) };
            if let Some(stretch) = wanted.get(at).filter(|_| reasons.is_valid(i)) {
                let place = places.get(at).copied().unwrap_or_default();
                match hits.last_mut() {
                    Some((last, hit)) if *last == place && hit.rows.end == row => hit.rows.end += 1,
                    Some(_) | None => hits.push((place, Stretch { rows: row..row + 1, ..(*stretch).clone() })),
                }
            }
        }
        Ok(reasons.len())
    });
    reasons.map_err(|why| source.failed(why))?;
    if hits.is_empty() {
        return Ok(());
    }
    let (source, metadata) = load(files, part)?;
    let mut of_rows = hits.iter().flat_map(|(place, hit)| hit.rows.clone().map(move |_| *place));
    let hit_stretches: Vec<&Stretch> = hits.iter().map(|(_, hit)| hit).collect();
    let found = read(source.clone(), metadata, &COLUMNS, &hit_stretches, |columns, i, scratch| {
        let place = of_rows.next().ok_or("more rows than there should be")?;
        let line = columns.line(i, &part.span, scratch)?;
        if line.offset < part.read_from { Ok(()) } else { visit(place, &line) }
    });
    found.map(|_| ()).map_err(|why| source.failed(why))
}

fn load(files: &Files, part: &Part) -> Result<(Source, ArrowReaderMetadata), FilesError> {
    let source = files.open(&part.path)?;
    let damaged = |why: String| source.failed(why);
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let metadata = ArrowReaderMetadata::load(&source, options).map_err(|error| damaged(error.to_string()))?;
    let span = FileSpan::of_metadata(metadata.metadata()).map_err(damaged)?;
    if span != part.span {
        // What was planned of it holds no more.
        return Err(damaged("another file has come under its name meanwhile".into()));
    }
    Ok((source, metadata))
}

fn reader(
    source: Source,
    metadata: ArrowReaderMetadata,
    columns: &[&str],
    stretches: &[&Stretch],
) -> Result<ParquetRecordBatchReader, String> {
    let parquet: Arc<ParquetMetaData> = Arc::clone(metadata.metadata());
    let mut groups: Vec<usize> = stretches.iter().map(|stretch| stretch.group).collect();
    groups.dedup();
    let mut starts = Vec::new();
    let mut total = 0;
    for group in &groups {
        starts.push((*group, total));
        total += usize::try_from(parquet.row_group(*group).num_rows()).unwrap_or(0);
    }
    let ranges = stretches.iter().map(|stretch| {
        let start = starts.iter().find(|(group, _)| *group == stretch.group).map_or(0, |(_, start)| *start);
        start + stretch.rows.start..start + stretch.rows.end
    });
    let selection = RowSelection::from_consecutive_ranges(ranges, total);
    let mask = ProjectionMask::columns(parquet.file_metadata().schema_descr(), columns.iter().copied());
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata)
        .with_batch_size(BATCH_ROWS)
        .with_row_groups(groups)
        .with_row_selection(selection)
        .with_projection(mask);
    builder.build().map_err(|error| error.to_string())
}

/// Reads batches; `visit` returns how many rows one had. Returns how many there were.
fn read_batches(
    source: Source,
    metadata: ArrowReaderMetadata,
    columns: &[&str],
    stretches: &[&Stretch],
    mut visit: impl FnMut(&RecordBatch) -> Result<usize, String>,
) -> Result<usize, String> {
    let mut rows = 0;
    for batch in reader(source, metadata, columns, stretches)? {
        rows += visit(&batch.map_err(|error| error.to_string())?)?;
    }
    Ok(rows)
}

fn read(
    source: Source,
    metadata: ArrowReaderMetadata,
    columns: &[&str],
    stretches: &[&Stretch],
    mut visit: impl FnMut(&LineColumns<'_>, usize, &mut Vec<u8>) -> Result<(), String>,
) -> Result<usize, String> {
    let mut scratch = Vec::new();
    read_batches(source, metadata, columns, stretches, |batch| {
        let columns = LineColumns::of(batch)?;
        for i in 0..batch.num_rows() {
            visit(&columns, i, &mut scratch)?;
        }
        Ok(batch.num_rows())
    })
}

/// The columns that a line is put together from.
struct LineColumns<'a> {
    offset: &'a PrimitiveArray<Int64Type>,
    arrival: &'a PrimitiveArray<TimestampMicrosecondType>,
    ad_id: &'a StringArray,
    click_timestamp: &'a PrimitiveArray<TimestampMicrosecondType>,
    user_id: &'a StringArray,
    ip: &'a StringArray,
    country: &'a StringArray,
    reason: &'a StringArray,
    line: &'a BinaryArray,
}

fn column<'a, T>(
    batch: &'a RecordBatch,
    name: &str,
    of_type: impl Fn(&'a dyn Array) -> Option<&'a T>,
) -> Result<&'a T, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
    of_type(&**column).ok_or_else(|| format!("its column {name} is of type {}", column.data_type()))
}

fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, String> {
    column(batch, name, |array| array.as_string_opt())
}

impl<'a> LineColumns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, String> {
        let columns = Self {
            offset: column(batch, "offset", |array| array.as_primitive_opt())?,
            arrival: column(batch, "arrival", |array| array.as_primitive_opt())?,
            ad_id: strings(batch, "ad_id")?,
            click_timestamp: column(batch, "click_timestamp", |array| array.as_primitive_opt())?,
            user_id: strings(batch, "user_id")?,
            ip: strings(batch, "ip")?,
            country: strings(batch, "country")?,
            reason: strings(batch, "reason")?,
            line: column(batch, "line", |array| array.as_binary_opt())?,
        };
        if columns.offset.null_count() + columns.arrival.null_count() > 0 {
            return Err("a row lacks its offset or its arrival".into());
        }
        Ok(columns)
    }

    #[inline]
    fn line<'r>(&'r self, i: usize, span: &FileSpan, scratch: &'r mut Vec<u8>) -> Result<ScannedLine<'r>, String> {
        let offset = Offset(self.offset.value(i).cast_unsigned());
        if offset < span.first_offset || offset > span.last_offset {
            return Err(format!(
                "a row has offset {offset}, its footer says {} to {}",
                span.first_offset, span.last_offset
            ));
        }
        let time = self.click_timestamp.is_valid(i).then(|| Timestamp::from_micros(self.click_timestamp.value(i)));
        let line = if self.line.is_valid(i) {
            self.line.value(i)
        } else {
            let texts = [self.ad_id, self.user_id, self.ip, self.country];
            let (Some(time), true) = (time, texts.iter().all(|column| column.is_valid(i))) else {
                return Err(format!("the row of offset {offset} has neither a line nor a click"));
            };
            let [ad_id, user_id, ip, country] = texts.map(|column| column.value(i));
            scratch.clear();
            original_line(ad_id, time, user_id, ip, country, scratch);
            scratch.as_slice()
        };
        Ok(ScannedLine {
            offset,
            arrival: Timestamp::from_micros(self.arrival.value(i)),
            minute: time.map(Timestamp::minute),
            is_rejected: self.reason.is_valid(i),
            line,
        })
    }
}
