//! Ad ids as numbers.
//!
//! Each ad has a number within its aggregator partition, in the order of first appearance, so that blocks of counts are short and sorted. Numbers
//! are given inside the write transaction and never change. The table `ads` holds them in blocks of 4,096, and each process keeps them all in
//! memory (a place of 20 to 36 bytes and the ad's own): looking one up costs no page. Rankings have numbers of their own, since they may come before the counts.
//!
//! A block of ads: version 1; 4 bytes, little endian: the lower half of XXH3-64 of the rest; as varints, the number of ads and the length of each ad id; the ad ids end to end.

use std::collections::BTreeMap;

use clickmill_model::codec::{CodecError, Reader, Writer};
use clickmill_model::prefetch::AHEAD;
use clickmill_model::{AdColumn, AdTable, Partition};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rusqlite::Connection;
use xxhash_rust::xxh3::xxh3_64;

use super::block::{BUCKET, BUCKET_BITS};
use super::fault::{Fault, Result};

/// Whose numbers: an aggregator partition's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Space(pub(super) i64);

impl Space {
    /// Those that rankings use.
    pub(super) const RANKED: Self = Self(-1);

    /// Those of an aggregator partition.
    pub(super) fn of(partition: Partition) -> Self {
        Self(partition.0.into())
    }
}

const VERSION: u8 = 1;
const WHAT: &str = "a block of ad ids";
const HEADER: usize = 5;

/// Every number that this process knows: at least those in each snapshot that [`Dictionary::catch_up`] was called in.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    tables: RwLock<Tables>,
    /// Held by who adds.
    adding: Mutex<()>,
}

/// The numbers by space.
pub(super) type Tables = BTreeMap<Space, AdTable>;

impl Dictionary {
    /// For looking up. Held briefly: who adds waits.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read()
    }

    /// How many ads this snapshot has, by space; afterwards all of them are known here. `conn` is in a transaction.
    pub(super) fn catch_up(&self, conn: &Connection) -> Result<Vec<(Space, u32)>> {
        let sizes = sizes(conn)?;
        let is_known =
            |(space, ads): &(Space, u32)| self.tables.read().get(space).map_or(0, AdTable::len) >= *ads as usize;
        if !sizes.iter().all(is_known) {
            let _adding = self.adding.lock();
            for (space, ads) in sizes.iter().filter(|size| !is_known(size)) {
                self.load(conn, *space, *ads)?;
            }
        }
        Ok(sizes)
    }

    fn load(&self, conn: &Connection, space: Space, ads: u32) -> Result<()> {
        let known = self.tables.read().get(&space).map_or(0, AdTable::len) as u32;
        let mut select =
            conn.prepare_cached("SELECT bucket, block FROM ads WHERE space = ?1 AND bucket >= ?2 ORDER BY bucket")?;
        let mut rows = select.query((space.0, known >> BUCKET_BITS))?;
        let mut next = known;
        while let Some(row) = rows.next()? {
            let bucket: u32 = row.get(0)?;
            let damaged = |why: String| Fault::Broken(format!("table ads, space {}, bucket {bucket}: {why}", space.0));
            let block = row.get_ref(1)?.as_blob().map_err(|error| damaged(error.to_string()))?;
            let names = decode(block).map_err(damaged)?;
            let first = u64::from(bucket) << BUCKET_BITS;
            // Locked for one block at a time: readers of the same process go on in between.
            let mut tables = self.tables.write();
            let table = tables.entry(space).or_default();
            let have = u64::from(next);
            for (number, name) in (first..).zip(names).skip_while(|(number, _)| *number < have) {
                if table.intern(AdTable::hash(name), name).map(u64::from) != Some(number) {
                    return Err(damaged(format!("{} stands twice", String::from_utf8_lossy(name))));
                }
                next += 1;
            }
        }
        if next < ads {
            return Err(Fault::Broken(format!("table ads, space {}: {next} of {ads} ads are there", space.0)));
        }
        Ok(())
    }
}

fn sizes(conn: &Connection) -> Result<Vec<(Space, u32)>> {
    let mut select = conn.prepare_cached("SELECT space, ads FROM ad_spaces ORDER BY space")?;
    let sizes = select.query_map((), |row| Ok((Space(row.get(0)?), row.get(1)?)))?;
    Ok(sizes.collect::<Result<_, _>>()?)
}

/// The numbers of one space inside a write transaction: those known and those that this transaction adds.
#[derive(Debug)]
pub(super) struct Numbers<'a> {
    space: Space,
    dictionary: &'a Dictionary,
    /// How many are known. Nobody else adds any before this transaction ends.
    base: u32,
    fresh: AdTable,
}

/// Ads looked up before the dictionary is let go for a moment: who adds to it, and who reads behind that one, does not wait for a whole write.
const AT_ONCE: usize = 4096;

impl<'a> Numbers<'a> {
    /// Catches up in the write transaction that `conn` is in.
    pub(super) fn new(conn: &Connection, dictionary: &'a Dictionary, space: Space) -> Result<Self> {
        dictionary.catch_up(conn)?;
        let base = dictionary.read().get(&space).map_or(0, AdTable::len) as u32;
        Ok(Self { space, dictionary, base, fresh: AdTable::new() })
    }

    /// Gives the row and the number of each ad to `give`; a new number where it has none.
    pub(super) fn of_all(&mut self, ads: &AdColumn, mut give: impl FnMut(usize, u32)) -> Result<()> {
        let hashes: Vec<u64> = ads.iter().map(AdTable::hash).collect();
        let mut row = 0;
        for chunk in hashes.chunks(AT_ONCE) {
            let tables = self.dictionary.read();
            let known = tables.get(&self.space);
            for (at, hash) in chunk.iter().enumerate() {
                if let (Some(known), Some(ahead)) = (known, chunk.get(at + AHEAD)) {
                    known.prefetch(*ahead);
                }
                let ad = ads.get(row);
                let number = match known.and_then(|known| known.find(*hash, ad)) {
                    Some(number) => number,
                    None => fresh_number(&mut self.fresh, self.base, self.space, &tables, *hash, ad)?,
                };
                give(row, number);
                row += 1;
            }
        }
        Ok(())
    }

    /// The number of an ad; a new one where it has none.
    pub(super) fn of(&mut self, ad: &[u8]) -> Result<u32> {
        let hash = AdTable::hash(ad);
        let tables = self.dictionary.read();
        match tables.get(&self.space).and_then(|known| known.find(hash, ad)) {
            Some(number) => Ok(number),
            None => fresh_number(&mut self.fresh, self.base, self.space, &tables, hash, ad),
        }
    }

    /// Writes the new ones.
    pub(super) fn save(&self, conn: &Connection) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let end = self.base + self.fresh.len() as u32;
        let mut insert =
            conn.prepare_cached("INSERT OR REPLACE INTO ads (space, bucket, block) VALUES (?1, ?2, ?3)")?;
        for bucket in self.base >> BUCKET_BITS..=(end - 1) >> BUCKET_BITS {
            let numbers = bucket << BUCKET_BITS..end.min((bucket << BUCKET_BITS).saturating_add(BUCKET));
            let tables = self.dictionary.read();
            let known = tables.get(&self.space);
            let names = numbers.map(|number| match number.checked_sub(self.base) {
                Some(new) => self.fresh.get(new),
                None => known.map_or(&[][..], |known| known.get(number)),
            });
            let block = encode(names);
            drop(tables);
            insert.execute((self.space.0, bucket, block))?;
        }
        conn.prepare_cached("INSERT OR REPLACE INTO ad_spaces (space, ads) VALUES (?1, ?2)")?
            .execute((self.space.0, end))?;
        Ok(())
    }
}

fn fresh_number(fresh: &mut AdTable, base: u32, space: Space, tables: &Tables, hash: u64, ad: &[u8]) -> Result<u32> {
    // An ad belongs to one aggregator partition. That says nothing about rankings.
    let mut others = tables.iter().filter(|(other, _)| **other != space && **other != Space::RANKED);
    if space != Space::RANKED && others.any(|(_, other)| other.find(hash, ad).is_some()) {
        return Err(Fault::Broken(format!(
            "ad {} of aggregator partition {} has counts in another partition: an ad belongs to one for good",
            String::from_utf8_lossy(ad),
            space.0
        )));
    }
    let number = fresh.intern(hash, ad).and_then(|number| number.checked_add(base));
    number.ok_or_else(|| Fault::Broken(format!("space {} has more ads than fit", space.0)))
}

fn encode<'a>(names: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let mut out = Writer::new(VERSION);
    out.raw(&[0; 4]);
    out.uint(names.len() as u64);
    for name in names.clone() {
        out.uint(name.len() as u64);
    }
    for name in names {
        out.raw(name);
    }
    let mut block = out.finish();
    if let Some((header, rest)) = block.split_first_chunk_mut::<HEADER>() {
        header[1..].copy_from_slice(&checksum(rest));
    }
    block
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (xxh3_64(bytes) as u32).to_le_bytes()
}

fn decode(block: &[u8]) -> Result<Vec<&[u8]>, String> {
    let read = || -> Result<_, CodecError> {
        let (mut input, _) = Reader::new(block, WHAT, VERSION)?;
        let sum = input.raw(4)?;
        if block.get(HEADER..).is_none_or(|rest| checksum(rest) != sum) {
            return Err(input.corrupt("it does not match its checksum"));
        }
        let lengths = (0..input.count(1)?).map(|_| input.u32()).collect::<Result<Vec<_>, _>>()?;
        let names = lengths.into_iter().map(|length| input.raw(length as usize)).collect::<Result<Vec<_>, _>>()?;
        input.finish()?;
        Ok(names)
    };
    read().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_ads_is_read_as_it_was_written() {
        let names: [&[u8]; 4] = [b"ad001", b"", "реклама/%?".as_bytes(), &[b'x'; 300]];
        let block = encode(names.iter().copied());
        assert_eq!(decode(&block).unwrap(), names);
        for at in 0..block.len() {
            let mut damaged = block.clone();
            damaged[at] ^= 4;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&block[..at]).is_err(), "cut at {at}");
        }
    }

    /// Written once, by version 1; must be read for ever.
    #[test]
    fn the_first_version_is_still_read() {
        let block = include_bytes!("../../fixtures/ads-1.block");
        let names: [&[u8]; 3] = [b"ad001", "广告/%?".as_bytes(), b"b"];
        assert_eq!(decode(block).unwrap(), names);
        assert_eq!(encode(names.into_iter()), block);
    }
}
