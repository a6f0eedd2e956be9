//! A definition that changes: schedules 32 and 33.

use clickmill_model::{Definition, Filter, FilterId, Minute, Window};
use clickmill_store::{AggregateStore, MinuteRange, View};

use crate::words::{definition, line, mark, minute, usa};
use crate::world::{KINDS, Kind, World};

#[test]
fn schedule_32_a_new_filter_is_published_where_everybody_counted_it() {
    let mut world = World::new(definition(2));
    let with = Definition { filters: vec![Filter::all(), usa()], ..definition(2) };
    for i in 0..600_i64 {
        let second = i * 10;
        world.set(second);
        // W1 is three minutes ahead of W2, and the two feed different partitions; a second mapper lags.
        world.send(0, Some(("w1", mark(second - 30))), &[line("a", second)]);
        world.send(1, Some(("w2", mark(second - 210))), &[line("a", second - 180)]);
        if i == 100 {
            world.define(&with);
        }
        if i == 130 {
            world.kill((Kind::Mapper, 0));
        }
        world.rest_now();
        if i % 17 == 0 {
            world.step((Kind::Mapper, 1));
        }
    }
    world.settle(2);
    let progress = world.store.progress().unwrap();
    let span = progress.filters.iter().find(|f| f.filter == FilterId(1)).unwrap();
    let from = span.from;
    assert!(from > minute(1000 / 60) && from < minute(1000 / 60 + 8), "{from}");
    let until = world.complete_until().unwrap();
    let mut m = from;
    while m < until {
        let range = MinuteRange { from: m, to: m.next() };
        let all = world.store.counts(&View::STREAM, &["a"], FilterId::ALL, range).unwrap();
        assert_eq!(
            world.store.counts(&View::STREAM, &["a"], FilterId(1), range).unwrap(),
            all,
            "{m}: every click is of the USA"
        );
        let hour =
            world.store.rankings(&View::STREAM, FilterId(1), &[(Window::HOUR, m)]).unwrap().remove(0).here().unwrap();
        assert_eq!(hour.complete, m.minus(from) >= 59, "{m}");
        m = m.next();
    }
    let before = MinuteRange { from: minute(0), to: from };
    assert_eq!(
        world.store.counts(&View::STREAM, &["a"], FilterId(1), before).unwrap(),
        [0],
        "nothing half counted is published"
    );
    world.assert_nothing_late();
}

#[test]
fn schedule_33_a_filter_goes_a_window_comes_and_an_id_means_one_predicate() {
    let first = Definition { filters: vec![Filter::all(), usa()], windows: vec![Window(5)], n: 1, ..definition(1) };
    let mut world = World::new(first.clone());
    let other = Filter { country: vec!["France".into()], ..usa() };
    let changed = Definition { filters: vec![Filter::all(), other], ..first.clone() };
    assert!(changed.following(&world.definitions).is_err());
    let second = Definition { filters: vec![Filter::all()], windows: vec![Window(5), Window(10)], n: 150, ..first };
    for i in 0..180_i64 {
        let now = i * 10;
        world.set(now);
        let lines: Vec<String> = (0..3).map(|k| line(&format!("ad{:03}", (i * 3 + k) % 400), now)).collect();
        world.send(0, Some(("w", mark(now - 30))), &lines);
        if i == 60 {
            world.define(&second);
        }
        world.rest_now();
    }
    world.rest();
    let model = world.model();
    let span = world.store.progress().unwrap().filters.into_iter().find(|f| f.filter == FilterId(1)).unwrap();
    let until = span.until.expect("the filter ended");
    assert!(until >= minute(10) && until <= minute(12), "{until}");
    for m in 0..28 {
        let m = minute(m);
        let expected = model.ranking(FilterId::ALL, Window(10), m);
        let stored = world.store.rankings(&View::STREAM, FilterId::ALL, &[(Window(10), m)]).unwrap().remove(0).here();
        assert_eq!(stored.is_some(), m >= until, "the new window begins with the new definition: {m}");
        if let Some(stored) = stored {
            assert_eq!(stored.ads, expected[..expected.len().min(300)], "{m}");
            assert!(stored.complete, "the minutes before were kept long enough");
        }
    }
}

#[test]
fn schedule_33_a_mapper_that_looks_around_late_follows_from_its_first_untouched_minute() {
    let first = Definition { windows: vec![Window(5)], n: 3, ..definition(2) };
    let mut world = World::new(first.clone());
    let second = Definition { filters: vec![Filter::all(), usa()], windows: vec![Window(7)], n: 200, ..first };
    for i in 0..180_i64 {
        let now = i * 10;
        world.set(now);
        for partition in 0..2 {
            world.send(partition, Some(("w", mark(now - 30))), &[line(&format!("ad{}", i % 7), now)]);
        }
        if i == 60 {
            world.define(&second);
        }
        for kind in KINDS {
            world.step((kind, 0));
        }
        // The second mapper has the other partition; for ten minutes it neither reads nor looks around.
        if !(60..120).contains(&i) {
            world.step((Kind::Mapper, 1));
        }
    }
    world.set(3700);
    world.heartbeat("w", mark(3600));
    world.settle(2);
    world.compare(&world.model(), "with a mapper that looked around late");
    let from = world.store.progress().unwrap().filters.iter().find(|f| f.filter == FilterId(1)).unwrap().from;
    assert!((minute(10)..=minute(11)).contains(&from), "{from}");
    let count = |filter, m: Minute| {
        let ads: Vec<String> = (0..7).map(|ad| format!("ad{ad}")).collect();
        let ads: Vec<&str> = ads.iter().map(String::as_str).collect();
        world
            .store
            .counts(&View::STREAM, &ads, filter, MinuteRange { from: m, to: m.next() })
            .unwrap()
            .iter()
            .sum::<u64>()
    };
    assert_eq!((count(FilterId(1), from.previous()), count(FilterId::ALL, from.previous())), (0, 12));
    assert_eq!((count(FilterId(1), from), count(FilterId::ALL, from)), (12, 12));
}
