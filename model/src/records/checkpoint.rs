//! What the mapper writes beside its committed offset: where a restart goes on from, and the books.

use crate::codec::{CodecError, Reader, Writer};
use crate::definition::DefinitionVersion;
use crate::ids::Offset;
use crate::line::RejectReason;
use crate::time::{Minute, Timestamp, Watermark};

const WHAT: &str = "a mapper checkpoint";
const VERSION: u8 = 1;

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
/// On the wire: version 1; watermark (zigzag microseconds, `i64::MIN` for none); 1 where it follows live sources of its own, else 0; `replay_from`; 0, or 1 and the highest
/// minute counted; 0 where nothing was heard yet, 1 or 2 and the arrival of the last source's last record, 2 where that source is a watcher; the definitions with the first minute of each; lines, counted, duplicates, late, the number of reasons and the count of each.
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
    /// The definitions that still matter, each with the first minute that is counted by it; rising.
    pub definitions: Vec<(DefinitionVersion, Minute)>,
    /// What became of the lines.
    pub books: Books,
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
        out.uint(self.definitions.len() as u64);
        for (version, from) in &self.definitions {
            out.uint((*version).into());
            out.int(from.as_epoch());
        }
        let books = &self.books;
        for number in [books.lines, books.counted, books.duplicates, books.late, books.rejected.len() as u64] {
            out.uint(number);
        }
        for count in books.rejected {
            out.uint(count);
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
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
        let definitions = (0..input.count(2)?)
            .map(|_| Ok((input.u32()?, Minute::from_epoch(input.int()?))))
            .collect::<Result<_, CodecError>>()?;
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
        input.finish()?;
        Ok(Self {
            watermark,
            has_live_source,
            replay_from,
            highest_counted: counted_any.then_some(highest),
            last_heard,
            definitions,
            books,
        })
    }
}
