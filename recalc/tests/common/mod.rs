//! Raw Parquet written by the real writer, and what the slow model says of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BinaryArray, PrimitiveArray, RecordBatch, StringArray};
use clickmill_db_writer::raw::{Files, RawConfig, RawWriter, Rolling};
use clickmill_model::partition::of_identity;
use clickmill_model::records::{Origin, PIPELINE, Ranking, SourceHeader, SourceMark};
use clickmill_model::window::SpanKind;
use clickmill_model::{
    Definition, Filter, FilterId, InputTopic, LineParser, Minute, Offset, Partition, RawPartition, RejectReason, Span,
    Timestamp, Window,
};
use clickmill_queue::memory::MemoryQueue;
use clickmill_queue::{
    Clock, ManualClock, Progress, Queue, Record, Retention, Stage, TopicPartition, TopicSpec, Transaction,
};
use clickmill_recalc::{Plan, RecalcError, Summary, Told, recalculate};
use clickmill_tests::model::Model;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;

pub const TOPIC: &str = "ad-clicks";
pub const PARTITIONS: u32 = 3;

pub fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

/// 2021-01-01 00:00.
pub const START: Timestamp = Timestamp::from_secs(1_609_459_200);

pub fn filter(json: &str) -> Filter {
    serde_json::from_str(json).unwrap()
}

/// Three raw partitions, two aggregator partitions, four filters, small `n`.
pub fn definition() -> Definition {
    Definition {
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
            filter(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8:8::/45"]}"#),
        ],
        windows: vec![Window(1), Window(5), Window(60)],
        n: 5,
        inputs: vec![InputTopic { topic: TOPIC.into(), partitions: PARTITIONS }],
        partitions: 2,
        ..Definition::default()
    }
}

/// A queue, files, and a model that hears of every line and takes none for late.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub queue: MemoryQueue,
    pub files: Arc<Files>,
    pub model: Model,
    pub definition: Definition,
    /// Whether a record arrives after all of its clicks (but those of another year).
    pub clock_is_right: bool,
    flush: Arc<AtomicBool>,
    parser: LineParser,
}

impl World {
    pub fn new(definition: &Definition, files: Files) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let queue = MemoryQueue::new(Arc::<ManualClock>::clone(&clock));
        let spec = |topic: &str, partitions| TopicSpec {
            name: topic.into(),
            partitions,
            retention: Retention::Forever,
            max_backlog_bytes: 0,
        };
        queue.create_topics(&[spec(PIPELINE, 1)]).unwrap();
        for input in &definition.inputs {
            queue.create_topics(&[spec(&input.topic, input.partitions)]).unwrap();
        }
        assert!(clickmill_queue::definitions::append(&queue, definition).unwrap());
        let model = Model::new(definition);
        let (files, flush) = (Arc::new(files), Arc::default());
        Self {
            clock,
            queue,
            files,
            model,
            definition: definition.clone(),
            clock_is_right: true,
            flush,
            parser: LineParser::new(),
        }
    }

    pub fn in_memory(definition: &Definition) -> Self {
        Self::new(definition, Files::new(Arc::new(object_store::memory::InMemory::new())).unwrap())
    }

    pub fn in_folder(definition: &Definition, folder: &Path) -> Self {
        Self::new(definition, Files::local(folder).unwrap())
    }

    /// The partition that a log watcher would choose.
    pub fn partition_of(&mut self, line: &[u8]) -> u32 {
        let click = self.parser.parse(line).ok();
        click.map_or(0, |click| of_identity(click.identity(&mut Vec::new()), PARTITIONS).0)
    }

    /// Sends lines as one record, a second after the last one.
    pub fn send(&mut self, topic: &str, partition: u32, lines: &[&[u8]]) -> Offset {
        self.clock.advance(Duration::from_secs(1));
        for line in lines.iter().filter(|_| self.clock_is_right) {
            let time = self.parser.parse(line).map_or(START, |click| click.timestamp);
            if time < START.after(Duration::from_secs(86_400)) {
                self.clock.advance(time.since(self.clock.now()));
            }
        }
        let to = TopicPartition::new(topic, partition);
        let offset = self.queue.range(&to).unwrap().end;
        let runs = vec![("/var/log/ads/a.log".to_owned(), (0..lines.len() as u64).collect())];
        let header = SourceHeader { source: "web-17".into(), mark: SourceMark::Holding, origin: Origin { runs } };
        let value = lines.join(&b'\n');
        let raw = RawPartition::new(topic, Partition(partition));
        self.model.record(&raw, offset, self.clock.now(), Some(&header), &value);
        let record = Record { key: None, headers: vec![(SourceHeader::KEY.into(), header.encode())], value };
        let mut transaction = Transaction::default();
        transaction.send(to, record);
        self.queue.producer("test").unwrap().commit(&transaction, None).unwrap();
        offset
    }

    /// Sends lines to their partitions, many a record.
    pub fn send_all<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>, of_record: usize) {
        let mut waiting: BTreeMap<u32, Vec<&[u8]>> = BTreeMap::new();
        for line in lines {
            let partition = self.partition_of(line);
            let of = waiting.entry(partition).or_default();
            of.push(line);
            if of.len() >= of_record {
                let of = std::mem::take(of);
                self.send(TOPIC, partition, &of);
            }
        }
        for (partition, of) in waiting.into_iter().filter(|(_, of)| !of.is_empty()) {
            self.send(TOPIC, partition, &of);
        }
    }

    /// Writes what is not written yet, in files of so many rows.
    pub fn write(&self, rows: u64) {
        self.flush.store(true, Ordering::SeqCst);
        let config = RawConfig {
            rolling: Rolling { rows, ..Rolling::default() },
            flush: Arc::clone(&self.flush),
            keep: Duration::from_secs(1 << 34),
            ..RawConfig::default()
        };
        let mut writer = RawWriter::start(Arc::new(self.queue.clone()), Arc::clone(&self.files), config).unwrap();
        let mut idle = 0;
        while idle < 3 {
            idle = if writer.step(self.clock.now(), Duration::ZERO).unwrap() == Progress::Idle { idle + 1 } else { 0 };
        }
        Box::new(writer).stop().unwrap();
    }

    pub fn plan(&self, minutes: Range<Minute>) -> Plan {
        Plan::new(minutes, std::slice::from_ref(&self.definition))
    }

    /// Recalculates, and demands what the model says.
    pub fn check(&self, plan: &Plan) -> Summary {
        let (told, summary) = figures(&self.files, plan).unwrap();
        told.assert_is(&self.model, plan);
        summary
    }
}

/// Everything that was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub counts: BTreeMap<(Span, FilterId, String), u64>,
    pub rankings: BTreeMap<(FilterId, Window, Minute), Ranking>,
    pub oldest_arrivals: BTreeMap<Span, Timestamp>,
    pub until: Option<Minute>,
}

pub fn figures(files: &Files, plan: &Plan) -> Result<(Figures, Summary), RecalcError> {
    let mut all = Figures::default();
    let tell = |told| {
        all.take_in(told);
        Ok::<(), RecalcError>(())
    };
    let summary = recalculate(files, plan, &AtomicBool::new(false), |_| (), tell)?;
    Ok((all, summary))
}

impl Figures {
    pub fn take_in(&mut self, told: Told) {
        match told {
            Told::Counts { columns, oldest_arrival, .. } => {
                assert!(self.until.is_none_or(|until| columns.span.end() > until), "told after it was over");
                for (row, ad) in columns.ads.iter().enumerate() {
                    let ad = String::from_utf8(ad.to_vec()).unwrap();
                    for (filter, counts) in columns.filters.iter().zip(&columns.counts) {
                        let old = self.counts.insert((columns.span, *filter, ad.clone()), counts[row]);
                        assert_eq!(old, None, "{ad} is told twice in {:?}", columns.span);
                    }
                }
                // Totals know it only as far as minutes are kept.
                if columns.span.kind == SpanKind::Minute {
                    self.oldest_arrivals.insert(columns.span, oldest_arrival.unwrap());
                }
            }
            Told::Rankings { rankings, .. } => {
                for ranking in rankings {
                    assert!(self.until.is_none_or(|until| ranking.minute >= until), "told after it was over");
                    let key = (ranking.filter, ranking.window, ranking.minute);
                    assert_eq!(self.rankings.insert(key, ranking), None, "{key:?} is told twice");
                }
            }
            Told::Until(until) => {
                assert!(self.until < Some(until));
                self.until = Some(until);
            }
        }
    }

    /// Demands exactly what the model says of the plan's span, by its only definition.
    pub fn assert_is(&self, model: &Model, plan: &Plan) {
        let Range { start: from, end: to } = plan.minutes;
        let definition = plan.newest();
        let mut counts = BTreeMap::new();
        for ((minute, filter, ad), count) in model.counts() {
            for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
                let span = Span::holding(kind, *minute);
                if from <= span.start && span.end() <= to {
                    *counts.entry((span, *filter, ad.clone())).or_default() += count;
                }
            }
        }
        // An ad that was clicked has a row under every filter.
        let mine: BTreeMap<_, _> = self.counts.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect();
        assert_same(&mine, &counts);
        let mut rankings = BTreeMap::new();
        for minute in (0..to.minus(from)).map(|n| from.plus(n)) {
            let aligned = [Window::HOUR, Window::DAY].into_iter().filter(|window| window.is_aligned_at(minute));
            let windows: std::collections::BTreeSet<Window> =
                definition.windows.iter().copied().chain([Window::MINUTE]).chain(aligned).collect();
            for window in windows.into_iter().filter(|window| window.first(minute) >= from) {
                for filter in definition.filters.iter().map(|filter| filter.id) {
                    let mut ads = model.ranking(filter, window, minute);
                    let whole = ads.len() <= definition.depth();
                    ads.truncate(definition.depth());
                    if !ads.is_empty() {
                        let ranking = Ranking { filter, window, minute, whole, complete: true, ads };
                        rankings.insert((filter, window, minute), ranking);
                    }
                }
            }
        }
        assert_same(&self.rankings, &rankings);
        assert_eq!(self.until, Some(to));
    }
}

pub fn assert_same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) {
    for (key, value) in expected {
        assert_eq!(found.get(key), Some(value), "{key:?}");
    }
    let surplus = found.iter().find(|(key, _)| !expected.contains_key(*key));
    assert_eq!(surplus, None);
}

/// Rewrites a file as though its last line had been no click: with a reason, its bytes, and no columns.
pub fn refuse_last_row(path: &Path, line: &[u8]) {
    let file = std::fs::File::open(path).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let metadata = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let batch = builder.build().unwrap().next().unwrap().unwrap();
    let last = batch.num_rows() - 1;
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| -> ArrayRef {
        let text = |value: Option<&str>| -> ArrayRef {
            let old = column.as_string::<i32>();
            Arc::new(StringArray::from_iter(
                (0..=last).map(|i| if i < last { old.is_valid(i).then(|| old.value(i)) } else { value }),
            ))
        };
        match field.name().as_str() {
            "ad_id" | "user_id" | "ip" | "country" => text(None),
            "reason" => text(Some(RejectReason::ALL[0].as_str())),
            "click_timestamp" => {
                let old = column.as_primitive::<TimestampMicrosecondType>();
                let new = PrimitiveArray::<TimestampMicrosecondType>::from_iter(
                    (0..=last).map(|i| (i < last).then(|| old.value(i))),
                );
                Arc::new(new.with_timezone("UTC"))
            }
            "line" => Arc::new(BinaryArray::from_iter((0..=last).map(|i| (i == last).then_some(line)))),
            _ => Arc::clone(column),
        }
    });
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    for KeyValue { key, value } in metadata {
        let value = match key.as_str() {
            "clickmill.rejected" => Some("1".to_owned()),
            "clickmill.last_minute" => Some("202101010000".to_owned()),
            _ => value,
        };
        writer.append_key_value_metadata(KeyValue { key, value });
    }
    writer.close().unwrap();
}
