//! Rankings.

use clickmill_model::records::Ranking;
use clickmill_model::{Columns, FilterId, Minute, Partition, Revision, Span, Window};

use super::{Store, minute};
use crate::StoredRanking::{Here, Nothing};
use crate::{ClosedWrite, MinuteRange, RankedWrite, View};

fn ranking(filter: u16, window: u32, minute: Minute, ads: &[(&str, u64)]) -> Ranking {
    let ads = ads.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect();
    Ranking { filter: FilterId(filter), window: Window(window), minute, whole: false, complete: false, ads }
}

fn write(store: &Store, rankings: &[Ranking], until: Minute) {
    let rankings = rankings.iter().map(|ranking| (ranking.clone(), Some(ranking.minute.end()))).collect();
    let write = RankedWrite { revision: Revision::STREAM, partition: Partition(0), rankings, until };
    assert_eq!(store.write_ranked(&write).ok(), Some(()));
}

/// Order, counts and flags; each under its filter, window and minute.
pub fn rankings_are_kept_as_they_were_told(store: &Store) {
    let at = minute("196912312359");
    let many: Vec<(String, u64)> = (0..5000_u64).map(|i| (format!("ad{i}"), 9_000_000_000 - i / 3)).collect();
    let told = [
        Ranking { whole: true, complete: true, ..ranking(0, 1, at, &[("b", 9), ("a/%", 3), ("реклама", 3)]) },
        Ranking { whole: false, complete: true, ads: many, ..ranking(0, 5, at, &[]) },
        Ranking { whole: true, complete: false, ..ranking(1, 1, at, &[("a", u64::MAX), ("b", 1)]) },
        Ranking { ads: vec![], ..ranking(0, 1, at.next(), &[]) },
        ranking(0, 1440, at.plus(1440), &[("b", 1), ("c", 1)]),
    ];
    write(store, &told, at.plus(1441));
    for expected in &told {
        let found = store.rankings(&View::STREAM, expected.filter, &[(expected.window, expected.minute)]);
        assert_eq!(found.ok(), Some(vec![Here(expected.clone())]));
    }
    let [first, five, _, second, _] = &told;
    let which =
        [(Window(1), at.next()), (Window(60), at), (Window(5), at), (Window(1), at.previous()), (Window(1), at)];
    assert_eq!(
        store.rankings(&View::STREAM, FilterId(0), &which).ok(),
        Some(vec![Here(second.clone()), Nothing, Here(five.clone()), Nothing, Here(first.clone())])
    );
    assert_eq!(store.rankings(&View::STREAM, FilterId(7), &which).ok(), Some(vec![Nothing; 5]));
}

/// The two go their own ways.
pub fn rankings_may_come_before_counts_and_after(store: &Store) {
    let at = minute("202106010000");
    let told = [ranking(0, 1, at, &[("b", 9), ("a", 3)]), ranking(0, 1, at.next(), &[("new", 9), ("b", 3)])];
    write(store, &told[..1], at.next());
    let progress = store.progress().ok().unwrap_or_default();
    assert_eq!((progress.counts_until(1), progress.rankings_until(1)), (None, Some(at.next())));
    let mut columns = Columns::new(Span::minute(at), vec![FilterId::ALL]);
    for (ad, count) in [("a", 3), ("c", 1), ("b", 9)] {
        columns.ads.push(ad.as_bytes());
        columns.counts.iter_mut().for_each(|column| column.push(count));
    }
    let counts = ClosedWrite {
        revision: Revision::STREAM,
        partition: Partition(0),
        counts: vec![(columns, None)],
        until: at.next(),
        filters: vec![],
    };
    assert_eq!(store.write_closed(&counts).ok(), Some(()));
    write(store, &told, at.plus(2));
    let found = store.rankings(&View::STREAM, FilterId(0), &[(Window(1), at), (Window(1), at.next())]);
    assert_eq!(found.ok(), Some(told.map(Here).to_vec()));
    let all = MinuteRange { from: at, to: at.next() };
    assert_eq!(store.counts(&View::STREAM, &["a", "b", "c", "new"], FilterId(0), all).ok(), Some(vec![3, 9, 1, 0]));
}

/// Its ads need not have been counted here, and lead to no counts.
pub fn a_ranking_names_more_ads_than_counts_do(store: &Store) {
    let at = minute("202106010000");
    let ads: Vec<(String, u64)> = (0..9000_u64).map(|i| (format!("only ranked {i}"), 9000 - i)).collect();
    let told = Ranking { ads, ..ranking(0, 60, at, &[]) };
    write(store, std::slice::from_ref(&told), at.next());
    assert_eq!(store.rankings(&View::STREAM, FilterId(0), &[(Window(60), at)]).ok(), Some(vec![Here(told)]));
    let all = MinuteRange { from: at, to: at.next() };
    assert_eq!(store.counts(&View::STREAM, &["only ranked 1"], FilterId(0), all).ok(), Some(vec![0]));
    store.check_top(FilterId(0), all, 3, &[]);
}
