//! Records of a topic become rows.

use std::time::Duration;

use clickmill_model::records::{SetAside, SetAsideBatch, SourceHeader};
use clickmill_model::{Click, CodecError, LineParser, RawPartition, RejectReason, Timestamp};
use clickmill_queue::{Fetched, StageError, TopicPartition};

use super::batch::{Line, Place};
use super::build::FileBuilder;
use super::files::Files;

/// Which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Those of raw topics, all of them.
    Raw {
        /// A click further ahead of its arrival than this has a wrong clock.
        max_clock_skew: Duration,
    },
    /// Those that a mapper set aside as late.
    Late,
}

impl Lines {
    /// The folder that they are written to; also their name in metrics.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Raw { .. } => super::RAW_FOLDER,
            Self::Late => crate::late::LATE_FOLDER,
        }
    }

    /// Adds the lines of a record to the partition's file, which is begun if the record has any and there is none. Returns how many there were.
    pub(super) fn append(
        self,
        fetched: &Fetched,
        from: &TopicPartition,
        parser: &mut LineParser,
        files: &Files,
        file: &mut Option<FileBuilder>,
    ) -> Result<u64, StageError> {
        let refused = |error: CodecError| StageError::Broken(format!("{from}@{}: {error}", fetched.offset));
        let open = |file: &mut Option<FileBuilder>| {
            if file.is_none() {
                let raw = RawPartition { topic: from.topic.clone(), partition: from.partition };
                let sink = files.begin()?;
                *file = Some(FileBuilder::begin(files, sink, self.folder(), raw, fetched.offset, fetched.arrival)?);
            }
            Ok::<_, StageError>(())
        };
        let mut count = 0;
        match self {
            Self::Raw { max_clock_skew } => {
                let header = header_of(fetched).map_err(refused)?;
                if header.as_ref().is_none_or(|(_, has_lines)| *has_lines) {
                    open(file)?;
                }
                if let Some(file) = file.as_mut() {
                    count = append_raw(fetched, from, header, max_clock_skew, parser, file)?;
                }
            }
            Self::Late => {
                let batch = SetAsideBatch::decode(&fetched.record.value).map_err(refused)?;
                if !batch.lines.is_empty() {
                    open(file)?;
                }
                if let Some(file) = file.as_mut() {
                    for line in &batch.lines {
                        append_late(&batch.raw, line, parser, file)?;
                        count += 1;
                    }
                }
            }
        }
        if let Some(file) = file {
            file.cover(fetched.offset, fetched.arrival);
        }
        Ok(count)
    }
}

/// The header of a log watcher, and whether the record has lines. A foreign record has none, whatever it calls its own headers.
fn header_of(fetched: &Fetched) -> Result<Option<(SourceHeader, bool)>, CodecError> {
    let Some(bytes) = fetched.record.header(SourceHeader::KEY) else { return Ok(None) };
    // As the mapper does it: these two must see the same lines.
    match SourceHeader::decode_mark(bytes) {
        Err(error @ CodecError::TooNew { .. }) => Err(error),
        Err(_) => Ok(None),
        Ok((source, mark, has_lines)) => {
            let header = SourceHeader::decode(bytes).unwrap_or_else(|_| SourceHeader {
                source: source.into(),
                mark,
                origin: Default::default(),
            });
            Ok(Some((header, has_lines)))
        }
    }
}

fn append_raw(
    fetched: &Fetched,
    from: &TopicPartition,
    header: Option<(SourceHeader, bool)>,
    max_clock_skew: Duration,
    parser: &mut LineParser,
    file: &mut FileBuilder,
) -> Result<u64, StageError> {
    let value = fetched.record.value.as_slice();
    let (header, value, has_lines) = match header {
        Some((header, has_lines)) => (Some(header), value, has_lines),
        None => (None, value.strip_suffix(b"\n").unwrap_or(value), true),
    };
    let place = Place {
        topic: &from.topic,
        partition: from.partition,
        offset: fetched.offset,
        arrival: fetched.arrival,
        source: header.as_ref().map(|header| &*header.source.0),
    };
    file.place(&place);
    let runs = header.as_ref().map(|header| header.origin.runs.as_slice()).unwrap_or_default();
    let names: Vec<_> = runs.iter().map(|(name, _)| file.file(name)).collect();
    let mut origins = names.iter().zip(runs).flat_map(|(name, (_, offsets))| offsets.iter().map(|at| (*name, *at)));
    let latest = fetched.arrival.after(max_clock_skew);
    let mut number = 0;
    let mut rest = has_lines.then_some(value);
    while let Some(text) = rest {
        let (bytes, parsed) = parser.parse_first(text);
        rest = text.get(bytes.len() + 1..);
        let (click, reason) = judge(parsed, latest);
        file.push(&Line { number, origin: origins.next(), bytes, click, reason })?;
        number += 1;
    }
    Ok(number.into())
}

/// What a line tells, and why it is not counted: it is no click, or one that is later than this, whose clock is wrong.
#[inline]
pub(super) fn judge(
    parsed: Result<Click<'_>, RejectReason>,
    latest: Timestamp,
) -> (Option<Click<'_>>, Option<RejectReason>) {
    match parsed {
        Ok(click) if click.timestamp > latest => (Some(click), Some(RejectReason::WrongClock)),
        Ok(click) => (Some(click), None),
        Err(reason) => (None, Some(reason)),
    }
}

fn append_late(
    raw: &RawPartition,
    line: &SetAside,
    parser: &mut LineParser,
    file: &mut FileBuilder,
) -> Result<(), StageError> {
    let place = Place {
        topic: &raw.topic,
        partition: raw.partition,
        offset: line.offset,
        arrival: line.arrival,
        source: line.origin.as_ref().map(|(source, _, _)| &*source.0),
    };
    file.place(&place);
    let origin = line.origin.as_ref().map(|(_, name, at)| (file.file(name), *at));
    let click = parser.parse(&line.line);
    let reason = line.reason.or(click.as_ref().err().copied());
    file.push(&Line { number: line.line_number, origin, bytes: &line.line, click: click.ok(), reason })?;
    Ok(())
}
