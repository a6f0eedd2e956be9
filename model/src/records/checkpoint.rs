//! What the mapper writes beside its committed offset: where a restart goes on from, and the books.

use std::time::Duration;

use crate::codec::{CodecError, Reader, Writer};
use crate::definition::DefinitionVersion;
use crate::ids::Offset;
use crate::inputs::Announced;
use crate::line::RejectReason;
use crate::time::{Minute, Timestamp, Watermark};

const WHAT: &str = "a mapper checkpoint";
const VERSION: u8 = 3;

/// What became of the lines of one raw partition since its first record: `lines = counted + duplicates + late + rejected`, always.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Books {
    /// Lines read.
    pub lines: u64,
    /// Clicks counted.
    pub counted: u64,
    /// Clicks that had been counted already.
    pub duplicates: u64,
    /// Clicks whose minute was closed when they came.
    pub late: u64,
    /// Lines that are no click, by the number of the [`RejectReason`].
    pub rejected: [u64; RejectReason::ALL.len()],
}

impl Books {
    /// Lines that are no click.
    pub fn rejected_total(&self) -> u64 {
        self.rejected.iter().sum()
    }

    /// Adds another partition's.
    pub fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.counted += other.counted;
        self.duplicates += other.duplicates;
        self.late += other.late;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
    }

    /// True where every line went to exactly one place.
    pub fn balance(&self) -> bool {
        self.lines == self.counted + self.duplicates + self.late + self.rejected_total()
    }
}

/// The metadata of the mapper's committed offset.
///
/// On the wire: version 3; watermark (zigzag microseconds, `i64::MIN` for none); 1 where it follows live sources of its own, else 0; `replay_from`; 0, or 1 and the highest
/// minute counted; 0 where nothing was heard yet, 1 or 2 and the arrival of the last source's last record, 2 where that source is a watcher; the definitions ([`Announced`]: in version 1 without `open_from`); lines, counted, duplicates, late, the number of reasons and the count of each;
/// `inputs_since` (not in version 1); how many [`ClockBound`]s, and of each the offset and the microseconds (not in versions 1 and 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapperCheckpoint {
    /// The partition's watermark.
    pub watermark: Watermark,
    /// True while the partition has a live source: its watermark then says how far others may go that have none.
    pub has_live_source: bool,
    /// The first record that a restart must read again.
    pub replay_from: Offset,
    /// The highest minute that a click was counted in.
    pub highest_counted: Option<Minute>,
    /// The arrival of the latest record of a source, and whether that source is a log watcher: without live source the
    /// partition waits for a watcher, and moves on without foreign producers.
    pub last_heard: Option<(Timestamp, bool)>,
    /// The definitions that still matter; rising.
    pub definitions: Vec<Announced>,
    /// What became of the lines.
    pub books: Books,
    /// The definition whose inputs were read when this was committed ([`crate::ReadInputs::since`]).
    pub inputs_since: DefinitionVersion,
    /// The bounds on clocks that hold for records from `replay_from` on; by rising offset. None in a checkpoint of an older version.
    pub clock_bounds: Vec<ClockBound>,
}

/// How far ahead of its arrival a click may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBound {
    /// The first record that is judged by it.
    pub from: Offset,
    /// What `time.max_clock_skew` was when it was read.
    pub max_clock_skew: Duration,
}

impl AsRef<[Announced]> for MapperCheckpoint {
    fn as_ref(&self) -> &[Announced] {
        &self.definitions
    }
}

impl MapperCheckpoint {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.int(self.watermark.time().as_micros());
        out.u8(self.has_live_source.into());
        out.uint(self.replay_from.0);
        out.u8(self.highest_counted.is_some().into());
        out.int(self.highest_counted.unwrap_or(Minute::MIN).as_epoch());
        match self.last_heard {
            None => out.u8(0),
            Some((arrival, is_watcher)) => {
                out.u8(if is_watcher { 2 } else { 1 });
                out.int(arrival.as_micros());
            }
        }
        Announced::write(&self.definitions, &mut out);
        let books = &self.books;
        for number in [books.lines, books.counted, books.duplicates, books.late, books.rejected.len() as u64] {
            out.uint(number);
        }
        for count in books.rejected {
            out.uint(count);
        }
        out.uint(self.inputs_since.into());
        out.uint(self.clock_bounds.len() as u64);
        for bound in &self.clock_bounds {
            out.uint(bound.from.0);
            out.uint(u64::try_from(bound.max_clock_skew.as_micros()).unwrap_or(u64::MAX));
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, format) = Reader::new(bytes, WHAT, VERSION)?;
        let watermark = Watermark::at(Timestamp::from_micros(input.int()?));
        let has_live_source = input.u8()? != 0;
        let replay_from = Offset(input.uint()?);
        let counted_any = input.u8()? != 0;
        let highest = Minute::from_epoch(input.int()?);
        let last_heard = match input.u8()? {
            0 => None,
            kind @ (1 | 2) => Some((Timestamp::from_micros(input.int()?), kind == 2)),
            _ => return Err(input.corrupt("an unknown kind of source")),
        };
        let definitions = Announced::read(&mut input, format)?;
        let mut books = Books {
            lines: input.uint()?,
            counted: input.uint()?,
            duplicates: input.uint()?,
            late: input.uint()?,
            ..Books::default()
        };
        for i in 0..input.count(1)? {
            let count = input.uint()?;
            *books.rejected.get_mut(i).ok_or_else(|| input.corrupt("more reasons than there are"))? = count;
        }
        let inputs_since = if format == 1 { 0 } else { input.u32()? };
        let mut clock_bounds = Vec::new();
        if format > 2 {
            for _ in 0..input.count(2)? {
                let from = Offset(input.uint()?);
                clock_bounds.push(ClockBound { from, max_clock_skew: Duration::from_micros(input.uint()?) });
            }
        }
        input.finish()?;
        Ok(Self {
            watermark,
            has_live_source,
            replay_from,
            highest_counted: counted_any.then_some(highest),
            last_heard,
            definitions,
            books,
            inputs_since,
            clock_bounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_version_1_is_read() {
        // Watermark 5 µs, a live source, replay from 7, highest minute 9, a watcher heard at 11 µs, definition 2 from minute 3, six lines, reasons none, and nothing behind.
        let bytes = [1, 10, 1, 7, 1, 18, 2, 22, 1, 2, 6, 6, 3, 1, 2, 0];
        let checkpoint = MapperCheckpoint::decode(&bytes).unwrap();
        assert_eq!(checkpoint.watermark.time().as_micros(), 5);
        assert_eq!(checkpoint.definitions, [Announced::new(2, Minute::from_epoch(3))]);
        assert_eq!((checkpoint.books.counted, checkpoint.books.late, checkpoint.inputs_since), (3, 2, 0));
        let bound = ClockBound { from: Offset(7), max_clock_skew: Duration::from_secs(60) };
        let again = MapperCheckpoint { inputs_since: 4, clock_bounds: vec![bound], ..checkpoint };
        assert_eq!(MapperCheckpoint::decode(&again.encode()), Ok(again));
    }

    #[test]
    fn a_checkpoint_of_version_2_is_read() {
        // As above, with where a minute was first open behind the definition, and `inputs_since` at the end.
        let bytes = [2, 10, 1, 7, 1, 18, 2, 22, 1, 2, 6, 4, 6, 3, 1, 2, 0, 5];
        let checkpoint = MapperCheckpoint::decode(&bytes).unwrap();
        assert_eq!((checkpoint.inputs_since, checkpoint.clock_bounds.len()), (5, 0));
        assert_eq!(checkpoint.definitions[0].open_from, Minute::from_epoch(2));
    }
}
