//! Raw rows become clicks: each line is read anew, by [`crate::line`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use arrow_array::builder::{BinaryBuilder, Int32Builder, Int64Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BinaryArray, PrimitiveArray, RecordBatch, StringArray};
use clickmill_model::{Minute, Partition, RawPartition};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures_util::TryStreamExt;
use hashbrown::DefaultHashBuilder;
use serde::Serialize;

use crate::ads::Ads;
use crate::error::{ReconcileError, Result};
use crate::line::{AuditedClick, click_of_columns, click_of_line};
use crate::time::minute_of;

/// What is read of a raw row, in the order in which [`Rows`] takes it.
pub(crate) const RAW_COLUMNS: &str =
    r#"topic, "partition", "offset", line_number, arrival, ad_id, click_timestamp, user_id, ip, country, reason, line"#;

/// The columns of clicks. An ad is its number in [`Ads`]; an address is the byte 4 or 6 and its octets, so that networks are ranges; a raw partition is its number in [`Judge::partitions`]. `print` is the same of
/// clicks that are the same, and hardly ever of others.
pub(crate) static CLICKS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name: &str, kind: DataType, nullable: bool| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("raw", DataType::Int32, false),
        field("arrival", DataType::Int64, false),
        field("offset", DataType::Int64, false),
        field("line_number", DataType::Int32, false),
        field("minute", DataType::Int64, false),
        field("micros", DataType::Int64, false),
        field("ad", DataType::UInt32, false),
        field("user_id", DataType::Utf8, false),
        field("ip", DataType::Binary, false),
        field("country", DataType::Utf8, false),
        field("event_id", DataType::Utf8, true),
        field("print", DataType::UInt64, false),
    ]))
});

/// Where the stream and this program disagree about lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Disagreements {
    /// Lines that the stream refused and that are clicks of the span.
    pub refused: u64,
    /// Lines that the stream took for clicks of the span and that are none.
    pub accepted: u64,
    /// Clicks whose line tells another minute than their columns.
    pub moved: u64,
    /// Some of them: what, where, and the line.
    pub examples: Vec<String>,
}

/// How many examples are kept.
const MOST_EXAMPLES: usize = 20;

impl Disagreements {
    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.refused + self.accepted + self.moved == 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.refused += other.refused;
        self.accepted += other.accepted;
        self.moved += other.moved;
        self.examples.extend(other.examples);
        self.examples.truncate(MOST_EXAMPLES);
    }

    fn note(&mut self, what: &str, rows: &Rows<'_>, row: usize) {
        if self.examples.len() < MOST_EXAMPLES {
            let line = rows.line.value(row);
            let line = String::from_utf8_lossy(line.get(..200).unwrap_or(line));
            let (topic, partition, offset) = (rows.topic(row), rows.partition.value(row), rows.offset.value(row));
            self.examples.push(format!(
                "{what}: {topic}/{partition} offset {offset} line {}: {line}",
                rows.line_number.value(row)
            ));
        }
    }
}

/// How lines are judged.
#[derive(Debug)]
pub(crate) struct Judge {
    /// The raw partitions, each with its number.
    pub(crate) partitions: BTreeMap<RawPartition, i32>,
    /// The ads, each with its number.
    pub(crate) ads: Arc<Ads>,
    /// How [`CLICKS`] gets its `print`.
    pub(crate) prints: DefaultHashBuilder,
    /// How far a click may be ahead of its arrival, in microseconds: one that the stream counted, by the widest bound that ever held; one that it refused, by the newest.
    pub(crate) skew_of_counted: i64,
    pub(crate) skew_of_refused: i64,
}

/// Clicks of some rows.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) lines: u64,
    pub(crate) disagreements: Disagreements,
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that were counted, and whose columns tell the right minute: all but the strays.
    Settled,
    /// Those of which the line alone tells the minute.
    Strays,
}

impl Judge {
    /// The clicks of `[from, to)` among the rows of a stream.
    pub(crate) async fn judge(
        self: Arc<Self>,
        mut rows: SendableRecordBatchStream,
        which: Which,
        (from, to): (Minute, Minute),
    ) -> Result<Judged> {
        let mut judged = Judged::default();
        while let Some(batch) = rows.try_next().await? {
            let rows = Rows::of(&batch)?;
            let mut clicks = Builder::default();
            // A batch is of one file, or of few.
            let mut raw = (("", -1), -1);
            for row in 0..batch.num_rows() {
                judged.lines += 1;
                if let Some(click) = self.judge_row(&rows, row, which, (from, to), &mut judged.disagreements) {
                    let of = (rows.topic(row), rows.partition.value(row));
                    if raw.0 != of {
                        raw = (of, self.number_of(of));
                    }
                    let print = self.print_of(&click);
                    clicks.push(raw.1, &rows, row, click, print);
                }
            }
            if !clicks.minute.is_empty() {
                judged.batches.push(clicks.finish(&self.ads)?);
            }
        }
        Ok(judged)
    }

    /// The number of a raw partition.
    fn number_of(&self, (topic, partition): (&str, i32)) -> i32 {
        *self.partitions.get(&RawPartition::new(topic, Partition(partition.unsigned_abs()))).unwrap_or(&-1)
    }

    /// A hash of what makes a click the same as another: ad and time, and its event, or where it has none, all else.
    fn print_of(&self, click: &AuditedClick<'_>) -> u64 {
        let mut hasher = self.prints.build_hasher();
        (click.micros, &click.ad_id).hash(&mut hasher);
        match &click.event_id {
            Some(event) => event.hash(&mut hasher),
            None => (&click.user_id, click.ip, &click.country).hash(&mut hasher),
        }
        hasher.finish()
    }

    fn judge_row<'a>(
        &self,
        rows: &Rows<'a>,
        row: usize,
        which: Which,
        (from, to): (Minute, Minute),
        disagreements: &mut Disagreements,
    ) -> Option<AuditedClick<'a>> {
        let is_refused = rows.reason.is_valid(row);
        let click = if rows.line.is_valid(row) {
            click_of_line(rows.line.value(row))
        } else {
            let text = |column: &'a StringArray| if column.is_valid(row) { column.value(row) } else { "" };
            click_of_columns(
                text(rows.ad_id),
                rows.click_timestamp.value(row),
                text(rows.user_id),
                text(rows.ip),
                text(rows.country),
            )
        };
        let skew = if is_refused { self.skew_of_refused } else { self.skew_of_counted };
        let click = click.filter(|click| click.micros <= rows.arrival.value(row).saturating_add(skew));
        let Some(click) = click else {
            if which == Which::Settled {
                disagreements.accepted += 1;
                disagreements.note("taken for a click, but is none", rows, row);
            }
            return None;
        };
        let minute = minute_of(click.micros);
        let is_stray = is_refused || minute != minute_of(rows.click_timestamp.value(row));
        let is_wanted = is_stray == (which == Which::Strays) && from <= minute && minute < to;
        if is_wanted && is_stray {
            let (counter, what) = if is_refused {
                (&mut disagreements.refused, "refused, but is a click")
            } else {
                (&mut disagreements.moved, "is a click of another minute than its columns say")
            };
            *counter += 1;
            disagreements.note(what, rows, row);
        }
        is_wanted.then_some(click)
    }
}

/// Raw rows, by [`RAW_COLUMNS`].
struct Rows<'a> {
    topic: &'a StringArray,
    partition: &'a PrimitiveArray<Int32Type>,
    offset: &'a PrimitiveArray<Int64Type>,
    line_number: &'a PrimitiveArray<Int32Type>,
    arrival: &'a PrimitiveArray<TimestampMicrosecondType>,
    ad_id: &'a StringArray,
    click_timestamp: &'a PrimitiveArray<TimestampMicrosecondType>,
    user_id: &'a StringArray,
    ip: &'a StringArray,
    country: &'a StringArray,
    reason: &'a StringArray,
    line: &'a BinaryArray,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self> {
        let [topic, partition, offset, line_number, arrival, ad_id, time, user_id, ip, country, reason, line] =
            batch.columns()
        else {
            return Err(unexpected("raw rows"));
        };
        Ok(Self {
            topic: text(topic)?,
            partition: partition.as_primitive_opt().ok_or_else(|| unexpected("partition"))?,
            offset: offset.as_primitive_opt().ok_or_else(|| unexpected("offset"))?,
            line_number: line_number.as_primitive_opt().ok_or_else(|| unexpected("line_number"))?,
            arrival: arrival.as_primitive_opt().ok_or_else(|| unexpected("arrival"))?,
            ad_id: text(ad_id)?,
            click_timestamp: time.as_primitive_opt().ok_or_else(|| unexpected("click_timestamp"))?,
            user_id: text(user_id)?,
            ip: text(ip)?,
            country: text(country)?,
            reason: text(reason)?,
            line: line.as_binary_opt().ok_or_else(|| unexpected("line"))?,
        })
    }

    fn topic(&self, row: usize) -> &'a str {
        self.topic.value(row)
    }
}

/// A column of text.
pub(crate) fn text(column: &ArrayRef) -> Result<&StringArray> {
    column.as_string_opt().ok_or_else(|| unexpected("a text"))
}

/// A column of numbers of ads.
pub(crate) fn ads(column: &ArrayRef) -> Result<&PrimitiveArray<UInt32Type>> {
    column.as_primitive_opt().ok_or_else(|| unexpected("an ad's number"))
}

/// A column of numbers.
pub(crate) fn numbers(column: &ArrayRef) -> Result<&PrimitiveArray<Int64Type>> {
    column.as_primitive_opt().ok_or_else(|| unexpected("a number"))
}

fn unexpected(what: &str) -> ReconcileError {
    DataFusionError::Internal(format!("{what} came back as another type")).into()
}

#[derive(Default)]
struct Builder<'a> {
    raw: Int32Builder,
    arrival: Int64Builder,
    offset: Int64Builder,
    line_number: Int32Builder,
    minute: Vec<i64>,
    micros: Int64Builder,
    ads: Vec<Cow<'a, str>>,
    user_id: StringBuilder,
    ip: BinaryBuilder,
    country: StringBuilder,
    event_id: StringBuilder,
    print: Vec<u64>,
}

impl<'a> Builder<'a> {
    fn push(&mut self, raw: i32, rows: &Rows<'_>, row: usize, click: AuditedClick<'a>, print: u64) {
        self.raw.append_value(raw);
        self.arrival.append_value(rows.arrival.value(row));
        self.offset.append_value(rows.offset.value(row));
        self.line_number.append_value(rows.line_number.value(row));
        self.minute.push(minute_of(click.micros).as_epoch());
        self.micros.append_value(click.micros);
        self.ads.push(click.ad_id);
        self.user_id.append_value(&click.user_id);
        let (key, length) = ip_key(click.ip);
        self.ip.append_value(key.get(..length).unwrap_or_default());
        self.country.append_value(&click.country);
        self.event_id.append_option(click.event_id.as_deref());
        self.print.push(print);
    }

    fn finish(mut self, ads: &Ads) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.raw.finish()),
            Arc::new(self.arrival.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.line_number.finish()),
            Arc::new(PrimitiveArray::<Int64Type>::from(self.minute)),
            Arc::new(self.micros.finish()),
            Arc::new(PrimitiveArray::<UInt32Type>::from(ads.numbers(&self.ads))),
            Arc::new(self.user_id.finish()),
            Arc::new(self.ip.finish()),
            Arc::new(self.country.finish()),
            Arc::new(self.event_id.finish()),
            Arc::new(PrimitiveArray::<UInt64Type>::from(self.print)),
        ];
        Ok(RecordBatch::try_new(Arc::clone(&CLICKS), columns)?)
    }
}

/// An address as bytes that sort by family and number, and how many they are.
pub(crate) fn ip_key(ip: IpAddr) -> ([u8; 17], usize) {
    let mut key = [0; 17];
    let length = match ip {
        IpAddr::V4(ip) => {
            key[0] = 4;
            key[1..5].copy_from_slice(&ip.octets());
            5
        }
        IpAddr::V6(ip) => {
            key[0] = 6;
            key[1..].copy_from_slice(&ip.octets());
            17
        }
    };
    (key, length)
}
