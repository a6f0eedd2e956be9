//! `top-candidates`: the rankings of one aggregator partition, for the reducer to merge.

use crate::codec::{CodecError, Reader, Writer};
use crate::columns::filter_id;
use crate::ids::{FilterId, Partition};
use crate::records::{read_time, write_time};
use crate::time::{Minute, Timestamp};
use crate::window::Window;

const WHAT: &str = "a record of top-candidates";
const VERSION: u8 = 1;

/// The most clicked ads of one aggregator partition for one filter and window at one minute, most clicked first, ties by `ad_id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// Whose clicks.
    pub filter: FilterId,
    /// Over how many minutes.
    pub window: Window,
    /// The window's last minute.
    pub minute: Minute,
    /// How many ads the ranking shall hold at most.
    pub depth: u32,
    /// True where every ad with a click in the window is here.
    pub whole: bool,
    /// True where every raw partition counted this filter in every minute of the window.
    pub complete: bool,
    /// The ads with their clicks.
    pub ads: Vec<(String, u64)>,
}

/// What one transaction of an aggregator partition sends to one partition of `top-candidates`.
///
/// On the wire: version 1; the aggregator's partition; the first minute that is not closed yet (zigzag); the arrival of the oldest click;
/// the number of rankings, and for each: filter, window, minute (zigzag), depth, flags (1 whole, 2 complete), the number of ads, and for each its id and count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateRecord {
    /// The aggregator partition that speaks.
    pub partition: Partition,
    /// It has closed every minute before this one, and told its candidates up to there.
    pub closed_until: Minute,
    /// When the oldest click in it arrived.
    pub oldest_arrival: Option<Timestamp>,
    /// Its rankings; those of a filter, window and minute without any click are left out.
    pub rankings: Vec<Candidates>,
}

impl CandidateRecord {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.uint(self.partition.0.into());
        out.int(self.closed_until.as_epoch());
        write_time(&mut out, self.oldest_arrival);
        out.uint(self.rankings.len() as u64);
        for ranking in &self.rankings {
            out.uint(ranking.filter.0.into());
            out.uint(ranking.window.0.into());
            out.int(ranking.minute.as_epoch());
            out.uint(ranking.depth.into());
            out.u8(u8::from(ranking.whole) | u8::from(ranking.complete) << 1);
            write_ads(&mut out, &ranking.ads);
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
        let partition = Partition(input.u32()?);
        let closed_until = Minute::from_epoch(input.int()?);
        let oldest_arrival = read_time(&mut input)?;
        let rankings = (0..input.count(6)?)
            .map(|_| {
                let filter = filter_id(&mut input)?;
                let window = Window(input.u32()?);
                let minute = Minute::from_epoch(input.int()?);
                let depth = input.u32()?;
                let flags = input.u8()?;
                let ads = read_ads(&mut input)?;
                Ok(Candidates { filter, window, minute, depth, whole: flags & 1 != 0, complete: flags & 2 != 0, ads })
            })
            .collect::<Result<_, CodecError>>()?;
        input.finish()?;
        Ok(Self { partition, closed_until, oldest_arrival, rankings })
    }
}

pub(super) fn write_ads(out: &mut Writer, ads: &[(String, u64)]) {
    out.uint(ads.len() as u64);
    for (ad, count) in ads {
        out.str(ad);
        out.uint(*count);
    }
}

pub(super) fn read_ads(input: &mut Reader<'_>) -> Result<Vec<(String, u64)>, CodecError> {
    (0..input.count(2)?).map(|_| Ok((input.str()?.to_owned(), input.uint()?))).collect()
}
