//! Clicks that count become counts per (minute, ad, filter), before anything is sent: map-side combining.

use clickmill_model::prefetch::{AHEAD, prefetch};
use clickmill_model::{AdTable, Columns, FilterId, FilterMask, Minute, Partition, Span, partition};

/// A click that counts, in a minute that is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Its ad's number in the [`Combiner`].
    pub(crate) ad: u32,
    /// The filters that it matches, by place.
    pub(crate) filters: FilterMask,
}

/// Scratch space that the partitions of one worker share: the ads that were seen, each with its aggregator partition, and the row of each ad in the minute in work.
pub struct Combiner {
    ads: AdTable,
    /// By the number of an ad.
    known: Vec<Known>,
    partitions: u32,
}

/// What is known of an ad.
struct Known {
    /// Its row + 1 in the minute in work; 0 where it has none.
    row: u32,
    partition: Partition,
}

/// Up to so many filters are counted each on its own.
const FEW_FILTERS: usize = 8;

/// Ads that a combiner remembers before it starts afresh: bounds its memory at about 400 MB.
const MOST_ADS: usize = 8_000_000;

impl Combiner {
    /// For this many aggregator partitions.
    pub fn new(partitions: u32) -> Self {
        Self { ads: AdTable::new(), known: Vec::new(), partitions }
    }

    /// How many aggregator partitions there are.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Asks for the memory that [`Combiner::number`] reads first.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.ads.prefetch(hash);
    }

    /// Asks for the memory that it reads next, once the first is there.
    #[inline]
    pub(crate) fn prefetch_text(&self, hash: u64) {
        self.ads.prefetch_text(hash);
    }

    /// The number of an ad, until the next [`Combiner::trim`].
    #[inline]
    pub(crate) fn number(&mut self, hash: u64, ad: &[u8]) -> u32 {
        // Cannot be full: 2³² ads of one transaction would need as many lines.
        let number = self.ads.intern(hash, ad).unwrap_or(0);
        if number as usize == self.known.len() {
            self.known.push(Known { row: 0, partition: partition::of_key(ad, self.partitions) });
        }
        number
    }

    /// Forgets all ads if they have become too many. Only while no [`Counted`] is held.
    pub(crate) fn trim(&mut self) {
        if self.ads.len() > MOST_ADS {
            *self = Self::new(self.partitions);
        }
    }

    /// Counts the clicks of one minute: to the columns of each aggregator partition those of that minute are added, if there are any.
    pub(crate) fn combine(
        &mut self,
        minute: Minute,
        filters: &[FilterId],
        clicks: &[Counted],
        out: &mut [Vec<Columns>],
    ) {
        if clicks.is_empty() {
            return;
        }
        let width = filters.len();
        let mut ads: Vec<u32> = Vec::new();
        // The counts of one ad under all filters stand side by side: one place in memory a click.
        let mut rows: Vec<u32> = Vec::new();
        for (i, click) in clicks.iter().enumerate() {
            if let Some(ahead) = clicks.get(i + AHEAD) {
                prefetch(&self.known, ahead.ad as usize);
            }
            if let Some(ahead) = clicks.get(i + AHEAD / 2)
                && let Some(row) = self.known[ahead.ad as usize].row.checked_sub(1)
            {
                prefetch(&rows, row as usize * width);
            }
            let row = &mut self.known[click.ad as usize].row;
            if *row == 0 {
                ads.push(click.ad);
                *row = ads.len() as u32;
                rows.resize(rows.len() + width, 0);
            }
            let start = (*row - 1) as usize * width;
            let counts = &mut rows[start..start + width];
            if width <= FEW_FILTERS {
                // Without a branch that depends on the click.
                for (place, count) in counts.iter_mut().enumerate() {
                    *count += (click.filters.0 >> place & 1) as u32;
                }
            } else {
                click.filters.places().for_each(|place| counts[place] += 1);
            }
        }
        let mut columns: Vec<Columns> =
            (0..out.len()).map(|_| Columns::new(Span::minute(minute), filters.to_vec())).collect();
        let share = ads.len() / out.len().max(1) + ads.len() / 16;
        for part in &mut columns {
            part.ads.reserve(share);
            for column in &mut part.counts {
                column.reserve(share);
            }
        }
        for (i, (ad, counts)) in ads.iter().zip(rows.chunks_exact(width)).enumerate() {
            if let Some(ahead) = ads.get(i + AHEAD) {
                prefetch(&self.known, *ahead as usize);
                self.ads.prefetch_end(*ahead);
            }
            if let Some(ahead) = ads.get(i + AHEAD / 2) {
                self.ads.prefetch_numbered(*ahead);
            }
            let known = &mut self.known[*ad as usize];
            known.row = 0;
            let part = &mut columns[known.partition.0 as usize];
            part.ads.push(self.ads.get(*ad));
            for (column, count) in part.counts.iter_mut().zip(counts) {
                column.push(u64::from(*count));
            }
        }
        for (part, columns) in out.iter_mut().zip(columns) {
            if !columns.ads.is_empty() {
                part.push(columns);
            }
        }
    }
}
