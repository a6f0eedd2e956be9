//! What a recalculation would change is named figure by figure: nothing where the store is right, just what was planted where it is not.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, lines};
use clickmill_model::records::FilterSpan;
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind, Window};
use clickmill_recalc::{Change, Changes, Comparison, Plan, RecalcError, Told, recalculate};
use clickmill_store::{AggregateStore, ClosedWrite, MemoryStore, RankedWrite, View};

use common::{World, definition, minute};

const FROM: &str = "202101010000";
const TO: &str = "202101010230";

/// Two and a half hours of clicks, and a store that has just their figures.
fn world() -> (World, MemoryStore) {
    let (bytes, _) = lines(&Options { clicks: 6000, ads: 30, minutes: 150, ..Options::new("") }).unwrap();
    let mut world = World::in_memory(&definition());
    world.send_all(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()), 30);
    world.write(1 << 20);
    let store = MemoryStore::new();
    tell_all(&world, &store, &published(&definition(), Minute::MIN));
    (world, store)
}

fn published(definition: &Definition, from: Minute) -> Vec<FilterSpan> {
    definition.filters.iter().map(|filter| FilterSpan { filter: filter.id, from, until: None }).collect()
}

fn write(store: &MemoryStore, partition: Partition, counts: Vec<Columns>, filters: &[FilterSpan]) {
    let counts = counts.into_iter().map(|columns| (columns, None)).collect();
    let (revision, filters, until) = (Revision::STREAM, filters.to_vec(), minute(TO));
    store.write_closed(&ClosedWrite { revision, partition, counts, until, filters }).unwrap();
}

fn tell_all(world: &World, store: &MemoryStore, filters: &[FilterSpan]) {
    let tell = |told| {
        match told {
            Told::Counts { partition, columns, .. } => write(store, partition, vec![columns], filters),
            Told::Rankings { rankings, .. } => {
                let rankings = rankings.into_iter().map(|ranking| (ranking, None)).collect();
                let (revision, partition, until) = (Revision::STREAM, Partition(0), minute(TO));
                store.write_ranked(&RankedWrite { revision, partition, rankings, until }).unwrap();
            }
            Told::Until(_) => {}
        }
        Ok::<_, RecalcError>(())
    };
    recalculate(&world.files, &world.plan(minute(FROM)..minute(TO)), &AtomicBool::new(false), |_| (), tell).unwrap();
}

fn compare(world: &World, store: &MemoryStore, plan: &Plan) -> (Vec<Change>, Changes) {
    let mut comparison = Comparison::new(store, &store.progress().unwrap(), &View::STREAM, plan);
    let mut found = Vec::new();
    let tell = |told| Ok::<_, RecalcError>(comparison.take_in(told, &mut |change| found.push(change.clone()))?);
    recalculate(&world.files, plan, &AtomicBool::new(false), |_| (), tell).unwrap();
    (found, comparison.finish())
}

/// What was stored in one partition for a span, taken from a recalculation.
fn columns_of(world: &World, span: Span) -> (Partition, Columns) {
    let mut all = Vec::new();
    let plan = world.plan(minute(FROM)..minute(TO));
    let tell = |told| {
        if let Told::Counts { partition, columns, .. } = told
            && columns.span == span
        {
            all.push((partition, columns));
        }
        Ok::<_, RecalcError>(())
    };
    recalculate(&world.files, &plan, &AtomicBool::new(false), |_| (), tell).unwrap();
    all.swap_remove(0)
}

#[test]
fn a_store_that_is_right_has_nothing_to_change_whatever_the_span() {
    let (world, store) = world();
    for (from, to) in
        [(FROM, TO), (FROM, "202101010200"), ("202101010017", "202101010143"), ("202101010059", "202101010101")]
    {
        for slice_rows in [1, 700, 1 << 20] {
            let plan = Plan { slice_rows, ..world.plan(minute(from)..minute(to)) };
            let (found, changes) = compare(&world, &store, &plan);
            assert_eq!(found, [], "{from} {to}");
            assert_eq!(changes.clicks.0, changes.clicks.1);
            assert_eq!((changes.counts, changes.totals, changes.rankings), (0, 0, 0));
            assert!(changes.gained.is_empty() && changes.without_raw.is_empty());
        }
    }
}

#[test]
fn a_count_a_total_a_surplus_and_a_ranking_are_named() {
    let (world, store) = world();
    let filters = published(&definition(), Minute::MIN);
    // One count of a minute is doubled, and an ad is there that nobody clicked.
    let span = Span::minute(minute("202101010131"));
    let (partition, mut columns) = columns_of(&world, span);
    let ad = String::from_utf8(columns.ads.get(0).to_vec()).unwrap();
    let count = columns.counts[0][0];
    columns.counts[0][0] = count * 2;
    columns.ads.push(b"nobody's");
    for (i, counts) in columns.counts.iter_mut().enumerate() {
        counts.push(u64::from(i == 0) * 9);
    }
    write(&store, partition, vec![columns], &filters);
    // The total of an hour is one too low.
    let hour = Span { kind: SpanKind::Hour, start: minute("202101010100") };
    let (partition, mut columns) = columns_of(&world, hour);
    let (of_hour, total) = (String::from_utf8(columns.ads.get(1).to_vec()).unwrap(), columns.counts[0][1]);
    columns.counts[0][1] -= 1;
    write(&store, partition, vec![columns], &filters);
    // A ranking says something else.
    let at = (Window::HOUR, minute("202101010159"));
    let right = store.rankings(&View::STREAM, FilterId::ALL, &[at]).unwrap().pop().unwrap().here().unwrap();
    let mut wrong = right.clone();
    wrong.ads[0].1 += 1;
    let (revision, partition, until) = (Revision::STREAM, Partition(0), minute(TO));
    store.write_ranked(&RankedWrite { revision, partition, rankings: vec![(wrong.clone(), None)], until }).unwrap();

    let (filter, surplus) = (FilterId::ALL, "nobody's".to_owned());
    let expected = [
        Change::Count { span, filter, ad, stored: count * 2, recalculated: count },
        Change::Count { span, filter, ad: surplus, stored: 9, recalculated: 0 },
        Change::Count { span: hour, filter, ad: of_hour, stored: total - 1, recalculated: total },
        Change::Ranking { minute: at.1, window: at.0, filter, stored: Some(wrong), recalculated: Some(right) },
    ];
    for slice_rows in [1, 1 << 20] {
        let plan = Plan { slice_rows, ..world.plan(minute(FROM)..minute(TO)) };
        let (found, changes) = compare(&world, &store, &plan);
        let text = |changes: &[Change]| changes.iter().map(|change| format!("{change:?}")).collect::<BTreeSet<_>>();
        assert_eq!(text(&found), text(&expected));
        assert_eq!((changes.counts, changes.totals, changes.rankings), (2, 1, 1));
    }
    // The hour is not all inside, nor is the ranking.
    let (found, _) = compare(&world, &store, &world.plan(minute("202101010101")..minute("202101010201")));
    assert_eq!(found.len(), 2);
}

#[test]
fn a_minute_whose_raw_lines_are_gone_is_told_apart() {
    let (world, store) = world();
    let empty = minute("202101010231");
    let mut columns = Columns::new(Span::minute(empty), vec![FilterId::ALL]);
    columns.ads.push(b"ad01");
    columns.counts[0].push(4);
    // Its home is that of the ad.
    let partition = clickmill_model::partition::of_key(b"ad01", 2);
    write(&store, partition, vec![columns], &published(&definition(), Minute::MIN));
    // (What comes behind the end of the store would change too.)
    let (_, changes) = compare(&world, &store, &world.plan(minute("202101010200")..minute("202101010300")));
    assert_eq!((changes.counts, changes.without_raw), (1, BTreeSet::from([empty])));
}

#[test]
fn a_filter_that_was_not_published_is_no_change() {
    let (world, store) = world();
    let since = minute("202101010100");
    let all = published(&definition(), Minute::MIN);
    let filters: Vec<FilterSpan> = all
        .into_iter()
        .map(|span| if span.filter.0 == 1 { FilterSpan { from: since, ..span } } else { span })
        .collect();
    for partition in [Partition(0), Partition(1)] {
        write(&store, partition, Vec::new(), &filters);
    }
    let (found, changes) = compare(&world, &store, &world.plan(minute(FROM)..minute(TO)));
    assert_eq!(found, []);
    let before = world.model.totals(FilterId(1), minute(FROM), since).values().sum();
    assert_eq!(changes.gained, [(FilterId(1), before)].into());
}
