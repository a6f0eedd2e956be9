//! `click-results`: what is written to the store, and what an aggregator restarts from.

use crate::codec::{CodecError, Reader, Writer};
use crate::columns::{Columns, filter_id};
use crate::ids::{FilterId, Offset, Partition, RawPartition, Revision};
use crate::inputs::Announced;
use crate::records::candidates::{read_ads, write_ads};
use crate::records::{read_time, write_time};
use crate::time::{Minute, Timestamp, Watermark};
use crate::window::Window;

const WHAT: &str = "a record of click-results";
const VERSION: u8 = 2;

/// How far an aggregator partition has come with one raw partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Covered {
    /// The raw partition.
    pub raw: RawPartition,
    /// Its next offset: everything before it is counted.
    pub to: Offset,
    /// Its watermark.
    pub watermark: Watermark,
    /// The definitions that still matter for it; rising.
    pub definitions: Vec<Announced>,
}

/// From when to when a filter's figures are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterSpan {
    /// The filter.
    pub filter: FilterId,
    /// The first minute; [`Minute::MIN`] for one that was there from the beginning.
    pub from: Minute,
    /// The first minute in which it is no longer counted, for one that was removed.
    pub until: Option<Minute>,
}

/// The most clicked ads of one filter and window at one minute, most clicked first, ties by `ad_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// Whose clicks.
    pub filter: FilterId,
    /// Over how many minutes.
    pub window: Window,
    /// The window's last minute.
    pub minute: Minute,
    /// True where every ad with a click in the window is here.
    pub whole: bool,
    /// True where the filter was counted in every minute of the window.
    pub complete: bool,
    /// The ads with their clicks.
    pub ads: Vec<(String, u64)>,
}

/// What a record of `click-results` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultBody {
    /// Kind 1. Final counts of a closed span, from one aggregator partition. A span may take several records, each with other ads; they
    /// stand together in one transaction, before the [`ResultBody::Closed`] that ends them.
    Counts {
        /// The aggregator partition.
        partition: Partition,
        /// When the oldest click in it arrived.
        oldest_arrival: Option<Timestamp>,
        /// The counts.
        columns: Columns,
    },
    /// Kind 2. Every count of this aggregator partition before `until` has been told.
    Closed {
        /// The aggregator partition.
        partition: Partition,
        /// The first minute that is not closed.
        until: Minute,
        /// What the aggregator partition has taken in.
        covered: Vec<Covered>,
        /// From when to when each filter is published.
        filters: Vec<FilterSpan>,
    },
    /// Kind 3. Rankings, from one reducer partition.
    Rankings {
        /// The reducer partition.
        partition: Partition,
        /// When the oldest click in them arrived.
        oldest_arrival: Option<Timestamp>,
        /// The rankings.
        rankings: Vec<Ranking>,
    },
    /// Kind 4. Every ranking of this reducer partition before `until` has been told.
    Ranked {
        /// The reducer partition.
        partition: Partition,
        /// The first minute whose rankings are not out.
        until: Minute,
    },
}

/// A record of `click-results`.
///
/// On the wire: version 2 (in version 1 the definitions of a [`Covered`] were without `open_from`), the revision, one byte for the kind, then the fields of [`ResultBody`] in their order. Minutes are zigzag numbers since the
/// epoch, times zigzag microseconds, an optional time 0 or 1 and the time, lists their length and the items; flags of a ranking are 1 whole, 2 complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// Which calculation this comes from.
    pub revision: Revision,
    /// What it says.
    pub body: ResultBody,
}

impl ResultRecord {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.uint(self.revision.0.into());
        match &self.body {
            ResultBody::Counts { partition, oldest_arrival, columns } => {
                out.u8(1);
                out.uint(partition.0.into());
                write_time(&mut out, *oldest_arrival);
                columns.encode(&mut out);
            }
            ResultBody::Closed { partition, until, covered, filters } => {
                out.u8(2);
                out.uint(partition.0.into());
                out.int(until.as_epoch());
                out.uint(covered.len() as u64);
                for covered in covered {
                    out.str(&covered.raw.topic);
                    out.uint(covered.raw.partition.0.into());
                    out.uint(covered.to.0);
                    out.int(covered.watermark.time().as_micros());
                    Announced::write(&covered.definitions, &mut out);
                }
                out.uint(filters.len() as u64);
                for span in filters {
                    out.uint(span.filter.0.into());
                    out.int(span.from.as_epoch());
                    out.u8(u8::from(span.until.is_some()));
                    out.int(span.until.unwrap_or(Minute::MAX).as_epoch());
                }
            }
            ResultBody::Rankings { partition, oldest_arrival, rankings } => {
                out.u8(3);
                out.uint(partition.0.into());
                write_time(&mut out, *oldest_arrival);
                out.uint(rankings.len() as u64);
                for ranking in rankings {
                    out.uint(ranking.filter.0.into());
                    out.uint(ranking.window.0.into());
                    out.int(ranking.minute.as_epoch());
                    out.u8(u8::from(ranking.whole) | u8::from(ranking.complete) << 1);
                    write_ads(&mut out, &ranking.ads);
                }
            }
            ResultBody::Ranked { partition, until } => {
                out.u8(4);
                out.uint(partition.0.into());
                out.int(until.as_epoch());
            }
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, format) = Reader::new(bytes, WHAT, VERSION)?;
        let revision = Revision(input.u32()?);
        let kind = input.u8()?;
        let partition = Partition(input.u32()?);
        let body = match kind {
            1 => ResultBody::Counts {
                partition,
                oldest_arrival: read_time(&mut input)?,
                columns: Columns::decode(&mut input)?,
            },
            2 => ResultBody::Closed {
                partition,
                until: Minute::from_epoch(input.int()?),
                covered: (0..input.count(5)?).map(|_| read_covered(&mut input, format)).collect::<Result<_, _>>()?,
                filters: (0..input.count(4)?).map(|_| read_span(&mut input)).collect::<Result<_, _>>()?,
            },
            3 => ResultBody::Rankings {
                partition,
                oldest_arrival: read_time(&mut input)?,
                rankings: (0..input.count(5)?).map(|_| read_ranking(&mut input)).collect::<Result<_, _>>()?,
            },
            4 => ResultBody::Ranked { partition, until: Minute::from_epoch(input.int()?) },
            _ => return Err(input.corrupt("an unknown kind")),
        };
        input.finish()?;
        Ok(Self { revision, body })
    }
}

fn read_covered(input: &mut Reader<'_>, format: u8) -> Result<Covered, CodecError> {
    let topic = input.str()?;
    Ok(Covered {
        raw: RawPartition::new(topic, Partition(input.u32()?)),
        to: Offset(input.uint()?),
        watermark: Watermark::at(Timestamp::from_micros(input.int()?)),
        definitions: Announced::read(input, format)?,
    })
}

fn read_span(input: &mut Reader<'_>) -> Result<FilterSpan, CodecError> {
    let filter = filter_id(input)?;
    let from = Minute::from_epoch(input.int()?);
    let removed = input.u8()? != 0;
    let until = Minute::from_epoch(input.int()?);
    Ok(FilterSpan { filter, from, until: removed.then_some(until) })
}

fn read_ranking(input: &mut Reader<'_>) -> Result<Ranking, CodecError> {
    let filter = filter_id(input)?;
    let window = Window(input.u32()?);
    let minute = Minute::from_epoch(input.int()?);
    let flags = input.u8()?;
    Ok(Ranking { filter, window, minute, whole: flags & 1 != 0, complete: flags & 2 != 0, ads: read_ads(input)? })
}
