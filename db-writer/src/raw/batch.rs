//! Rows on their way into a file, as Arrow arrays.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use clickmill_model::{Click, Offset, Partition, RejectReason, Timestamp};
use parquet::errors::Result;

use super::canonical::{ip_of_canonical, write_ip};
use super::schema::SCHEMA;

/// How many rows are gathered before they are encoded: as many as fit the cache.
pub(crate) const BATCH_ROWS: usize = 8192;

/// How many bytes are gathered at most, about.
const BATCH_BYTES: usize = 4 << 20;

/// Where lines come from: what those of one record have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
    pub(crate) arrival: Timestamp,
    pub(crate) source: Option<&'a str>,
}

/// A line of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Its place in the record, from 0.
    pub(crate) number: u32,
    /// File and byte offset, where they are known.
    pub(crate) origin: Option<(&'a str, u64)>,
    /// Its bytes, without the newline.
    pub(crate) bytes: &'a [u8],
    /// What it tells, if anything.
    pub(crate) click: Option<Click<'a>>,
    /// Why it is not counted.
    pub(crate) reason: Option<RejectReason>,
}

/// A column of few words.
#[derive(Debug, Default)]
struct Words {
    keys: Vec<Option<i32>>,
    words: Vec<Arc<str>>,
    known: HashMap<Arc<str>, i32>,
    last: Option<i32>,
}

impl Words {
    #[inline]
    fn push(&mut self, word: Option<&str>) {
        let Some(word) = word else { return self.keys.push(None) };
        // Most lines stand where the one before did.
        let same = self.last.filter(|last| self.words.get(*last as usize).is_some_and(|known| **known == *word));
        let key = same.unwrap_or_else(|| self.key(word));
        self.last = Some(key);
        self.keys.push(Some(key));
    }

    fn key(&mut self, word: &str) -> i32 {
        if let Some(key) = self.known.get(word) {
            return *key;
        }
        let key = self.words.len() as i32;
        let word: Arc<str> = word.into();
        self.words.push(Arc::clone(&word));
        self.known.insert(word, key);
        key
    }

    fn take(&mut self) -> Result<ArrayRef> {
        let keys = Int32Array::from(std::mem::take(&mut self.keys));
        let words = StringArray::from_iter_values(self.words.drain(..));
        self.known.clear();
        self.last = None;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::new(words))?))
    }
}

/// Rows that are not encoded yet.
#[derive(Debug)]
pub(crate) struct Batch {
    rows: usize,
    bytes: usize,
    topic: Words,
    partition: Int32Builder,
    offset: Int64Builder,
    line_number: Int32Builder,
    arrival: TimestampMicrosecondBuilder,
    source: Words,
    file: Words,
    byte_offset: Int64Builder,
    ad_id: StringBuilder,
    click_timestamp: TimestampMicrosecondBuilder,
    user_id: StringBuilder,
    ip: StringBuilder,
    country: StringBuilder,
    event_id: StringBuilder,
    reason: StringBuilder,
    line: BinaryBuilder,
    address: String,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("UTC");
        Self {
            rows: 0,
            bytes: 0,
            topic: Words::default(),
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            line_number: Int32Builder::new(),
            arrival: time(),
            source: Words::default(),
            file: Words::default(),
            byte_offset: Int64Builder::new(),
            ad_id: StringBuilder::new(),
            click_timestamp: time(),
            user_id: StringBuilder::new(),
            ip: StringBuilder::new(),
            country: StringBuilder::new(),
            event_id: StringBuilder::new(),
            reason: StringBuilder::new(),
            line: BinaryBuilder::new(),
            address: String::new(),
        }
    }

    /// Adds a row.
    #[inline]
    pub(crate) fn push(&mut self, place: &Place<'_>, line: &Line<'_>) {
        self.rows += 1;
        self.bytes += line.bytes.len();
        self.topic.push(Some(place.topic));
        self.partition.append_value(place.partition.0 as i32);
        self.offset.append_value(place.offset.0 as i64);
        self.line_number.append_value(line.number as i32);
        self.arrival.append_value(place.arrival.as_micros());
        self.source.push(place.source);
        self.file.push(line.origin.map(|(file, _)| file));
        self.byte_offset.append_option(line.origin.map(|(_, at)| at as i64));
        let mut keeps_line = true;
        match &line.click {
            Some(click) => {
                self.ad_id.append_value(click.ad_id);
                self.click_timestamp.append_value(click.timestamp.as_micros());
                self.user_id.append_value(click.user_id);
                match ip_of_canonical(line.bytes, click) {
                    Some(ip) => {
                        keeps_line = false;
                        self.ip.append_value(ip);
                    }
                    None => {
                        write_ip(click.ip, &mut self.address);
                        self.ip.append_value(&self.address);
                    }
                }
                self.country.append_value(click.country);
                self.event_id.append_option(click.event_id);
            }
            None => {
                self.click_timestamp.append_null();
                for column in [&mut self.ad_id, &mut self.user_id, &mut self.ip, &mut self.country, &mut self.event_id]
                {
                    column.append_null();
                }
            }
        }
        self.reason.append_option(line.reason.map(RejectReason::as_str));
        self.line.append_option(keeps_line.then_some(line.bytes));
    }

    /// True where it is time to encode them.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Bytes that it holds, about.
    pub(crate) fn size_bytes(&self) -> usize {
        // The numbers and offsets of a row take about as much as a line.
        self.bytes + self.rows * 80
    }

    /// The rows so far. The batch is empty afterwards.
    pub(crate) fn take(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        self.bytes = 0;
        let columns: Vec<ArrayRef> = vec![
            self.topic.take()?,
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.line_number.finish()),
            Arc::new(self.arrival.finish()),
            self.source.take()?,
            self.file.take()?,
            Arc::new(self.byte_offset.finish()),
            Arc::new(self.ad_id.finish()),
            Arc::new(self.click_timestamp.finish()),
            Arc::new(self.user_id.finish()),
            Arc::new(self.ip.finish()),
            Arc::new(self.country.finish()),
            Arc::new(self.event_id.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.line.finish()),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&SCHEMA), columns)?)
    }
}
