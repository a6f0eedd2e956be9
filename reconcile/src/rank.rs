//! The rankings that follow from the independent count, beside those of the store.
//!
//! Every window has a sum for each ad and filter: at each minute what happened in it is added, and what happened in the minute that leaves the window is taken away. The latter is read again from disk, so that
//! memory goes with the ads, not with the clicks or the windows' length.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;

use clickmill_model::records::Ranking;
use clickmill_model::{Definition, FilterId, Minute, Window};
use clickmill_store::{AggregateStore, StoredRanking, View};

use crate::ads::{Ads, Known};
use crate::clicks::{ads as ads_of, numbers};
use crate::compare::{Kind, Published, RankingDifference};
use crate::engine::Engine;
use crate::error::Result;
use crate::scratch::truth_schema;
use crate::time::{first_of, hour_of, is_whole};

/// How many rankings are asked for at once.
const AT_ONCE: usize = 500;

/// How many places around the first that differs are told.
const PLACES: usize = 5;

/// Which rankings there should be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    windows: BTreeSet<Window>,
    configured: BTreeSet<Window>,
    /// Windows that every definition had: others may have begun or ended somewhere, which is recorded nowhere.
    always: BTreeSet<Window>,
    /// How many ads rankings may hold: by each definition.
    depths: BTreeSet<usize>,
}

impl Expected {
    /// By the definitions that there ever were.
    pub(crate) fn by(definitions: &[Definition], newest: &Definition) -> Self {
        let standing = BTreeSet::from([Window::MINUTE, Window::HOUR, Window::DAY]);
        let configured: BTreeSet<Window> = newest.windows.iter().copied().collect();
        let in_all = |window: &Window| definitions.iter().all(|definition| definition.windows.contains(window));
        Self {
            windows: configured.union(&standing).copied().collect(),
            always: configured.iter().copied().filter(in_all).collect(),
            configured,
            depths: definitions.iter().map(Definition::depth).collect(),
        }
    }

    /// The longest configured window.
    pub(crate) fn longest(&self) -> Window {
        self.configured.last().copied().unwrap_or(Window::MINUTE)
    }

    fn has(&self, window: Window, minute: Minute) -> bool {
        self.configured.contains(&window) || is_whole(window, minute)
    }

    /// True where a ranking must be there, whichever definition held.
    fn must_have(&self, window: Window, minute: Minute) -> bool {
        let stands = [Window::MINUTE, Window::HOUR, Window::DAY].contains(&window) && is_whole(window, minute);
        stands || self.always.contains(&window)
    }
}

/// The clicks of an hour, by minute.
#[derive(Debug, Default)]
struct Hour {
    number: i64,
    minutes: BTreeMap<i64, OfMinute>,
}

/// Ads, and behind each other the counts of each under every filter.
#[derive(Debug, Default)]
struct OfMinute {
    ads: Vec<u32>,
    counts: Vec<u64>,
}

impl Hour {
    fn of(&self, minute: Minute, filters: usize) -> impl Iterator<Item = (usize, &[u64])> {
        let of = self.minutes.get(&minute.as_epoch());
        of.into_iter().flat_map(move |of| of.ads.iter().map(|ad| *ad as usize).zip(of.counts.chunks(filters.max(1))))
    }
}

/// A window on its way through time.
#[derive(Debug)]
struct Sliding {
    window: Window,
    /// By filter, by ad.
    sums: Vec<Vec<u64>>,
    /// The hour that leaves the window.
    leaving: Arc<Hour>,
}

/// Ranks, and compares.
pub(crate) struct Ranker<'a> {
    engine: &'a Engine,
    store: &'a dyn AggregateStore,
    view: &'a View,
    expected: Expected,
    published: Published,
    filters: Vec<FilterId>,
    /// Counted from here on.
    from: Minute,
    /// Rankings that end before are not compared.
    compare_from: Minute,
    ads: Arc<Ads>,
    sliding: Vec<Sliding>,
    /// What is not compared yet, by filter.
    waiting: BTreeMap<FilterId, Vec<(Window, Minute, Top)>>,
    found: Found,
}

/// What the comparison of some rankings found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// How many were compared.
    pub(crate) compared: u64,
    /// Those that differ. All are told as [`Kind::RankingOnly`]: counts are not known here.
    pub(crate) differing: Vec<RankingDifference>,
}

/// The first of the ads clicked, and how many there were.
struct Top {
    ads: Vec<(String, u64)>,
    clicked: usize,
}

impl<'a> Ranker<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        (store, view): (&'a dyn AggregateStore, &'a View),
        ads: &Arc<Ads>,
        expected: Expected,
        published: Published,
        filters: Vec<FilterId>,
        (from, compare_from): (Minute, Minute),
    ) -> Self {
        let sliding = expected
            .windows
            .iter()
            .map(|window| Sliding {
                window: *window,
                sums: vec![Vec::new(); filters.len()],
                leaving: Arc::new(Hour { number: i64::MIN, ..Hour::default() }),
            })
            .collect();
        let (ads, waiting, found) = (Arc::clone(ads), BTreeMap::new(), Found::default());
        Self { engine, store, view, expected, published, filters, from, compare_from, ads, sliding, waiting, found }
    }

    /// Where the counts of the hour that holds a minute are.
    pub(crate) fn path(engine: &Engine, minute: Minute) -> PathBuf {
        engine.scratch().join(format!("truth-{}.parquet", hour_of(minute)))
    }

    /// Goes through the minutes `[from, to)` of an hour whose counts are on disk, and returns what was found until now.
    pub(crate) fn advance(&mut self, (from, to): (Minute, Minute)) -> Result<Found> {
        let hour = Arc::new(self.load(hour_of(from))?);
        let mut minute = from;
        while minute < to {
            self.slide(&hour, minute)?;
            self.rank(minute)?;
            minute = minute.next();
        }
        Ok(std::mem::take(&mut self.found))
    }

    fn slide(&mut self, hour: &Arc<Hour>, minute: Minute) -> Result<()> {
        for place in 0..self.sliding.len() {
            let Some(window) = self.sliding.get(place).map(|sliding| sliding.window) else { continue };
            let leaves = first_of(window, minute).previous();
            let number = hour_of(leaves);
            let leaving = if leaves < self.from {
                None
            } else if number == hour.number {
                Some(Arc::clone(hour))
            } else {
                let known = self.sliding.iter().find(|other| other.leaving.number == number);
                let known = known.map(|other| Arc::clone(&other.leaving));
                Some(known.map_or_else(|| self.load(number).map(Arc::new), Ok)?)
            };
            let Some(sliding) = self.sliding.get_mut(place) else { continue };
            sliding.add(hour, minute);
            if let Some(leaving) = leaving {
                sliding.take_away(&leaving, leaves);
                sliding.leaving = leaving;
            }
        }
        Ok(())
    }

    fn rank(&mut self, minute: Minute) -> Result<()> {
        if minute < self.compare_from {
            return Ok(());
        }
        let deepest = self.expected.depths.last().copied().unwrap_or_default();
        for sliding in &self.sliding {
            let first = first_of(sliding.window, minute);
            if first < self.from || !self.expected.has(sliding.window, minute) {
                continue;
            }
            for (filter, sums) in self.filters.iter().zip(&sliding.sums) {
                if self.published.whole(*filter, first, minute) {
                    let top = top(sums, deepest, &self.ads.read());
                    self.waiting.entry(*filter).or_default().push((sliding.window, minute, top));
                }
            }
        }
        if self.waiting.values().any(|waiting| waiting.len() >= AT_ONCE) { self.compare() } else { Ok(()) }
    }

    /// Compares what waits for it still.
    pub(crate) fn finish(mut self) -> Result<Found> {
        self.compare()?;
        Ok(self.found)
    }

    fn compare(&mut self) -> Result<()> {
        for (filter, waiting) in std::mem::take(&mut self.waiting) {
            for waiting in waiting.chunks(AT_ONCE) {
                let which: Vec<(Window, Minute)> =
                    waiting.iter().map(|(window, minute, _)| (*window, *minute)).collect();
                let stored = self.store.rankings(self.view, filter, &which)?;
                for ((window, minute, top), stored) in waiting.iter().zip(stored) {
                    let stored = match stored {
                        StoredRanking::Here(ranking) => Some(ranking),
                        StoredRanking::Nothing => None,
                        // Readers put it together from shorter ones, each of which is compared.
                        StoredRanking::NotToBeHad => continue,
                    };
                    self.found.compared += 1;
                    if let Some(place) = self.first_difference(*window, *minute, top, stored.as_ref()) {
                        let difference = difference(filter, *window, *minute, place, top, stored.as_ref());
                        self.found.differing.push(difference);
                    }
                }
            }
        }
        Ok(())
    }

    /// The first place that differs, from 0.
    fn first_difference(&self, window: Window, minute: Minute, top: &Top, stored: Option<&Ranking>) -> Option<usize> {
        let Some(stored) = stored else {
            return (!top.ads.is_empty() && self.expected.must_have(window, minute)).then_some(0);
        };
        let fits =
            |depth: &usize| stored.ads.len() == top.clicked.min(*depth) && stored.whole == (top.clicked <= *depth);
        let place = stored.ads.iter().zip(&top.ads).position(|(stored, raw)| stored != raw);
        place.or_else(|| (!self.expected.depths.iter().any(fits)).then(|| stored.ads.len().min(top.ads.len())))
    }

    /// Reads the counts of an hour from disk.
    fn load(&self, number: i64) -> Result<Hour> {
        let path = Self::path(self.engine, Minute::from_epoch(number * 60));
        self.engine.set_scratch("hour", &truth_schema(&self.filters), &[path])?;
        let mut hour = Hour { number, ..Hour::default() };
        self.engine.each_batch("SELECT * FROM hour", |batch| {
            let [minutes, ads, counts @ ..] = batch.columns() else { return Ok(()) };
            let (minutes, ads) = (numbers(minutes)?, ads_of(ads)?);
            let counts = counts.iter().map(numbers).collect::<Result<Vec<_>>>()?;
            for (row, (minute, ad)) in minutes.values().iter().zip(ads.values()).enumerate() {
                let of = hour.minutes.entry(*minute).or_default();
                of.ads.push(*ad);
                of.counts.extend(counts.iter().map(|counts| counts.value(row).unsigned_abs()));
            }
            Ok(())
        })?;
        Ok(hour)
    }
}

impl Sliding {
    fn add(&mut self, hour: &Hour, minute: Minute) {
        for (ad, counts) in hour.of(minute, self.sums.len()) {
            for (sums, count) in self.sums.iter_mut().zip(counts) {
                if sums.len() <= ad {
                    sums.resize(ad + 1, 0);
                }
                if let Some(sum) = sums.get_mut(ad) {
                    *sum += count;
                }
            }
        }
    }

    fn take_away(&mut self, hour: &Hour, minute: Minute) {
        for (ad, counts) in hour.of(minute, self.sums.len()) {
            for (sums, count) in self.sums.iter_mut().zip(counts) {
                if let Some(sum) = sums.get_mut(ad) {
                    *sum = sum.saturating_sub(*count);
                }
            }
        }
    }
}

/// The `n` ads with the highest sums, the highest first, ties by name.
fn top(sums: &[u64], n: usize, ads: &Known) -> Top {
    // The best so far, the worst of them on top.
    let mut best: BinaryHeap<(Reverse<u64>, &str)> = BinaryHeap::with_capacity(n);
    let (mut clicked, mut least) = (0, 1);
    for (sum, ad) in sums.iter().zip(0..) {
        clicked += usize::from(*sum > 0);
        if *sum < least {
            continue;
        }
        let this = (Reverse(*sum), ads.name(ad));
        if best.len() < n {
            best.push(this);
        } else if let Some(mut worst) = best.peek_mut()
            && this < *worst
        {
            *worst = this;
        }
        if best.len() == n {
            least = best.peek().map_or(u64::MAX, |worst| worst.0.0);
        }
    }
    let best = best.into_sorted_vec();
    Top { ads: best.into_iter().map(|(sum, ad)| (ad.to_owned(), sum.0)).collect(), clicked }
}

fn difference(
    filter: FilterId,
    window: Window,
    minute: Minute,
    place: usize,
    top: &Top,
    stored: Option<&Ranking>,
) -> RankingDifference {
    let around = |ads: &[(String, u64)]| ads.iter().skip(place.saturating_sub(1)).take(PLACES).cloned().collect();
    RankingDifference {
        kind: Kind::RankingOnly,
        minute,
        window,
        filter,
        place: place + 1,
        raw: around(&top.ads),
        stored: stored.map(|stored| around(&stored.ads)),
    }
}
