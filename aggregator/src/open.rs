//! The counts of a minute that is still open.

use clickmill_model::prefetch::{AHEAD, prefetch};
use clickmill_model::{FilterId, Offset, Timestamp};

/// Counts per (ad, filter) of one open minute. The counts of an ad under all filters stand side by side.
#[derive(Debug)]
pub(crate) struct OpenMinute {
    filters: Vec<FilterId>,
    /// Open addressing with linear probing, at most half full: the ad's number in the high 32 bits, its row + 1 in the low ones; 0 is an empty place.
    places: Vec<u64>,
    ads: Vec<u32>,
    counts: Vec<u64>,
    /// The first block of `click-partials` that counted here.
    pub(crate) first: Offset,
    pub(crate) oldest_arrival: Option<Timestamp>,
}

/// The counts of one minute under one filter, by rising ad number. An ad may stand twice: its counts add up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entries {
    pub(crate) ads: Vec<u32>,
    counts: Vec<u32>,
}

impl Entries {
    pub(crate) fn push(&mut self, ad: u32, mut count: u64) {
        // A count that does not fit in 32 bits is told in parts: memory is what bounds the longest window.
        while count > 0 {
            let part = count.min(u64::from(u32::MAX));
            self.ads.push(ad);
            self.counts.push(part as u32);
            count -= part;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        self.ads.iter().zip(&self.counts).map(|(ad, count)| (*ad, u64::from(*count)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ads.is_empty()
    }
}

impl OpenMinute {
    pub(crate) fn new(filters: &[FilterId], first: Offset) -> Self {
        Self {
            filters: filters.to_vec(),
            places: Vec::new(),
            ads: Vec::new(),
            counts: Vec::new(),
            first,
            oldest_arrival: None,
        }
    }

    /// Adds the counts of a block: `counts[i][row]` clicks of `filters[i]` on `ads[row]`.
    pub(crate) fn add(&mut self, ads: &[u32], filters: &[FilterId], counts: &[Vec<u64>]) {
        if filters != self.filters {
            self.widen(filters);
        }
        let columns: Vec<usize> =
            filters.iter().filter_map(|f| self.filters.iter().position(|mine| mine == f)).collect();
        let width = self.filters.len();
        let needed = (self.ads.len() + ads.len()) * 2;
        if needed > self.places.len() {
            // Blocks of one minute tell the same ads again and again: grow for what is new, not for what is told.
            self.grow(needed.max(64));
        }
        let mask = self.places.len() - 1;
        let mut rows = Vec::with_capacity(ads.len());
        for (i, ad) in ads.iter().enumerate() {
            if let Some(ahead) = ads.get(i + AHEAD) {
                prefetch(&self.places, place_of(*ahead) & mask);
            }
            rows.push(self.row(*ad, mask, width));
        }
        for (i, row) in rows.iter().enumerate() {
            if let Some(ahead) = rows.get(i + AHEAD) {
                prefetch(&self.counts, *ahead as usize * width);
            }
            let start = *row as usize * width;
            for (column, counts) in columns.iter().zip(counts) {
                self.counts[start + column] += counts[i];
            }
        }
    }

    #[inline]
    fn row(&mut self, ad: u32, mask: usize, width: usize) -> u32 {
        let mut at = place_of(ad) & mask;
        loop {
            let place = self.places[at];
            if place == 0 {
                self.ads.push(ad);
                self.counts.resize(self.ads.len() * width, 0);
                self.places[at] = u64::from(ad) << 32 | self.ads.len() as u64;
                return self.ads.len() as u32 - 1;
            }
            if (place >> 32) as u32 == ad {
                return place as u32 - 1;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self, needed: usize) {
        self.places = vec![0; needed.next_power_of_two()];
        let mask = self.places.len() - 1;
        for (row, ad) in self.ads.iter().enumerate() {
            let mut at = place_of(*ad) & mask;
            while self.places[at] != 0 {
                at = (at + 1) & mask;
            }
            self.places[at] = u64::from(*ad) << 32 | (row as u64 + 1);
        }
    }

    /// Makes room for filters that were not counted here before.
    fn widen(&mut self, filters: &[FilterId]) {
        let before = self.filters.len();
        let new: Vec<FilterId> = filters.iter().copied().filter(|f| !self.filters.contains(f)).collect();
        if new.is_empty() {
            return;
        }
        self.filters.extend(new);
        let width = self.filters.len();
        let mut wider = vec![0; self.ads.len() * width];
        for (row, counts) in wider.chunks_exact_mut(width).enumerate() {
            counts[..before].copy_from_slice(&self.counts[row * before..(row + 1) * before]);
        }
        self.counts = wider;
    }

    /// The counts under each of these filters, by rising ad number.
    pub(crate) fn entries(&self, filters: &[FilterId]) -> Vec<Entries> {
        let width = self.filters.len();
        let mut rows: Vec<u64> =
            self.ads.iter().enumerate().map(|(row, ad)| u64::from(*ad) << 32 | row as u64).collect();
        rows.sort_unstable();
        filters
            .iter()
            .map(|filter| {
                let mut entries = Entries::default();
                if let Some(column) = self.filters.iter().position(|mine| mine == filter) {
                    for place in &rows {
                        let row = *place as u32 as usize;
                        entries.push((place >> 32) as u32, self.counts[row * width + column]);
                    }
                }
                entries
            })
            .collect()
    }
}

#[inline]
fn place_of(ad: u32) -> usize {
    (u64::from(ad).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_whatever_the_blocks_tell() {
        let (all, usa) = (FilterId(0), FilterId(1));
        let mut minute = OpenMinute::new(&[all], Offset(0));
        minute.add(&[5, 3], &[all], &[vec![2, 1]]);
        minute.add(&[3, 9], &[all, usa], &[vec![10, 20], vec![1, 0]]);
        minute.add(&[5], &[usa], &[vec![7]]);
        let entries = minute.entries(&[usa, all, FilterId(2)]);
        let told: Vec<Vec<(u32, u64)>> = entries.iter().map(|e| e.iter().collect()).collect();
        assert_eq!(told, [vec![(3, 1), (5, 7)], vec![(3, 11), (5, 2), (9, 20)], vec![]]);
    }

    #[test]
    fn a_count_beyond_32_bits_is_not_lost() {
        let mut entries = Entries::default();
        entries.push(1, 10_000_000_000);
        assert_eq!(entries.iter().map(|(_, count)| count).sum::<u64>(), 10_000_000_000);
    }
}
