//! The packed counts of one bucket of ads in one span.
//!
//! A bucket is the 4,096 ads of one aggregator partition whose numbers have the same upper bits; a place is a number's lower 12 bits. A block holds, by
//! rising place, each ad that was clicked. Numbers are little endian, varints are unsigned LEB128:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | checksum of the rest of the header and of the table: the lower half of XXH3-64 |
//! | 2 | entries, 1 to 4,096 |
//! | 8 a group | the table: the group's first place, plus 32,768 where no place is left out up to its last (2 bytes), where it ends behind the table (2 bytes), its checksum (4 bytes) |
//! | the rest | the groups, of 128 entries each (the last may have fewer): the first entry's count, then for each further one how many places it lies ahead of the one before (at least 1; not written where no place is left out), and its count, as varints |
//!
//! To find one ad takes a search in the table and at most one group, and only what is used is checked: about 0.1 µs.

use xxhash_rust::xxh3::xxh3_64;

/// Ads in a bucket.
pub(super) const BUCKET: u32 = 1 << BUCKET_BITS;
/// How many lower bits of a number are the place in its bucket.
pub(super) const BUCKET_BITS: u32 = 12;

const VERSION: u8 = 1;
const HEADER: usize = 7;
const ROW: usize = 8;
const GROUP: usize = 128;

/// What is wrong with a block.
pub(super) type Damage = String;

/// The bucket and the place of an ad's number.
pub(super) const fn split(number: u32) -> (u32, u16) {
    (number >> BUCKET_BITS, (number & (BUCKET - 1)) as u16)
}

fn checksum(bytes: &[u8]) -> u32 {
    xxh3_64(bytes) as u32
}

/// In the table: no place is left out in this group. That halves the block of a minute in which nearly every ad was clicked.
const GAPLESS: u16 = 1 << 15;

/// Packs a block. One is used for many, which saves their allocations.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    group: Vec<(u16, u64)>,
    table: Vec<u8>,
    data: Vec<u8>,
    block: Vec<u8>,
    entries: u16,
}

impl BlockWriter {
    /// True where nothing was added since the last [`BlockWriter::finish`].
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds an ad with at least one click. Places rise.
    #[inline]
    pub(super) fn push(&mut self, place: u16, count: u64) {
        self.group.push((place, count));
        self.entries += 1;
        if self.group.len() == GROUP {
            self.end_group();
        }
    }

    fn end_group(&mut self) {
        let (Some((first, _)), Some((last, _))) = (self.group.first().copied(), self.group.last().copied()) else {
            return;
        };
        let gapless = usize::from(last - first) + 1 == self.group.len();
        let start = self.data.len();
        let mut before = first;
        for (i, (place, count)) in self.group.drain(..).enumerate() {
            if i > 0 && !gapless {
                put(&mut self.data, u64::from(place - before));
            }
            put(&mut self.data, count);
            before = place;
        }
        let flag = if gapless { GAPLESS } else { 0 };
        self.table.extend_from_slice(&(first | flag).to_le_bytes());
        // At most 4,096 entries of at most 12 bytes.
        self.table.extend_from_slice(&(self.data.len() as u16).to_le_bytes());
        self.table.extend_from_slice(&checksum(self.data.get(start..).unwrap_or_default()).to_le_bytes());
    }

    /// The block of what was added, and begins the next one.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.end_group();
        self.block.clear();
        self.block.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        self.block.extend_from_slice(&self.entries.to_le_bytes());
        self.block.extend_from_slice(&self.table);
        let sum = checksum(&self.block[5..]).to_le_bytes();
        self.block[1..5].copy_from_slice(&sum);
        self.block.extend_from_slice(&self.data);
        self.table.clear();
        self.data.clear();
        self.entries = 0;
        &self.block
    }
}

/// Appends an unsigned varint.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes an unsigned varint off the front.
#[inline]
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    if *first < 0x80 { Some(u64::from(*first)) } else { take_long(bytes, u64::from(*first & 0x7f)) }
}

#[cold]
fn take_long(bytes: &mut &[u8], mut value: u64) -> Option<u64> {
    for shift in (7..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(*byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A block, its header checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    entries: usize,
    table: &'a [[u8; ROW]],
    data: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the header.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Damage> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or("the block is cut short")?;
        let [version, s0, s1, s2, s3, e0, e1] = *header;
        if version != VERSION {
            return Err(format!("the block has format version {version}, this clickmill reads {VERSION}"));
        }
        let entries = usize::from(u16::from_le_bytes([e0, e1]));
        let table_bytes = entries.div_ceil(GROUP) * ROW;
        let (table, data) = rest.split_at_checked(table_bytes).ok_or("the block is cut short")?;
        let checked = bytes.get(5..HEADER + table_bytes).unwrap_or_default();
        if checksum(checked) != u32::from_le_bytes([s0, s1, s2, s3]) {
            return Err("the block's header does not match its checksum".to_owned());
        }
        Ok(Self { entries, table: table.as_chunks().0, data })
    }

    /// How many ads were clicked.
    pub(super) fn entries(self) -> usize {
        self.entries
    }

    fn first_of(row: [u8; ROW]) -> u16 {
        u16::from_le_bytes([row[0], row[1]]) & !GAPLESS
    }

    /// A group, checked.
    fn group(self, index: usize) -> Result<Group<'a>, Damage> {
        let end_of = |row: [u8; ROW]| usize::from(u16::from_le_bytes([row[2], row[3]]));
        let row = *self.table.get(index).ok_or("no such group")?;
        let start = index.checked_sub(1).and_then(|before| self.table.get(before)).map_or(0, |row| end_of(*row));
        let bytes = self.data.get(start..end_of(row)).ok_or("the block is cut short")?;
        if checksum(bytes) != u32::from_le_bytes([row[4], row[5], row[6], row[7]]) {
            return Err(format!("group {index} of the block does not match its checksum"));
        }
        let gapless = u16::from_le_bytes([row[0], row[1]]) & GAPLESS != 0;
        let mut group = Group { at: Self::first_of(row), count: 0, gapless, rest: bytes };
        group.count = take(&mut group.rest).ok_or("a group is cut short")?;
        Ok(group)
    }

    /// Adds the counts of `places`, which rise, to `sums`, one for each.
    pub(super) fn add_to(self, places: &[u16], sums: &mut [u64]) -> Result<(), Damage> {
        let mut wanted = places.iter().copied().zip(sums.iter_mut()).peekable();
        let mut done = 0;
        while let Some((place, _)) = wanted.peek() {
            let behind = self.table.get(done..).unwrap_or_default();
            let skip = behind.partition_point(|row| Self::first_of(*row) <= *place);
            let Some(group) = (done + skip).checked_sub(1).filter(|_| skip > 0) else {
                // Before the first place of the next group: it is in none.
                wanted.next();
                continue;
            };
            let mut entry = self.group(group)?;
            let next_first = self.table.get(group + 1).map_or(u16::MAX, |row| Self::first_of(*row));
            while let Some((place, sum)) = wanted.next_if(|(place, _)| *place < next_first) {
                while entry.at < place && entry.step()? {}
                if entry.at == place {
                    *sum = sum.saturating_add(entry.count);
                }
            }
            done = group + 1;
        }
        Ok(())
    }

    /// Adds every count to the sum at its place.
    pub(super) fn add_all_to(self, sums: &mut [u64; BUCKET as usize]) -> Result<(), Damage> {
        for group in 0..self.table.len() {
            let mut entry = self.group(group)?;
            loop {
                let sum = sums.get_mut(usize::from(entry.at)).ok_or("a place outside of the bucket")?;
                *sum = sum.saturating_add(entry.count);
                if !entry.step()? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// An entry of a group, and the bytes of those behind it.
#[derive(Debug, Clone, Copy)]
struct Group<'a> {
    at: u16,
    count: u64,
    gapless: bool,
    rest: &'a [u8],
}

impl Group<'_> {
    /// Goes on to the next entry. False where there is none.
    #[inline]
    fn step(&mut self) -> Result<bool, &'static str> {
        let (gap, count) = match *self.rest {
            [] => return Ok(false),
            [count, ref rest @ ..] if self.gapless && count < 0x80 => {
                self.rest = rest;
                (1, u64::from(count))
            }
            // Nearly always two bytes.
            [gap, count, ref rest @ ..] if !self.gapless && (gap | count) < 0x80 => {
                self.rest = rest;
                (u64::from(gap), u64::from(count))
            }
            _ => {
                let gap = if self.gapless { Some(1) } else { take(&mut self.rest) };
                gap.zip(take(&mut self.rest)).ok_or("a group is cut short")?
            }
        };
        let place = u64::from(self.at) + gap;
        if gap == 0 || place >= u64::from(BUCKET) {
            return Err("a place outside of the bucket");
        }
        (self.at, self.count) = (place as u16, count);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pack(entries: &BTreeMap<u16, u64>) -> Vec<u8> {
        let mut writer = BlockWriter::default();
        for (place, count) in entries {
            writer.push(*place, *count);
        }
        writer.finish().to_vec()
    }

    fn found(block: &[u8], places: &[u16]) -> Result<Vec<u64>, Damage> {
        let mut sums = vec![0; places.len()];
        Block::read(block)?.add_to(places, &mut sums)?;
        Ok(sums)
    }

    fn all(block: &[u8]) -> Result<BTreeMap<u16, u64>, Damage> {
        let mut sums = Box::new([0; BUCKET as usize]);
        Block::read(block)?.add_all_to(&mut sums)?;
        Ok((0_u16..).zip(*sums).filter(|(_, count)| *count > 0).collect())
    }

    /// Scattered ads, and runs of ads without a gap.
    fn entries() -> impl Strategy<Value = BTreeMap<u16, u64>> {
        let count = || prop_oneof![1..5_u64, any::<u64>().prop_map(|n| n.max(1))];
        let scattered = prop::collection::btree_map(0..4096_u16, count(), 1..400);
        let run = (0..4096_u16, prop::collection::vec(count(), 0..400));
        (scattered, prop::collection::vec(run, 0..4)).prop_map(|(mut entries, runs)| {
            for (first, counts) in runs {
                entries.extend((first..4096).zip(counts));
            }
            entries
        })
    }

    proptest! {
        #[test]
        fn what_was_packed_is_found(
            entries in entries(),
            places in prop::collection::btree_set(0..4096_u16, 0..200),
        ) {
            let block = pack(&entries);
            let places: Vec<u16> = places.into_iter().collect();
            let expected: Vec<u64> = places.iter().map(|place| entries.get(place).copied().unwrap_or(0)).collect();
            prop_assert_eq!(found(&block, &places).unwrap(), expected);
            for place in places {
                prop_assert_eq!(found(&block, &[place]).unwrap(), vec![entries.get(&place).copied().unwrap_or(0)]);
            }
            prop_assert_eq!(all(&block).unwrap(), entries);
        }

        #[test]
        fn damage_is_an_error_and_never_a_wrong_count(
            entries in entries(),
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let mut block = pack(&entries);
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            prop_assert!(all(&block).is_err());
            block.truncate(at);
            prop_assert!(all(&block).is_err());
        }
    }

    #[test]
    fn a_full_bucket_fits() {
        let entries: BTreeMap<u16, u64> = (0..4096).map(|place| (place, u64::MAX)).collect();
        assert_eq!(all(&pack(&entries)).unwrap(), entries);
    }

    #[test]
    fn a_writer_can_be_used_again() {
        let mut writer = BlockWriter::default();
        for place in 0..300 {
            writer.push(place, 1);
        }
        writer.finish();
        assert!(writer.is_empty());
        writer.push(7, 9);
        assert_eq!(writer.finish(), pack(&BTreeMap::from([(7, 9)])));
    }

    /// Written once, by version 1; must be read for ever.
    #[test]
    fn the_first_version_is_still_read() {
        let block = include_bytes!("../../fixtures/counts-1.block");
        let expected: BTreeMap<u16, u64> =
            (0..300).map(|i| (if i < 140 { i + 3 } else { i * 13 }, u64::from(i) * u64::from(i) * 1000 + 1)).collect();
        assert_eq!(all(block).unwrap(), expected);
        assert_eq!(pack(&expected), block);
    }
}
