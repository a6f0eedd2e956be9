//! Where the raw lines of a span are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickmill_db_writer::raw::import::{IMPORTS_FOLDER, imports};
use clickmill_db_writer::raw::scan::{self, Stretch};
use clickmill_db_writer::raw::{
    Before, FileSpan, Files, FilesError, Listed, Part, RAW_FOLDER, each_line_once, read_spans,
};
use clickmill_mapper::BatchMapper;
use clickmill_model::{Minute, Offset, RawPartition};

use crate::RecalcError;
use crate::left_out::LeftOut;
use crate::plan::Plan;

/// A file with lines of the span.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) part: Part,
    /// Those that may hold such lines, each with the first and the last minute of its clicks.
    pub(crate) stretches: Vec<(Stretch, (Minute, Minute))>,
    /// Lines from this record on are left out.
    pub(crate) until: Option<Offset>,
}

impl Source {
    /// An error of this file.
    pub(crate) fn failed(&self, error: FilesError) -> RecalcError {
        RecalcError::File { path: self.part.path.clone(), error, minutes: self.part.span.minutes }
    }
}

/// Finds files, again where that must be, and remembers which of them are left out.
pub(crate) struct Finder<'a> {
    files: &'a Files,
    plan: &'a Plan,
    judge: BatchMapper,
    /// Files that are left out.
    without: BTreeSet<String>,
    /// Files that could be read to their end, as far as the span needs them.
    readable: BTreeSet<String>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// The files that hold lines of the span, by raw partition, in the order of their offsets: imported ones last.
pub(crate) type Sources = BTreeMap<RawPartition, Vec<Source>>;

/// How often files are listed for one answer. Each time another one went meanwhile.
const MOST_LOOKS: u32 = 1000;

/// How far the clocks of the queue and of what holds the files are apart at most.
const CLOCKS_APART: Duration = Duration::from_secs(86_400);

/// Whether a file is at fault, rather than what stands between it and us.
fn is_at_fault(error: &FilesError) -> bool {
    match error {
        FilesError::Damaged { .. } | FilesError::Gone { .. } => true,
        FilesError::Unavailable { .. } | FilesError::Refused { .. } => false,
    }
}

impl<'a> Finder<'a> {
    pub(crate) fn new(files: &'a Files, plan: &'a Plan) -> Result<Self, RecalcError> {
        let judge = BatchMapper::new(&plan.eras()?);
        Ok(Self { files, plan, judge, without: BTreeSet::new(), readable: BTreeSet::new(), left_out: Vec::new() })
    }

    /// Finds the files. What is wrong is an error; or it is noted, and the files are those that are left, where damage is to be passed over.
    ///
    /// `gone` are files that were there and are no more: their lines must stand in another one.
    pub(crate) fn find(&mut self, mut gone: Vec<(String, FileSpan)>) -> Result<Sources, RecalcError> {
        for _ in 0..MOST_LOOKS {
            // What is missing is found out anew each time.
            self.left_out.retain(|left| left.path.is_some());
            let Some(mut spans) = self.list()? else { continue };
            for (path, span) in std::mem::take(&mut gone) {
                if !spans.iter().any(|(_, other)| other.covers(&span)) {
                    self.leave_out(&path, FilesError::Gone { path: self.files.shown(&path) }, Some(&span))?;
                }
            }
            loop {
                let (path, error) = match self.sources_of(&spans) {
                    Err(RecalcError::File { path, error, .. }) => (path, error),
                    found => return found,
                };
                let Some(at) = spans.iter().position(|(other, _)| *other == path) else { break };
                let (_, span) = spans.swap_remove(at);
                if matches!(error, FilesError::Gone { .. }) {
                    gone.push((path, span));
                    break;
                }
                // Another one may have been passed over for its sake.
                self.leave_out(&path, error, Some(&span))?;
            }
        }
        let (path, why) = (self.files.shown(RAW_FOLDER), "files go faster than they can be looked at".to_owned());
        Err(RecalcError::Files(FilesError::Unavailable { what: "listing", path, why }))
    }

    /// All files that may hold lines of the span, but those that are left out. `None` where one went meanwhile: its lines may stand in another one.
    fn list(&mut self) -> Result<Option<Vec<(String, FileSpan)>>, RecalcError> {
        let mut listed = self.files.list(RAW_FOLDER).map_err(RecalcError::Files)?;
        self.demand_imports(&listed).map_err(RecalcError::Files)?;
        listed.retain(|file| !self.without.contains(&file.path) && self.may_matter(file));
        let mut spans = Vec::new();
        for (listed, span) in read_spans(self.files, listed) {
            match span {
                Ok(span) if !self.plan.counts(span.first_offset) => {}
                Ok(span) => spans.push((listed.path, span)),
                Err(FilesError::Gone { .. }) => return Ok(None),
                // Whether a file matters stands in its footer: one that cannot be read may matter.
                Err(error) => self.leave_out(&listed.path, error, None)?,
            }
        }
        Ok(Some(spans))
    }

    /// Refuses lines of an import that nobody knows of: whether they count stood in what is gone.
    fn demand_imports(&self, listed: &[Listed]) -> Result<(), FilesError> {
        let first_lines = listed.iter().filter_map(|file| FileSpan::first_line_of(&file.path));
        let left_out: BTreeSet<u32> = first_lines
            .filter(|(_, first, _)| !self.plan.counts(*first))
            .filter_map(|(_, first, _)| first.import())
            .collect();
        if left_out.is_empty() {
            return Ok(());
        }
        // Some may have begun since the plan was made.
        let known: BTreeSet<u32> = imports(self.files)?.iter().map(|entry| entry.import.number).collect();
        match left_out.difference(&known).next() {
            None => Ok(()),
            Some(number) => Err(FilesError::Damaged {
                path: self.files.shown(IMPORTS_FOLDER),
                why: format!("it lacks import {number}, of which there are lines"),
            }),
        }
    }

    /// False for a file that need not be opened, by its name and when it was written.
    fn may_matter(&self, file: &Listed) -> bool {
        // No click is of a later minute than its arrival and what a clock may be ahead.
        let latest = file.written.after(self.plan.widest_skew()).after(CLOCKS_APART);
        // What an import began to write that never ended may be anything.
        let counts = FileSpan::first_line_of(&file.path).is_none_or(|(_, first, _)| self.plan.counts(first));
        counts && latest >= self.plan.minutes.start.start()
    }

    /// Goes on without a file, if that was asked and the file is at fault.
    pub(crate) fn leave_out(
        &mut self,
        path: &str,
        error: FilesError,
        span: Option<&FileSpan>,
    ) -> Result<(), RecalcError> {
        if !self.plan.skip_damaged || !is_at_fault(&error) {
            let minutes = span.and_then(|span| span.minutes);
            return Err(RecalcError::File { path: path.to_owned(), error, minutes });
        }
        self.left_out.push(LeftOut::file(path, &error, span));
        self.without.insert(path.to_owned());
        Ok(())
    }

    fn sources_of(&mut self, spans: &[(String, FileSpan)]) -> Result<Sources, RecalcError> {
        let parts = each_line_once(spans.to_vec());
        let missing = missing(&parts, self.plan).into_iter().chain(missing_of_imports(&parts, self.plan));
        for missing in missing {
            if !self.plan.skip_damaged {
                return Err(missing);
            }
            LeftOut::missing(&mut self.left_out, missing)?;
        }
        let mut sources = Sources::new();
        for (part, until) in pinned(parts, &self.plan.pins) {
            let source = look_into(self.files, part, until, self.plan, &mut self.judge)?;
            if source.stretches.is_empty() {
                continue;
            }
            // Known before anything is told.
            if self.plan.skip_damaged && !self.readable.contains(&source.part.path) {
                let stretches: Vec<&Stretch> = source.stretches.iter().map(|(stretch, _)| stretch).collect();
                let read = scan::lines(self.files, &source.part, &stretches, |_| Ok(()));
                read.map_err(|error| source.failed(error))?;
                self.readable.insert(source.part.path.clone());
            }
            sources.entry(source.part.span.from.clone()).or_default().push(source);
        }
        Ok(sources)
    }
}

/// Parts that are missing and may hold lines of the span. Those of one partition stand together, oldest first; retention takes the oldest.
fn missing(parts: &[Part], plan: &Plan) -> Vec<RecalcError> {
    let skew = plan.newest().time.max_clock_skew;
    let mut all = Vec::new();
    let mut look = |raw: &RawPartition, before: Before, have: Option<Offset>, told_by: &str| match before {
        // No click is of a later minute than its arrival and what a clock may be ahead.
        Before::File { last_offset, last_arrival }
            if have.is_none_or(|have| have < last_offset) && last_arrival.after(skew) >= plan.minutes.start.start() =>
        {
            let (raw, told_by) = (raw.clone(), told_by.to_owned());
            all.push(RecalcError::Missing { raw, last_offset, last_arrival, have, told_by });
        }
        Before::File { .. } | Before::Nothing | Before::Unknown => {}
    };
    let mut ends: BTreeMap<&RawPartition, Offset> = BTreeMap::new();
    for part in parts.iter().filter(|part| part.span.import().is_none()) {
        let raw = &part.span.from;
        look(raw, part.span.before, ends.get(raw).copied(), &part.path);
        ends.insert(raw, part.span.last_offset);
    }
    for (raw, end) in &plan.ends {
        look(raw, *end, ends.get(raw).copied(), "the writer of raw lines");
    }
    all
}

/// Imported lines that are missing and may be of the span: each import's end says how many there are.
fn missing_of_imports(parts: &[Part], plan: &Plan) -> Vec<RecalcError> {
    let mut all = Vec::new();
    for entry in &plan.imports {
        let Some(brought) = entry.brought() else { continue };
        let touches =
            brought.minutes.is_some_and(|(first, last)| first < plan.minutes.end && plan.minutes.start <= last);
        let import = &entry.import;
        // A line that was no click may be one by now, of any minute up to its arrival and what a clock may be ahead.
        let may_be_one = brought.rejected > 0 && import.arrival.after(plan.widest_skew()) >= plan.minutes.start.start();
        if !touches && !may_be_one {
            continue;
        }
        for (partition, lines) in &brought.lines {
            let raw = RawPartition::new(&import.topic, *partition);
            let first = Offset::imported(import.number, 0);
            let Some((first, last_offset)) = first.zip(Offset::imported(import.number, lines.saturating_sub(1))) else {
                continue;
            };
            let (mut next, mut have) = (first, None);
            for part in parts.iter().filter(|part| part.span.from == raw && part.span.import() == Some(import.number)) {
                if part.span.first_offset > next {
                    break;
                }
                have = Some(part.span.last_offset);
                next = part.span.last_offset.next();
            }
            if next <= last_offset {
                let told_by = format!("the list of imports (import {})", import.number);
                all.push(RecalcError::Missing { raw, last_offset, last_arrival: import.arrival, have, told_by });
            }
        }
    }
    all
}

/// Gives each part the offset from which on its lines are left out. Parts of one partition stand together, oldest first; where offsets go back, its topic was made anew, and the pin is one of the newest.
fn pinned(parts: Vec<Part>, pins: &BTreeMap<RawPartition, Offset>) -> Vec<(Part, Option<Offset>)> {
    let mut pinned: Vec<(Part, Option<Offset>)> = Vec::new();
    let mut begun: BTreeSet<RawPartition> = BTreeSet::new();
    // From the youngest to the oldest: what is older than a step back has no pin.
    let mut next: Option<(RawPartition, Offset)> = None;
    for part in parts.into_iter().rev() {
        let from = part.span.from.clone();
        if let Some((later, first)) = &next
            && *later == from
            && part.span.first_offset >= *first
        {
            begun.insert(from.clone());
        }
        next = Some((from.clone(), part.span.first_offset));
        let is_pinned = part.span.import().is_none() && !begun.contains(&from);
        let pin = if is_pinned { pins.get(&from).copied() } else { None };
        pinned.push((part, pin));
    }
    pinned.reverse();
    pinned
}

fn look_into(
    files: &Files,
    part: Part,
    until: Option<Offset>,
    plan: &Plan,
    judge: &mut BatchMapper,
) -> Result<Source, RecalcError> {
    let Plan { minutes: span, .. } = plan;
    let mut source = Source { part, stretches: Vec::new(), until };
    let FileSpan { first_offset, last_arrival, rejected, .. } = source.part.span;
    // No click that is judged anew is further ahead of its arrival.
    let is_too_old = last_arrival.after(plan.newest().time.max_clock_skew) < span.start.start();
    let is_left_out = until.is_some_and(|until| first_offset >= until);
    let may_hold = source.part.span.may_hold(span.start, span.end);
    if is_left_out || !may_hold && (rejected == 0 || is_too_old) {
        return Ok(source);
    }
    let all = scan::stretches(files, &source.part).map_err(|error| source.failed(error))?;
    let mut minutes: Vec<Option<(Minute, Minute)>> = all.iter().map(|stretch| stretch.minutes).collect();
    // A line that once was no click may be one today, of any minute.
    let found = scan::rejected(files, &source.part, &all, |place, line| {
        let minute = judge.minute_of_rejected(line.line, line.arrival).filter(|minute| span.contains(minute));
        if let (Some(minute), Some(known)) = (minute, minutes.get_mut(place)) {
            let (first, last) = known.unwrap_or((minute, minute));
            *known = Some((first.min(minute), last.max(minute)));
        }
        Ok(())
    });
    found.map_err(|error| source.failed(error))?;
    let known = all.into_iter().zip(minutes).filter_map(|(stretch, minutes)| Some((stretch, minutes?)));
    let inside = |(_, (first, last)): &(Stretch, (Minute, Minute))| *first < span.end && span.start <= *last;
    source.stretches = known.filter(inside).collect();
    Ok(source)
}
