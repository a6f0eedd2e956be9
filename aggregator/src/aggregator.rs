//! The operator: blocks of partial counts become closed minutes.

use std::collections::BTreeMap;

use clickmill_model::prefetch::AHEAD;
use clickmill_model::records::{Candidates, Covered, PartialBlock, ResultBody, ResultRecord};
use clickmill_model::{
    AdTable, Announced, Columns, Definition, DefinitionVersion, FilterId, Minute, Offset, Partition, RawPartition,
    Revision, Span, SpanKind, Timestamp, Watermark, Window,
};

use crate::checkpoint::AggregatorCheckpoint;
use crate::error::AggregateError;
use crate::open::{Entries, OpenMinute};
use crate::publish::Published;
use crate::rank::Best;
use crate::windows::{ClosedMinute, Windows};

mod follow;

/// How far one raw partition has come.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) to: Offset,
    pub(crate) watermark: Watermark,
    pub(crate) definitions: Vec<Announced>,
}

impl AsRef<[Announced]> for Raw {
    fn as_ref(&self) -> &[Announced] {
        &self.definitions
    }
}

/// What a closing tells.
#[derive(Debug)]
pub struct Closing {
    /// For the own partition of `click-results`, in this order; the last one says how far minutes are closed.
    pub results: Vec<ResultRecord>,
    /// For `top-candidates`.
    pub candidates: Vec<Candidates>,
    /// The first minute that was not closed before.
    pub from: Minute,
    /// The first minute that is not closed now.
    pub until: Minute,
    /// When the oldest click in it arrived.
    pub oldest_arrival: Option<Timestamp>,
}

/// Rows of counts in one record, which keeps it under about 700 KiB.
const ROWS_A_RECORD: usize = 32_768;

/// After so many rows of counts and rankings a closing pauses: what is told by then is committed first.
const ROWS_A_CLOSING: usize = 2_000_000;

/// Counts the clicks of one aggregator partition by minute, and closes minutes as the watermark passes them. Pure.
pub struct Aggregator {
    partition: Partition,
    published: Published,
    /// The definition whose inputs the next minute waits for.
    inputs_since: DefinitionVersion,
    raws: BTreeMap<RawPartition, Raw>,
    ads: AdTable,
    open: BTreeMap<Minute, OpenMinute>,
    windows: Windows,
    set_for: Option<DefinitionVersion>,
    sums_from: BTreeMap<Window, Minute>,
    closed_until: Minute,
    /// At or before the record of `click-results` that told the last closing.
    closing_at: Option<Offset>,
    /// The first block of `click-partials` behind the last closing.
    after_closing: Option<Offset>,
    restoring: BTreeMap<Span, ClosedMinute>,
    /// How far it had told, as what was read back says.
    told_until: Option<Minute>,
    numbers: Vec<u32>,
    hashes: Vec<u64>,
}

impl Aggregator {
    /// Starts where nothing was ever committed. `definitions` holds all that there are, oldest first, at least one.
    pub fn new(partition: Partition, definitions: &[Definition]) -> Self {
        Self {
            partition,
            published: Published::new(definitions),
            inputs_since: definitions.first().map_or(0, |definition| definition.version),
            raws: BTreeMap::new(),
            ads: AdTable::new(),
            open: BTreeMap::new(),
            windows: Windows::default(),
            set_for: None,
            sums_from: BTreeMap::new(),
            closed_until: Minute::MIN,
            closing_at: None,
            after_closing: None,
            restoring: BTreeMap::new(),
            told_until: None,
            numbers: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Learns a definition that came later.
    pub fn learn(&mut self, definition: &Definition) {
        self.published.learn(definition);
    }

    /// Goes on behind a checkpoint. Give it then each record of its own partition of `click-results` from `checkpoint.results_from` on ([`Aggregator::restore_result`]), call
    /// [`Aggregator::restored`], and give it each block from `checkpoint.replay_from` to the committed offset ([`Aggregator::replay`]).
    pub fn restore(partition: Partition, definitions: &[Definition], checkpoint: &AggregatorCheckpoint) -> Self {
        let new = Self::new(partition, definitions);
        Self {
            closed_until: checkpoint.closed_until,
            after_closing: Some(checkpoint.replay_from),
            sums_from: checkpoint.sums_from.iter().copied().collect(),
            inputs_since: checkpoint.inputs_since.unwrap_or(new.inputs_since),
            ..new
        }
    }

    /// Reads back what it told before: a record at `offset`.
    pub fn restore_result(&mut self, offset: Offset, record: &ResultRecord) -> Result<(), AggregateError> {
        if record.revision != Revision::STREAM {
            return Ok(());
        }
        match &record.body {
            ResultBody::Counts { partition, oldest_arrival, columns }
                if *partition == self.partition && columns.span.kind != SpanKind::Day =>
            {
                self.number(columns)?;
                let closed = self.restoring.entry(columns.span).or_insert_with(|| ClosedMinute {
                    minute: columns.span.start,
                    filters: columns.filters.clone(),
                    entries: vec![Entries::default(); columns.filters.len()],
                    oldest_arrival: *oldest_arrival,
                    told_at: offset,
                });
                for (entries, counts) in closed.entries.iter_mut().zip(&columns.counts) {
                    let mut rows: Vec<(u32, u64)> = self.numbers.iter().copied().zip(counts.iter().copied()).collect();
                    rows.extend(entries.iter());
                    rows.sort_unstable();
                    *entries = Entries::default();
                    for (ad, count) in rows {
                        entries.push(ad, count);
                    }
                }
            }
            ResultBody::Closed { partition, until, covered, filters } if *partition == self.partition => {
                self.told_until = Some(*until);
                self.raws = covered
                    .iter()
                    .map(|c| {
                        let definitions = c.definitions.clone();
                        (c.raw.clone(), Raw { to: c.to, watermark: c.watermark, definitions })
                    })
                    .collect();
                self.published.restore(filters);
                self.closing_at = Some(offset);
            }
            ResultBody::Counts { .. }
            | ResultBody::Closed { .. }
            | ResultBody::Rankings { .. }
            | ResultBody::Ranked { .. } => {}
        }
        Ok(())
    }

    /// Everything told before was read back: the windows are summed up from it.
    pub fn restored(&mut self) -> Result<(), AggregateError> {
        if self.told_until != Some(self.closed_until) {
            return Err(AggregateError::LostResults { closed_until: self.closed_until, found: self.told_until });
        }
        let last = self.closed_until.previous();
        if let Some(definition) = self.published.in_force(last, &self.raws) {
            self.windows.set(&definition.windows, self.closed_until);
            self.set_for = Some(definition.version);
        }
        let day = Span::holding(SpanKind::Day, self.closed_until);
        let hour = Span::holding(SpanKind::Hour, self.closed_until);
        let kept_from = self.closed_until.plus(-self.windows.kept_minutes());
        for (span, closed) in std::mem::take(&mut self.restoring) {
            match span.kind {
                SpanKind::Minute if span.start >= kept_from => self.windows.restore(closed, self.closed_until),
                SpanKind::Hour if span.start >= day.start && span.start < hour.start => {
                    self.windows.add_hour(&closed.filters, &closed.entries);
                    self.windows.hour_told(span.start, closed.told_at, closed.oldest_arrival);
                }
                SpanKind::Minute | SpanKind::Hour | SpanKind::Day => {}
            }
        }
        Ok(())
    }

    /// Reads a block again that was committed before: the counts of minutes that are still open, and how far its raw partition had come.
    pub fn replay(&mut self, offset: Offset, block: &PartialBlock) -> Result<(), AggregateError> {
        let closed_until = self.closed_until;
        for columns in block.minutes.iter().filter(|c| c.span.start >= closed_until) {
            self.count(offset, columns, block.oldest_arrival)?;
        }
        if self.raws.get(&block.raw).is_none_or(|raw| raw.to <= block.to) {
            self.note(block);
        }
        Ok(())
    }

    /// Takes in the block at `offset` of `click-partials`. Nothing changes when it returns an error.
    pub fn apply(&mut self, offset: Offset, block: &PartialBlock) -> Result<(), AggregateError> {
        // Mappers begin with a partition's first offset, or not at all.
        let expected = self.raws.get(&block.raw).map_or(Offset(0), |raw| raw.to);
        if expected != block.from {
            let (from, to) = (block.from, block.to);
            return Err(AggregateError::OffsetGap { raw: block.raw.clone(), expected, from, to });
        }
        if let Some(columns) = block.minutes.iter().find(|c| c.span.start < self.closed_until) {
            let (minute, closed_until) = (columns.span.start, self.closed_until);
            return Err(AggregateError::ClosedMinute { raw: block.raw.clone(), minute, closed_until });
        }
        if let Some(unknown) = block.definitions.iter().find(|announced| !self.published.knows(announced.version)) {
            return Err(AggregateError::UnknownDefinition { raw: block.raw.clone(), version: unknown.version });
        }
        self.after_closing.get_or_insert(offset);
        for columns in &block.minutes {
            self.count(offset, columns, block.oldest_arrival)?;
        }
        self.note(block);
        Ok(())
    }

    fn note(&mut self, block: &PartialBlock) {
        let closed_until = self.closed_until;
        match self.raws.get_mut(&block.raw) {
            Some(raw) => {
                raw.to = block.to;
                raw.watermark = raw.watermark.raised_to(block.watermark);
                // A mapper names only the definitions that its own open minutes follow. Other partitions may be further behind: what it named before
                // holds here until those minutes are closed.
                for named in &block.definitions {
                    if !raw.definitions.contains(named) {
                        raw.definitions.push(*named);
                    }
                }
                raw.definitions.sort_unstable();
                let needed = raw.definitions.iter().rposition(|announced| announced.from <= closed_until).unwrap_or(0);
                raw.definitions.drain(..needed);
            }
            None => {
                let definitions = block.definitions.clone();
                let raw = Raw { to: block.to, watermark: block.watermark, definitions };
                self.raws.insert(block.raw.clone(), raw);
            }
        }
    }

    fn count(&mut self, offset: Offset, columns: &Columns, arrival: Option<Timestamp>) -> Result<(), AggregateError> {
        self.number(columns)?;
        let open = self.open.entry(columns.span.start).or_insert_with(|| OpenMinute::new(&columns.filters, offset));
        open.add(&self.numbers, &columns.filters, &columns.counts);
        open.oldest_arrival = open.oldest_arrival.into_iter().chain(arrival).min();
        Ok(())
    }

    /// Leaves the numbers of the ads of these columns in `self.numbers`.
    fn number(&mut self, columns: &Columns) -> Result<(), AggregateError> {
        self.hashes.clear();
        self.hashes.extend(columns.ads.iter().map(AdTable::hash));
        self.numbers.clear();
        for (row, ad) in columns.ads.iter().enumerate() {
            if let Some(ahead) = self.hashes.get(row + AHEAD) {
                self.ads.prefetch(*ahead);
            }
            let number = self.hashes.get(row).and_then(|hash| self.ads.intern(*hash, ad));
            self.numbers.push(number.ok_or(AggregateError::TooManyAds)?);
        }
        Ok(())
    }

    /// The first minute that is not closed.
    pub fn closed_until(&self) -> Minute {
        self.closed_until
    }

    /// Closes the minutes that the watermark has passed, oldest first; `None` where there is none. What it tells will stand in `click-results` at `told_at` or later.
    /// It may pause on the way, so that a long history is told in several transactions: call it until it returns `None`.
    pub fn close(&mut self, told_at: Offset) -> Option<Closing> {
        let target = self.target();
        let from = self.closed_until;
        if target <= from {
            return None;
        }
        let mut told = Told::default();
        let mut at = from;
        while at < target && told.rows < ROWS_A_CLOSING {
            let counted = self.open.range(at..target).next().map(|(minute, _)| *minute);
            let slid = self.windows.next_event(at.previous()).filter(|minute| *minute < target);
            let redefined = self.next_redefined(at).filter(|minute| *minute < target);
            let Some(minute) = counted.into_iter().chain(slid).chain(redefined).min() else {
                self.published.close(at, target, &self.raws);
                at = target;
                break;
            };
            self.published.close(at, minute.next(), &self.raws);
            self.close_minute(minute, told_at, &mut told);
            at = minute.next();
        }
        self.closed_until = at;
        self.forget_the_retired();
        self.closing_at = Some(told_at);
        let covered = self.raws.iter().map(|(raw, state)| Covered {
            raw: raw.clone(),
            to: state.to,
            watermark: state.watermark,
            definitions: state.definitions.clone(),
        });
        let closed = ResultBody::Closed {
            partition: self.partition,
            until: at,
            covered: covered.collect(),
            filters: self.published.spans().to_vec(),
        };
        told.results.push(ResultRecord { revision: Revision::STREAM, body: closed });
        let Told { results, candidates, oldest_arrival, .. } = told;
        Some(Closing { results, candidates, from, until: at, oldest_arrival })
    }

    /// The first minute from this one on in which other windows are in force than those that are summed up: they are from that minute on, whether anything is clicked in it or not.
    fn next_redefined(&self, at: Minute) -> Option<Minute> {
        let set_for = self.set_for?;
        let starts = self.raws.values().flat_map(|raw| raw.definitions.iter().map(|announced| announced.from));
        let is_other = |minute: &Minute| {
            *minute >= at && self.published.in_force(*minute, &self.raws).is_some_and(|d| d.version != set_for)
        };
        starts.filter(is_other).min()
    }

    fn close_minute(&mut self, minute: Minute, told_at: Offset, told: &mut Told) {
        let filters = self.published.filters(minute, &self.raws);
        let depth = self.set_windows(minute);
        if let Some(open) = self.open.remove(&minute) {
            let entries = open.entries(&filters);
            told.oldest_arrival = told.oldest_arrival.into_iter().chain(open.oldest_arrival).min();
            self.tell(Span::minute(minute), &filters, &entries, open.oldest_arrival, told);
            for (filter, entries) in filters.iter().zip(&entries).filter(|(_, entries)| !entries.is_empty()) {
                let mut best = Best::new(&self.ads, depth);
                for (ad, count) in sum_up(entries) {
                    best.show(ad, count);
                }
                let (ads, whole) = best.finish();
                self.rank(minute, *filter, Window::MINUTE, depth, ads, whole, told);
            }
            let filters = filters.clone();
            let oldest_arrival = open.oldest_arrival;
            self.windows.add(ClosedMinute { minute, filters, entries, oldest_arrival, told_at });
        }
        self.windows.slide(minute);
        for (filter, window, ads, whole) in self.windows.rank(minute, &filters, &self.ads, depth) {
            self.rank(minute, filter, window, depth, ads, whole, told);
        }
        for kind in [SpanKind::Hour, SpanKind::Day] {
            if kind.window().is_aligned_at(minute) {
                let totals = self.windows.totals(kind.window(), &filters);
                let arrival = self.windows.oldest_arrival(minute, kind.minutes());
                if totals.iter().any(|entries| !entries.is_empty()) {
                    self.tell(Span::holding(kind, minute), &filters, &totals, arrival, told);
                    if kind == SpanKind::Hour {
                        self.windows.hour_told(Span::holding(kind, minute).start, told_at, arrival);
                    }
                }
            }
        }
        self.windows.tumble(minute);
    }

    /// Puts the windows of this minute's definition in force; returns how deep its rankings are.
    fn set_windows(&mut self, minute: Minute) -> usize {
        let Some(definition) = self.published.in_force(minute, &self.raws) else { return 0 };
        let depth = definition.depth();
        if self.set_for != Some(definition.version) {
            let first_ever = self.set_for.is_none();
            let kept_from = minute.plus(-self.windows.kept_minutes());
            self.set_for = Some(definition.version);
            let windows = definition.windows.clone();
            for window in self.windows.set(&windows, minute) {
                if !first_ever {
                    self.sums_from.insert(window, kept_from);
                }
            }
            let oldest = minute.plus(-i64::from(Window::LONGEST.0));
            self.sums_from.retain(|_, from| *from >= oldest);
        }
        depth
    }

    #[allow(clippy::too_many_arguments)]
    fn rank(
        &self,
        minute: Minute,
        filter: FilterId,
        window: Window,
        depth: usize,
        ads: Vec<(String, u64)>,
        whole: bool,
        told: &mut Told,
    ) {
        let first = window.first(minute);
        let summed = self.sums_from.get(&window).is_none_or(|from| *from <= first);
        let complete = summed && self.published.covers(filter, first, minute);
        told.rows += ads.len() + 1;
        told.candidates.push(Candidates { filter, window, minute, depth: depth as u32, whole, complete, ads });
    }

    /// Tells the counts of a span, in records of a bearable size.
    fn tell(&self, span: Span, filters: &[FilterId], entries: &[Entries], arrival: Option<Timestamp>, told: &mut Told) {
        // Filter by filter in step: each ad once, with its count under every filter.
        let mut lists: Vec<_> = entries.iter().map(|e| sum_up(e).peekable()).collect();
        let mut columns = Columns::new(span, filters.to_vec());
        let mut done = false;
        while !done {
            let next = lists.iter_mut().filter_map(|list| list.peek().map(|(ad, _)| *ad)).min();
            if let Some(ad) = next {
                columns.ads.push(self.ads.get(ad));
                for (list, column) in lists.iter_mut().zip(&mut columns.counts) {
                    column.push(list.next_if(|(other, _)| *other == ad).map_or(0, |(_, count)| count));
                }
            }
            done = next.is_none();
            if columns.ads.len() == ROWS_A_RECORD || done && !columns.ads.is_empty() {
                told.rows += columns.ads.len();
                let full = std::mem::replace(&mut columns, Columns::new(span, filters.to_vec()));
                let body = ResultBody::Counts { partition: self.partition, oldest_arrival: arrival, columns: full };
                told.results.push(ResultRecord { revision: Revision::STREAM, body });
            }
        }
    }

    /// What goes beside the committed offset `next` of `click-partials`.
    pub fn checkpoint(&self, next: Offset) -> AggregatorCheckpoint {
        let oldest_block = self.open.values().map(|open| open.first).min();
        let replay_from = oldest_block.into_iter().chain(self.after_closing).fold(next, Offset::min);
        AggregatorCheckpoint {
            closed_until: self.closed_until,
            replay_from,
            results_from: self.closing_at.map(|at| self.windows.needed_from().map_or(at, |needed| needed.min(at))),
            sums_from: self.sums_from.iter().map(|(window, from)| (*window, *from)).collect(),
            inputs_since: Some(self.inputs_since),
        }
    }

    /// A closing was told whose transaction commits `next`: what a restart needs of the raw partitions stands in it.
    pub fn closing_covers(&mut self, next: Offset) {
        self.after_closing = Some(next);
    }
}

#[derive(Debug, Default)]
struct Told {
    results: Vec<ResultRecord>,
    candidates: Vec<Candidates>,
    oldest_arrival: Option<Timestamp>,
    rows: usize,
}

/// Adds up what stands in parts, so that each ad comes once.
fn sum_up(entries: &Entries) -> impl Iterator<Item = (u32, u64)> {
    let mut all = entries.iter().peekable();
    std::iter::from_fn(move || {
        let (ad, mut count) = all.next()?;
        while let Some((_, more)) = all.next_if(|(other, _)| *other == ad) {
            count += more;
        }
        Some((ad, count))
    })
}
