//! The operator: one raw partition's records become blocks of partial counts.

use std::cell::LazyCell;
use std::collections::BTreeSet;

use clickmill_model::records::{Books, MapperCheckpoint, PartialBlock, SetAside, SetAsideBatch, SourceHeader};
use clickmill_model::{
    Announced, Click, CodecError, Definition, DefinitionVersion, LineParser, Minute, Offset, RawPartition,
    RejectReason, SourceName, TimeSettings, Timestamp, Watermark, inputs,
};
use clickmill_queue::Fetched;

use crate::clocks::ClockBounds;
use crate::combine::Combiner;
use crate::definitions::Definitions;
use crate::open::OpenMinutes;
use crate::pending::{PendingClicks, Settled};
use crate::sources::Sources;

mod redefine;

use redefine::Leaving;

/// What the other raw partitions of the pipeline have committed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Others {
    /// The lowest watermark of those that have a live source.
    pub lowest_live: Option<Watermark>,
    /// The latest arrival of any partition, and whether a watcher sent it.
    pub last_heard: Option<(Timestamp, bool)>,
}

/// What a transaction of one raw partition commits.
#[derive(Debug)]
pub struct Mapped {
    /// One block for each aggregator partition, in order.
    pub blocks: Vec<PartialBlock>,
    /// The late clicks, if any.
    pub late: Option<SetAsideBatch>,
    /// The lines that are no click, if any.
    pub rejected: Option<SetAsideBatch>,
    /// The next offset.
    pub offset: Offset,
    /// What goes beside it.
    pub checkpoint: MapperCheckpoint,
}

/// Maps one raw partition. Pure: time comes in as arrivals, watermarks and [`PartitionMapper::tick`].
pub struct PartitionMapper {
    raw: RawPartition,
    time: TimeSettings,
    clock_bounds: ClockBounds,
    required: BTreeSet<String>,
    definitions: Definitions,
    sources: Sources,
    watermark: Watermark,
    open: OpenMinutes,
    books: Books,
    /// The first record that was read or read again: who was heard since is known.
    began: Offset,
    /// What was committed last.
    from: Offset,
    /// The next record's.
    to: Offset,
    told: Watermark,
    /// Whether a source was live, as was committed last: others go by it.
    told_live: bool,
    /// Since the last [`PartitionMapper::take`], like what follows.
    oldest_arrival: Option<Timestamp>,
    late: Vec<SetAside>,
    rejected: Vec<SetAside>,
    definition_told: bool,
    inputs_since: DefinitionVersion,
    leaving: Leaving,
    /// Scratch.
    parser: LineParser,
    pending: PendingClicks,
}

impl PartitionMapper {
    /// Starts at `from`, where nothing was ever committed.
    pub fn new(raw: RawPartition, definition: &Definition, from: Offset) -> Self {
        Self::joining(raw, definition, Minute::MIN, from)
    }

    /// [`PartitionMapper::new`] of an input that came later: clicks of minutes before `first` are late.
    pub fn joining(raw: RawPartition, definition: &Definition, first: Minute, from: Offset) -> Self {
        let mut mapper = Self::with(raw, definition, Announced::new(definition.version, first), from);
        mapper.start_at(first);
        mapper
    }

    fn with(raw: RawPartition, definition: &Definition, in_force: Announced, from: Offset) -> Self {
        Self {
            raw,
            time: definition.time,
            clock_bounds: ClockBounds::new(definition.time.max_clock_skew),
            required: definition.sources.clone(),
            definitions: Definitions::new(definition, in_force.from, in_force.open_from),
            sources: Sources::default(),
            watermark: Watermark::NONE,
            open: OpenMinutes::default(),
            books: Books::default(),
            began: from,
            from,
            to: from,
            told: Watermark::NONE,
            told_live: false,
            oldest_arrival: None,
            late: Vec::new(),
            rejected: Vec::new(),
            definition_told: false,
            inputs_since: 0,
            leaving: Leaving::No,
            parser: LineParser::new(),
            pending: PendingClicks::new(),
        }
    }

    /// Goes on behind a checkpoint. Until [`PartitionMapper::replay`] was given every record from `checkpoint.replay_from` to `offset`, the identities of the open minutes
    /// are not known. `definitions` holds all that ever were; a newer one than was committed is for [`PartitionMapper::define`].
    pub fn restore(
        raw: RawPartition,
        definitions: &[Definition],
        offset: Offset,
        checkpoint: &MapperCheckpoint,
    ) -> Result<Self, MissingDefinition> {
        let mut in_force = checkpoint.definitions.iter().map(|announced| {
            let definition = definitions.iter().find(|d| d.version == announced.version);
            definition.map(|d| (d, *announced)).ok_or(MissingDefinition(announced.version))
        });
        let (first, announced) = in_force.next().ok_or(MissingDefinition(0))??;
        let mut mapper = Self::with(raw, first, announced, offset);
        for next in in_force {
            let (definition, announced) = next?;
            mapper.put_in_force(definition, announced.from, announced.open_from);
        }
        if !inputs::goes_on(definitions, &mapper.raw, &checkpoint.definitions) {
            mapper.leaving = Leaving::Left;
        }
        mapper.clock_bounds = ClockBounds::restore(&checkpoint.clock_bounds, mapper.time.max_clock_skew);
        mapper.began = checkpoint.replay_from.min(offset);
        mapper.watermark = checkpoint.watermark;
        mapper.told = checkpoint.watermark;
        mapper.told_live = checkpoint.has_live_source;
        mapper.open.highest = checkpoint.highest_counted;
        mapper.books = checkpoint.books.clone();
        mapper.sources.restore(checkpoint.last_heard);
        mapper.definition_told = true;
        mapper.inputs_since = checkpoint.inputs_since;
        Ok(mapper)
    }

    /// The raw partition.
    pub fn raw(&self) -> &RawPartition {
        &self.raw
    }

    /// How far time has come here.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// What became of the lines so far.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// True where there is something to commit: records were read, the watermark moved, the last live source fell silent, a definition came into force, or the partition is no
    /// input any more.
    pub fn has_news(&self) -> bool {
        self.to != self.from
            || self.is_read_to_its_end()
            || self.watermark != self.told
            || self.sources.has_live(&self.time) != self.told_live
            || !self.definition_told
    }

    /// How many clicks wait for [`PartitionMapper::take`].
    pub fn waiting(&self) -> usize {
        self.open.counted() + self.late.len() + self.rejected.len()
    }

    /// Takes in records, in order. Nothing is refused but a header of a newer format. Those of a partition that is no input any more are left unread.
    pub fn apply(&mut self, records: &[Fetched], combiner: &mut Combiner) -> Result<(), CodecError> {
        if self.has_left() {
            return Ok(());
        }
        for record in records {
            self.record(record, false)?;
            if self.pending.is_full() {
                self.settle(combiner);
            }
            self.to = record.offset.next();
        }
        self.settle(combiner);
        Ok(())
    }

    /// Reads a record again that was committed before: its identities and its source, counting nothing.
    pub fn replay(&mut self, record: &Fetched) -> Result<(), CodecError> {
        self.record(record, true)?;
        self.pending.note(&mut self.open.all);
        Ok(())
    }

    fn record(&mut self, record: &Fetched, replay: bool) -> Result<(), CodecError> {
        let arrival = record.arrival;
        self.sources.arrive(arrival);
        let header = match record.record.header(SourceHeader::KEY).map(SourceHeader::decode_mark) {
            Some(Err(error @ CodecError::TooNew { .. })) => return Err(error),
            Some(Ok(header)) => Some(header),
            // Any other client may use the name of our header for what it likes.
            Some(Err(_)) | None => None,
        };
        let value = record.record.value.as_slice();
        let highest = match header {
            Some((_, _, has_lines)) => self.lines(record, has_lines.then_some(value), replay),
            None => self.lines(record, Some(value.strip_suffix(b"\n").unwrap_or(value)), replay),
        };
        match header {
            Some((source, mark, _)) => self.sources.watcher(source, mark, record.offset, arrival),
            None => self.sources.foreign(highest, record.offset, arrival, &self.time),
        }
        if !replay {
            self.follow_sources();
        }
        Ok(())
    }

    /// True while the first closing waits for sources that were never heard. Once time has moved it is over, also for a restart, which knows only those heard lately.
    fn is_held(&self) -> bool {
        self.watermark == Watermark::NONE && self.sources.awaits(&self.required)
    }

    fn follow_sources(&mut self) {
        if self.is_held() {
            return;
        }
        if let Some(watermark) = self.sources.watermark(&self.time) {
            self.watermark = self.watermark.raised_to(watermark);
        }
    }

    /// Parses a record's lines, if it has any, and decides what is late, wrong or rejected. Returns the highest event time that no clock forbids.
    fn lines(&mut self, record: &Fetched, lines: Option<&[u8]>, replay: bool) -> Option<Timestamp> {
        let latest = record.arrival.after(self.clock_bounds.at(record.offset));
        let mut parser = std::mem::take(&mut self.parser);
        let mut highest = None;
        let mut counted = false;
        let mut number = 0;
        let header = LazyCell::new(|| {
            record.record.header(SourceHeader::KEY).and_then(|bytes| SourceHeader::decode(bytes).ok())
        });
        let origin_of = |line| {
            let header = header.as_ref()?;
            let (file, at) = header.origin.of_line(line)?;
            Some((header.source.clone(), file.to_owned(), at))
        };
        let mut rest = lines;
        while let Some(text) = rest {
            let (line, parsed) = parser.parse_first(text);
            rest = text.get(line.len() + 1..);
            // The click is moved rather than looked at, so that the compiler keeps its fields apart.
            let fate = match parsed {
                Err(reason) => Err(Some(reason)),
                Ok(click) if click.timestamp > latest => Err(Some(RejectReason::WrongClock)),
                Ok(click) => {
                    highest = highest.max(Some(click.timestamp));
                    let minute = click.timestamp.minute();
                    if self.watermark.closes(minute) { Err(None) } else { Ok((click, minute)) }
                }
            };
            match fate {
                Ok((click, minute)) => {
                    counted = true;
                    self.enqueue(&click, minute, record.offset);
                }
                Err(_) if replay => {}
                Err(reason) => self.set_aside(record, number, line, reason, origin_of(number)),
            }
            number += 1;
        }
        if !replay {
            self.books.lines += number as u64;
            if counted {
                let oldest = self.oldest_arrival.map_or(record.arrival, |oldest| oldest.min(record.arrival));
                self.oldest_arrival = Some(oldest);
            }
        }
        self.parser = parser;
        highest
    }

    #[inline]
    fn enqueue(&mut self, click: &Click<'_>, minute: Minute, offset: Offset) {
        let slot = self.open.slot(minute, offset, &self.definitions);
        self.pending.push(click, slot, &self.open.all[slot as usize]);
    }

    /// Takes the pending clicks through identities and ad ids.
    fn settle(&mut self, combiner: &mut Combiner) {
        let Settled { counted, duplicates } = self.pending.settle(&mut self.open.all, combiner);
        self.books.counted += counted;
        self.books.duplicates += duplicates;
    }

    fn set_aside(
        &mut self,
        record: &Fetched,
        number: usize,
        line: &[u8],
        reason: Option<RejectReason>,
        origin: Option<(SourceName, String, u64)>,
    ) {
        let aside = SetAside {
            offset: record.offset,
            line_number: number as u32,
            arrival: record.arrival,
            reason,
            origin,
            line: line.to_vec(),
        };
        match reason {
            None => {
                self.books.late += 1;
                self.late.push(aside);
            }
            Some(reason) => {
                if let Some(count) = self.books.rejected.get_mut(reason as usize) {
                    *count += 1;
                }
                self.rejected.push(aside);
            }
        }
    }

    /// Time passes at the partition's end: a fetch was answered at `now`, and nothing was there.
    pub fn tick(&mut self, now: Timestamp, others: Others) {
        match &mut self.leaving {
            Leaving::No => {}
            // The last offsets may hold no record.
            Leaving::At { end, .. } => *end = self.to.min(*end),
            Leaving::Left => return,
        }
        self.sources.at_end(now);
        self.follow_sources();
        if !self.sources.stands(&self.time) || self.is_held() {
            return;
        }
        let by_others = others.lowest_live.or_else(|| {
            let last = self.sources.last_heard().max(others.last_heard);
            match last {
                Some((_, true)) | None => None,
                Some((_, false)) => Some(Watermark::at(now.before(self.time.source_timeout))),
            }
        });
        if let Some(watermark) = by_others {
            self.watermark = self.watermark.raised_to(watermark);
        }
    }

    /// What is to be committed now. Afterwards the operator stands as if it had been.
    pub fn take(&mut self, combiner: &mut Combiner) -> Mapped {
        self.sources.forget_the_dead(&self.time);
        let columns = self.open.combine(combiner);
        self.leave_where_read_to_its_end();
        if self.has_left() {
            self.open.clear();
        }
        self.open.close(self.watermark);
        self.definitions.forget_before(self.watermark.open_from());
        let definitions = self.definitions.announced();
        let oldest_arrival = self.oldest_arrival.take();
        let blocks = columns
            .into_iter()
            .map(|minutes| PartialBlock {
                raw: self.raw.clone(),
                from: self.from,
                to: self.to,
                watermark: self.watermark,
                oldest_arrival,
                definitions: definitions.clone(),
                minutes,
            })
            .collect();
        self.from = self.to;
        self.told = self.watermark;
        self.told_live = self.sources.has_live(&self.time);
        self.definition_told = true;
        let replay_from = self.replay_from();
        let batch = |lines: Vec<SetAside>| (!lines.is_empty()).then(|| SetAsideBatch { raw: self.raw.clone(), lines });
        Mapped {
            blocks,
            late: batch(std::mem::take(&mut self.late)),
            rejected: batch(std::mem::take(&mut self.rejected)),
            offset: self.to,
            checkpoint: MapperCheckpoint {
                watermark: self.watermark,
                has_live_source: self.told_live,
                replay_from,
                highest_counted: self.open.highest,
                last_heard: self.sources.last_heard(),
                definitions,
                books: self.books.clone(),
                inputs_since: self.inputs_since,
                clock_bounds: self.clock_bounds.since(replay_from),
            },
        }
    }

    fn replay_from(&self) -> Offset {
        if self.has_left() {
            return self.to;
        }
        if self.watermark == Watermark::NONE && !self.required.is_empty() {
            // Until all that are awaited were heard, a restart must know again who was, also those that fell silent since.
            return self.began;
        }
        let oldest_line = self.open.oldest_line();
        let oldest_source = self.sources.replay_from(&self.time);
        oldest_line.into_iter().chain(oldest_source).fold(self.to, Offset::min)
    }
}

/// A checkpoint names a definition that is nowhere to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("definition {0} is in force, but the topic of definitions does not have it")]
pub struct MissingDefinition(pub DefinitionVersion);

impl std::fmt::Debug for PartitionMapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionMapper")
            .field("raw", &self.raw)
            .field("watermark", &self.watermark)
            .finish_non_exhaustive()
    }
}
