//! The operator's form for batch work: every line of some minutes of one raw partition is there, so that none is late.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Range};

use clickmill_model::{Click, Columns, Definition, LineParser, Minute, Offset, Timestamp, Watermark};

use crate::combine::Combiner;
use crate::definitions::Definitions;
use crate::open::OpenMinutes;
use crate::pending::PendingClicks;

/// Clicks that wait to be combined, at most about: 16 bytes each.
const MOST_WAITING: usize = 1 << 20;

/// Whether a line had no reason not to be counted when it was written to raw Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WasCounted {
    /// It had none: it was counted, or came late, or again.
    Yes,
    /// It was no click, or its clock was wrong.
    No,
}

/// What became of the lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Clicks counted.
    pub counted: u64,
    /// Clicks counted already.
    pub duplicates: u64,
    /// Lines that are no click, and clicks of a wrong clock.
    pub rejected: u64,
    /// Clicks of other minutes than those that were asked for.
    pub elsewhere: u64,
}

impl AddAssign for Lines {
    fn add_assign(&mut self, other: Self) {
        self.counted += other.counted;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.elsewhere += other.elsewhere;
    }
}

/// What was counted of some minutes of a raw partition.
#[derive(Debug, Default)]
pub struct Counts {
    /// For each aggregator partition, columns of one minute each. A minute may have several.
    pub partitions: Vec<Vec<Columns>>,
    /// When the oldest click of each minute arrived.
    pub oldest_arrivals: BTreeMap<Minute, Timestamp>,
    /// What became of the lines.
    pub lines: Lines,
}

/// Counts the clicks of some minutes of one raw partition after the other: parses, judges, removes duplicates, matches filters and combines as [`crate::PartitionMapper`] does, by the same
/// code. Pure.
///
/// Give it every line of the partition that may be of those minutes, in the order of their offsets (the first of several lines of one identity counts), then [`BatchMapper::take`]. It holds
/// the identities of those minutes, 26 to 52 bytes for each distinct click.
pub struct BatchMapper {
    definitions: Definitions,
    minutes: Range<Minute>,
    open: OpenMinutes,
    pending: PendingClicks,
    parser: LineParser,
    counts: Counts,
    waiting: usize,
}

impl BatchMapper {
    /// Minutes follow these definitions, each from a minute on, rising; the first one holds before, too. (Without any, the default one holds.)
    pub fn new(definitions: &[(Minute, Definition)]) -> Self {
        let mut later = definitions.iter();
        let first = later.next().map(|(_, definition)| definition.clone()).unwrap_or_default();
        let mut definitions = Definitions::new(&first, Minute::MIN, Minute::MIN);
        for (from, definition) in later {
            definitions.put_in_force(definition, *from, *from);
        }
        Self {
            definitions,
            minutes: Minute::MIN..Minute::MIN,
            open: OpenMinutes::default(),
            pending: PendingClicks::new(),
            parser: LineParser::new(),
            counts: Counts::default(),
            waiting: 0,
        }
    }

    /// Begins with another raw partition, or with other minutes: clicks of the minutes `[start, end)` will be counted.
    pub fn begin(&mut self, minutes: Range<Minute>, combiner: &mut Combiner) {
        // Nothing is held of what was before: its numbers may be forgotten.
        combiner.trim();
        self.minutes = minutes;
        self.counts = Counts { partitions: vec![Vec::new(); combiner.partitions() as usize], ..Counts::default() };
    }

    /// Takes in a line, without its newline. Returns the minute of its click; `None` where it is none, or its clock is wrong. `arrival` is when it came, and whether it was counted then: if it was,
    /// its clock is not judged again, since a bound that was lowered meanwhile must not take away what was right by the one in force.
    pub fn line(&mut self, line: &[u8], arrival: (Timestamp, WasCounted), combiner: &mut Combiner) -> Option<Minute> {
        let Some((click, minute)) = judge(&mut self.parser, &self.definitions, line, arrival) else {
            self.counts.lines.rejected += 1;
            return None;
        };
        if !self.minutes.contains(&minute) {
            self.counts.lines.elsewhere += 1;
            return Some(minute);
        }
        let slot = self.open.slot(minute, Offset(0), &self.definitions);
        self.pending.push(&click, slot, &self.open.all[slot as usize]);
        let oldest = self.counts.oldest_arrivals.entry(minute).or_insert(arrival.0);
        *oldest = arrival.0.min(*oldest);
        if self.pending.is_full() {
            self.settle(combiner);
        }
        Some(minute)
    }

    fn settle(&mut self, combiner: &mut Combiner) {
        let settled = self.pending.settle(&mut self.open.all, combiner);
        self.counts.lines.counted += settled.counted;
        self.counts.lines.duplicates += settled.duplicates;
        self.waiting += settled.counted as usize;
        if self.waiting >= MOST_WAITING {
            self.combine(combiner);
        }
    }

    fn combine(&mut self, combiner: &mut Combiner) {
        self.waiting = 0;
        for (all, columns) in self.counts.partitions.iter_mut().zip(self.open.combine(combiner)) {
            all.extend(columns);
        }
    }

    /// What was counted since [`BatchMapper::begin`]. The identities are forgotten.
    pub fn take(&mut self, combiner: &mut Combiner) -> Counts {
        self.settle(combiner);
        self.combine(combiner);
        self.open.close(Watermark::at(Minute::MAX.start()));
        self.open.clear();
        std::mem::take(&mut self.counts)
    }

    /// The minute of the click that a line tells which was not counted when it came; `None` where it is still none, or its clock is wrong.
    pub fn minute_of_rejected(&mut self, line: &[u8], arrival: Timestamp) -> Option<Minute> {
        judge(&mut self.parser, &self.definitions, line, (arrival, WasCounted::No)).map(|(_, minute)| minute)
    }
}

/// The click of a line, with its minute. One that is judged anew may be as far ahead of its arrival as its own minute's definition allows.
#[inline]
fn judge<'a>(
    parser: &'a mut LineParser,
    definitions: &Definitions,
    line: &'a [u8],
    (arrival, was_counted): (Timestamp, WasCounted),
) -> Option<(Click<'a>, Minute)> {
    let click = parser.parse(line).ok()?;
    let minute = click.timestamp.minute();
    let is_right = match was_counted {
        WasCounted::Yes => true,
        WasCounted::No => click.timestamp <= arrival.after(definitions.of(minute).max_clock_skew),
    };
    is_right.then_some((click, minute))
}
