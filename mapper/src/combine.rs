//! Clicks that count become counts per (minute, ad, filter), before anything is sent: map-side combining.

use clickmill_model::prefetch::{AHEAD, prefetch};
use clickmill_model::{AdTable, Columns, FilterId, FilterMask, Minute, Partition, Span, partition};

/// A click that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Its place among the open minutes of this transaction.
    pub(crate) minute: u32,
    /// Its ad's number in the [`Combiner`].
    pub(crate) ad: u32,
    /// The filters that it matches, by place.
    pub(crate) filters: FilterMask,
}

/// Scratch space that the partitions of one worker share: the ads that were seen, each with its aggregator partition, and the row of each ad in the minute in work.
pub struct Combiner {
    ads: AdTable,
    partition_of: Vec<Partition>,
    /// Row + 1 of an ad in the minute in work; 0 where it has none.
    row_of: Vec<u32>,
    partitions: u32,
}

/// Ads that a combiner remembers before it starts afresh: bounds its memory at about 400 MB.
const MOST_ADS: usize = 8_000_000;

impl Combiner {
    /// For this many aggregator partitions.
    pub fn new(partitions: u32) -> Self {
        Self { ads: AdTable::new(), partition_of: Vec::new(), row_of: Vec::new(), partitions }
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
        if number as usize == self.partition_of.len() {
            self.partition_of.push(partition::of_key(ad, self.partitions));
            self.row_of.push(0);
        }
        number
    }

    /// Forgets all ads if they have become too many. Only while no [`Counted`] is held.
    pub(crate) fn trim(&mut self) {
        if self.ads.len() > MOST_ADS {
            *self = Self::new(self.partitions);
        }
    }

    /// Counts, minute by minute. Returns for each aggregator partition the columns of each minute that has any.
    pub(crate) fn combine(&mut self, minutes: &[(Minute, Vec<FilterId>)], clicks: &[Counted]) -> Vec<Vec<Columns>> {
        let mut out: Vec<Vec<Columns>> = vec![Vec::new(); self.partitions as usize];
        if minutes.len() == 1 {
            self.combine_minute(&minutes[0], clicks, &mut out);
            return out;
        }
        // A counting sort by minute.
        let mut starts = vec![0_usize; minutes.len() + 1];
        for click in clicks {
            starts[click.minute as usize + 1] += 1;
        }
        for i in 0..minutes.len() {
            starts[i + 1] += starts[i];
        }
        let mut sorted = vec![Counted { minute: 0, ad: 0, filters: FilterMask(0) }; clicks.len()];
        let mut next = starts.clone();
        for click in clicks {
            let place = &mut next[click.minute as usize];
            sorted[*place] = *click;
            *place += 1;
        }
        for (i, minute) in minutes.iter().enumerate() {
            self.combine_minute(minute, &sorted[starts[i]..starts[i + 1]], &mut out);
        }
        out
    }

    fn combine_minute(&mut self, minute: &(Minute, Vec<FilterId>), clicks: &[Counted], out: &mut [Vec<Columns>]) {
        let (minute, filters) = minute;
        let width = filters.len();
        let mut ads: Vec<u32> = Vec::new();
        // The counts of one ad under all filters stand side by side: one place in memory a click.
        let mut rows: Vec<u32> = Vec::new();
        for (i, click) in clicks.iter().enumerate() {
            if let Some(ahead) = clicks.get(i + AHEAD) {
                prefetch(&self.row_of, ahead.ad as usize);
            }
            if let Some(ahead) = clicks.get(i + AHEAD / 2)
                && let Some(row) = self.row_of[ahead.ad as usize].checked_sub(1)
            {
                prefetch(&rows, row as usize * width);
            }
            let row = &mut self.row_of[click.ad as usize];
            if *row == 0 {
                ads.push(click.ad);
                *row = ads.len() as u32;
                rows.resize(rows.len() + width, 0);
            }
            let start = (*row - 1) as usize * width;
            for place in click.filters.places() {
                rows[start + place] += 1;
            }
        }
        let mut columns: Vec<Columns> =
            (0..out.len()).map(|_| Columns::new(Span::minute(*minute), filters.clone())).collect();
        let share = ads.len() / out.len().max(1) + ads.len() / 16;
        for part in &mut columns {
            part.ads.reserve(share);
            for column in &mut part.counts {
                column.reserve(share);
            }
        }
        for (ad, counts) in ads.iter().zip(rows.chunks_exact(width)) {
            let part = &mut columns[self.partition_of[*ad as usize].0 as usize];
            part.ads.push(self.ads.get(*ad));
            for (column, count) in part.counts.iter_mut().zip(counts) {
                column.push(u64::from(*count));
            }
            self.row_of[*ad as usize] = 0;
        }
        for (part, columns) in out.iter_mut().zip(columns) {
            if !columns.ads.is_empty() {
                part.push(columns);
            }
        }
    }
}
