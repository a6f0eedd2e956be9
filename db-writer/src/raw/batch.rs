//! Rows on their way into a file, as Arrow arrays.

use std::sync::Arc;

use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, RecordBatch};
use clickmill_model::line::{ip_of_canonical, write_ip};
use clickmill_model::{Click, Offset, Partition, RejectReason, Timestamp};
use parquet::errors::Result;

use super::columns::{Numbers, Texts, Word, Words};
use super::schema::IN_MEMORY;

/// How many rows are gathered before they are encoded: as many as fit the cache.
const BATCH_ROWS: usize = 8192;

/// How many bytes are gathered at most, about.
const BATCH_BYTES: usize = 4 << 20;

/// What the lines of one record have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) arrival: Timestamp,
    pub(super) source: Option<&'a str>,
}

/// A [`Place`] as it goes into the columns, for the rows from `first` on.
#[derive(Debug, Clone, Copy)]
struct Placed {
    first: usize,
    topic: Word,
    partition: i32,
    offset: i64,
    arrival: i64,
    source: Option<Word>,
}

/// A file that lines come from, as [`Batch::file`] found it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileName(Word);

/// A line of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    /// Its place in the record, from 0.
    pub(super) number: u32,
    /// File and byte offset, where they are known.
    pub(super) origin: Option<(FileName, u64)>,
    /// Its bytes, without the newline.
    pub(super) bytes: &'a [u8],
    /// What it tells, if anything.
    pub(super) click: Option<Click<'a>>,
    /// Why it is not counted.
    pub(super) reason: Option<RejectReason>,
}

/// Rows that are not encoded yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    rows: usize,
    bytes: usize,
    place: Option<Placed>,
    topic: Words,
    partition: Numbers<Int32Type>,
    offset: Numbers<Int64Type>,
    line_number: Numbers<Int32Type>,
    arrival: Numbers<TimestampMicrosecondType>,
    source: Words,
    file: Words,
    byte_offset: Numbers<Int64Type>,
    ad_id: Texts,
    click_timestamp: Numbers<TimestampMicrosecondType>,
    user_id: Texts,
    ip: Texts,
    country: Texts,
    event_id: Texts,
    reason: Texts,
    line: Texts,
    address: String,
}

impl Batch {
    /// Begins with the lines of a record: what they have in common is looked up once, and filled in when they are complete.
    pub(super) fn place(&mut self, place: &Place<'_>) {
        self.complete_place();
        if self.rows == 0 {
            for words in [&mut self.topic, &mut self.source, &mut self.file] {
                words.trim();
            }
        }
        self.place = Some(Placed {
            first: self.rows,
            topic: self.topic.word(place.topic),
            partition: place.partition.0.cast_signed(),
            offset: place.offset.0.cast_signed(),
            arrival: place.arrival.as_micros(),
            source: place.source.map(|source| self.source.word(source)),
        });
    }

    fn complete_place(&mut self) {
        let Some(place) = &mut self.place else { return };
        let rows = place.first..self.rows;
        place.first = self.rows;
        self.topic.set_all(rows.clone(), place.topic);
        self.partition.set_all(rows.clone(), place.partition);
        self.offset.set_all(rows.clone(), place.offset);
        self.arrival.set_all(rows.clone(), place.arrival);
        if let Some(source) = place.source {
            self.source.set_all(rows, source);
        }
    }

    /// Looks up the name of a file, for the lines of the record that was begun last.
    pub(super) fn file(&mut self, name: &str) -> FileName {
        FileName(self.file.word(name))
    }

    /// Adds a line of the record that was begun last.
    #[inline]
    pub(super) fn push(&mut self, line: &Line<'_>) {
        let row = self.rows;
        self.rows += 1;
        self.bytes += line.bytes.len();
        self.line_number.set(row, line.number.cast_signed());
        if let Some((file, at)) = line.origin {
            self.file.set(row, file.0);
            self.byte_offset.set(row, at.cast_signed());
        }
        let mut keeps_line = true;
        if let Some(click) = &line.click {
            self.ad_id.set(row, click.ad_id.as_bytes());
            self.click_timestamp.set(row, click.timestamp.as_micros());
            self.user_id.set(row, click.user_id.as_bytes());
            if let Some(ip) = ip_of_canonical(line.bytes, click) {
                keeps_line = false;
                self.ip.set(row, ip);
            } else {
                write_ip(click.ip, &mut self.address);
                self.ip.set(row, self.address.as_bytes());
            }
            self.country.set(row, click.country.as_bytes());
            if let Some(event_id) = click.event_id {
                self.event_id.set(row, event_id.as_bytes());
            }
        }
        if let Some(reason) = line.reason {
            self.reason.set(row, reason.as_str().as_bytes());
        }
        if keeps_line {
            self.line.set(row, line.bytes);
        }
    }

    /// True where it is time to encode them.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Bytes that it holds, about.
    pub(super) fn size_bytes(&self) -> usize {
        // The numbers and offsets of a row take about as much as a line.
        self.bytes + self.rows * 80
    }

    /// The rows so far. The batch is empty afterwards; more lines of the record may follow.
    pub(super) fn take(&mut self) -> Result<RecordBatch> {
        self.complete_place();
        if let Some(place) = &mut self.place {
            place.first = 0;
        }
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let arrival = self.arrival.take(rows).with_timezone("UTC");
        let click_timestamp = self.click_timestamp.take(rows).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            self.topic.take(rows)?,
            Arc::new(self.partition.take(rows)),
            Arc::new(self.offset.take(rows)),
            Arc::new(self.line_number.take(rows)),
            Arc::new(arrival),
            self.source.take(rows)?,
            self.file.take(rows)?,
            Arc::new(self.byte_offset.take(rows)),
            self.ad_id.take(rows)?,
            Arc::new(click_timestamp),
            self.user_id.take(rows)?,
            self.ip.take(rows)?,
            self.country.take(rows)?,
            self.event_id.take(rows)?,
            self.reason.take(rows)?,
            self.line.take(rows)?,
        ];
        Ok(RecordBatch::try_new(Arc::clone(&IN_MEMORY), columns)?)
    }
}
