//! What a write does, and what it never does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp, Window};

use super::told::Told;
use super::{Store, minute, range};
use crate::{ClosedWrite, MinuteRange, RankedWrite, StoreError, StoreProgress, StoredRanking, View};

const ALL: FilterId = FilterId::ALL;
const USA: FilterId = FilterId(1);

fn closed(partition: u32, until: Minute) -> ClosedWrite {
    ClosedWrite { revision: Revision::STREAM, partition: Partition(partition), counts: vec![], until, filters: vec![] }
}

fn ranked(partition: u32, until: Minute) -> RankedWrite {
    RankedWrite { revision: Revision::STREAM, partition: Partition(partition), rankings: vec![], until }
}

fn ranking(filter: FilterId, window: Window, minute: Minute, ads: &[(&str, u64)]) -> Ranking {
    let ads = ads.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect();
    Ranking { filter, window, minute, whole: true, complete: true, ads }
}

fn counts_of(at: Minute, ads: &[(&str, u64)]) -> Columns {
    let mut columns = Columns::new(Span::minute(at), vec![ALL]);
    for (ad, count) in ads {
        columns.ads.push(ad.as_bytes());
        columns.counts.iter_mut().for_each(|column| column.push(*count));
    }
    columns
}

/// Three hours around midnight of a new year, two ads, two filters, two partitions.
fn new_year() -> Told {
    let mut told = Told::new(2);
    for i in 0..180 {
        let at = minute("202012312230").plus(i);
        let clicks = i.unsigned_abs();
        told.add(at, "ad001", ALL, clicks + 1);
        told.add(at, "ad002", ALL, 2);
        told.add(at, "ad002", USA, 1);
        if i % 7 == 0 {
            told.add(at, "广告", ALL, 5);
        }
    }
    told
}

/// A store that nothing was written to.
pub fn an_empty_store_answers_with_nothing(store: &Store) {
    let day = range("202101010000", "202101020000");
    assert_eq!(store.progress().unwrap_or_else(fail), StoreProgress::default());
    assert_eq!(store.definitions().unwrap_or_else(fail), []);
    assert_eq!(store.counts(&View::STREAM, &["ad001", "ad002"], ALL, day).unwrap_or_else(fail), [0, 0]);
    assert_eq!(store.counts(&View::STREAM, &[], ALL, day).unwrap_or_else(fail), [0; 0]);
    assert_eq!(
        store.rankings(&View::STREAM, ALL, &[(Window(5), day.from)]).unwrap_or_else(fail),
        [StoredRanking::Nothing]
    );
    store.check_top(ALL, day, 3, &[]);
    assert_eq!(store.expire(Timestamp::from_secs(0), Timestamp::from_secs(0)).unwrap_or_else(fail), 0);
    let series = store
        .series(&View::STREAM, "ad001", ALL, range("202101010000", "202101010002"), SpanKind::Minute)
        .unwrap_or_else(fail);
    assert_eq!(series, [(minute("202101010000"), 0), (minute("202101010001"), 0)]);
}

#[expect(clippy::needless_pass_by_value, reason = "as unwrap_or_else wants it")]
fn fail<T>(error: StoreError) -> T {
    unreachable!("the store failed: {error}")
}

/// Writes are absolute.
pub fn the_same_write_again_changes_nothing(store: &Store) {
    let told = new_year();
    let (from, until) = (minute("202012312230"), minute("202101010130"));
    let all = MinuteRange { from, to: until };
    for _ in 0..3 {
        told.close(&**store, from, until);
        told.check_counts(&**store, ALL, all);
        told.check_counts(&**store, USA, all);
        told.check_top(&**store, ALL, all, 10);
    }
    let mut write = ranked(0, until);
    write.rankings.push((ranking(ALL, Window(5), from, &[("ad001", 3), ("b", 2)]), None));
    for _ in 0..3 {
        store.write_ranked(&write).unwrap_or_else(fail);
        let found = store.rankings(&View::STREAM, ALL, &[(Window(5), from)]).unwrap_or_else(fail);
        assert_eq!(
            found.into_iter().map(StoredRanking::here).collect::<Vec<_>>(),
            [write.rankings.first().map(|(ranking, _)| ranking.clone())]
        );
    }
}

/// A writer that lost its partition writes what it still had.
pub fn a_zombie_that_writes_old_rows_and_old_progress_last_changes_nothing(store: &Store) {
    let told = new_year();
    let begin = minute("202012312230");
    let steps: Vec<Minute> = [0, 1, 30, 31, 90, 150, 180].into_iter().map(|m| begin.plus(m)).collect();
    for step in steps.windows(2) {
        if let [from, until] = *step {
            told.close(&**store, from, until);
            let mut write = ranked(0, until);
            write.rankings.push((ranking(ALL, Window(1), from, &[("ad001", 7)]), None));
            store.write_ranked(&write).unwrap_or_else(fail);
        }
    }
    let before = store.progress().unwrap_or_else(fail);
    for partition in [Partition(0), Partition(1)] {
        for step in steps.windows(2).rev() {
            if let [from, until] = *step {
                store.write_closed(&told.write(partition, from, until)).unwrap_or_else(fail);
                store.write_ranked(&ranked(0, until)).unwrap_or_else(fail);
            }
        }
    }
    assert_eq!(store.progress().unwrap_or_else(fail), before);
    assert_eq!(before.counts_until(2), Some(minute("202101010130")));
    assert_eq!(before.rankings_until(1), Some(minute("202101010130")));
    let all = MinuteRange { from: begin, to: minute("202101010130") };
    told.check_counts(&**store, ALL, all);
    told.check_top(&**store, USA, all, 10);
}

/// And a reader takes the lowest, where all have told.
pub fn progress_is_kept_for_each_partition(store: &Store) {
    let at = |m| minute("196912312359").plus(m);
    store.write_closed(&closed(0, at(7))).unwrap_or_else(fail);
    store.write_closed(&closed(2, at(3))).unwrap_or_else(fail);
    store.write_ranked(&ranked(1, at(9))).unwrap_or_else(fail);
    let progress = store.progress().unwrap_or_else(fail);
    assert_eq!(progress.counts, BTreeMap::from([(Partition(0), at(7)), (Partition(2), at(3))]));
    assert_eq!(progress.rankings, BTreeMap::from([(Partition(1), at(9))]));
    assert_eq!((progress.counts_until(3), progress.counts_until(1)), (None, Some(at(7))));
    assert_eq!((progress.rankings_until(1), progress.rankings_until(2)), (None, None));
    store.write_closed(&closed(1, at(0))).unwrap_or_else(fail);
    store.write_ranked(&ranked(0, at(4))).unwrap_or_else(fail);
    let progress = store.progress().unwrap_or_else(fail);
    assert_eq!((progress.counts_until(3), progress.rankings_until(2)), (Some(at(0)), Some(at(4))));
}

/// A watermark may jump by years.
pub fn progress_without_figures_is_kept(store: &Store) {
    for until in ["000101010000", "197001010000", "202101010000", "999912312359"] {
        store.write_closed(&closed(0, minute(until))).unwrap_or_else(fail);
        store.write_ranked(&ranked(0, minute(until))).unwrap_or_else(fail);
        let progress = store.progress().unwrap_or_else(fail);
        assert_eq!(progress.counts_until(1), Some(minute(until)));
        assert_eq!(progress.rankings_until(1), Some(minute(until)));
    }
}

/// While a writer writes, readers read: every minute before the progress that they saw has its figures, of every ad, in every ranking.
pub fn a_reader_never_sees_progress_without_the_figures(store: &Store) {
    const ADS: [&str; 3] = ["a", "b", "c"];
    let begin = minute("202101010000");
    let minutes = 50;
    let count = |m: i64, ad: usize| m.unsigned_abs() + ad as u64 + 1;
    let ended = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, ended) = (store.share(), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut seen = 0;
                loop {
                    let last_look = ended.load(Ordering::SeqCst);
                    let progress = store.progress().unwrap_or_else(fail);
                    let until = progress.counts_until(1).unwrap_or(begin);
                    let expected: Vec<u64> =
                        (0..ADS.len()).map(|ad| (0..until.minus(begin)).map(|m| count(m, ad)).sum()).collect();
                    let told = MinuteRange { from: begin, to: until };
                    assert_eq!(
                        store.counts(&View::STREAM, &ADS, ALL, told).unwrap_or_else(fail),
                        expected,
                        "until {until}"
                    );
                    let ranked: Vec<_> = (0..progress.rankings_until(1).unwrap_or(begin).minus(begin))
                        .map(|m| (Window(1), begin.plus(m)))
                        .collect();
                    let rankings = store.rankings(&View::STREAM, ALL, &ranked).unwrap_or_else(fail);
                    assert_eq!(rankings.iter().filter(|r| !r.is_here()).count(), 0, "of {} rankings", ranked.len());
                    seen += u32::from(until > begin);
                    if last_look {
                        assert_eq!(until, begin.plus(minutes));
                        return seen;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        })
        .collect();
    for m in 0..minutes {
        let at = begin.plus(m);
        let mut ads: Vec<(String, u64)> = (0_usize..).zip(ADS).map(|(i, ad)| (ad.to_owned(), count(m, i))).collect();
        // Most of them are new to the reader each time.
        ads.extend((0..100).map(|i| (format!("{m}-{i}"), 1)));
        let ads: Vec<(&str, u64)> = ads.iter().map(|(ad, count)| (ad.as_str(), *count)).collect();
        let write = ClosedWrite { counts: vec![(counts_of(at, &ads), None)], ..closed(0, at.next()) };
        store.write_closed(&write).unwrap_or_else(fail);
        let rankings = vec![(ranking(ALL, Window(1), at, &ads), None)];
        store.write_ranked(&RankedWrite { rankings, ..ranked(0, at.next()) }).unwrap_or_else(fail);
    }
    ended.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.join().is_ok_and(|seen| seen > 0), "a reader failed or saw nothing");
    }
}

/// An ad that stands twice in a span would be billed twice or once: nobody can tell.
pub fn a_write_that_is_refused_leaves_nothing_behind(store: &Store) {
    let at = minute("202101010000");
    let good = ClosedWrite { counts: vec![(counts_of(at, &[("a", 1)]), None)], ..closed(0, at.next()) };
    store.write_closed(&good).unwrap_or_else(fail);
    let mut twice =
        ClosedWrite { counts: vec![(counts_of(at.next(), &[("a", 3), ("new", 4)]), None)], ..closed(0, at.plus(2)) };
    // What comes before it in the write goes with it.
    twice.counts.push((counts_of(at.plus(-9), &[("a", 100), ("new", 100)]), None));
    twice.counts.push((counts_of(at.next(), &[("a", 5)]), None));
    assert!(matches!(store.write_closed(&twice), Err(StoreError::Broken(_))));
    let all = MinuteRange { from: at.plus(-9), to: at.plus(2) };
    assert_eq!(store.counts(&View::STREAM, &["a", "new"], ALL, all).unwrap_or_else(fail), [1, 0]);
    assert_eq!(store.progress().unwrap_or_else(fail).counts_until(1), Some(at.next()));
    // An ad that was new in it gets its counts all the same.
    let next = ClosedWrite {
        counts: vec![(counts_of(at.next(), &[("newer", 6), ("new", 4)]), None)],
        ..closed(0, at.plus(2))
    };
    store.write_closed(&next).unwrap_or_else(fail);
    assert_eq!(store.counts(&View::STREAM, &["a", "new", "newer"], ALL, all).unwrap_or_else(fail), [1, 4, 6]);
}

/// Partitions are fixed when the topics are made, and an ad's is known by its id: counts of another one would be counted twice, or take the place of the right ones.
pub fn an_ad_belongs_to_one_partition(store: &Store) {
    let at = minute("202101010000");
    store.write_definition(&Definition { partitions: 2, ..Definition::default() }).unwrap_or_else(fail);
    let of = |partition| -> Vec<String> {
        let is_there = |ad: &String| clickmill_model::partition::of_key(ad.as_bytes(), 2) == Partition(partition);
        (0..100).map(|i| format!("ad{i}")).filter(is_there).collect()
    };
    let (first, second) = (of(0), of(1));
    let ([a, b, ..], [c, ..]) = (first.as_slice(), second.as_slice()) else {
        unreachable!("of a hundred ads, some are in each of two partitions")
    };
    let write = |partition, ads: &[(&str, u64)]| {
        store.write_closed(&ClosedWrite { counts: vec![(counts_of(at, ads), None)], ..closed(partition, at.next()) })
    };
    write(0, &[(a, 1), (b, 2)]).unwrap_or_else(fail);
    assert!(matches!(write(1, &[(c, 5), (a, 1)]), Err(StoreError::Broken(why)) if why.contains(a)));
    write(1, &[(c, 3)]).unwrap_or_else(fail);
    let all = MinuteRange { from: at, to: at.next() };
    assert_eq!(store.counts(&View::STREAM, &[a, b, c], ALL, all).unwrap_or_else(fail), [1, 2, 3]);
    assert_eq!(store.progress().unwrap_or_else(fail).counts_until(2), Some(at.next()));
}

fn span(filter: FilterId, from: Minute, until: Option<Minute>) -> FilterSpan {
    FilterSpan { filter, from, until }
}

/// Over all partitions.
pub fn filters_are_published_from_the_latest_start_to_the_earliest_end(store: &Store) {
    let at = |m| minute("202101010000").plus(m);
    let filters = vec![span(ALL, Minute::MIN, None), span(USA, at(5), None), span(FilterId(9), at(1), Some(at(9)))];
    store.write_closed(&ClosedWrite { filters: filters.clone(), ..closed(0, at(10)) }).unwrap_or_else(fail);
    assert_eq!(store.progress().unwrap_or_else(fail).filters, filters);
    let other =
        vec![span(ALL, Minute::MIN, None), span(USA, at(7), Some(at(20))), span(FilterId(9), at(0), Some(at(8)))];
    store.write_closed(&ClosedWrite { filters: other, ..closed(1, at(10)) }).unwrap_or_else(fail);
    assert_eq!(
        store.progress().unwrap_or_else(fail).filters,
        [span(ALL, Minute::MIN, None), span(USA, at(7), Some(at(20))), span(FilterId(9), at(1), Some(at(8)))]
    );
}

/// Like its progress.
pub fn an_older_write_does_not_bring_back_its_filters(store: &Store) {
    let at = |m| minute("202101010000").plus(m);
    let old = ClosedWrite { filters: vec![span(ALL, Minute::MIN, None)], ..closed(0, at(1)) };
    let new = ClosedWrite { filters: vec![span(ALL, Minute::MIN, None), span(USA, at(1), None)], ..closed(0, at(2)) };
    for write in [&old, &new, &old] {
        store.write_closed(write).unwrap_or_else(fail);
    }
    assert_eq!(store.progress().unwrap_or_else(fail).filters, new.filters);
}

/// Each version once, oldest first.
pub fn a_definition_is_kept_as_it_was_first_told(store: &Store) {
    let version = |version, n| Definition { version, n, ..Definition::default() };
    for definition in [version(2, 20), version(1, 10), version(2, 99), version(10, 30), version(1, 10)] {
        store.write_definition(&definition).unwrap_or_else(fail);
    }
    assert_eq!(store.definitions().unwrap_or_else(fail), [version(1, 10), version(2, 20), version(10, 30)]);
}

/// Until one is made active, reads are of the stream's.
pub fn another_revision_changes_no_figure(store: &Store) {
    let told = new_year();
    let (from, until) = (minute("202012312230"), minute("202101010130"));
    let all = MinuteRange { from, to: until };
    let other_figures = |store: &Store| {
        let mut other = Told::new(2);
        other.add(from, "ad001", ALL, 1_000_000);
        other.add(from, "only there", ALL, 1_000_000);
        for partition in [Partition(0), Partition(1)] {
            let filters = vec![span(FilterId(77), from, None)];
            let write = other.write(partition, from, until.plus(600));
            store.write_closed(&ClosedWrite { revision: Revision(1), filters, ..write }).unwrap_or_else(fail);
        }
        let rankings = vec![(ranking(ALL, Window(1), from, &[("only there", 9)]), None)];
        let write = RankedWrite { revision: Revision(1), rankings, ..ranked(0, until.plus(600)) };
        store.write_ranked(&write).unwrap_or_else(fail);
    };
    other_figures(store);
    assert_eq!(store.progress().unwrap_or_else(fail), StoreProgress::default());
    assert_eq!(store.rankings(&View::STREAM, ALL, &[(Window(1), from)]).unwrap_or_else(fail), [StoredRanking::Nothing]);
    assert_eq!(store.counts(&View::STREAM, &["ad001", "only there"], ALL, all).unwrap_or_else(fail), [0, 0]);
    told.close(&**store, from, until);
    other_figures(store);
    told.check_counts(&**store, ALL, all);
    told.check_top(&**store, ALL, all, 10);
    assert_eq!(store.counts(&View::STREAM, &["only there"], ALL, all).unwrap_or_else(fail), [0]);
    assert_eq!(store.progress().unwrap_or_else(fail).counts_until(2), Some(until));
    assert_eq!(store.progress().unwrap_or_else(fail).filters, []);
}

/// Whatever is older goes, what is younger stays, and `counts_from` tells from when on nothing is missing.
pub fn old_figures_go_by_their_arrival(store: &Store) {
    let told = new_year();
    let (from, until) = (minute("202012312230"), minute("202101010130"));
    told.close(&**store, from, until);
    let mut write = ranked(0, until);
    for i in 0..180 {
        let at = from.plus(i);
        write.rankings.push((ranking(ALL, Window(1), at, &[("ad001", 1)]), Some(at.end())));
    }
    store.write_ranked(&write).unwrap_or_else(fail);
    let never = Timestamp::MIN;
    assert_eq!(store.expire(never, never).unwrap_or_else(fail), 0);
    let progress = store.progress().unwrap_or_else(fail);
    assert_eq!((progress.counts_from, progress.rankings_from), (None, None));

    // The minutes before 00:10 arrived before 00:10:00.000001.
    let cut = minute("202101010010");
    let counts_before = Timestamp::from_micros(cut.start().as_micros() + 1);
    let deleted = store.expire(counts_before, never).unwrap_or_else(fail);
    // 100 minutes, the hours of 22:00, 23:00 and 00:00 and the day: those hold a minute that went. Both partitions have all of them.
    let both: BTreeSet<Partition> =
        told.ads().iter().map(|ad| clickmill_model::partition::of_key(ad.as_bytes(), 2)).collect();
    let spans: u64 =
        both.iter().map(|partition| spans_before(&told.write(*partition, from, until), counts_before)).sum();
    assert_eq!(deleted, spans);
    let progress = store.progress().unwrap_or_else(fail);
    assert_eq!((progress.counts_from, progress.rankings_from), (Some(cut), None));
    let kept = MinuteRange { from: cut, to: until };
    for filter in [ALL, USA] {
        told.check_counts(&**store, filter, kept);
        told.check_top(&**store, filter, kept, 5);
    }
    let gone = MinuteRange { from, to: cut };
    assert_eq!(store.counts(&View::STREAM, &["ad001", "ad002"], ALL, gone).unwrap_or_else(fail), [0, 0]);
    assert_eq!(store.expire(counts_before, never).unwrap_or_else(fail), 0);

    assert_eq!(store.expire(never, counts_before).unwrap_or_else(fail), 100);
    let progress = store.progress().unwrap_or_else(fail);
    assert_eq!((progress.counts_from, progress.rankings_from), (Some(cut), Some(cut)));
    let found =
        store.rankings(&View::STREAM, ALL, &[(Window(1), cut.previous()), (Window(1), cut)]).unwrap_or_else(fail);
    assert_eq!(found.iter().map(StoredRanking::is_here).collect::<Vec<_>>(), [false, true]);
    assert_eq!(progress.counts_until(2), Some(until), "retention does not touch progress");
}

fn spans_before(write: &ClosedWrite, before: Timestamp) -> u64 {
    write.counts.iter().filter(|(_, arrival)| arrival.is_some_and(|arrival| arrival < before)).count() as u64
}

/// Retention counts from arrival: logs of 2021, read today, are kept as long as today's clicks.
pub fn old_events_that_arrived_lately_stay(store: &Store) {
    let mut told = new_year();
    told.arrival = |at| Timestamp::from_secs(1_900_000_000 + at.as_epoch().rem_euclid(60));
    let (from, until) = (minute("202012312230"), minute("202101010130"));
    told.close(&**store, from, until);
    let before = Timestamp::from_secs(1_900_000_000);
    assert_eq!(store.expire(before, before).unwrap_or_else(fail), 0);
    assert_eq!(store.progress().unwrap_or_else(fail).counts_from, None);
    told.check_counts(&**store, ALL, MinuteRange { from, to: until });
    let after = Timestamp::from_secs(1_900_000_060);
    assert!(store.expire(after, after).unwrap_or_else(fail) > 0);
    assert_eq!(store.progress().unwrap_or_else(fail).counts_from, Some(until));
    store.check_top(ALL, MinuteRange { from, to: until }, 5, &[]);
}

/// A zombie does that; it goes again with the next look.
pub fn what_is_deleted_and_written_again_is_there_again(store: &Store) {
    let told = new_year();
    let (from, until) = (minute("202012312230"), minute("202101010130"));
    told.close(&**store, from, until);
    let first = store.expire(until.end(), until.end()).unwrap_or_else(fail);
    let counts_from = store.progress().unwrap_or_else(fail).counts_from;
    told.close(&**store, from, until);
    told.check_counts(&**store, ALL, MinuteRange { from, to: until });
    assert_eq!(store.progress().unwrap_or_else(fail).counts_from, counts_from);
    assert_eq!(store.expire(until.end(), until.end()).unwrap_or_else(fail), first);
}
