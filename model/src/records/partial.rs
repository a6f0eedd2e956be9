//! `click-partials`: what one mapper transaction counted for one aggregator partition.

use crate::codec::{CodecError, Reader, Writer};
use crate::columns::Columns;
use crate::ids::{Offset, Partition, RawPartition};
use crate::inputs::Announced;
use crate::records::{read_time, write_time};
use crate::time::{Timestamp, Watermark};

const WHAT: &str = "a block of click-partials";
const VERSION: u8 = 2;

/// Counts per (ad, minute, filter) of consecutive offsets of one raw partition.
///
/// On the wire: version 2; topic and partition; `from`, `to`; the watermark in microseconds (zigzag, `i64::MIN` for none); the arrival of the
/// oldest click (0, or 1 and zigzag microseconds); the definitions ([`Announced`]: in version 1 without `open_from`); the columns, a minute each.
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
    /// The definitions that still matter for this raw partition; rising.
    pub definitions: Vec<Announced>,
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
        Announced::write(&self.definitions, &mut out);
        out.uint(self.minutes.len() as u64);
        for minute in &self.minutes {
            minute.encode(&mut out);
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, format) = Reader::new(bytes, WHAT, VERSION)?;
        let topic = input.str()?;
        let raw = RawPartition::new(topic, Partition(input.u32()?));
        let (from, to) = (Offset(input.uint()?), Offset(input.uint()?));
        let watermark = Watermark::at(Timestamp::from_micros(input.int()?));
        let oldest_arrival = read_time(&mut input)?;
        let definitions = Announced::read(&mut input, format)?;
        let minutes = (0..input.count(4)?).map(|_| Columns::decode(&mut input)).collect::<Result<_, _>>()?;
        input.finish()?;
        Ok(Self { raw, from, to, watermark, oldest_arrival, definitions, minutes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Minute;

    #[test]
    fn a_block_of_version_1_is_read() {
        // Topic "t", partition 1, offsets 2 to 3, watermark 5 µs, no arrival, definition 2 from minute 3, no counts.
        let bytes = [1, 1, b't', 1, 2, 3, 10, 0, 1, 2, 6, 0];
        let block = PartialBlock::decode(&bytes).unwrap();
        assert_eq!((block.raw.to_string(), block.from, block.to), ("t/1".into(), Offset(2), Offset(3)));
        assert_eq!(block.definitions, [Announced::new(2, Minute::from_epoch(3))]);
        let definitions = vec![Announced { open_from: Minute::from_epoch(1), ..block.definitions[0] }];
        let again = PartialBlock { definitions, ..block };
        assert_eq!(PartialBlock::decode(&again.encode()), Ok(again));
    }
}
