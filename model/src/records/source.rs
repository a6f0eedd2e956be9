//! What a log watcher says in the header of each record of a raw topic. The record's value is the lines, newline between them.

use crate::codec::{CodecError, Reader, Writer};
use crate::ids::SourceName;
use crate::time::Timestamp;

const WHAT: &str = "a source header";
const VERSION: u8 = 1;

/// How far a source has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceMark {
    /// Here, but not yet able to say: nothing may be closed.
    Holding,
    /// Everything older than this was sent.
    At(Timestamp),
    /// A drain has read everything, and time shall pass to this end of a minute.
    Drained(Timestamp),
}

/// Where the lines of a record stood: for each file in turn, the byte offset of each of its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// A file's path, and the byte offsets of its lines in the order of the record.
    pub runs: Vec<(String, Vec<u64>)>,
}

impl Origin {
    /// File and byte offset of the record's line at this place, from 0.
    pub fn of_line(&self, mut line: usize) -> Option<(&str, u64)> {
        for (file, offsets) in &self.runs {
            match offsets.get(line) {
                Some(offset) => return Some((file, *offset)),
                None => line -= offsets.len(),
            }
        }
        None
    }
}

/// The header of a record that a log watcher sent.
///
/// On the wire: version 1; the source's name; 0 holding, 1 at, 2 drained, the latter two with microseconds since the epoch (zigzag); the number
/// of runs, and for each the file's path, the number of lines, and the distance of each line's offset from the one before (zigzag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHeader {
    /// Who sent it.
    pub source: SourceName,
    /// How far it has come. Holds for the record's own lines too: they may be older than it.
    pub mark: SourceMark,
    /// Where the lines come from; empty for a heartbeat.
    pub origin: Origin,
}

impl SourceHeader {
    /// The name of the record header that holds it.
    pub const KEY: &'static str = "clickmill";

    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.str(&self.source.0);
        match self.mark {
            SourceMark::Holding => out.u8(0),
            SourceMark::At(time) => {
                out.u8(1);
                out.int(time.as_micros());
            }
            SourceMark::Drained(time) => {
                out.u8(2);
                out.int(time.as_micros());
            }
        }
        out.uint(self.origin.runs.len() as u64);
        for (file, offsets) in &self.origin.runs {
            out.str(file);
            out.uint(offsets.len() as u64);
            let mut before = 0_i64;
            for offset in offsets {
                out.int((*offset as i64).wrapping_sub(before));
                before = *offset as i64;
            }
        }
        out.finish()
    }

    /// Reads all of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, source, mark) = begin(bytes)?;
        let source = SourceName::from(source);
        let mut origin = Origin::default();
        for _ in 0..input.count(2)? {
            let file = input.str()?.to_owned();
            let mut before = 0_i64;
            let offsets = (0..input.count(1)?)
                .map(|_| {
                    before = before.wrapping_add(input.int()?);
                    Ok(before as u64)
                })
                .collect::<Result<Vec<_>, CodecError>>()?;
            origin.runs.push((file, offsets));
        }
        input.finish()?;
        Ok(Self { source, mark, origin })
    }

    /// Reads source and mark only, and whether the record has lines (a heartbeat has none).
    pub fn decode_mark(bytes: &[u8]) -> Result<(&str, SourceMark, bool), CodecError> {
        let (mut input, source, mark) = begin(bytes)?;
        Ok((source, mark, input.uint()? > 0))
    }
}

fn begin(bytes: &[u8]) -> Result<(Reader<'_>, &str, SourceMark), CodecError> {
    let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
    let source = input.str()?;
    let mark = match input.u8()? {
        0 => SourceMark::Holding,
        1 => SourceMark::At(Timestamp::from_micros(input.int()?)),
        2 => SourceMark::Drained(Timestamp::from_micros(input.int()?)),
        _ => return Err(input.corrupt("an unknown mark")),
    };
    Ok((input, source, mark))
}

/// The lines of a record's value: what stands between newlines. `has_lines` is false for a heartbeat, whose value is empty.
pub fn lines_of(value: &[u8], has_lines: bool) -> impl Iterator<Item = &[u8]> {
    let mut rest = has_lines.then_some(value);
    std::iter::from_fn(move || {
        let bytes = rest?;
        match memchr::memchr(b'\n', bytes) {
            Some(at) => {
                rest = bytes.get(at + 1..);
                bytes.get(..at)
            }
            None => rest.take(),
        }
    })
}
