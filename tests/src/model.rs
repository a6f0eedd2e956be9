//! A slow model of the whole pipeline: what every figure must be, worked out from the records of the raw partitions in the most
//! obvious way.
//!
//! It follows the words of the design, and shares nothing with the stages but value types: its own reading of lines ([`mod@line`]), of filters ([`filter`]) and of
//! time ([`watermark`]). It keeps every click that it ever counted.
//!
//! It is told what a mapper sees of each raw partition: [`Model::record`] for each record in turn, [`Model::idle`] whenever a fetch at the partition's end came back
//! empty. It has one definition.

pub mod filter;
pub mod line;
pub mod watermark;

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::SourceHeader;
use clickmill_model::{
    Definition, FilterId, Minute, Offset, Partition, RawPartition, Span, Timestamp, Watermark, Window,
};

use line::{Identity, SlowClick};
use watermark::PartitionTime;

/// Where a line stood: its partition, its record's offset, its place in the record from 0.
pub type LinePlace = (RawPartition, Offset, usize);

/// What became of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlowBooks {
    /// All lines.
    pub lines: u64,
    /// Clicks counted.
    pub counted: u64,
    /// Clicks counted already.
    pub duplicates: u64,
    /// Clicks that came when their minute was closed.
    pub late: u64,
    /// Lines that are no click.
    pub rejected: u64,
}

/// The slow model.
#[derive(Debug)]
pub struct Model {
    definition: Definition,
    times: BTreeMap<RawPartition, PartitionTime>,
    next_offsets: BTreeMap<RawPartition, Offset>,
    seen: BTreeMap<RawPartition, BTreeSet<Identity>>,
    counts: BTreeMap<(Minute, FilterId, String), u64>,
    late: Vec<LinePlace>,
    rejected: Vec<LinePlace>,
    books: SlowBooks,
}

impl Model {
    /// Nothing has been seen of the definition's inputs.
    pub fn new(definition: Definition) -> Self {
        let raw_partitions = definition
            .inputs
            .iter()
            .flat_map(|input| (0..input.partitions).map(|p| RawPartition::new(&input.topic, Partition(p))));
        let times = raw_partitions.map(|raw| (raw, PartitionTime::new(&definition))).collect();
        Self {
            definition,
            times,
            next_offsets: BTreeMap::new(),
            seen: BTreeMap::new(),
            counts: BTreeMap::new(),
            late: Vec::new(),
            rejected: Vec::new(),
            books: SlowBooks::default(),
        }
    }

    /// The next record of a raw partition. Offsets must rise: the model sees each record once.
    ///
    /// # Panics
    /// Where an offset does not rise, or the partition is none of the definition's.
    pub fn record(
        &mut self,
        raw: &RawPartition,
        offset: Offset,
        arrival: Timestamp,
        header: Option<&SourceHeader>,
        value: &[u8],
    ) {
        let next = self.next_offsets.insert(raw.clone(), offset.next()).unwrap_or_default();
        assert!(offset >= next, "offset {offset} of {raw} comes a second time");
        let lines: Vec<&[u8]> = match header {
            Some(header) if header.origin.runs.is_empty() => Vec::new(),
            Some(_) => value.split(|byte| *byte == b'\n').collect(),
            // Foreign producers may end their last line too.
            None => value.strip_suffix(b"\n").unwrap_or(value).split(|byte| *byte == b'\n').collect(),
        };
        // The lines first: they may be older than the watermark that their record brings.
        let mut clicked = Vec::new();
        for (place, line) in lines.into_iter().enumerate() {
            clicked.extend(self.line(raw, offset, arrival, place, line));
        }
        self.time_of(raw).heard(arrival, header, &clicked);
    }

    /// Takes one line; returns the time of its click, where the click's clock can be believed.
    fn line(
        &mut self,
        raw: &RawPartition,
        offset: Offset,
        arrival: Timestamp,
        place: usize,
        line: &[u8],
    ) -> Option<Timestamp> {
        self.books.lines += 1;
        let skew = self.definition.time.max_clock_skew;
        let click = line::read(line).filter(|click| click.timestamp <= arrival.after(skew));
        let Some(click) = click else {
            self.books.rejected += 1;
            self.rejected.push((raw.clone(), offset, place));
            return None;
        };
        let minute = click.timestamp.minute();
        if self.time_of(raw).watermark().closes(minute) {
            self.books.late += 1;
            self.late.push((raw.clone(), offset, place));
        } else if self.definition.dedup && !self.seen.entry(raw.clone()).or_default().insert(click.identity()) {
            self.books.duplicates += 1;
        } else {
            self.books.counted += 1;
            self.count(&click, minute);
        }
        Some(click.timestamp)
    }

    fn count(&mut self, click: &SlowClick, minute: Minute) {
        for filter in &self.definition.filters {
            if filter::matches(filter, click) {
                *self.counts.entry((minute, filter.id, click.ad_id.clone())).or_default() += 1;
            }
        }
    }

    fn time_of(&mut self, raw: &RawPartition) -> &mut PartitionTime {
        self.times.get_mut(raw).unwrap_or_else(|| unreachable!("{raw} is no input of the definition"))
    }

    /// The partition is an input from this minute on. If it was one before, it begins anew, without its sources.
    pub fn begin_at(&mut self, raw: &RawPartition, first: Minute) {
        let mut time = PartitionTime::new(&self.definition);
        time.begin_at(self.watermark(raw).open_from());
        time.begin_at(first);
        self.times.insert(raw.clone(), time);
    }

    /// A fetch at the partition's end came back empty.
    pub fn idle(&mut self, raw: &RawPartition, now: Timestamp) {
        let others = watermark::Others::of(self.times.values());
        self.time_of(raw).idle(now, others);
    }

    /// [`Model::idle`] for every partition.
    pub fn tick(&mut self, now: Timestamp) {
        let all: Vec<RawPartition> = self.times.keys().cloned().collect();
        for raw in all {
            self.idle(&raw, now);
        }
    }

    /// A raw partition's watermark.
    pub fn watermark(&self, raw: &RawPartition) -> Watermark {
        self.times.get(raw).map_or(Watermark::NONE, PartitionTime::watermark)
    }

    /// The first minute that is still open, for the pipeline as a whole.
    pub fn open_from(&self) -> Minute {
        self.times.values().map(|time| time.watermark().open_from()).min().unwrap_or(Minute::MIN)
    }

    /// Clicks per minute, filter and ad, those of open minutes too. Those without clicks are not there.
    pub fn counts(&self) -> &BTreeMap<(Minute, FilterId, String), u64> {
        &self.counts
    }

    /// Clicks per ad in the minutes `[from, to)`.
    pub fn totals(&self, filter: FilterId, from: Minute, to: Minute) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        for ((minute, of, ad), count) in &self.counts {
            if *of == filter && (from..to).contains(minute) {
                *totals.entry(ad.clone()).or_default() += count;
            }
        }
        totals
    }

    /// Clicks per ad in a minute, an hour or a day.
    pub fn span(&self, filter: FilterId, span: Span) -> BTreeMap<String, u64> {
        self.totals(filter, span.start, span.end())
    }

    /// Every ad clicked in the window that ends with `minute`, most clicked first, ties by `ad_id`.
    pub fn ranking(&self, filter: FilterId, window: Window, minute: Minute) -> Vec<(String, u64)> {
        let from = minute.plus(1 - i64::from(window.0));
        ranked(self.totals(filter, from, minute.next()))
    }

    /// Every ad clicked in the minutes `[from, to)`, most clicked first, ties by `ad_id`.
    pub fn top(&self, filter: FilterId, from: Minute, to: Minute) -> Vec<(String, u64)> {
        ranked(self.totals(filter, from, to))
    }

    /// The late clicks, in the order in which they came.
    pub fn late(&self) -> &[LinePlace] {
        &self.late
    }

    /// The lines that are no click, in the order in which they came.
    pub fn rejected(&self) -> &[LinePlace] {
        &self.rejected
    }

    /// How many clicks came again.
    pub fn duplicates(&self) -> u64 {
        self.books.duplicates
    }

    /// What became of the lines.
    pub fn books(&self) -> SlowBooks {
        self.books
    }
}

fn ranked(totals: BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut ranking: Vec<(String, u64)> = totals.into_iter().collect();
    // Sorting is stable, and the ads come in the order of their ids.
    ranking.sort_by(|(_, a), (_, b)| b.cmp(a));
    ranking
}
