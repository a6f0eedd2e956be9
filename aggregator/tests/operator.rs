//! The operator against the obvious computation, with a crash after any block.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use clickmill_aggregator::{AggregateError, Aggregator, AggregatorCheckpoint};
use clickmill_model::records::{Candidates, PartialBlock, ResultBody, ResultRecord};
use clickmill_model::{
    Announced, Columns, Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, Span,
    SpanKind, Timestamp, Watermark, Window,
};

/// 2021-01-01 23:00: the day ends within the tests.
const START: i64 = 26_824_320 + 23 * 60;

fn minute(n: i64) -> Minute {
    Minute::from_epoch(START + n)
}

fn usa(id: u16) -> Filter {
    Filter { id: FilterId(id), country: vec!["USA".into()], ..Filter::default() }
}

fn definition(windows: &[u32], n: u32) -> Definition {
    Definition {
        filters: vec![Filter::all(), usa(1)],
        windows: windows.iter().map(|w| Window(*w)).collect(),
        n,
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 2 }],
        partitions: 1,
        ..Definition::default()
    }
}

type Counts = BTreeMap<(Minute, FilterId, String), u64>;

/// A sequence of blocks, what is in them, and what was told.
struct Run {
    definitions: Vec<Definition>,
    aggregator: Aggregator,
    blocks: Vec<PartialBlock>,
    committed: Option<(Offset, AggregatorCheckpoint)>,
    /// `click-results`, as if each record were a transaction of its own.
    results: Vec<ResultRecord>,
    candidates: Vec<Candidates>,
    to: [u64; 2],
    truth: Counts,
}

impl Run {
    fn new(definition: Definition) -> Self {
        let definitions = vec![definition];
        Self {
            aggregator: Aggregator::new(Partition(0), &definitions),
            definitions,
            blocks: Vec::new(),
            committed: None,
            results: Vec::new(),
            candidates: Vec::new(),
            to: [0; 2],
            truth: Counts::new(),
        }
    }

    fn block(&mut self, raw: usize, watermark: Minute, counts: &[(Minute, &str, u64, u64)]) -> PartialBlock {
        let mut minutes: BTreeMap<Minute, Columns> = BTreeMap::new();
        for (minute, ad, all, usa) in counts {
            let filters = vec![FilterId(0), FilterId(1)];
            let columns = minutes.entry(*minute).or_insert_with(|| Columns::new(Span::minute(*minute), filters));
            columns.ads.push(ad.as_bytes());
            columns.counts[0].push(*all);
            columns.counts[1].push(*usa);
            for (filter, n) in [(0, *all), (1, *usa)] {
                if n > 0 {
                    *self.truth.entry((*minute, FilterId(filter), (*ad).to_owned())).or_default() += n;
                }
            }
        }
        let from = Offset(self.to[raw]);
        self.to[raw] += 10;
        let definitions = vec![Announced::new(self.definitions.last().unwrap().version, Minute::MIN)];
        PartialBlock {
            raw: RawPartition::new("ad-clicks", Partition(raw as u32)),
            from,
            to: Offset(self.to[raw]),
            watermark: Watermark::at(watermark.start()),
            oldest_arrival: Some(Timestamp::from_secs(1)),
            definitions,
            minutes: minutes.into_values().collect(),
        }
    }

    /// One transaction of the worker.
    fn step(&mut self, block: PartialBlock) {
        let offset = Offset(self.blocks.len() as u64);
        self.aggregator.apply(offset, &block).unwrap();
        self.blocks.push(block);
        while let Some(closing) = self.aggregator.close(Offset(self.results.len() as u64)) {
            self.aggregator.closing_covers(offset.next());
            self.results.extend(closing.results);
            self.candidates.extend(closing.candidates);
        }
        self.committed = Some((offset.next(), self.aggregator.checkpoint(offset.next())));
    }

    fn restart(&mut self) {
        let Some((next, checkpoint)) = &self.committed else { return };
        let checkpoint = AggregatorCheckpoint::decode(&checkpoint.encode()).unwrap();
        let mut aggregator = Aggregator::restore(Partition(0), &self.definitions, &checkpoint);
        if let Some(from) = checkpoint.results_from {
            for (i, record) in self.results.iter().enumerate().skip(from.0 as usize) {
                let record = ResultRecord::decode(&record.encode()).unwrap();
                aggregator.restore_result(Offset(i as u64), &record).unwrap();
            }
            aggregator.restored().unwrap();
        }
        for i in checkpoint.replay_from.0..next.0 {
            aggregator.replay(Offset(i), &self.blocks[i as usize]).unwrap();
        }
        self.aggregator = aggregator;
    }

    fn told(&self, kind: SpanKind) -> Counts {
        let mut told = Counts::new();
        for record in &self.results {
            let ResultBody::Counts { columns, .. } = &record.body else { continue };
            if columns.span.kind != kind {
                continue;
            }
            for (i, filter) in columns.filters.iter().enumerate() {
                for (ad, n) in columns.ads.iter().zip(&columns.counts[i]).filter(|(_, n)| **n > 0) {
                    let key = (columns.span.start, *filter, String::from_utf8(ad.to_vec()).unwrap());
                    assert_eq!(told.insert(key, *n), None, "told twice");
                }
            }
        }
        told
    }

    fn expected_spans(&self, kind: SpanKind, until: Minute) -> Counts {
        let mut sums = Counts::new();
        for ((minute, filter, ad), n) in &self.truth {
            let span = Span::holding(kind, *minute);
            if span.end() <= until {
                *sums.entry((span.start, *filter, ad.clone())).or_default() += n;
            }
        }
        sums
    }

    fn check(&self, until: Minute) {
        for kind in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
            assert_eq!(self.told(kind), self.expected_spans(kind, until), "{kind:?}");
        }
        let definition = self.definitions.last().unwrap();
        let mut expected = BTreeMap::new();
        let minutes: BTreeSet<Minute> = self.truth.keys().map(|(minute, ..)| *minute).collect();
        let (first, last) = (*minutes.first().unwrap(), until.previous());
        let windows: BTreeSet<Window> =
            definition.windows.iter().copied().chain([Window::MINUTE, Window::HOUR, Window::DAY]).collect();
        for window in windows {
            let configured = definition.windows.contains(&window) || window == Window::MINUTE;
            for end in (first.as_epoch()..=last.as_epoch()).map(Minute::from_epoch) {
                if !configured && !window.is_aligned_at(end) {
                    continue;
                }
                for filter in [FilterId(0), FilterId(1)] {
                    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
                    for ((minute, f, ad), n) in &self.truth {
                        if *f == filter && *minute >= window.first(end) && *minute <= end {
                            *sums.entry(ad.clone()).or_default() += n;
                        }
                    }
                    let mut ads: Vec<(String, u64)> = sums.into_iter().collect();
                    ads.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
                    let whole = ads.len() <= definition.depth();
                    ads.truncate(definition.depth());
                    if !ads.is_empty() {
                        expected.insert((end, filter, window), (ads, whole, true));
                    }
                }
            }
        }
        let mut told = BTreeMap::new();
        for c in &self.candidates {
            let before = told.insert((c.minute, c.filter, c.window), (c.ads.clone(), c.whole, c.complete));
            assert_eq!(before, None, "told twice: {c:?}");
        }
        assert_eq!(told, expected);
    }
}

/// Three hours over midnight, with disorder between the two raw partitions, and a gap.
fn three_hours(run: &mut Run, mut after: impl FnMut(&mut Run, usize)) -> Minute {
    let mut x = 7_u64;
    let mut random = |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % n
    };
    let mut i = 0;
    for m in 0..180 {
        if (70..100).contains(&m) {
            continue;
        }
        for raw in 0..2 {
            let ads: Vec<String> =
                (0..random(4)).map(|_| format!("ad{}", random(130))).collect::<BTreeSet<_>>().into_iter().collect();
            let counts: Vec<_> = ads
                .iter()
                .map(|ad| {
                    let all = 1 + random(3);
                    (minute(m), ad.as_str(), all, all / 2)
                })
                .collect();
            let block = run.block(raw, minute(m - raw as i64), &counts);
            run.step(block);
            after(run, i);
            i += 1;
        }
    }
    for raw in 0..2 {
        let block = run.block(raw, minute(1500), &[]);
        run.step(block);
        after(run, i);
        i += 1;
    }
    minute(1500)
}

#[test]
fn a_day_says_when_its_oldest_click_arrived_though_its_last_hours_had_none() {
    for restarts in [false, true] {
        let mut run = Run::new(definition(&[1], 3));
        let day = |n: i64| minute(60 + n);
        let pass = |run: &mut Run, until: Minute, counts: &[(Minute, &str, u64, u64)], arrival: i64| {
            for (raw, counts) in [(0, counts), (1, &[][..])] {
                let block = run.block(raw, until, counts);
                run.step(PartialBlock { oldest_arrival: Some(Timestamp::from_secs(arrival)), ..block });
            }
        };
        pass(&mut run, day(70), &[(day(3), "a", 1, 0)], 5);
        pass(&mut run, day(130), &[(day(80), "a", 1, 0)], 9);
        if restarts {
            run.restart();
        }
        pass(&mut run, day(1440), &[], 12);
        let told = run.results.iter().find_map(|result| match &result.body {
            ResultBody::Counts { columns, oldest_arrival, .. }
                if columns.span == Span { kind: SpanKind::Day, start: day(0) } =>
            {
                Some(*oldest_arrival)
            }
            _ => None,
        });
        assert_eq!(told, Some(Some(Timestamp::from_secs(5))), "restarts: {restarts}");
    }
}

#[test]
fn every_minute_hour_day_and_window_is_what_the_obvious_sum_says() {
    for (windows, n) in [(&[1, 5, 60][..], 100), (&[5, 15], 1), (&[1], 100), (&[1440], 1)] {
        let mut run = Run::new(definition(windows, n));
        let until = three_hours(&mut run, |_, _| ());
        run.check(until);
    }
}

#[test]
fn a_restart_after_any_block_changes_nothing() {
    let whole = {
        let mut run = Run::new(definition(&[1, 5, 60], 100));
        three_hours(&mut run, |_, _| ());
        (run.results, run.candidates)
    };
    for crash in (0..302).step_by(7) {
        let mut run = Run::new(definition(&[1, 5, 60], 100));
        let until = three_hours(&mut run, |run, i| {
            if i >= crash && (i - crash) % 50 < 2 {
                run.restart();
            }
        });
        run.check(until);
        assert_eq!(run.candidates, whole.1, "crash after block {crash}");
        assert_eq!(run.results.len(), whole.0.len());
    }
}

#[test]
fn results_that_are_gone_are_missed_by_a_restart() {
    let mut run = Run::new(definition(&[1, 5, 60], 100));
    let until = three_hours(&mut run, |_, _| ());
    let (_, checkpoint) = run.committed.clone().unwrap();
    // All of them, and the last closing alone.
    for there in [0, run.results.len() - 1] {
        let mut aggregator = Aggregator::restore(Partition(0), &run.definitions, &checkpoint);
        for (i, record) in run.results.iter().enumerate().take(there) {
            aggregator.restore_result(Offset(i as u64), record).unwrap();
        }
        let error = aggregator.restored().unwrap_err();
        assert!(matches!(error, AggregateError::LostResults { closed_until, .. } if closed_until == until), "{error}");
    }
}

#[test]
fn a_gap_or_an_overlap_of_offsets_is_refused() {
    let mut run = Run::new(definition(&[1], 100));
    let block = run.block(0, minute(0), &[]);
    run.step(block.clone());
    let expected = Offset(10);
    let refuse = |aggregator: &mut Aggregator, block: &PartialBlock| aggregator.apply(Offset(1), block).unwrap_err();
    assert!(matches!(
        refuse(&mut run.aggregator, &block),
        AggregateError::OffsetGap { expected: e, .. } if e == expected
    ));
    let ahead = PartialBlock { from: Offset(11), to: Offset(20), ..block };
    let error = refuse(&mut run.aggregator, &ahead);
    assert_eq!(error.to_string(), "expected offset 10 of ad-clicks/0, got a block of 11 to 20");
}

#[test]
fn a_partition_of_which_the_first_blocks_are_gone_is_refused() {
    // As where click-partials was deleted and made anew while mappers went on.
    let mut run = Run::new(definition(&[1], 100));
    let first = run.block(0, minute(1), &[(minute(1), "a", 1, 0)]);
    let second = run.block(0, minute(1), &[(minute(1), "a", 1, 0)]);
    assert_eq!(first.to, second.from);
    let error = run.aggregator.apply(Offset(0), &second).unwrap_err();
    assert_eq!(error.to_string(), "expected offset 0 of ad-clicks/0, got a block of 10 to 20");
}

#[test]
fn a_count_for_a_closed_minute_is_refused() {
    let mut run = Run::new(definition(&[1], 100));
    for raw in 0..2 {
        let block = run.block(raw, minute(10), &[(minute(9), "a", 1, 0)]);
        run.step(block);
    }
    let block = run.block(0, minute(10), &[(minute(9), "a", 1, 0)]);
    assert!(matches!(
        run.aggregator.apply(Offset(2), &block),
        Err(AggregateError::ClosedMinute { closed_until, .. }) if closed_until == minute(10)
    ));
}

#[test]
fn nothing_closes_before_every_raw_partition_has_spoken() {
    let mut run = Run::new(definition(&[1], 100));
    let block = run.block(0, minute(10), &[(minute(9), "a", 1, 0)]);
    run.step(block);
    assert_eq!(run.aggregator.closed_until(), Minute::MIN);
    let block = run.block(1, minute(5), &[]);
    run.step(block);
    assert_eq!(run.aggregator.closed_until(), minute(5));
}

#[test]
fn years_without_a_click_are_told_in_one_record() {
    let mut run = Run::new(definition(&[1, 5, 60], 100));
    for raw in 0..2 {
        let block = run.block(raw, minute(1), &[(minute(0), "a", 1, 0)]);
        run.step(block);
    }
    let before = run.results.len();
    for raw in 0..2 {
        let block = run.block(raw, minute(20 * 525_600), &[]);
        run.step(block);
    }
    // The hour, the day, and that all is closed.
    assert_eq!(run.results.len() - before, 3);
    assert_eq!(run.aggregator.closed_until(), minute(20 * 525_600));
}

#[test]
fn a_filter_is_published_where_every_partition_counted_it() {
    let first = Definition { filters: vec![Filter::all()], ..definition(&[1, 5], 100) };
    let mut run = Run::new(first.clone());
    let second = Definition { version: 2, filters: vec![Filter::all(), usa(1)], ..first };
    run.aggregator.learn(&second);
    run.definitions.push(second);
    for m in 0..20_i64 {
        for raw in 0..2 {
            let mut block = run.block(raw, minute(m), &[(minute(m), "a", 2, 1)]);
            // Partition 0 counts the new filter from minute 5 on, partition 1 from minute 8.
            let from = minute(if raw == 0 { 5 } else { 8 });
            block.definitions = vec![Announced::new(1, Minute::MIN), Announced::new(2, from)];
            if minute(m) < from {
                block.minutes[0].filters.pop();
                block.minutes[0].counts.pop();
            }
            run.step(block);
        }
    }
    let told = run.told(SpanKind::Minute);
    let minutes: Vec<i64> =
        told.keys().filter(|(_, f, _)| *f == FilterId(1)).map(|(m, ..)| m.minus(minute(0))).collect();
    assert_eq!(minutes, (8..19).collect::<Vec<_>>());
    let complete: Vec<i64> = run
        .candidates
        .iter()
        .filter(|c| c.filter == FilterId(1) && c.window == Window(5) && c.complete)
        .map(|c| c.minute.minus(minute(0)))
        .collect();
    assert_eq!(complete, (12..19).collect::<Vec<_>>(), "the first whose whole window counted it");
    assert!(run.candidates.iter().filter(|c| c.filter == FilterId(0)).all(|c| c.complete));
}

/// A run that follows `first` up to minute `from`, and `second` from there on, with these clicks of one ad; closed up to minute `until`.
fn redefined(first: Definition, second: Definition, from: i64, clicked: &[i64], until: i64, restart: bool) -> Run {
    let mut run = Run::new(first);
    let second = Definition { version: 2, ..second };
    run.aggregator.learn(&second);
    run.definitions.push(second);
    for m in 0..=until {
        for raw in 0..2 {
            let counts = [(minute(m), "a", 1, 0)];
            let counts = if clicked.contains(&m) { &counts[..] } else { &[] };
            let mut block = run.block(raw, minute(m), counts);
            block.definitions = vec![Announced::new(1, Minute::MIN), Announced::new(2, minute(from))];
            run.step(block);
            if restart {
                run.restart();
            }
        }
    }
    run
}

#[test]
fn a_window_that_comes_later_holds_just_what_it_covers() {
    for restart in [false, true] {
        // It comes while nothing is clicked.
        let clicked = [0, 1, 2, 12, 13, 59, 61];
        let run = redefined(definition(&[5], 100), definition(&[3, 30], 100), 10, &clicked, 80, restart);
        for window in [3, 30] {
            let found: BTreeMap<i64, u64> = run
                .candidates
                .iter()
                .filter(|c| c.filter == FilterId(0) && c.window == Window(window))
                .inspect(|c| assert!(c.complete, "{window} at {}", c.minute))
                .map(|c| (c.minute.minus(minute(0)), c.ads[0].1))
                .collect();
            let count =
                |m: i64| 2 * clicked.iter().filter(|c| (m - i64::from(window) + 1..=m).contains(*c)).count() as u64;
            let expected: BTreeMap<i64, u64> = (10..80).map(|m| (m, count(m))).filter(|(_, n)| *n > 0).collect();
            assert_eq!(found, expected, "{window}, restarted: {restart}");
        }
        // The hour that was a window of any minute is one of whole hours now, and begins with its own minutes.
        let run = redefined(definition(&[60], 100), definition(&[5], 100), 60, &[58, 59, 61], 130, restart);
        let hours: Vec<u64> =
            run.told(SpanKind::Hour).into_iter().filter(|((_, f, _), _)| f.0 == 0).map(|(_, n)| n).collect();
        assert_eq!(hours, [4, 2], "restarted: {restart}");
    }
}

#[test]
fn a_window_longer_than_what_was_kept_says_that_it_is_not_complete() {
    for restart in [false, true] {
        // Sixty minutes are kept: of the ninety before minute 100, those from minute 40 on.
        let run = redefined(definition(&[5], 100), definition(&[90], 100), 100, &[20, 70, 110, 130], 200, restart);
        let complete: BTreeMap<i64, bool> = run
            .candidates
            .iter()
            .filter(|c| c.filter == FilterId(0) && c.window == Window(90))
            .map(|c| (c.minute.minus(minute(0)), c.complete))
            .collect();
        assert_eq!(
            complete.keys().copied().collect::<Vec<_>>(),
            (100..200).collect::<Vec<_>>(),
            "restarted: {restart}"
        );
        assert!(complete.iter().all(|(m, complete)| *complete == (*m >= 129)), "restarted: {restart}: {complete:?}");
    }
}
