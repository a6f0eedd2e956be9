//! The operator: candidates become rankings.

use std::collections::BTreeMap;

use clickmill_model::records::{CandidateRecord, Candidates, Ranking};
use clickmill_model::{FilterId, Minute, Offset, Timestamp, Window};

use crate::checkpoint::ReducerCheckpoint;

/// The rankings of minutes that every aggregator partition has passed.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    /// By minute, filter and window.
    pub rankings: Vec<Ranking>,
    /// The first minute that was not told.
    pub until: Minute,
    /// When the oldest click in them arrived.
    pub oldest_arrival: Option<Timestamp>,
}

#[derive(Debug)]
struct Pending {
    /// The first record that told something of this minute.
    first: Offset,
    oldest_arrival: Option<Timestamp>,
    candidates: BTreeMap<(FilterId, Window), Vec<Candidates>>,
}

/// Rankings of one call of [`Reducer::publish`], at most about: bounds a transaction when a long history is told at once.
const RANKINGS_AT_ONCE: usize = 20_000;

/// Merges the candidates of one partition of `top-candidates`. Pure.
#[derive(Debug)]
pub struct Reducer {
    /// By aggregator partition.
    closed_until: Vec<Minute>,
    told_until: Minute,
    pending: BTreeMap<Minute, Pending>,
}

impl Reducer {
    /// Starts where nothing was ever committed, for this many aggregator partitions.
    pub fn new(aggregators: u32) -> Self {
        Self {
            closed_until: vec![Minute::MIN; aggregators as usize],
            told_until: Minute::MIN,
            pending: BTreeMap::new(),
        }
    }

    /// Goes on behind a checkpoint. Give it then each record from `checkpoint.replay_from` on, the committed ones too.
    pub fn restore(checkpoint: &ReducerCheckpoint) -> Self {
        Self {
            closed_until: checkpoint.closed_until.clone(),
            told_until: checkpoint.told_until,
            pending: BTreeMap::new(),
        }
    }

    /// Takes in the record at `offset`. What was told already is passed over.
    pub fn apply(&mut self, offset: Offset, record: CandidateRecord) {
        let CandidateRecord { partition, closed_until, oldest_arrival, rankings } = record;
        if let Some(until) = self.closed_until.get_mut(partition.0 as usize) {
            *until = closed_until.max(*until);
        }
        for candidates in rankings.into_iter().filter(|c| c.minute >= self.told_until) {
            let pending = self.pending.entry(candidates.minute).or_insert_with(|| Pending {
                first: offset,
                oldest_arrival: None,
                candidates: BTreeMap::new(),
            });
            pending.oldest_arrival = pending.oldest_arrival.into_iter().chain(oldest_arrival).min();
            pending.candidates.entry((candidates.filter, candidates.window)).or_default().push(candidates);
        }
    }

    /// The first minute that was not told.
    pub fn told_until(&self) -> Minute {
        self.told_until
    }

    /// The rankings of the minutes that every aggregator partition has passed, oldest first; `None` where there is no such minute. A long
    /// history comes in several parts: call it until it returns `None`.
    pub fn publish(&mut self) -> Option<Published> {
        let target = self.closed_until.iter().copied().min()?;
        if target <= self.told_until {
            return None;
        }
        let mut rankings = Vec::new();
        let mut oldest_arrival: Option<Timestamp> = None;
        let mut until = target;
        while let Some(entry) = self.pending.first_entry().filter(|entry| *entry.key() < target) {
            if rankings.len() >= RANKINGS_AT_ONCE {
                until = *entry.key();
                break;
            }
            let (minute, pending) = entry.remove_entry();
            oldest_arrival = oldest_arrival.into_iter().chain(pending.oldest_arrival).min();
            let merged = pending.candidates.into_iter().map(|((filter, window), c)| merge(filter, window, minute, c));
            rankings.extend(merged);
        }
        self.told_until = until;
        Some(Published { rankings, until, oldest_arrival })
    }

    /// What goes beside the committed offset `next`.
    pub fn checkpoint(&self, next: Offset) -> ReducerCheckpoint {
        ReducerCheckpoint {
            told_until: self.told_until,
            replay_from: self.pending.values().map(|pending| pending.first).fold(next, Offset::min),
            closed_until: self.closed_until.clone(),
        }
    }
}

fn merge(filter: FilterId, window: Window, minute: Minute, candidates: Vec<Candidates>) -> Ranking {
    let complete = candidates.iter().all(|c| c.complete);
    let mut whole = candidates.iter().all(|c| c.whole);
    let depth = candidates.iter().map(|c| c.depth as usize).max().unwrap_or(0);
    let mut ads: Vec<(String, u64)> = candidates.into_iter().flat_map(|c| c.ads).collect();
    ads.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if ads.len() > depth {
        whole = false;
        ads.truncate(depth);
    }
    Ranking { filter, window, minute, whole, complete, ads }
}

#[cfg(test)]
mod tests {
    use clickmill_model::Partition;

    use super::*;

    fn minute(n: i64) -> Minute {
        Minute::from_epoch(n)
    }

    fn record(partition: u32, until: i64, told: &[(i64, &[(&str, u64)])]) -> CandidateRecord {
        let rankings = told.iter().map(|(at, ads)| Candidates {
            filter: FilterId(0),
            window: Window(1),
            minute: minute(*at),
            depth: 2,
            whole: true,
            complete: true,
            ads: ads.iter().map(|(ad, n)| ((*ad).to_owned(), *n)).collect(),
        });
        CandidateRecord {
            partition: Partition(partition),
            closed_until: minute(until),
            oldest_arrival: None,
            rankings: rankings.collect(),
        }
    }

    type Told<'a> = (i64, Vec<(&'a str, u64)>, bool);

    fn ads(published: &Published) -> Vec<Told<'_>> {
        let of = |r: &Ranking| r.ads.len();
        assert!(published.rankings.iter().all(|r| of(r) <= 2));
        published
            .rankings
            .iter()
            .map(|r| (r.minute.as_epoch(), r.ads.iter().map(|(ad, n)| (ad.as_str(), *n)).collect(), r.whole))
            .collect()
    }

    #[test]
    fn a_minute_is_told_when_every_partition_has_passed_it() {
        let mut reducer = Reducer::new(2);
        reducer.apply(Offset(0), record(0, 11, &[(10, &[("b", 3), ("d", 1)])]));
        assert_eq!(reducer.publish(), None);
        assert_eq!(reducer.checkpoint(Offset(1)).replay_from, Offset(0));
        reducer.apply(Offset(1), record(1, 12, &[(10, &[("a", 3)]), (11, &[("a", 1)])]));
        let published = reducer.publish().unwrap();
        assert_eq!(ads(&published), [(10, vec![("a", 3), ("b", 3)], false)]);
        assert_eq!(published.until, minute(11));
        assert_eq!(reducer.publish(), None);
        assert_eq!(reducer.checkpoint(Offset(2)).replay_from, Offset(1));
    }

    #[test]
    fn what_was_told_is_passed_over_after_a_restart() {
        let mut reducer = Reducer::new(2);
        let records = [record(0, 11, &[(10, &[("a", 1)])]), record(1, 13, &[(10, &[("b", 1)]), (12, &[("b", 2)])])];
        for (i, r) in records.iter().enumerate() {
            reducer.apply(Offset(i as u64), r.clone());
        }
        assert_eq!(reducer.publish().unwrap().until, minute(11));
        let checkpoint = ReducerCheckpoint::decode(&reducer.checkpoint(Offset(2)).encode()).unwrap();
        let mut reducer = Reducer::restore(&checkpoint);
        reducer.apply(Offset(1), records[1].clone());
        assert_eq!(reducer.publish(), None);
        reducer.apply(Offset(2), record(0, 13, &[]));
        assert_eq!(ads(&reducer.publish().unwrap()), [(12, vec![("b", 2)], true)]);
    }

    #[test]
    fn schedule_28_the_last_part_of_a_minute_that_was_told_is_skipped_when_it_is_read_again() {
        let mut reducer = Reducer::new(2);
        // Minute 51 comes in two parts; the second stands in one record with 52 and with 53, which is still open elsewhere.
        let records = [
            record(0, 53, &[(51, &[("a", 3)]), (52, &[("a", 1)])]),
            record(1, 54, &[(51, &[("b", 2)]), (52, &[("b", 5)]), (53, &[("b", 1)])]),
        ];
        for (i, r) in records.iter().enumerate() {
            reducer.apply(Offset(i as u64), r.clone());
        }
        let published = reducer.publish().unwrap();
        assert_eq!(ads(&published), [(51, vec![("a", 3), ("b", 2)], true), (52, vec![("b", 5), ("a", 1)], true)]);
        let checkpoint = ReducerCheckpoint::decode(&reducer.checkpoint(Offset(2)).encode()).unwrap();
        assert_eq!(checkpoint.replay_from, Offset(1), "minute 53 is pending");
        let mut restarted = Reducer::restore(&checkpoint);
        restarted.apply(Offset(1), records[1].clone());
        assert_eq!(restarted.publish(), None, "51 and 52 are not told again, least of all by half");
        // And it goes on.
        restarted.apply(Offset(2), record(0, 54, &[(53, &[("c", 1)])]));
        assert_eq!(ads(&restarted.publish().unwrap()), [(53, vec![("b", 1), ("c", 1)], true)]);
    }

    #[test]
    fn an_advance_without_any_click_is_told() {
        let mut reducer = Reducer::new(1);
        reducer.apply(Offset(0), record(0, 1_000_000, &[]));
        let published = reducer.publish().unwrap();
        assert_eq!((published.until, published.rankings.len()), (minute(1_000_000), 0));
    }
}
