//! Recalculations: their rows, and what readers see of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{FilterId, Minute, Offset, Partition, Revision, Span, SpanKind, Timestamp, Window};

use super::told::Told;
use super::{Store, minute, range};
use crate::{
    Began, Changed, ClosedWrite, Holds, MinuteRange, RankedWrite, Recalculation, RevisionState, StoreError,
    StoredRanking, Switch, View,
};

const ALL: FilterId = FilterId::ALL;
const USA: FilterId = FilterId(1);
const PARTITIONS: u32 = 2;

#[expect(clippy::needless_pass_by_value, reason = "as unwrap_or_else wants it")]
fn fail<T>(error: StoreError) -> T {
    unreachable!("the store failed: {error}")
}

fn holds(range: MinuteRange, filters: &[FilterId]) -> Holds {
    Holds { range, filters: filters.iter().map(|f| (*f, range)).collect(), windows: [Window(5)].into() }
}

fn recalculation(range: MinuteRange, process: u32) -> Recalculation {
    Recalculation {
        holds: holds(range, &[ALL, USA]),
        definition: 7,
        partitions: PARTITIONS,
        pins: BTreeMap::from([("ad-clicks".to_owned(), BTreeMap::from([(Partition(3), Offset(4711))]))]),
        began_by: "somebody@somewhere".to_owned(),
        process,
        began_at: Timestamp::from_secs(1_600_000_000),
    }
}

fn states(store: &Store) -> Vec<(u32, RevisionState)> {
    store.revisions().unwrap_or_else(fail).iter().map(|row| (row.revision.0, row.state)).collect()
}

/// Numbers are consecutive; what is pending keeps others out of its minutes, what is active or undone does not.
pub fn a_recalculation_keeps_others_out_while_it_is_pending(store: &Store) {
    use RevisionState::{Active, Pending, Undone};
    let (first, second) = (range("202101010000", "202101010100"), range("202101010100", "202101010200"));
    let across = range("202101010059", "202101010101");
    assert_eq!(states(store), []);
    assert_eq!(store.begin_revision(&recalculation(first, 1)).unwrap_or_else(fail), Began::Begun(Revision(1)));
    // Neighbours.
    assert_eq!(store.begin_revision(&recalculation(second, 2)).unwrap_or_else(fail), Began::Begun(Revision(2)));
    let in_the_way = |process| match store.begin_revision(&recalculation(across, process)).unwrap_or_else(fail) {
        Began::Begun(_) => None,
        Began::Overlaps(row) => Some(row.revision.0),
    };
    assert_eq!(in_the_way(3), Some(1));
    assert_eq!(store.switch_revision(Revision(1), Switch::Undo).unwrap_or_else(fail), Some(Pending));
    assert_eq!(in_the_way(4), Some(2));
    let changed = Changed { counts: 5, totals: 1, rankings: 2, clicks_before: 100, clicks_after: 95 };
    assert_eq!(store.switch_revision(Revision(2), Switch::Activate(changed)).unwrap_or_else(fail), Some(Pending));
    assert_eq!(in_the_way(5), None);
    assert_eq!(states(store), [(1, Undone), (2, Active), (3, Pending)]);
    let rows = store.revisions().unwrap_or_else(fail);
    let told: Vec<_> = rows.iter().map(|row| (row.recalculation.clone(), row.changed)).collect();
    let expected =
        [(recalculation(first, 1), None), (recalculation(second, 2), Some(changed)), (recalculation(across, 5), None)];
    assert_eq!(told, expected);
    assert_eq!(View::of_rows(&rows), View::of([(Revision(2), holds(second, &[ALL, USA]))]));
}

/// And undone is for good.
pub fn a_recalculation_changes_its_state_as_it_may_and_no_other_way(store: &Store) {
    use RevisionState::{Active, Pending, Undone};
    let activate = Switch::Activate(Changed::default());
    for number in 1..=2 {
        let hour = range("202101010000", "202101010100");
        let begun = store.begin_revision(&recalculation(hour, number)).unwrap_or_else(fail);
        assert_eq!(begun, Began::Begun(Revision(number)));
        store.switch_revision(Revision(number), activate).unwrap_or_else(fail);
    }
    let check = |revision: u32, switch, before, after| {
        assert_eq!(
            store.switch_revision(Revision(revision), switch).unwrap_or_else(fail),
            before,
            "{revision} {switch:?}"
        );
        let found = states(store).into_iter().find(|(number, _)| *number == revision).map(|(_, state)| state);
        assert_eq!(found, after, "{revision} {switch:?}");
    };
    check(1, Switch::Activate(Changed { counts: 9, ..Changed::default() }), Some(Active), Some(Active));
    check(1, Switch::Undo, Some(Active), Some(Undone));
    check(1, Switch::Undo, Some(Undone), Some(Undone));
    check(1, activate, Some(Undone), Some(Undone));
    check(2, Switch::Undo, Some(Active), Some(Undone));
    check(3, activate, None, None);
    check(0, Switch::Undo, None, None);
    store.begin_revision(&recalculation(range("202101010000", "202101010100"), 3)).unwrap_or_else(fail);
    check(3, activate, Some(Pending), Some(Active));
    let changed: Vec<_> = store.revisions().unwrap_or_else(fail).iter().map(|row| row.changed).collect();
    assert_eq!(changed, [Some(Changed::default()); 3]);
}

/// Of those that begin at once on minutes that overlap, one is pending at a time, and no number is given twice.
pub fn of_many_that_begin_at_once_no_two_overlap(store: &Store) {
    let begin = minute("202101010000");
    let threads: Vec<_> = (0..4_u32)
        .map(|thread| {
            let store: Arc<dyn crate::AggregateStore> = store.share();
            std::thread::spawn(move || {
                let mut begun = BTreeSet::new();
                for round in 0..5_u32 {
                    let from = begin.plus(i64::from(round % 2) * 30);
                    let hour = MinuteRange { from, to: from.plus(60) };
                    let process = thread * 100 + round;
                    match store.begin_revision(&recalculation(hour, process)).unwrap_or_else(fail) {
                        Began::Begun(revision) => {
                            let rows = store.revisions().unwrap_or_else(fail);
                            let pending = rows.iter().filter(|row| row.state == RevisionState::Pending);
                            assert_eq!(pending.map(|row| row.revision).collect::<Vec<_>>(), [revision]);
                            begun.insert(revision.0);
                            store.switch_revision(revision, Switch::Undo).unwrap_or_else(fail);
                        }
                        Began::Overlaps(row) => assert_eq!(row.state, RevisionState::Pending),
                    }
                }
                begun
            })
        })
        .collect();
    let begun: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
    let numbers: BTreeSet<u32> = begun.iter().copied().collect();
    assert_eq!(numbers.len(), begun.len(), "{begun:?}");
    assert!(!begun.is_empty() && numbers.into_iter().eq(1..=begun.len() as u32), "{begun:?}");
}

/// Apart from the stream's.
pub fn progress_is_kept_for_each_revision(store: &Store) {
    let at = minute("202101010000");
    let told = |revision, partition, until| {
        let filters = vec![FilterSpan { filter: USA, from: at, until: None }];
        let (revision, partition) = (Revision(revision), Partition(partition));
        store.write_closed(&ClosedWrite { revision, partition, counts: vec![], until, filters }).unwrap_or_else(fail);
        store
            .write_ranked(&RankedWrite { revision, partition, rankings: vec![], until: until.plus(-1) })
            .unwrap_or_else(fail);
    };
    told(0, 0, at.plus(9));
    told(2, 0, at.plus(5));
    told(2, 1, at.plus(3));
    told(2, 1, at.plus(2));
    let until = |revision| {
        let progress = store.progress_of(Revision(revision)).unwrap_or_else(fail);
        [1, 2].map(|n| (progress.counts_until(n), progress.rankings_until(n)))
    };
    let both = |m: i64| (Some(at.plus(m)), Some(at.plus(m - 1)));
    assert_eq!(until(0), [both(9), (None, None)]);
    assert_eq!(until(1), [(None, None); 2]);
    assert_eq!(until(2), [both(5), both(3)]);
    assert_eq!(store.progress().unwrap_or_else(fail), store.progress_of(Revision::STREAM).unwrap_or_else(fail));
}

/// What the stream and each of three recalculations told: other figures each. The span of a recalculation: its first and last minute, its filters.
type Spans<'a> = &'a [(i64, i64, &'a [FilterId])];

/// A day and an hour, told by the stream and by recalculations of some of its minutes.
struct World<'a> {
    store: &'a Store,
    begin: Minute,
    minutes: i64,
    stream: Told,
    revisions: Vec<(Holds, Told)>,
}

impl<'a> World<'a> {
    fn new(store: &'a Store, spans: Spans<'_>) -> Self {
        let (begin, minutes) = (minute("202012312200"), 26 * 60 + 30);
        let clicks = |seed: i64| {
            let mut told = Told::new(PARTITIONS);
            told.publish(ALL, Minute::MIN, None);
            told.publish(USA, Minute::MIN, None);
            for i in (0..minutes).filter(|i| i % 7 == seed % 7 || i % 60 == 59) {
                for ad in 0..4 {
                    let clicks = (i * 31 + ad * 17 + seed * 101).rem_euclid(23);
                    told.add(begin.plus(i), &format!("ad{}", (ad + i + seed) % 9), ALL, clicks.unsigned_abs() + 1);
                    told.add(begin.plus(i), &format!("ad{}", (ad + i + seed) % 9), USA, clicks.unsigned_abs() / 2);
                }
            }
            told
        };
        let revisions = (1..).zip(spans).map(|(seed, (from, to, filters))| {
            let range = MinuteRange { from: begin.plus(*from), to: begin.plus(*to) };
            (holds(range, filters), clicks(seed))
        });
        let world = Self { store, begin, minutes, stream: clicks(0), revisions: revisions.collect() };
        world.write(Revision::STREAM, &world.stream, MinuteRange { from: begin, to: begin.plus(minutes) });
        for (number, (holds, told)) in (1..).zip(&world.revisions) {
            world.write(Revision(number), told, holds.range);
        }
        world
    }

    /// Counts, and the rankings of one, five and sixty minutes and of whole days that lie inside.
    fn write(&self, revision: Revision, told: &Told, range: MinuteRange) {
        for partition in [Partition(0), Partition(1)] {
            let mut write = told.write(partition, range.from, range.to);
            // A recalculation tells totals of what lies inside.
            write.counts.retain(|(columns, _)| range.from <= columns.span.start);
            self.store.write_closed(&ClosedWrite { revision, ..write }).unwrap_or_else(fail);
        }
        let mut rankings = Vec::new();
        let mut at = range.from;
        while at < range.to {
            for window in WINDOWS.into_iter().filter(|window| window.first(at) >= range.from) {
                let is_told = window == Window(5) || window.is_aligned_at(at);
                rankings.extend(
                    [ALL, USA].into_iter().filter(|_| is_told).map(|filter| (ranking(told, filter, window, at), None)),
                );
            }
            at = at.next();
        }
        let write = RankedWrite { revision, partition: Partition(0), rankings, until: range.to };
        self.store.write_ranked(&write).unwrap_or_else(fail);
    }

    /// The slow rule: a minute's figure is that of the highest one that is seen and holds minute and filter.
    fn of_minute(&self, seen: &BTreeSet<u32>, filter: FilterId, at: Minute) -> (u32, &Told) {
        let holding = (1..).zip(&self.revisions).filter(|(number, (holds, _))| {
            let range = holds.range;
            seen.contains(number) && holds.filters.contains_key(&filter) && range.from <= at && at < range.to
        });
        holding.last().map_or((0, &self.stream), |(number, (_, told))| (number, told))
    }

    /// What a reader must see: each minute's figures as that rule says.
    fn expected(&self, seen: &BTreeSet<u32>) -> Told {
        let mut expected = Told::new(PARTITIONS);
        for filter in [ALL, USA] {
            for at in (0..self.minutes).map(|m| self.begin.plus(m)) {
                let (_, told) = self.of_minute(seen, filter, at);
                for (ad, clicks) in told.top(filter, MinuteRange { from: at, to: at.next() }, usize::MAX) {
                    expected.add(at, &ad, filter, clicks);
                }
            }
        }
        expected
    }

    fn check(&self, seen: &[u32], step: usize) {
        let seen: BTreeSet<u32> = seen.iter().copied().collect();
        let numbered = (1..).zip(&self.revisions).filter(|(number, _)| seen.contains(number));
        let view = View::of(numbered.map(|(number, (holds, _))| (Revision(number), holds.clone())));
        let expected = self.expected(&seen);
        let ends = self.revisions.iter().flat_map(|(holds, _)| [holds.range.from, holds.range.to]);
        let edges: BTreeSet<Minute> = ends
            .flat_map(|at| [at.previous(), at, at.next()])
            .chain([0, 59, 60, 119, 120, 121, 700, 1560, self.minutes].map(|m| self.begin.plus(m)))
            .collect();
        let pairs: Vec<MinuteRange> = edges
            .iter()
            .flat_map(|from| edges.iter().filter(move |to| from < *to).map(|to| MinuteRange { from: *from, to: *to }))
            .collect();
        for (range, filter) in pairs.iter().flat_map(|range| [(*range, ALL), (*range, USA)]).step_by(step) {
            expected.check_counts_seen(&**self.store, &view, filter, range);
            if let Some(found) = self.store.top(&view, filter, range, 3).unwrap_or_else(fail) {
                assert_eq!(found, expected.top(filter, range, 3), "{seen:?} {filter} {range:?}");
            } else {
                assert!(!self.store.merges_counts);
            }
            for kind in [SpanKind::Hour, SpanKind::Day] {
                let found = self.store.series(&view, "ad3", filter, range, kind).unwrap_or_else(fail);
                let of_span = |(start, _): &(Minute, u64)| {
                    let span = Span { kind, start: *start };
                    let (from, to) = (range.from.max(span.start), range.to.min(span.end()));
                    expected.count("ad3", filter, MinuteRange { from, to })
                };
                assert!(found.iter().all(|point| point.1 == of_span(point)), "{seen:?} {filter} {range:?} {found:?}");
            }
        }
        self.check_each(&seen, &view, &expected);
        self.check_rankings(&seen, &view, edges);
    }

    /// Each total that is somebody's comes once, and no other.
    fn check_each(&self, seen: &BTreeSet<u32>, view: &View, expected: &Told) {
        let all = MinuteRange { from: self.begin, to: self.begin.plus(self.minutes) };
        for (kind, filter) in
            [SpanKind::Minute, SpanKind::Hour, SpanKind::Day].into_iter().flat_map(|k| [(k, ALL), (k, USA)])
        {
            let mut found: BTreeMap<(Minute, String), u64> = BTreeMap::new();
            let mut take = |start, ad: &[u8], clicks| {
                if clicks > 0 {
                    let before = found.insert((start, String::from_utf8_lossy(ad).into_owned()), clicks);
                    assert_eq!(before, None, "it comes once");
                }
            };
            self.store.each_count(view, kind, filter, all, &mut take).unwrap_or_else(fail);
            let mut right = BTreeMap::new();
            let mut start = Span::holding(kind, all.from.plus(kind.minutes() - 1)).start;
            while start < all.to {
                let span = Span { kind, start };
                let minutes = (0..kind.minutes()).map(|m| start.plus(m));
                let by: BTreeSet<u32> = minutes.map(|at| self.of_minute(seen, filter, at).0).collect();
                assert_eq!(view.has_total(filter, span), by.len() == 1);
                if by.len() == 1 && span.end() <= all.to {
                    let range = MinuteRange { from: start, to: span.end() };
                    right.extend(expected.top(filter, range, usize::MAX).into_iter().map(|(ad, n)| ((start, ad), n)));
                }
                start = span.end();
            }
            assert_eq!(found, right, "{seen:?} {kind:?} {filter}");
        }
    }

    /// One is there where all its minutes are of one calculation, and elsewhere nobody's.
    fn check_rankings(&self, seen: &BTreeSet<u32>, view: &View, edges: BTreeSet<Minute>) {
        let lasts: BTreeSet<Minute> = edges
            .into_iter()
            .flat_map(|at| [-1, 3, 4, 59].map(|m| at.plus(m)))
            .filter(|at| *at < self.begin.plus(self.minutes))
            .collect();
        for filter in [ALL, USA] {
            let which: Vec<(Window, Minute)> = lasts
                .iter()
                .flat_map(|last| WINDOWS.map(|window| (window, *last)))
                .filter(|(window, last)| {
                    window.first(*last) >= self.begin && (*window == Window(5) || window.is_aligned_at(*last))
                })
                .collect();
            let found = self.store.rankings(view, filter, &which).unwrap_or_else(fail);
            for ((window, last), found) in which.into_iter().zip(found) {
                let minutes = (0..i64::from(window.0)).map(|m| last.plus(-m));
                let by: BTreeMap<u32, &Told> = minutes.map(|at| self.of_minute(seen, filter, at)).collect();
                let right = match by.first_key_value() {
                    Some((_, told)) if by.len() == 1 => StoredRanking::Here(ranking(told, filter, window, last)),
                    _ => StoredRanking::NotToBeHad,
                };
                assert_eq!(found, right, "{seen:?} {window} {last} {filter}");
            }
        }
    }
}

const WINDOWS: [Window; 4] = [Window::MINUTE, Window(5), Window::HOUR, Window::DAY];

fn ranking(told: &Told, filter: FilterId, window: Window, at: Minute) -> Ranking {
    let range = MinuteRange { from: window.first(at), to: at.next() };
    Ranking { filter, window, minute: at, whole: true, complete: true, ads: told.top(filter, range, usize::MAX) }
}

/// Inside, beside, across and around each other; for some filters; hours and days by their totals where they are whole, else not.
pub fn a_reader_sees_the_highest_revision_of_each_minute(store: &Store) {
    // The world begins at 22:00 of a day, and holds the whole next day.
    let world =
        World::new(store, &[(30, 200, &[ALL, USA]), (120, 121, &[ALL]), (90, 400, &[USA]), (100, 1570, &[ALL, USA])]);
    world.check(&[], 7);
    for (seen, step) in
        [(&[1][..], 3), (&[4], 5), (&[1, 2], 5), (&[2, 3], 7), (&[1, 3], 7), (&[1, 2, 3], 3), (&[1, 2, 3, 4], 5)]
    {
        world.check(seen, step);
    }
}

/// As all others do.
pub fn figures_of_an_undone_revision_go_by_their_arrival(store: &Store) {
    let world = World::new(store, &[(0, 120, &[ALL, USA])]);
    let (begin, hours) = (world.begin, MinuteRange { from: world.begin, to: world.begin.plus(120) });
    let view = View::of([(Revision(1), holds(hours, &[ALL, USA]))]);
    let sum = |view: &View| -> u64 {
        let ads: Vec<String> = (0..9).map(|ad| format!("ad{ad}")).collect();
        let ads: Vec<&str> = ads.iter().map(String::as_str).collect();
        store.counts(view, &ads, ALL, hours).unwrap_or_else(fail).iter().sum()
    };
    assert!(sum(&view) > 0 && sum(&View::STREAM) > 0 && sum(&view) != sum(&View::STREAM));
    // They arrive at the end of their minute.
    let gone = store.expire(begin.plus(400).start(), begin.start()).unwrap_or_else(fail);
    assert!(gone > 0);
    assert_eq!((sum(&view), sum(&View::STREAM)), (0, 0));
}
