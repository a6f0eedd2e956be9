//! Raw Parquet as the real writer leaves it, and a store that is filled by slow code of the test's own, with an error switched on or without.
//!
//! The stream's operators have no such switch: they are what bills people, and code in them that is wrong on purpose could be wrong by accident. What reconciliation sees of an error in the stream is a store
//! whose figures are wrong in a certain way, and in one case raw files whose columns are. So the tests make just that: a pipeline of a hundred lines, each of whose errors is a variant of [`Fault`].
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_db_writer::late::{LateConfig, LateWriter};
use clickmill_db_writer::raw::{Files, RawConfig, RawWriter, Rolling};
use clickmill_model::records::{
    FilterSpan, LATE_CLICKS, Origin, Ranking, SetAside, SetAsideBatch, SourceHeader, SourceMark,
};
use clickmill_model::{
    Columns, Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, Revision, Span,
    SpanKind, Timestamp, Window,
};
use clickmill_queue::memory::MemoryQueue;
use clickmill_queue::{
    Clock, ManualClock, Progress, Queue, Record, Retention, Stage, TopicPartition, TopicSpec, Transaction,
};
use clickmill_reconcile::{Audit, FileStore, ReconcileError, Request, audit};
use clickmill_store::{AggregateStore, ClosedWrite, MemoryStore, RankedWrite};
use clickmill_tests::model::filter::matches;
use clickmill_tests::model::line::{self, Identity, SlowClick};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

pub const TOPIC: &str = "ad-clicks";
pub const PARTITIONS: u32 = 3;
/// 2021-01-01 00:00.
pub const START: Timestamp = Timestamp::from_secs(1_609_459_200);

pub fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

pub fn filter(json: &str) -> Filter {
    serde_json::from_str(json).unwrap()
}

/// Three raw partitions, filters of all kinds, rankings of four ads and more.
pub fn definition() -> Definition {
    Definition {
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA","Côte d'Ivoire"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
            filter(r#"{"id":3,"ip":["207.148.0.0/17","2001:db8:8::/45","10.1.2.3"]}"#),
            filter(r#"{"id":4,"user_id":["user 1","user 2"],"country":["USA"]}"#),
        ],
        windows: vec![Window(1), Window(5), Window(60)],
        n: 2,
        inputs: vec![InputTopic { topic: TOPIC.into(), partitions: PARTITIONS }],
        partitions: 2,
        ..Definition::default()
    }
}

/// What is wrong with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// The parser refuses IPv6 addresses.
    ParserRefusesIpv6,
    /// The parser takes the hour of JSON lines for one of another time zone.
    ParserShiftsJson,
    /// Duplicates are forgotten after each so many lines of a partition.
    ForgetsDuplicates(usize),
    /// A click with an event id is taken for another one where its user is another.
    EventsByAllFields,
    /// A network is one bit too wide.
    WidePrefix,
    /// Excluded countries are included.
    IgnoresExclusion,
    /// Windows are a minute too long.
    LongWindows,
    /// Ties go the other way round.
    TiesBackwards,
    /// The total of an hour lacks its last minute.
    ShortHours,
}

/// A line where it stands in the queue.
struct Sent {
    partition: u32,
    offset: Offset,
    place: u32,
    arrival: Timestamp,
    line: Vec<u8>,
    is_late: bool,
}

/// A queue, and raw files that are written from it.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub queue: MemoryQueue,
    pub folder: TempDir,
    pub files: Arc<Files>,
    pub definition: Definition,
    sent: Vec<Sent>,
    flush: Arc<AtomicBool>,
}

impl World {
    pub fn new(definition: &Definition) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(START));
        let queue = MemoryQueue::new(Arc::<ManualClock>::clone(&clock));
        let spec = |topic: &str, partitions| TopicSpec {
            name: topic.into(),
            partitions,
            retention: Retention::Forever,
            max_backlog_bytes: 0,
        };
        let topics = [spec("pipeline", 1), spec(TOPIC, PARTITIONS), spec(LATE_CLICKS, PARTITIONS)];
        queue.create_topics(&topics).unwrap();
        assert!(clickmill_queue::definitions::append(&queue, definition).unwrap());
        let files = Arc::new(Files::local(folder.path()).unwrap());
        let flush = Arc::new(AtomicBool::new(true));
        Self { clock, queue, folder, files, definition: definition.clone(), sent: Vec::new(), flush }
    }

    /// Sends lines as one record of a partition, a second after the last one.
    pub fn send(&mut self, partition: u32, lines: &[&[u8]]) {
        self.send_as(partition, lines, false);
    }

    /// The same, of lines that the mapper set aside because their minute was closed.
    pub fn send_late(&mut self, partition: u32, lines: &[&[u8]]) {
        self.send_as(partition, lines, true);
    }

    fn send_as(&mut self, partition: u32, lines: &[&[u8]], is_late: bool) {
        self.clock.advance(Duration::from_secs(1));
        let to = TopicPartition::new(TOPIC, partition);
        let offset = self.queue.range(&to).unwrap().end;
        let at = offset.0 * 1000;
        let runs = vec![("/var/log/ads/a.log".to_owned(), (0..lines.len() as u64).map(|n| at + n * 100).collect())];
        let header = SourceHeader { source: "web-17".into(), mark: SourceMark::Holding, origin: Origin { runs } };
        let record =
            Record { key: None, headers: vec![(SourceHeader::KEY.into(), header.encode())], value: lines.join(&b'\n') };
        let mut transaction = Transaction::default();
        transaction.send(to, record);
        for (place, line) in lines.iter().enumerate() {
            let arrival = self.clock.now();
            let place = place as u32;
            if is_late {
                let raw = RawPartition::new(TOPIC, Partition(partition));
                let record = set_aside(&raw, offset, place, arrival, line);
                transaction.send(TopicPartition::new(LATE_CLICKS, partition), record);
            }
            self.sent.push(Sent { partition, offset, place, arrival, line: line.to_vec(), is_late });
        }
        self.queue.producer("test").unwrap().commit(&transaction, None).unwrap();
    }

    /// Sends lines to partitions by what they are, so that duplicates meet; some to a record.
    pub fn send_all<'a>(&mut self, lines: impl IntoIterator<Item = &'a [u8]>, of_record: usize) {
        let mut waiting: BTreeMap<u32, Vec<&[u8]>> = BTreeMap::new();
        for line in lines {
            let partition = line::read(line).map_or(0, |click| spread(&click));
            let of = waiting.entry(partition).or_default();
            of.push(line);
            if of.len() >= of_record {
                let of = std::mem::take(of);
                self.send(partition, &of);
            }
        }
        for (partition, of) in waiting.into_iter().filter(|(_, of)| !of.is_empty()) {
            self.send(partition, &of);
        }
    }

    /// Writes what is not written yet, in files of so many rows.
    pub fn write(&self, rows: u64) {
        let rolling = Rolling { rows, ..Rolling::default() };
        let (flush, keep) = (Arc::clone(&self.flush), Duration::from_secs(1 << 34));
        let queue = || Arc::new(self.queue.clone());
        let raw = RawConfig { rolling: rolling.clone(), flush: Arc::clone(&flush), keep, ..RawConfig::default() };
        let late = LateConfig { rolling, flush, keep, ..LateConfig::default() };
        let stages: [Box<dyn Stage>; 2] = [
            Box::new(RawWriter::start(queue(), Arc::clone(&self.files), raw).unwrap()),
            Box::new(LateWriter::start(queue(), Arc::clone(&self.files), late).unwrap()),
        ];
        self.flush.store(true, Ordering::SeqCst);
        for mut stage in stages {
            let mut idle = 0;
            while idle < 3 {
                let progress = stage.step(self.clock.now(), Duration::ZERO).unwrap();
                idle = if progress == Progress::Idle { idle + 1 } else { 0 };
            }
            stage.stop().unwrap();
        }
    }

    /// A store that holds what a pipeline with this fault makes of the lines, closed up to `until`.
    pub fn store(&self, fault: Fault, until: Minute) -> MemoryStore {
        let store = MemoryStore::new();
        store.write_definition(&self.definition).unwrap();
        let figures = Figures::of(&self.sent, &self.definition, fault, until);
        figures.write(&store, &self.definition, until);
        store
    }

    pub fn file_store(&self) -> FileStore {
        file_store(self.folder.path())
    }

    /// Reconciles what is written with a store.
    pub fn audit(&self, store: &dyn AggregateStore, from: &str, to: &str) -> Result<Audit, ReconcileError> {
        audit(store, &self.file_store(), &Request::new(minute(from), minute(to)))
    }
}

pub fn file_store(folder: &Path) -> FileStore {
    let folder = folder.canonicalize().unwrap();
    FileStore {
        store: Arc::new(LocalFileSystem::new_with_prefix(&folder).unwrap()),
        root: folder.display().to_string(),
    }
}

fn set_aside(raw: &RawPartition, offset: Offset, place: u32, arrival: Timestamp, line: &[u8]) -> Record {
    let line = SetAside { offset, line_number: place, arrival, origin: None, reason: None, line: line.to_vec() };
    let batch = SetAsideBatch { raw: raw.clone(), lines: vec![line] };
    Record { key: None, headers: vec![], value: batch.encode() }
}

/// Some partition, the same for the same click.
fn spread(click: &SlowClick) -> u32 {
    let text = match click.identity() {
        Identity::Event(event, ad, time) => format!("{event}{ad}{time}"),
        Identity::Fields(ad, time, user, ip, country) => format!("{ad}{time}{user}{ip}{country}"),
    };
    text.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % PARTITIONS
}

/// What a slow pipeline makes of lines.
#[derive(Debug, Default)]
pub struct Figures {
    counts: BTreeMap<(Minute, FilterId, String), u64>,
    totals: BTreeMap<(Span, FilterId, String), u64>,
    rankings: Vec<Ranking>,
}

impl Figures {
    fn of(sent: &[Sent], definition: &Definition, fault: Fault, until: Minute) -> Self {
        let mut figures = Self::default();
        let mut seen: BTreeMap<u32, (usize, BTreeSet<String>)> = BTreeMap::new();
        for sent in sent.iter().filter(|sent| !sent.is_late) {
            let Some(click) = read(&sent.line, fault) else { continue };
            if click.timestamp > sent.arrival.after(definition.time.max_clock_skew) {
                continue;
            }
            let (lines, identities) = seen.entry(sent.partition).or_default();
            *lines += 1;
            if matches!(fault, Fault::ForgetsDuplicates(after) if *lines % after == 0) {
                identities.clear();
            }
            let identity = match (fault, click.identity()) {
                (Fault::EventsByAllFields, identity @ Identity::Event(..)) => format!("{identity:?}{}", click.user_id),
                (_, identity) => format!("{identity:?}"),
            };
            if definition.dedup && !identities.insert(identity) {
                continue;
            }
            for filter in definition.filters.iter().filter(|filter| matches(&wrong(filter, fault), &click)) {
                let minute = click.timestamp.minute();
                *figures.counts.entry((minute, filter.id, click.ad_id.clone())).or_default() += 1;
                for kind in [SpanKind::Hour, SpanKind::Day] {
                    let span = Span::holding(kind, minute);
                    if fault == Fault::ShortHours && kind == SpanKind::Hour && span.last() == minute {
                        continue;
                    }
                    *figures.totals.entry((span, filter.id, click.ad_id.clone())).or_default() += 1;
                }
            }
        }
        figures.rank(definition, fault, until);
        figures
    }

    fn rank(&mut self, definition: &Definition, fault: Fault, until: Minute) {
        let Some(first) = self.counts.keys().next().map(|(minute, ..)| *minute) else { return };
        for last in (0..until.minus(first)).map(|n| first.plus(n)) {
            for window in [1, 5, 60, 1440].map(Window) {
                if !definition.windows.contains(&window) && last.next().as_epoch() % i64::from(window.0) != 0 {
                    continue;
                }
                let longer = i64::from(fault == Fault::LongWindows && window.0 > 1);
                let begin = last.plus(1 - i64::from(window.0) - longer);
                for filter in &definition.filters {
                    let mut sums: BTreeMap<&String, u64> = BTreeMap::new();
                    for ((_, of, ad), clicks) in self
                        .counts
                        .range((begin, FilterId(0), String::new())..(last.next(), FilterId(0), String::new()))
                    {
                        if *of == filter.id {
                            *sums.entry(ad).or_default() += clicks;
                        }
                    }
                    let mut ads: Vec<(String, u64)> =
                        sums.into_iter().map(|(ad, clicks)| (ad.clone(), clicks)).collect();
                    if fault == Fault::TiesBackwards {
                        ads.reverse();
                    }
                    ads.sort_by_key(|(_, clicks)| std::cmp::Reverse(*clicks));
                    let whole = ads.len() <= definition.depth();
                    ads.truncate(definition.depth());
                    if !ads.is_empty() {
                        let ranking = Ranking { filter: filter.id, window, minute: last, whole, complete: true, ads };
                        self.rankings.push(ranking);
                    }
                }
            }
        }
    }

    /// All ads belong to partition 0; the other ones are as far.
    fn write(&self, store: &MemoryStore, definition: &Definition, until: Minute) {
        let ids: Vec<FilterId> = definition.filters.iter().map(|filter| filter.id).collect();
        let mut spans: BTreeMap<Span, BTreeMap<&String, Vec<u64>>> = BTreeMap::new();
        let minutes = self.counts.iter().map(|((minute, filter, ad), n)| ((Span::minute(*minute), *filter, ad), *n));
        let totals = self.totals.iter().map(|((span, filter, ad), n)| ((*span, *filter, ad), *n));
        for ((span, filter, ad), count) in minutes.chain(totals).filter(|((span, ..), _)| span.end() <= until) {
            let place = ids.iter().position(|id| *id == filter).unwrap();
            spans.entry(span).or_default().entry(ad).or_insert_with(|| vec![0; ids.len()])[place] += count;
        }
        let counts = spans.into_iter().map(|(span, ads)| {
            let mut columns = Columns::new(span, ids.clone());
            for (ad, counts) in ads {
                columns.ads.push(ad.as_bytes());
                counts.iter().zip(&mut columns.counts).for_each(|(count, column)| column.push(*count));
            }
            (columns, Some(START))
        });
        let filters: Vec<FilterSpan> =
            ids.iter().map(|filter| FilterSpan { filter: *filter, from: Minute::MIN, until: None }).collect();
        let mut write = ClosedWrite {
            revision: Revision::STREAM,
            partition: Partition(0),
            counts: counts.collect(),
            until,
            filters,
        };
        store.write_closed(&write).unwrap();
        write = ClosedWrite { partition: Partition(1), counts: Vec::new(), ..write };
        store.write_closed(&write).unwrap();
        for partition in [0, 1].map(Partition) {
            let mine = if partition.0 == 0 { self.rankings.clone() } else { Vec::new() };
            let rankings = mine.into_iter().map(|ranking| (ranking, Some(START))).collect();
            store.write_ranked(&RankedWrite { revision: Revision::STREAM, partition, rankings, until }).unwrap();
        }
    }
}

fn read(line: &[u8], fault: Fault) -> Option<SlowClick> {
    let mut click = line::read(line)?;
    if fault == Fault::ParserRefusesIpv6 && click.ip.is_ipv6() {
        return None;
    }
    if fault == Fault::ParserShiftsJson && line.starts_with(b"{") {
        click.timestamp = click.timestamp.before(Duration::from_secs(3600));
    }
    Some(click)
}

fn wrong(filter: &Filter, fault: Fault) -> Filter {
    let mut filter = filter.clone();
    if fault == Fault::WidePrefix {
        for net in &mut filter.ip {
            *net = net.supernet().unwrap();
        }
    }
    if fault == Fault::IgnoresExclusion {
        filter.exclude_country.clear();
    }
    filter
}
