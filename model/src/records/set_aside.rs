//! `late-clicks` and `dead-letters`: lines that were not counted, with where they came from and why.

use crate::codec::{CodecError, Reader, Writer};
use crate::ids::{Offset, RawPartition, SourceName};
use crate::line::RejectReason;
use crate::time::Timestamp;

const WHAT: &str = "a record of lines set aside";
const VERSION: u8 = 1;

/// One line that was not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The offset of its record in the raw partition.
    pub offset: Offset,
    /// Its place in the record, from 0.
    pub line_number: u32,
    /// When the record arrived.
    pub arrival: Timestamp,
    /// Why it is no click; `None` for a late click.
    pub reason: Option<RejectReason>,
    /// The log watcher that sent it, with file and byte offset. `None` for one of a foreign producer.
    pub origin: Option<(SourceName, String, u64)>,
    /// The line as it was read.
    pub line: Vec<u8>,
}

/// What one mapper transaction set aside from one raw partition.
///
/// On the wire: version 1; topic and partition; the number of lines, and for each: offset, place, arrival (zigzag microseconds), 0 late or the reason's number + 1, 0 or
/// 1 with source, file and byte offset, the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsideBatch {
    /// Where they came from.
    pub raw: RawPartition,
    /// The lines, by offset and place.
    pub lines: Vec<SetAside>,
}

impl SetAsideBatch {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.str(&self.raw.topic);
        out.uint(self.raw.partition.0.into());
        out.uint(self.lines.len() as u64);
        for line in &self.lines {
            out.uint(line.offset.0);
            out.uint(line.line_number.into());
            out.int(line.arrival.as_micros());
            out.u8(line.reason.map_or(0, |reason| reason as u8 + 1));
            match &line.origin {
                None => out.u8(0),
                Some((source, file, offset)) => {
                    out.u8(1);
                    out.str(&source.0);
                    out.str(file);
                    out.uint(*offset);
                }
            }
            out.bytes(&line.line);
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
        let topic = input.str()?;
        let raw = RawPartition::new(topic, crate::Partition(input.u32()?));
        let lines = (0..input.count(6)?).map(|_| read_line(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { raw, lines })
    }
}

fn read_line(input: &mut Reader<'_>) -> Result<SetAside, CodecError> {
    let offset = Offset(input.uint()?);
    let line_number = input.u32()?;
    let arrival = Timestamp::from_micros(input.int()?);
    let reason = match input.u8()? {
        0 => None,
        number => Some(RejectReason::from_number(number - 1).ok_or_else(|| input.corrupt("an unknown reason"))?),
    };
    let origin = match input.u8()? {
        0 => None,
        _ => Some((SourceName::from(input.str()?), input.str()?.to_owned(), input.uint()?)),
    };
    Ok(SetAside { offset, line_number, arrival, reason, origin, line: input.bytes()?.to_vec() })
}
