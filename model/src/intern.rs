//! Ad ids as small numbers.

use xxhash_rust::xxh3::xxh3_64;

use crate::places::Places;
use crate::prefetch::prefetch;
use crate::short;

/// Gives each distinct string a number, 0, 1, 2 … in the order of their first appearance, and finds it again.
///
/// The strings stand end to end in one buffer; the table is open addressing with linear probing over 16 bytes a place, at most
/// half full. A string costs its bytes and 36 to 68 more.
#[derive(Debug, Default)]
pub struct AdTable {
    places: Places<u128>,
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

/// What stands in a place of the table: from the lowest bit on, the number + 1 (32 bits; 0 in an empty place), where the string begins (32 bits), its length ([`LENGTH_BITS`]; all ones where it is
/// that or more), and the upper bits of its hash. So most look-ups read one place, and the string that they look for.
#[derive(Clone, Copy)]
struct Place(u128);

const LENGTH_BITS: u32 = 16;
const LONG: usize = (1 << LENGTH_BITS) - 1;
/// How many of the hash's lower bits are left out.
const CUT_BITS: u32 = LENGTH_BITS;

impl Place {
    fn new(hash: u64, number: u32, start: u32, len: usize) -> Self {
        let low = u64::from(number + 1) | u64::from(start) << 32;
        let high = hash >> CUT_BITS << CUT_BITS | len.min(LONG) as u64;
        Self(u128::from(low) | u128::from(high) << 64)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn number(self) -> u32 {
        (self.0 as u32).wrapping_sub(1)
    }

    fn start(self) -> usize {
        (self.0 >> 32) as u32 as usize
    }

    fn may_be(self, hash: u64, len: usize) -> bool {
        (self.0 >> 64) as u64 == hash >> CUT_BITS << CUT_BITS | len.min(LONG) as u64
    }
}

impl AdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hash that [`AdTable::intern`] goes by: XXH3, 64 bits.
    pub fn hash(text: &[u8]) -> u64 {
        xxh3_64(text)
    }

    /// How many distinct strings it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True where it holds none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the strings that it holds, laid end to end.
    pub fn text_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The string with this number; empty where there is none.
    pub fn get(&self, number: u32) -> &[u8] {
        let index = number as usize;
        let Some(end) = self.ends.get(index) else { return &[] };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// Asks for the memory that [`AdTable::get`] reads first.
    #[inline]
    pub fn prefetch_end(&self, number: u32) {
        prefetch(&self.ends, number as usize);
    }

    /// Asks for the memory that [`AdTable::get`] reads next, once the first is there.
    #[inline]
    pub fn prefetch_numbered(&self, number: u32) {
        if let Some(end) = self.ends.get(number as usize) {
            prefetch(&self.bytes, (*end as usize).saturating_sub(1));
        }
    }

    /// Asks for the memory that a look-up of a string with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let places = self.places.get();
        prefetch(places, hash as usize & places.len().wrapping_sub(1));
    }

    /// Asks for the memory that it reads next, once the first is there.
    #[inline]
    pub fn prefetch_text(&self, hash: u64) {
        let places = self.places.get();
        if let Some(place) = places.get(hash as usize & places.len().wrapping_sub(1)) {
            prefetch(&self.bytes, Place(*place).start());
        }
    }

    /// The number of `text`, whose [`AdTable::hash`] is `hash`, if it is there.
    #[inline]
    pub fn find(&self, hash: u64, text: &[u8]) -> Option<u32> {
        let places = self.places.get();
        let mask = places.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let place = Place(places[at]);
            if place.is_empty() {
                return None;
            }
            if place.may_be(hash, text.len()) && self.is(place, text) {
                return Some(place.number());
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    fn is(&self, place: Place, text: &[u8]) -> bool {
        if text.len() >= LONG {
            return self.get(place.number()) == text;
        }
        if let Some(word) = short::word(text)
            && let Some(other) = short::word_at(&self.bytes, place.start(), text.len())
        {
            return word == other;
        }
        self.bytes.get(place.start()..place.start() + text.len()) == Some(text)
    }

    /// The number of `text`, whose [`AdTable::hash`] is `hash`; a new one if it was not there.
    ///
    /// `None` where the table is full: 2³² − 1 strings, or 4 GiB of them.
    #[inline]
    pub fn intern(&mut self, hash: u64, text: &[u8]) -> Option<u32> {
        match self.find(hash, text) {
            Some(number) => Some(number),
            None => self.add(hash, text),
        }
    }

    fn add(&mut self, hash: u64, text: &[u8]) -> Option<u32> {
        let number = u32::try_from(self.ends.len()).ok().filter(|n| *n < u32::MAX)?;
        let start = self.bytes.len() as u32;
        let end = u32::try_from(self.bytes.len() + text.len()).ok()?;
        if (self.ends.len() + 1) * 2 > self.places.get().len() {
            self.grow();
        }
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        put(self.places.get_mut(), hash, Place::new(hash, number, start, text.len()));
        Some(number)
    }

    /// Doubles the places, and puts every string in anew.
    fn grow(&mut self) {
        let mut larger = Places::zeros((self.places.get().len() * 2).max(1024));
        let places = larger.get_mut();
        let mut start = 0;
        for (number, end) in self.ends.iter().enumerate() {
            let text = &self.bytes[start as usize..*end as usize];
            let hash = Self::hash(text);
            put(places, hash, Place::new(hash, number as u32, start, text.len()));
            start = *end;
        }
        self.places = larger;
    }
}

fn put(places: &mut [u128], hash: u64, new: Place) {
    let mask = places.len() - 1;
    let mut at = hash as usize & mask;
    while !Place(places[at]).is_empty() {
        at = (at + 1) & mask;
    }
    places[at] = new.0;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_string_has_one_number_for_good() {
        let mut table = AdTable::new();
        let mut model: HashMap<String, u32> = HashMap::new();
        for i in 0..50_000_u32 {
            let text = format!("ad{}", i.wrapping_mul(2_654_435_761) % 20_000);
            let number = table.intern(AdTable::hash(text.as_bytes()), text.as_bytes()).unwrap();
            let next = model.len() as u32;
            assert_eq!(number, *model.entry(text).or_insert(next));
        }
        assert_eq!(table.len(), model.len());
        for (text, number) in &model {
            assert_eq!(table.get(*number), text.as_bytes());
            assert_eq!(table.find(AdTable::hash(text.as_bytes()), text.as_bytes()), Some(*number));
        }
        assert_eq!(table.find(AdTable::hash(b"other"), b"other"), None);
        assert_eq!(table.get(u32::MAX), b"");
    }

    #[test]
    fn strings_of_one_hash_are_told_apart() {
        let mut table = AdTable::new();
        assert_eq!(table.intern(7, b"a"), Some(0));
        assert_eq!(table.intern(7, b"b"), Some(1));
        assert_eq!(table.intern(7, b"a"), Some(0));
        assert_eq!(table.intern(0, b""), Some(2));
        assert_eq!(table.find(7, b"c"), None);
    }

    #[test]
    fn strings_of_every_length_are_told_apart() {
        let mut table = AdTable::new();
        let long: Vec<Vec<u8>> = [0, 1, LONG - 1, LONG, LONG + 1, LONG + 2].map(|len| vec![b'x'; len]).into();
        for round in 0..2 {
            for (number, text) in (0..).zip(&long) {
                assert_eq!(table.intern(7, text), Some(number), "{} bytes, round {round}", text.len());
            }
        }
    }
}
