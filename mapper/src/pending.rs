//! Clicks on their way through identities and ad numbers, many at once.

use clickmill_model::prefetch::AHEAD;
use clickmill_model::{AdTable, Click, FilterMask, Identity, short};

use crate::combine::{Combiner, Counted};
use crate::open::OpenMinute;

/// How many clicks are taken through one step after the other at once: enough to hide the latency of memory, few enough to stay in the cache.
const BATCH: usize = 8192;

/// A click on its way through a batch.
struct Pending {
    identity: Identity,
    /// The ad where it is short; otherwise where it begins among the long ones.
    ad: u128,
    ad_hash: u64,
    filters: FilterMask,
    slot: u32,
    ad_len: u32,
}

/// What became of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) counted: u64,
    pub(crate) duplicates: u64,
}

/// Clicks that were parsed and whose minute is open.
pub(crate) struct PendingClicks {
    all: Vec<Pending>,
    long_ads: Vec<u8>,
    /// Scratch.
    hashed: Vec<u8>,
}

impl PendingClicks {
    pub(crate) fn new() -> Self {
        Self { all: Vec::with_capacity(BATCH), long_ads: Vec::new(), hashed: Vec::new() }
    }

    /// True where it is time to [`PendingClicks::settle`] them.
    pub(crate) fn is_full(&self) -> bool {
        self.all.len() >= BATCH
    }

    /// Adds a click of the minute that is open at `slot`.
    #[inline]
    pub(crate) fn push(&mut self, click: &Click<'_>, slot: u32, open: &OpenMinute) {
        let identity = click.identity(&mut self.hashed);
        let ad = click.ad_id.as_bytes();
        let short = short::word(ad);
        let start = self.long_ads.len();
        if short.is_none() {
            self.long_ads.extend_from_slice(ad);
        }
        self.all.push(Pending {
            identity,
            ad: short.unwrap_or(start as u128),
            ad_hash: AdTable::hash(ad),
            filters: open.filters.matches(click),
            slot,
            ad_len: ad.len() as u32,
        });
    }

    /// Notes the identities of all of them, and counts nothing.
    pub(crate) fn note(&mut self, open: &mut [OpenMinute]) {
        for pending in self.all.drain(..) {
            open[pending.slot as usize].identities.insert(pending.identity);
        }
        self.long_ads.clear();
    }

    /// Takes all of them through identities and ad ids, each step asking for the memory of the elements ahead.
    pub(crate) fn settle(&mut self, open: &mut [OpenMinute], combiner: &mut Combiner) -> Settled {
        let Self { all, long_ads, .. } = self;
        let mut settled = Settled::default();
        let ask = |open: &[OpenMinute], next: &Pending| open[next.slot as usize].identities.prefetch(next.identity);
        for i in 0..all.len() {
            if let Some(next) = all.get(i + AHEAD) {
                ask(open, next);
            }
            let click = &mut all[i];
            let minute = &mut open[click.slot as usize];
            if minute.dedup && !minute.identities.insert(click.identity) {
                click.filters = FilterMask(0);
            }
        }
        for (i, click) in all.iter().enumerate() {
            if let Some(next) = all.get(i + 2 * AHEAD) {
                combiner.prefetch(next.ad_hash);
            }
            if let Some(next) = all.get(i + AHEAD) {
                combiner.prefetch_text(next.ad_hash);
            }
            if click.filters == FilterMask(0) {
                // Filter 0 matches every click, so that only a duplicate matches none.
                settled.duplicates += 1;
                continue;
            }
            let short = click.ad.to_le_bytes();
            let len = click.ad_len as usize;
            let ad = match short.get(..len) {
                Some(ad) => ad,
                None => &long_ads[click.ad as usize..click.ad as usize + len],
            };
            let ad = combiner.number(click.ad_hash, ad);
            open[click.slot as usize].counted.push(Counted { ad, filters: click.filters });
            settled.counted += 1;
        }
        all.clear();
        long_ads.clear();
        settled
    }
}
