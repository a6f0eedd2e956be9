//! `click-partials`: what one mapper transaction counted for one aggregator partition.

use crate::codec::{CodecError, Reader, Writer};
use crate::columns::Columns;
use crate::definition::DefinitionVersion;
use crate::ids::{Offset, Partition, RawPartition};
use crate::records::{read_time, write_time};
use crate::time::{Minute, Timestamp, Watermark};

const WHAT: &str = "a block of click-partials";
const VERSION: u8 = 1;

/// Counts per (ad, minute, filter) of consecutive offsets of one raw partition.
///
/// On the wire: version 1; topic and partition; `from`, `to`; the watermark in microseconds (zigzag, `i64::MIN` for none); the arrival of the
/// oldest click (0, or 1 and zigzag microseconds); the definitions in force with the first minute of each; the columns, a minute each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialBlock {
    /// Where the clicks came from.
    pub raw: RawPartition,
    /// The next offset of the raw partition before this block: what the mapper had committed.
    pub from: Offset,
    /// The next offset of the raw partition after this block: what it committed with it.
    pub to: Offset,
    /// The raw partition's watermark after this block.
    pub watermark: Watermark,
    /// When the oldest click of this block arrived.
    pub oldest_arrival: Option<Timestamp>,
    /// The definitions that still matter for this raw partition, each with the first minute that is counted by it; rising.
    pub definitions: Vec<(DefinitionVersion, Minute)>,
    /// The counts, one [`Columns`] a minute.
    pub minutes: Vec<Columns>,
}

impl PartialBlock {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.str(&self.raw.topic);
        out.uint(self.raw.partition.0.into());
        out.uint(self.from.0);
        out.uint(self.to.0);
        out.int(self.watermark.time().as_micros());
        write_time(&mut out, self.oldest_arrival);
        out.uint(self.definitions.len() as u64);
        for (version, from) in &self.definitions {
            out.uint((*version).into());
            out.int(from.as_epoch());
        }
        out.uint(self.minutes.len() as u64);
        for minute in &self.minutes {
            minute.encode(&mut out);
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
        let topic = input.str()?;
        let raw = RawPartition::new(topic, Partition(input.u32()?));
        let (from, to) = (Offset(input.uint()?), Offset(input.uint()?));
        let watermark = Watermark::at(Timestamp::from_micros(input.int()?));
        let oldest_arrival = read_time(&mut input)?;
        let definitions = (0..input.count(2)?)
            .map(|_| Ok((input.u32()?, Minute::from_epoch(input.int()?))))
            .collect::<Result<_, CodecError>>()?;
        let minutes = (0..input.count(4)?).map(|_| Columns::decode(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { raw, from, to, watermark, oldest_arrival, definitions, minutes })
    }
}
