//! The operator of one raw partition: what is counted, what is set aside, and how time passes.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::time::Duration;

use clickmill_mapper::{Combiner, Mapped, Others, PartitionMapper};
use clickmill_model::records::{MapperCheckpoint, Origin, SourceHeader, SourceMark};
use clickmill_model::{
    Announced, Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, RejectReason,
    TimeSettings, Timestamp, Watermark,
};
use clickmill_queue::{Fetched, Record};

/// 2021-01-01 00:00:00.
const START: i64 = 1_609_459_200;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(START + seconds)
}

fn line(ad: &str, seconds: i64, user: &str) -> String {
    let time = at(seconds).to_string();
    format!("[AdClickEvent] {ad}, {}, {user}, 1.2.3.4, USA", time.trim_end_matches('Z').replace('T', " "))
}

fn usa() -> Filter {
    Filter { id: FilterId(1), name: "USA".into(), country: vec!["USA".into()], ..Filter::default() }
}

fn raw() -> RawPartition {
    RawPartition::new("ad-clicks", Partition(0))
}

/// Drives one partition: offsets and arrivals count up by themselves.
struct Bench {
    mapper: PartitionMapper,
    combiner: Combiner,
    definitions: Vec<Definition>,
    records: Vec<Fetched>,
    counts: BTreeMap<(Minute, String, u16), u64>,
    committed: Option<(Offset, MapperCheckpoint)>,
}

impl Bench {
    fn new() -> Self {
        let definition = Definition { filters: vec![Filter::all(), usa()], ..Definition::default() };
        Self {
            mapper: PartitionMapper::new(raw(), &definition, Offset(0)),
            combiner: Combiner::new(definition.partitions),
            definitions: vec![definition],
            records: Vec::new(),
            counts: BTreeMap::new(),
            committed: None,
        }
    }

    fn record(&mut self, arrival: i64, source: Option<(&str, SourceMark)>, lines: &[String]) -> Mapped {
        let runs =
            if lines.is_empty() { vec![] } else { vec![("a.log".to_owned(), (0..lines.len() as u64).collect())] };
        let headers = source.map(|(source, mark)| {
            let header = SourceHeader { source: source.into(), mark, origin: Origin { runs } };
            (SourceHeader::KEY.to_owned(), header.encode())
        });
        let record = Record { key: None, headers: headers.into_iter().collect(), value: lines.join("\n").into_bytes() };
        let fetched = Fetched { offset: Offset(self.records.len() as u64), arrival: at(arrival), record };
        self.records.push(fetched.clone());
        self.mapper.apply(&[fetched], &mut self.combiner).unwrap();
        self.take()
    }

    fn take(&mut self) -> Mapped {
        let mapped = self.mapper.take(&mut self.combiner);
        for (k, block) in mapped.blocks.iter().enumerate() {
            for columns in &block.minutes {
                for (i, filter) in columns.filters.iter().enumerate() {
                    for (ad, count) in columns.ads.iter().zip(&columns.counts[i]).filter(|(_, n)| **n > 0) {
                        assert_eq!(clickmill_model::partition::of_key(ad, 4), Partition(k as u32));
                        let ad = String::from_utf8(ad.to_vec()).unwrap();
                        *self.counts.entry((columns.span.start, ad, filter.0)).or_default() += count;
                    }
                }
            }
        }
        assert!(mapped.checkpoint.books.balance());
        self.committed = Some((mapped.offset, mapped.checkpoint.clone()));
        mapped
    }

    /// A crash: everything that was not committed is gone.
    fn restart(&mut self) {
        let (offset, checkpoint) = self.committed.clone().unwrap();
        let checkpoint = MapperCheckpoint::decode(&checkpoint.encode()).unwrap();
        self.mapper = PartitionMapper::restore(raw(), &self.definitions, offset, &checkpoint).unwrap();
        for record in &self.records[checkpoint.replay_from.0 as usize..offset.0 as usize] {
            self.mapper.replay(record).unwrap();
        }
    }

    fn count(&self, ad: &str, minute: i64, filter: u16) -> u64 {
        self.counts.get(&(at(minute * 60).minute(), ad.into(), filter)).copied().unwrap_or(0)
    }

    fn watermark(&self) -> Watermark {
        self.mapper.watermark()
    }
}

fn mark(seconds: i64) -> SourceMark {
    SourceMark::At(at(seconds))
}

#[test]
fn a_click_counts_once_under_each_filter_that_it_matches() {
    let mut bench = Bench::new();
    let elsewhere = line("b", 3, "u1").replace("USA", "France");
    bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u1"), line("a", 2, "u1"), elsewhere, line("a", 61, "u1")]);
    assert_eq!(bench.count("a", 0, 0), 2);
    assert_eq!(bench.count("a", 0, 1), 2);
    assert_eq!((bench.count("b", 0, 0), bench.count("b", 0, 1)), (1, 0));
    assert_eq!(bench.count("a", 1, 0), 1);
}

#[test]
fn a_click_told_again_counts_once_whenever_and_however_it_is_told() {
    let mut bench = Bench::new();
    let json = format!(
        r#"{{"ad_id":"a","click_timestamp":"{}","user_id":"u","ip":"2001:DB8:0:0::1","country":"USA"}}"#,
        at(1)
    );
    let text = line("a", 1, "u").replace("1.2.3.4", "2001:db8::1");
    bench.record(10, Some(("w", mark(-30))), &[text.clone(), text.clone()]);
    bench.record(11, Some(("w", mark(-30))), std::slice::from_ref(&json));
    bench.record(12, Some(("w", mark(-30))), &[text.replace(", ", " ,  ")]);
    bench.restart();
    let mapped = bench.record(13, Some(("w", mark(-30))), &[json, text.clone()]);
    assert_eq!(bench.count("a", 0, 0), 1);
    assert_eq!((mapped.checkpoint.books.duplicates, mapped.checkpoint.books.lines), (5, 6));
    let mapped = bench.record(100, Some(("w", mark(60))), &[]);
    assert_eq!(mapped.checkpoint.books.lines, 6, "a heartbeat has no line");
    let mapped = bench.record(101, Some(("w", mark(60))), &[text]);
    assert_eq!(mapped.checkpoint.books.late, 1, "told again after its minute closed it is late");
    assert_eq!(mapped.late.unwrap().lines.len(), 1);
}

#[test]
fn a_click_of_a_closed_minute_is_late_and_names_its_place() {
    let mut bench = Bench::new();
    bench.record(200, Some(("w", mark(120))), &[line("a", 130, "u")]);
    let mapped = bench.record(201, Some(("w", mark(120))), &[line("a", 121, "u"), line("a", 119, "u")]);
    let late = mapped.late.unwrap();
    assert_eq!(late.lines.len(), 1);
    assert_eq!((late.lines[0].offset, late.lines[0].line_number), (Offset(1), 1));
    assert_eq!(late.lines[0].origin, Some(("w".into(), "a.log".into(), 1)));
    assert_eq!(bench.count("a", 1, 0), 0);
    assert_eq!(bench.count("a", 2, 0), 2);
}

#[test]
fn a_line_that_is_no_click_goes_aside_with_its_reason_and_harms_nothing() {
    let mut bench = Bench::new();
    let future = line("a", 400_000, "u");
    let mapped =
        bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u"), "garbage".into(), String::new(), future]);
    let reasons: Vec<_> = mapped.rejected.unwrap().lines.iter().filter_map(|l| l.reason).collect();
    assert_eq!(reasons, [RejectReason::UnknownPrefix, RejectReason::Empty, RejectReason::WrongClock]);
    assert_eq!(bench.count("a", 0, 0), 1);
    let distant = line("a", 0, "u").replace("2021", "1969");
    let mapped = bench.record(11, Some(("w", mark(-30))), &[distant]);
    assert_eq!((mapped.checkpoint.books.counted, mapped.checkpoint.books.late), (1, 1), "1969 is over");
    assert_eq!(bench.watermark(), Watermark::at(at(-30)));
}

#[test]
fn the_slowest_live_source_says_how_far_time_has_come() {
    let mut bench = Bench::new();
    bench.record(300, Some(("w1", mark(100))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(100)));
    bench.record(301, Some(("w2", SourceMark::Holding)), &[]);
    bench.record(302, Some(("w1", mark(200))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(100)), "a source that holds is waited for");
    bench.record(303, Some(("w2", mark(150))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(150)));
    bench.record(304, Some(("w2", mark(120))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(150)), "it never goes back");
    bench.record(305, Some(("w1", mark(500))), &[]);
    bench.record(306, Some(("w2", mark(500))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(306 - 30)), "a clock that is ahead is capped by the arrival");
}

#[test]
fn a_source_that_is_silent_too_long_is_no_longer_waited_for() {
    let mut bench = Bench::new();
    bench.record(0, Some(("dead", mark(-100))), &[]);
    for second in 0..119 {
        bench.record(second, Some(("w", mark(second - 30))), &[]);
    }
    assert_eq!(bench.watermark(), Watermark::at(at(-100)));
    bench.record(120, Some(("w", mark(90))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(90)));
    bench.record(121, Some(("dead", mark(-100))), &[line("a", 80, "u")]);
    assert_eq!(bench.watermark(), Watermark::at(at(90)), "its next record brings it back");
    bench.record(122, Some(("w", mark(92))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(90)));
}

#[test]
fn an_outage_of_all_counts_against_nobody() {
    let mut bench = Bench::new();
    bench.record(0, Some(("w1", mark(-30))), &[]);
    bench.record(0, Some(("w2", mark(-30))), &[]);
    bench.record(600, Some(("w1", mark(570))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(-30)));
    let mapped = bench.record(600, Some(("w2", mark(-30))), &[line("a", 5, "u")]);
    assert!(mapped.late.is_none());
}

#[test]
fn time_at_the_end_of_a_partition_counts_as_silence_and_not_twice() {
    let mut bench = Bench::new();
    bench.record(0, Some(("dead", mark(-100))), &[]);
    bench.record(0, Some(("w", mark(-30))), &[]);
    for second in 1..90 {
        bench.mapper.tick(at(second), Others::default());
    }
    bench.record(90, Some(("w", mark(60))), &[]);
    for second in 91..119 {
        bench.mapper.tick(at(second), Others::default());
    }
    bench.record(119, Some(("w", mark(89))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(-100)), "less than two minutes of silence");
    for second in 120..130 {
        bench.mapper.tick(at(second), Others::default());
    }
    assert_eq!(bench.watermark(), Watermark::at(at(89)));
}

#[test]
fn a_partition_without_a_live_source_stands_unless_others_go_on() {
    let mut bench = Bench::new();
    bench.record(0, Some(("w", mark(-30))), &[]);
    let watcher = Others { lowest_live: None, last_heard: Some((at(0), true)) };
    for second in 0..1000 {
        bench.mapper.tick(at(second), watcher);
    }
    assert_eq!(bench.watermark(), Watermark::at(at(-30)));
    bench.mapper.tick(at(1001), Others { lowest_live: Some(Watermark::at(at(900))), ..watcher });
    assert_eq!(bench.watermark(), Watermark::at(at(900)));
}

#[test]
fn foreign_traffic_that_stops_closes_its_last_minute() {
    let mut bench = Bench::new();
    bench.record(10, None, &[line("a", 1, "u")]);
    assert_eq!(bench.watermark(), Watermark::at(at(1 - 30)));
    for second in 10..400 {
        bench.mapper.tick(at(second), Others::default());
    }
    assert_eq!(bench.watermark(), Watermark::at(at(399 - 120)));
}

#[test]
fn a_drain_reaches_the_end_of_its_last_minute() {
    let mut bench = Bench::new();
    let last = line("a", 290, "u");
    bench.record(0, Some(("w", mark(-30))), &[last]);
    bench.record(1, Some(("w", SourceMark::Drained(at(300)))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(300)));
    bench.record(2, Some(("w", SourceMark::Drained(at(4_000_000)))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(360)), "but not beyond what a clock may be wrong by");
}

#[test]
fn the_sources_that_were_named_are_waited_for_at_the_start() {
    let mut bench = Bench::new();
    let definition = Definition { sources: ["w1".into(), "w2".into()].into(), ..bench.definitions[0].clone() };
    bench.mapper = PartitionMapper::new(raw(), &definition, Offset(0));
    bench.record(100, Some(("w1", mark(0))), &[]);
    assert_eq!(bench.watermark(), Watermark::NONE);
    bench.record(101, Some(("w2", mark(10))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(0)));
}

#[test]
fn a_source_that_was_heard_is_not_awaited_again_after_a_restart() {
    let mut bench = Bench::new();
    let definition = Definition { sources: ["w1".into(), "w2".into()].into(), ..bench.definitions[0].clone() };
    bench.definitions = vec![definition.clone()];
    bench.mapper = PartitionMapper::new(raw(), &definition, Offset(0));
    bench.record(0, Some(("w1", mark(-30))), &[]);
    for second in 1..300 {
        bench.record(second, Some(("w3", mark(second - 30))), &[]);
    }
    bench.restart();
    bench.record(300, Some(("w2", mark(270))), &[]);
    bench.record(301, Some(("w3", mark(271))), &[]);
    assert_eq!(bench.watermark(), Watermark::at(at(270)), "w1 was heard, and has been silent for long");
}

#[test]
fn a_definition_holds_from_the_first_untouched_minute() {
    let mut bench = Bench::new();
    bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u"), line("a", 61, "u")]);
    let second = Definition { version: 2, filters: vec![Filter::all()], ..bench.definitions[0].clone() };
    bench.definitions.push(second.clone());
    bench.mapper.define(&second, Offset(0));
    assert!(bench.mapper.has_news());
    let mapped =
        bench.record(11, Some(("w", mark(-30))), &[line("a", 2, "u"), line("a", 62, "u"), line("a", 121, "u")]);
    let from = at(120).minute();
    let second = Announced { version: 2, from, open_from: at(-30).minute() };
    assert_eq!(mapped.blocks[0].definitions, [Announced::new(1, Minute::MIN), second]);
    assert_eq!((bench.count("a", 0, 1), bench.count("a", 1, 1), bench.count("a", 2, 1)), (2, 2, 0));
    assert_eq!(bench.count("a", 2, 0), 1);
    bench.restart();
    bench.record(12, Some(("w", mark(-30))), &[line("a", 63, "u"), line("a", 122, "u")]);
    assert_eq!((bench.count("a", 1, 1), bench.count("a", 2, 0), bench.count("a", 2, 1)), (3, 2, 0));
}

#[test]
fn an_input_that_came_later_counts_from_its_first_minute_on() {
    let mut bench = Bench::new();
    bench.mapper = PartitionMapper::joining(raw(), &bench.definitions[0], at(120).minute(), Offset(0));
    let mapped =
        bench.record(300, Some(("w", mark(-30))), &[line("a", 119, "u"), line("a", 120, "u"), line("a", 250, "u")]);
    assert_eq!(mapped.checkpoint.books.late, 1, "an hour of backlog is late as far as its minutes are closed");
    assert_eq!((bench.count("a", 1, 0), bench.count("a", 2, 0), bench.count("a", 4, 0)), (0, 1, 1));
    assert_eq!(mapped.blocks[0].watermark, Watermark::at(at(120)));
    assert_eq!(mapped.blocks[0].definitions, [Announced::new(1, at(120).minute())]);
    bench.restart();
    let mapped = bench.record(301, Some(("w", mark(-30))), &[line("a", 119, "u"), line("a", 120, "u")]);
    assert_eq!((mapped.checkpoint.books.late, mapped.checkpoint.books.duplicates), (2, 1));
}

fn without_it(version: u32, bench: &Bench) -> Definition {
    let inputs = vec![InputTopic { topic: "others".into(), partitions: 4 }];
    Definition { version, inputs, ..bench.definitions[0].clone() }
}

#[test]
fn a_retired_partition_is_read_to_its_end_and_no_further() {
    for crash in [false, true] {
        let mut bench = Bench::new();
        bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u")]);
        let second = without_it(2, &bench);
        bench.definitions.push(second.clone());
        bench.mapper.define(&second, Offset(3));
        let mapped = bench.record(70, Some(("w", mark(-30))), &[line("a", 61, "u")]);
        assert_eq!(mapped.blocks[0].definitions, [Announced::new(1, Minute::MIN)], "its end is not reached");
        if crash {
            bench.restart();
            bench.mapper.define(&second, Offset(3));
        }
        let mapped = bench.record(71, Some(("w", mark(-30))), &[line("a", 62, "u")]);
        let left = Announced { version: 2, from: at(120).minute(), open_from: at(-30).minute() };
        assert_eq!(mapped.blocks[0].definitions, [Announced::new(1, Minute::MIN), left]);
        assert!(!mapped.checkpoint.has_live_source);
        assert_eq!(mapped.checkpoint.replay_from, Offset(3));
        assert_eq!((bench.count("a", 0, 0), bench.count("a", 1, 0)), (1, 2));
        if crash {
            bench.restart();
        }
        assert!(bench.mapper.has_left());
        let more = Fetched { offset: Offset(3), arrival: at(72), record: Record::of(line("a", 63, "u").into_bytes()) };
        bench.mapper.apply(&[more], &mut bench.combiner).unwrap();
        bench.mapper.tick(at(10_000), Others { lowest_live: Some(Watermark::at(at(9_000))), last_heard: None });
        assert!(!bench.mapper.has_news(), "nothing more is read or told");
    }
}

#[test]
fn a_partition_whose_last_offsets_hold_no_record_is_at_its_end_too() {
    let mut bench = Bench::new();
    bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u")]);
    let second = without_it(2, &bench);
    bench.mapper.define(&second, Offset(7));
    assert!(!bench.mapper.has_news());
    bench.mapper.tick(at(11), Others::default());
    assert!(bench.mapper.has_news());
    bench.take();
    assert!(bench.mapper.has_left());
}

#[test]
fn a_line_read_again_is_judged_by_the_clock_that_held_when_it_came() {
    // Before and after: the bound on clocks, in seconds. The click is 240 s ahead when it comes first.
    for (before, after, counted_at_first) in [(300, 60, true), (60, 300, false)] {
        let mut bench = Bench::new();
        let with = |version, seconds, first: &Definition| {
            let max_clock_skew = Duration::from_secs(seconds);
            Definition { version, time: TimeSettings { max_clock_skew, ..first.time }, ..first.clone() }
        };
        let (first, second) = (with(1, before, &bench.definitions[0]), with(2, after, &bench.definitions[0]));
        bench.mapper = PartitionMapper::new(raw(), &first, Offset(0));
        bench.definitions = vec![first, second.clone()];
        bench.record(0, Some(("w", mark(-30))), &[line("a", 240, "u")]);
        bench.mapper.define(&second, Offset(1));
        bench.take();
        bench.restart();
        let mapped = bench.record(241, Some(("w", mark(200))), &[line("a", 240, "u"), line("b", 241 + 299, "u")]);
        let books = &mapped.checkpoint.books;
        assert_eq!(bench.count("a", 4, 0), 1, "once, {before} s and then {after} s");
        assert_eq!(books.duplicates, u64::from(counted_at_first), "{before} s and then {after} s");
        assert_eq!(books.rejected[RejectReason::WrongClock as usize], 1, "the bound of now holds for what is new");
    }
}

#[test]
fn a_restart_at_any_record_changes_nothing() {
    let run = |crash_at: Option<usize>| {
        let mut bench = Bench::new();
        for i in 0..60_i64 {
            let lines: Vec<String> = (0..5)
                .map(|j| line(&format!("ad{}", (i + j) % 7), i * 10 - j * 3, &format!("u{}", (i * j) % 3)))
                .collect();
            let source = if i % 2 == 0 { "w1" } else { "w2" };
            bench.record(i * 10 + 5, Some((source, mark(i * 10 - 30))), &lines);
            if crash_at == Some(i as usize) {
                bench.restart();
            }
        }
        (bench.counts, bench.committed)
    };
    let expected = run(None);
    for crash_at in 0..60 {
        assert_eq!(run(Some(crash_at)), expected, "crash after record {crash_at}");
    }
}

#[test]
fn a_year_between_two_clicks_is_one_step() {
    let mut bench = Bench::new();
    let year = 365 * 24 * 3600;
    bench.record(10, Some(("w", mark(-30))), &[line("a", 1, "u")]);
    bench.record(year, Some(("w", mark(year - 30))), &[line("a", year - 10, "u")]);
    assert_eq!(bench.watermark(), Watermark::at(at(year - 30)));
    let time = Duration::from_secs(30);
    assert_eq!(bench.definitions[0].time.max_disorder, time);
    assert_eq!(bench.count("a", year / 60 - 1, 0), 1);
}
