//! The totals of each ad over each window, slid minute by minute.

use std::collections::VecDeque;

use clickmill_model::{AdTable, FilterId, Minute, Offset, Timestamp, Window};

use crate::open::Entries;
use crate::rank::Best;

/// The published counts of one closed minute.
#[derive(Debug)]
pub(crate) struct ClosedMinute {
    pub(crate) minute: Minute,
    pub(crate) filters: Vec<FilterId>,
    /// By filter.
    pub(crate) entries: Vec<Entries>,
    pub(crate) oldest_arrival: Option<Timestamp>,
    /// A record of `click-results` at or before those that tell it.
    pub(crate) told_at: Offset,
}

/// Totals of one filter over one window.
#[derive(Debug, Default)]
struct Totals {
    /// By ad number.
    totals: Vec<u64>,
    /// The ads whose total is not 0, each once (after [`Totals::compact`]).
    active: Vec<u32>,
}

impl Totals {
    fn add(&mut self, entries: &Entries) {
        if let Some(last) = entries.ads.last()
            && *last as usize >= self.totals.len()
        {
            self.totals.resize((*last as usize + 1).next_power_of_two(), 0);
        }
        for (ad, count) in entries.iter() {
            let total = &mut self.totals[ad as usize];
            if *total == 0 {
                self.active.push(ad);
            }
            *total += count;
        }
    }

    fn subtract(&mut self, entries: &Entries) {
        for (ad, count) in entries.iter() {
            if let Some(total) = self.totals.get_mut(ad as usize) {
                *total = total.saturating_sub(count);
            }
        }
    }

    /// Forgets the ads that have no click left. Must come between subtracting and the next adding, so that no ad stands twice.
    fn compact(&mut self) {
        let totals = &self.totals;
        self.active.retain(|ad| totals[*ad as usize] > 0);
    }

    fn clear(&mut self) {
        for ad in self.active.drain(..) {
            self.totals[ad as usize] = 0;
        }
    }

    fn iter(&self) -> Box<dyn Iterator<Item = (u32, u64)> + '_> {
        if self.active.len() > self.totals.len() / 4 {
            // Nearly all are active: memory in order beats fewer places out of order.
            Box::new(self.totals.iter().enumerate().filter(|(_, n)| **n > 0).map(|(ad, n)| (ad as u32, *n)))
        } else {
            Box::new(self.active.iter().map(|ad| (*ad, self.totals[*ad as usize])))
        }
    }

    fn best(&self, ads: &AdTable, depth: usize) -> (Vec<(String, u64)>, bool) {
        let mut best = Best::new(ads, depth);
        if self.active.len() > self.totals.len() / 4 {
            for (ad, total) in self.totals.iter().enumerate().filter(|(_, total)| **total > 0) {
                best.show(ad as u32, *total);
            }
        } else {
            for ad in &self.active {
                best.show(*ad, self.totals[*ad as usize]);
            }
        }
        best.finish()
    }
}

/// One window: sliding, with a ranking at every minute, or tumbling, with one at its end only.
#[derive(Debug)]
struct Sums {
    window: Window,
    sliding: bool,
    /// By filter id.
    by_filter: Vec<(FilterId, Totals)>,
}

impl Sums {
    fn totals(&mut self, filter: FilterId) -> &mut Totals {
        let place = match self.by_filter.iter().position(|(id, _)| *id == filter) {
            Some(place) => place,
            None => {
                self.by_filter.push((filter, Totals::default()));
                self.by_filter.len() - 1
            }
        };
        &mut self.by_filter[place].1
    }

    fn is_empty(&self) -> bool {
        self.by_filter.iter().all(|(_, totals)| totals.active.is_empty())
    }
}

/// A closed hour that had clicks.
#[derive(Debug)]
struct ToldHour {
    start: Minute,
    /// Where its totals were told: a restart reads them again.
    told_at: Offset,
    oldest_arrival: Option<Timestamp>,
}

/// All windows of one aggregator partition.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// Longer than a minute.
    sums: Vec<Sums>,
    /// The closed minutes that a sliding window still needs, oldest first.
    history: VecDeque<ClosedMinute>,
    /// The closed hours of the running day.
    hours: VecDeque<ToldHour>,
}

/// A ranking: the filter, the window, the ads, whether these are all.
pub(crate) type Ranked = (FilterId, Window, Vec<(String, u64)>, bool);

impl Windows {
    /// The windows in force from `minute` on, which is the next to close. A new one is summed up from the minutes that are kept. Returns the new ones.
    pub(crate) fn set(&mut self, configured: &[Window], minute: Minute) -> Vec<Window> {
        let wanted = configured
            .iter()
            .filter(|w| **w != Window::MINUTE)
            .map(|w| (*w, true))
            .chain([Window::HOUR, Window::DAY].into_iter().filter(|w| !configured.contains(w)).map(|w| (w, false)));
        let mut before = std::mem::take(&mut self.sums);
        let mut new = Vec::new();
        for (window, sliding) in wanted {
            let sums = match before.iter().position(|s| s.window == window && s.sliding == sliding) {
                Some(place) => before.swap_remove(place),
                None => {
                    new.push(window);
                    self.summed(window, sliding, minute)
                }
            };
            self.sums.push(sums);
        }
        new
    }

    /// Sums up a window from the minutes that are kept, as it stands before `minute` is closed: a sliding one ends with the minute before, a tumbling one is that of `minute`.
    fn summed(&self, window: Window, sliding: bool, minute: Minute) -> Sums {
        let mut sums = Sums { window, sliding, by_filter: Vec::new() };
        for closed in &self.history {
            let inside = if sliding {
                closed.minute >= window.first(minute.previous())
            } else {
                closed.minute.as_epoch().div_euclid(window.0.into()) == minute.as_epoch().div_euclid(window.0.into())
            };
            if inside {
                add(&mut sums, closed);
            }
        }
        sums
    }

    fn longest_sliding(&self) -> i64 {
        self.sums.iter().filter(|s| s.sliding).map(|s| i64::from(s.window.0)).max().unwrap_or(1).max(60)
    }

    /// How many minutes back it keeps.
    pub(crate) fn kept_minutes(&self) -> i64 {
        self.longest_sliding()
    }

    /// Adds a closed minute, which is later than all before it.
    pub(crate) fn add(&mut self, closed: ClosedMinute) {
        for sums in &mut self.sums {
            add(sums, &closed);
        }
        self.history.push_back(closed);
    }

    /// Adds the totals of a whole hour of the running day, after a restart. Sliding windows have its minutes.
    pub(crate) fn add_hour(&mut self, filters: &[FilterId], entries: &[Entries]) {
        for sums in self.sums.iter_mut().filter(|s| !s.sliding && s.window == Window::DAY) {
            for (filter, entries) in filters.iter().zip(entries) {
                sums.totals(*filter).add(entries);
            }
        }
    }

    /// Restores a minute after a restart: into the windows ending before `closed_until` that hold it. Its hour's totals may have told it to the running day already.
    pub(crate) fn restore(&mut self, closed: ClosedMinute, closed_until: Minute) {
        let last = closed_until.previous();
        for sums in &mut self.sums {
            let length = i64::from(sums.window.0);
            let inside = if sums.sliding {
                closed.minute >= sums.window.first(last)
            } else if sums.window == Window::DAY {
                // Minutes of whole hours come as the hour's totals.
                closed.minute.as_epoch().div_euclid(60) == closed_until.as_epoch().div_euclid(60)
            } else {
                closed.minute.as_epoch().div_euclid(length) == closed_until.as_epoch().div_euclid(length)
            };
            if inside {
                add(sums, &closed);
            }
        }
        self.history.push_back(closed);
    }

    /// Time has come to the end of `minute`: what is older than each sliding window leaves it.
    pub(crate) fn slide(&mut self, minute: Minute) {
        for sums in self.sums.iter_mut().filter(|s| s.sliding) {
            let left = sums.window.first(minute).previous();
            if let Ok(place) = self.history.binary_search_by_key(&left, |closed| closed.minute) {
                let closed = &self.history[place];
                for (filter, entries) in closed.filters.iter().zip(&closed.entries) {
                    sums.totals(*filter).subtract(entries);
                }
                for (_, totals) in &mut sums.by_filter {
                    totals.compact();
                }
            }
        }
        let oldest_needed = minute.plus(1 - self.longest_sliding());
        while self.history.front().is_some_and(|closed| closed.minute < oldest_needed) {
            self.history.pop_front();
        }
    }

    /// The rankings that end with `minute`, of windows longer than a minute; those without any click are left out.
    pub(crate) fn rank(&self, minute: Minute, filters: &[FilterId], ads: &AdTable, depth: usize) -> Vec<Ranked> {
        let mut out = Vec::new();
        for sums in self.sums.iter().filter(|s| s.sliding || s.window.is_aligned_at(minute)) {
            for (filter, totals) in sums.by_filter.iter().filter(|(f, t)| filters.contains(f) && !t.active.is_empty()) {
                let (best, whole) = totals.best(ads, depth);
                out.push((*filter, sums.window, best, whole));
            }
        }
        out
    }

    /// The totals of the window that ends with `minute`, a whole hour's or day's last: for each filter, by rising ad number.
    pub(crate) fn totals(&self, window: Window, filters: &[FilterId]) -> Vec<Entries> {
        let sums = self.sums.iter().find(|s| s.window == window);
        filters
            .iter()
            .map(|filter| {
                let mut entries = Entries::default();
                if let Some((_, totals)) = sums.and_then(|s| s.by_filter.iter().find(|(id, _)| id == filter)) {
                    let mut all: Vec<(u32, u64)> = totals.iter().collect();
                    all.sort_unstable();
                    for (ad, count) in all {
                        entries.push(ad, count);
                    }
                }
                entries
            })
            .collect()
    }

    /// Empties the tumbling windows that end with `minute`.
    pub(crate) fn tumble(&mut self, minute: Minute) {
        for sums in self.sums.iter_mut().filter(|s| !s.sliding && s.window.is_aligned_at(minute)) {
            for (_, totals) in &mut sums.by_filter {
                totals.clear();
            }
        }
        if Window::DAY.is_aligned_at(minute) {
            self.hours.clear();
        }
    }

    /// Notes that the totals of an hour were told.
    pub(crate) fn hour_told(&mut self, start: Minute, told_at: Offset, oldest_arrival: Option<Timestamp>) {
        self.hours.push_back(ToldHour { start, told_at, oldest_arrival });
    }

    /// The next minute after `minute` at whose end something happens although nothing was clicked in it: the next one while a sliding window holds a click, the end of a
    /// tumbling window that does. `None` where all are empty.
    pub(crate) fn next_event(&self, minute: Minute) -> Option<Minute> {
        let next = minute.next();
        let of = |sums: &Sums| {
            if sums.is_empty() {
                None
            } else if sums.sliding {
                Some(next)
            } else {
                let length = i64::from(sums.window.0);
                Some(Minute::from_epoch((next.as_epoch().div_euclid(length) + 1) * length - 1))
            }
        };
        self.sums.iter().filter_map(of).min()
    }

    /// The first record of `click-results` that a restart must read.
    pub(crate) fn needed_from(&self) -> Option<Offset> {
        let minutes = self.history.front().map(|closed| closed.told_at);
        let hours = self.hours.front().map(|hour| hour.told_at);
        minutes.into_iter().chain(hours).min()
    }

    /// The arrival of the oldest click in the `length` minutes that end with `minute`: an hour, or the running day.
    pub(crate) fn oldest_arrival(&self, minute: Minute, length: i64) -> Option<Timestamp> {
        let first = minute.plus(1 - length);
        let minutes = self.history.iter().filter(|closed| closed.minute >= first).map(|closed| closed.oldest_arrival);
        // Of a day only the last minutes are kept.
        let hours = self.hours.iter().filter(|hour| hour.start >= first).map(|hour| hour.oldest_arrival);
        minutes.chain(hours).flatten().min()
    }
}

fn add(sums: &mut Sums, closed: &ClosedMinute) {
    for (filter, entries) in closed.filters.iter().zip(&closed.entries) {
        if !entries.is_empty() {
            sums.totals(*filter).add(entries);
        }
    }
}
