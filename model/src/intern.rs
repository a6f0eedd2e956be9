//! Ad ids as small numbers.

use xxhash_rust::xxh3::xxh3_64;

use crate::prefetch::prefetch;

/// Gives each distinct string a number, 0, 1, 2 … in the order of their first appearance, and finds it again.
///
/// The strings stand end to end in one buffer; the table is open addressing with linear probing over 8 bytes a place, at most
/// half full. A string costs its bytes and 20 to 36 more.
#[derive(Debug, Clone, Default)]
pub struct AdTable {
    /// Upper half of the hash in the high 32 bits, number + 1 in the low ones; 0 is an empty place.
    places: Vec<u64>,
    ends: Vec<u32>,
    hashes: Vec<u64>,
    bytes: Vec<u8>,
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

    /// Asks for the memory that [`AdTable::intern`] of a string with this hash reads first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.places, hash as usize & self.places.len().wrapping_sub(1));
    }

    /// The number of `text`, whose [`AdTable::hash`] is `hash`, if it is there.
    pub fn find(&self, hash: u64, text: &[u8]) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let place = self.places[at];
            if place == 0 {
                return None;
            }
            let number = (place as u32).wrapping_sub(1);
            if place >> 32 == hash >> 32 && self.get(number) == text {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of `text`, whose [`AdTable::hash`] is `hash`; a new one if it was not there.
    ///
    /// `None` where the table is full: 2³² − 1 strings, or 4 GiB of them.
    pub fn intern(&mut self, hash: u64, text: &[u8]) -> Option<u32> {
        if let Some(number) = self.find(hash, text) {
            return Some(number);
        }
        if (self.ends.len() + 1) * 2 > self.places.len() {
            self.grow();
        }
        let number = u32::try_from(self.ends.len()).ok().filter(|n| *n < u32::MAX)?;
        let end = u32::try_from(self.bytes.len() + text.len()).ok()?;
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        self.hashes.push(hash);
        self.place(hash, number);
        Some(number)
    }

    fn place(&mut self, hash: u64, number: u32) {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        while self.places[at] != 0 {
            at = (at + 1) & mask;
        }
        self.places[at] = (hash >> 32) << 32 | u64::from(number + 1);
    }

    fn grow(&mut self) {
        self.places = vec![0; (self.places.len() * 2).max(1024)];
        for number in 0..self.hashes.len() {
            self.place(self.hashes[number], number as u32);
        }
    }
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
}
