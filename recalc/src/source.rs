//! Where the raw lines of a span are.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_db_writer::raw::scan::{self, Stretch};
use clickmill_db_writer::raw::{Before, FileSpan, Files, FilesError, Part, RAW_FOLDER, each_line_once};
use clickmill_mapper::BatchMapper;
use clickmill_model::{Minute, Offset, RawPartition};

use crate::RecalcError;
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
        RecalcError::File { error, minutes: self.part.span.minutes }
    }
}

/// Finds the files that hold lines of the span, by raw partition, in the order of their offsets.
pub(crate) fn find(
    files: &Files,
    plan: &Plan,
    judge: &mut BatchMapper,
) -> Result<BTreeMap<RawPartition, Vec<Source>>, RecalcError> {
    let mut spans = Vec::new();
    for listed in files.list(RAW_FOLDER).map_err(RecalcError::Files)? {
        // Whether a file matters stands in its footer: one that cannot be read may matter.
        let span = FileSpan::read(files, &listed.path).map_err(|error| RecalcError::File { error, minutes: None })?;
        spans.push((listed.path, span));
    }
    let parts = each_line_once(spans);
    check_all_there(&parts, plan)?;
    let mut sources: BTreeMap<RawPartition, Vec<Source>> = BTreeMap::new();
    for (part, until) in pinned(parts, &plan.pins) {
        let source = look_into(files, part, until, plan, judge)?;
        if !source.stretches.is_empty() {
            sources.entry(source.part.span.from.clone()).or_default().push(source);
        }
    }
    Ok(sources)
}

/// Refuses parts among which one is missing that may hold lines of the span. Those of one partition stand together, oldest first; retention takes the oldest.
fn check_all_there(parts: &[Part], plan: &Plan) -> Result<(), RecalcError> {
    let skew = plan.newest().time.max_clock_skew;
    let missing = |raw: &RawPartition, before: Before, have: Option<Offset>, told_by: &str| match before {
        // No click is of a later minute than its arrival and what a clock may be ahead.
        Before::File { last_offset, last_arrival }
            if have.is_none_or(|have| have < last_offset) && last_arrival.after(skew) >= plan.minutes.start.start() =>
        {
            let (raw, told_by) = (raw.clone(), told_by.to_owned());
            Err(RecalcError::Missing { raw, last_offset, last_arrival, have, told_by })
        }
        Before::File { .. } | Before::Nothing | Before::Unknown => Ok(()),
    };
    let mut ends: BTreeMap<&RawPartition, Offset> = BTreeMap::new();
    for part in parts {
        let raw = &part.span.from;
        missing(raw, part.span.before, ends.get(raw).copied(), &part.path)?;
        ends.insert(raw, part.span.last_offset);
    }
    for (raw, end) in &plan.ends {
        missing(raw, *end, ends.get(raw).copied(), "the writer of raw lines")?;
    }
    Ok(())
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
        let pin = if begun.contains(&from) { None } else { pins.get(&from).copied() };
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
