//! Rankings: how they are packed, written and read.
//!
//! A packed ranking: version 1; 4 bytes, little endian: the lower half of XXH3-64 of the rest; flags (1 whole, 2 complete); the number of ads as a varint; for each, most clicked first, the ad's number
//! among those of rankings as a varint, and how many clicks fewer it has than the one before (the first: than none) as a zigzag varint.

use clickmill_model::codec::{CodecError, Reader, Writer};
use clickmill_model::records::Ranking;
use clickmill_model::{FilterId, Minute, Timestamp, Window};
use rusqlite::{Connection, OptionalExtension, params};
use xxhash_rust::xxh3::xxh3_64;

use super::ads::{Dictionary, Numbers, Space};
use super::fault::{Fault, Result};
use super::write::{Stage, raise_progress};
use crate::{RankedBy, RankedWrite, StoredRanking, View};

const VERSION: u8 = 1;
const WHAT: &str = "a packed ranking";
const HEADER: usize = 5;
const WHOLE: u8 = 1;
const COMPLETE: u8 = 2;

/// Everything that a reducer partition told. `conn` is in a write transaction.
pub(super) fn write_ranked(conn: &Connection, dictionary: &Dictionary, write: &RankedWrite) -> Result<()> {
    if !write.rankings.is_empty() {
        let mut numbers = Numbers::new(conn, dictionary, Space::RANKED)?;
        let mut insert = conn.prepare_cached(
            "INSERT OR REPLACE INTO rankings (revision, filter, window, minute, arrival, block) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for (ranking, arrival) in &write.rankings {
            let (filter, window, minute) = (ranking.filter.0, ranking.window.0, ranking.minute.as_epoch());
            let block = encode(ranking, |ad| numbers.of(ad))?;
            insert.execute(params![
                write.revision.0,
                filter,
                window,
                minute,
                arrival.map(Timestamp::as_micros),
                block
            ])?;
        }
        numbers.save(conn)?;
    }
    raise_progress(conn, write.revision, Stage::Rankings, write.partition, write.until)
}

/// The rankings of a filter, where there are any. `conn` is in a read transaction.
pub(super) fn rankings(
    conn: &Connection,
    dictionary: &Dictionary,
    view: &View,
    filter: FilterId,
    which: &[(Window, Minute)],
) -> Result<Vec<StoredRanking>> {
    dictionary.catch_up(conn)?;
    let mut select = conn.prepare_cached(
        "SELECT block FROM rankings WHERE revision = ?1 AND filter = ?2 AND window = ?3 AND minute = ?4",
    )?;
    let mut found = Vec::with_capacity(which.len());
    for (window, minute) in which {
        let RankedBy::Revision(revision) = view.ranked_by(filter, *window, *minute) else {
            found.push(StoredRanking::NotToBeHad);
            continue;
        };
        let key = (revision.0, filter.0, window.0, minute.as_epoch());
        let block: Option<Vec<u8>> = select.query_row(key, |row| row.get(0)).optional()?;
        let Some(block) = block else {
            found.push(StoredRanking::Nothing);
            continue;
        };
        let damaged = |why: String| {
            Fault::Broken(format!(
                "table rankings, revision {revision}, filter {filter}, window {window}, minute {minute}: {why}"
            ))
        };
        let (flags, ads) = decode(&block).map_err(|error| damaged(error.to_string()))?;
        let tables = dictionary.read();
        let table = tables.get(&Space::RANKED);
        let named = ads.into_iter().map(|(number, count)| {
            let known = table.filter(|table| (number as usize) < table.len());
            let name = known.ok_or_else(|| damaged(format!("no ad has number {number}")))?.get(number);
            Ok((String::from_utf8_lossy(name).into_owned(), count))
        });
        let ads = named.collect::<Result<_>>()?;
        let (whole, complete) = (flags & WHOLE != 0, flags & COMPLETE != 0);
        found.push(StoredRanking::Here(Ranking { filter, window: *window, minute: *minute, whole, complete, ads }));
    }
    Ok(found)
}

fn encode(ranking: &Ranking, mut number_of: impl FnMut(&[u8]) -> Result<u32>) -> Result<Vec<u8>> {
    let mut out = Writer::new(VERSION);
    out.raw(&[0; 4]);
    out.u8(if ranking.whole { WHOLE } else { 0 } | if ranking.complete { COMPLETE } else { 0 });
    out.uint(ranking.ads.len() as u64);
    let mut before = 0_u64;
    for (ad, count) in &ranking.ads {
        out.uint(number_of(ad.as_bytes())?.into());
        // Any order survives: the difference is taken modulo 2⁶⁴.
        out.int(before.wrapping_sub(*count) as i64);
        before = *count;
    }
    let mut block = out.finish();
    if let Some((header, rest)) = block.split_first_chunk_mut::<HEADER>() {
        header[1..].copy_from_slice(&checksum(rest));
    }
    Ok(block)
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (xxh3_64(bytes) as u32).to_le_bytes()
}

/// The flags, and the numbers of the ads with their clicks.
fn decode(block: &[u8]) -> Result<(u8, Vec<(u32, u64)>), CodecError> {
    let (mut input, _) = Reader::new(block, WHAT, VERSION)?;
    let sum = input.raw(4)?;
    if block.get(HEADER..).is_none_or(|rest| checksum(rest) != sum) {
        return Err(input.corrupt("it does not match its checksum"));
    }
    let flags = input.u8()?;
    let mut before = 0_u64;
    let ads = (0..input.count(2)?).map(|_| {
        let number = input.u32()?;
        before = before.wrapping_sub(input.int()? as u64);
        Ok((number, before))
    });
    let ads = ads.collect::<Result<_, _>>()?;
    input.finish()?;
    Ok((flags, ads))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(whole: bool, complete: bool, ads: &[(&str, u64)]) -> Ranking {
        Ranking {
            filter: FilterId(1),
            window: Window(5),
            minute: Minute::from_epoch(7),
            whole,
            complete,
            ads: ads.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect(),
        }
    }

    /// Numbers each ad by its digits.
    fn pack(ranking: &Ranking) -> Vec<u8> {
        encode(ranking, |ad| Ok(std::str::from_utf8(ad).unwrap().parse().unwrap())).unwrap()
    }

    #[test]
    fn a_ranking_is_read_as_it_was_packed() {
        for (whole, complete, flags) in [(false, false, 0), (true, false, 1), (false, true, 2), (true, true, 3)] {
            for ads in [&[][..], &[("5", u64::MAX), ("0", 700), ("4000000000", 700), ("1", 1)]] {
                let (read_flags, read) = decode(&pack(&ranking(whole, complete, ads))).unwrap();
                assert_eq!(read_flags, flags);
                let expected: Vec<(u32, u64)> = ads.iter().map(|(ad, count)| (ad.parse().unwrap(), *count)).collect();
                assert_eq!(read, expected);
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let block = pack(&ranking(true, true, &[("300", 12), ("4", 12), ("7", 1)]));
        for at in 0..block.len() {
            let mut damaged = block.clone();
            damaged[at] ^= 8;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&block[..at]).is_err(), "cut at {at}");
        }
    }

    /// Written once, by version 1; must be read for ever.
    #[test]
    fn the_first_version_is_still_read() {
        let block = include_bytes!("../../fixtures/ranking-1.block");
        let expected = ranking(true, false, &[("300", 70_000), ("4", 12), ("7", 12), ("0", 1)]);
        assert_eq!(decode(block).unwrap(), (1, vec![(300, 70_000), (4, 12), (7, 12), (0, 1)]));
        assert_eq!(pack(&expected), block);
    }
}
