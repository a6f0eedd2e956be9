//! A slow model of the whole pipeline: what every figure must be, worked out from the records of the raw partitions in the most
//! obvious way.
//!
//! It follows the words of the design, and shares nothing with the stages but value types: its own reading of lines ([`mod@line`]), of filters ([`filter`]) and of
//! time ([`watermark`]). It keeps every click that it ever counted.
//!
//! It is told what a mapper sees of each raw partition: [`Model::record`] for each record in turn, [`Model::idle`] whenever a fetch at the partition's end came back
//! empty; and [`Model::define`] when it hears of a newer definition.

pub mod filter;
pub mod line;
pub mod watermark;

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::SourceHeader;
use clickmill_model::{
    Definition, FilterId, Minute, Offset, Partition, RawPartition, Span, Timestamp, Watermark, Window,
};

use line::Identity;
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
    partitions: BTreeMap<RawPartition, Seen>,
    counts: BTreeMap<(Minute, FilterId, String), u64>,
    late: Vec<LinePlace>,
    rejected: Vec<LinePlace>,
    books: SlowBooks,
}

/// What is known of a raw partition.
#[derive(Debug)]
struct Seen {
    time: PartitionTime,
    next_offset: Offset,
    identities: BTreeSet<Identity>,
    /// The latest minute in which a click was counted.
    highest: Option<Minute>,
    /// The definitions that its minutes follow, each from a minute on; oldest first.
    follows: Vec<(Minute, Definition)>,
}

impl Seen {
    fn definition_of(&self, minute: Minute) -> &Definition {
        let follows = self.follows.iter().rev().find(|(from, _)| *from <= minute);
        &follows.unwrap_or(&self.follows[0]).1
    }
}

impl Model {
    /// Nothing has been seen of the definition's inputs.
    pub fn new(definition: &Definition) -> Self {
        let raw_partitions = definition
            .inputs
            .iter()
            .flat_map(|input| (0..input.partitions).map(|p| RawPartition::new(&input.topic, Partition(p))));
        let seen = || Seen {
            time: PartitionTime::new(definition),
            next_offset: Offset(0),
            identities: BTreeSet::new(),
            highest: None,
            follows: vec![(Minute::MIN, definition.clone())],
        };
        Self {
            partitions: raw_partitions.map(|raw| (raw, seen())).collect(),
            counts: BTreeMap::new(),
            late: Vec::new(),
            rejected: Vec::new(),
            books: SlowBooks::default(),
        }
    }

    /// A raw partition hears of a newer definition, behind the records so far. It counts by it from the first minute in which it has counted nothing yet, which is returned. Inputs
    /// and named sources stay as they were.
    pub fn define(&mut self, raw: &RawPartition, definition: &Definition) -> Minute {
        let seen = self.seen(raw);
        let untouched = seen.highest.map_or(Minute::MIN, Minute::next).max(seen.time.watermark().open_from());
        seen.time.follow(definition.time);
        seen.follows.push((untouched, definition.clone()));
        untouched
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
        let next = std::mem::replace(&mut self.seen(raw).next_offset, offset.next());
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
        self.seen(raw).time.heard(arrival, header, &clicked);
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
        let seen = self.partitions.get_mut(raw).unwrap_or_else(|| unreachable!("{raw} is no input"));
        let skew = seen.follows.last().unwrap().1.time.max_clock_skew;
        let click = line::read(line).filter(|click| click.timestamp <= arrival.after(skew));
        let Some(click) = click else {
            self.books.rejected += 1;
            self.rejected.push((raw.clone(), offset, place));
            return None;
        };
        let minute = click.timestamp.minute();
        let dedup = seen.definition_of(minute).dedup;
        if seen.time.watermark().closes(minute) {
            self.books.late += 1;
            self.late.push((raw.clone(), offset, place));
        } else if dedup && !seen.identities.insert(click.identity()) {
            self.books.duplicates += 1;
        } else {
            self.books.counted += 1;
            seen.highest = seen.highest.max(Some(minute));
            for filter in seen.definition_of(minute).filters.iter().filter(|f| filter::matches(f, &click)) {
                *self.counts.entry((minute, filter.id, click.ad_id.clone())).or_default() += 1;
            }
        }
        Some(click.timestamp)
    }

    fn seen(&mut self, raw: &RawPartition) -> &mut Seen {
        self.partitions.get_mut(raw).unwrap_or_else(|| unreachable!("{raw} is no input of the definition"))
    }

    /// The partition is an input from this minute on. If it was one before, it begins anew, without its sources.
    pub fn begin_at(&mut self, raw: &RawPartition, first: Minute) {
        let seen = self.seen(raw);
        let (_, definition) = &seen.follows[seen.follows.len() - 1];
        let mut time = PartitionTime::new(definition);
        time.begin_at(seen.time.watermark().open_from());
        time.begin_at(first);
        seen.time = time;
    }

    /// A fetch at the partition's end came back empty.
    pub fn idle(&mut self, raw: &RawPartition, now: Timestamp) {
        let others = watermark::Others::of(self.partitions.values().map(|seen| &seen.time));
        self.seen(raw).time.idle(now, others);
    }

    /// [`Model::idle`] for every partition.
    pub fn tick(&mut self, now: Timestamp) {
        let all: Vec<RawPartition> = self.partitions.keys().cloned().collect();
        for raw in all {
            self.idle(&raw, now);
        }
    }

    /// A raw partition's watermark.
    pub fn watermark(&self, raw: &RawPartition) -> Watermark {
        self.partitions.get(raw).map_or(Watermark::NONE, |seen| seen.time.watermark())
    }

    /// The first minute that is still open, for the pipeline as a whole.
    pub fn open_from(&self) -> Minute {
        self.partitions.values().map(|seen| seen.time.watermark().open_from()).min().unwrap_or(Minute::MIN)
    }

    /// Clicks per minute, filter and ad, those of open minutes too, and those of minutes in which not every raw partition counted the filter. Those without clicks are not there.
    pub fn counts(&self) -> &BTreeMap<(Minute, FilterId, String), u64> {
        &self.counts
    }

    /// True where every raw partition counted the filter in this minute: otherwise its figures are not published.
    pub fn is_published(&self, filter: FilterId, minute: Minute) -> bool {
        self.partitions.values().all(|seen| seen.definition_of(minute).filter(filter).is_some())
    }

    /// The definition whose windows and `n` hold in this minute: the oldest that a raw partition counts it by.
    ///
    /// # Panics
    /// Where there is no input.
    pub fn in_force(&self, minute: Minute) -> &Definition {
        self.partitions.values().map(|seen| seen.definition_of(minute)).min_by_key(|d| d.version).unwrap()
    }

    /// The minutes from which on some raw partition follows another definition, rising.
    pub fn changes(&self) -> BTreeSet<Minute> {
        let follows = self.partitions.values().flat_map(|seen| &seen.follows);
        follows.map(|(from, _)| *from).filter(|from| *from > Minute::MIN).collect()
    }

    /// Clicks per ad in the minutes `[from, to)`, without those that are not published.
    pub fn totals(&self, filter: FilterId, from: Minute, to: Minute) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        let first = (from, FilterId::ALL, String::new());
        for ((minute, of, ad), count) in self.counts.range(first..).take_while(|((minute, ..), _)| *minute < to) {
            if *of == filter && self.is_published(filter, *minute) {
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
