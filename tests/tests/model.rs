//! The slow model itself, against cases worked out by hand from the design, and against the generator's truth.
#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeMap;
use std::time::Duration;

use clickmill_generator::{Options, lines};
use clickmill_model::records::{Origin, SourceHeader, SourceMark};
use clickmill_model::{
    Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, SourceName, Timestamp, Window,
};
use clickmill_tests::model::{Model, SlowBooks, line};

fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

fn definition(partitions: u32) -> Definition {
    Definition { inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions }], ..Definition::default() }
}

/// Drives a model by seconds since 2021-01-01 00:00:00.
struct Run {
    model: Model,
    offset: u64,
}

impl Run {
    fn new(definition: Definition) -> Self {
        Self { model: Model::new(&definition), offset: 0 }
    }

    fn raw(partition: u32) -> RawPartition {
        RawPartition::new("ad-clicks", Partition(partition))
    }

    fn at(second: f64) -> Timestamp {
        Timestamp::from_micros(minute("202101010000").start().as_micros() + (second * 1e6) as i64)
    }

    fn send(&mut self, partition: u32, arrival: f64, header: Option<(&str, SourceMark)>, clicks: &[f64]) {
        let lines: Vec<String> = clicks
            .iter()
            .enumerate()
            .map(|(i, at)| {
                let time = Self::at(*at).to_string().replace('T', " ");
                format!("[AdClickEvent] ad001, {time}, user {} {i}, 1.1.1.1, USA", self.offset)
            })
            .collect();
        let runs = if lines.is_empty() { vec![] } else { vec![("log".to_owned(), vec![0; lines.len()])] };
        let header = header.map(|(source, mark)| SourceHeader {
            source: SourceName::from(source),
            mark,
            origin: Origin { runs },
        });
        self.model.record(
            &Self::raw(partition),
            Offset(self.offset),
            Self::at(arrival),
            header.as_ref(),
            lines.join("\n").as_bytes(),
        );
        self.offset += 1;
    }

    fn watcher(&mut self, partition: u32, arrival: f64, source: &str, mark: f64, clicks: &[f64]) {
        self.send(partition, arrival, Some((source, SourceMark::At(Self::at(mark)))), clicks);
    }

    fn foreign(&mut self, partition: u32, arrival: f64, clicks: &[f64]) {
        self.send(partition, arrival, None, clicks);
    }

    /// Empty fetches every half second.
    fn idle(&mut self, partition: u32, from: u32, to: u32) {
        for half in from * 2..=to * 2 {
            self.model.idle(&Self::raw(partition), Self::at(f64::from(half) / 2.0));
        }
    }

    #[track_caller]
    fn stands_at(&self, partition: u32, second: f64) {
        assert_eq!(self.model.watermark(&Self::raw(partition)).time(), Self::at(second));
    }

    #[track_caller]
    fn stands_before_all(&self, partition: u32) {
        assert_eq!(self.model.watermark(&Self::raw(partition)).time(), Timestamp::MIN);
    }
}

#[test]
fn the_slowest_live_source_says_how_far_time_has_come() {
    let mut run = Run::new(definition(1));
    run.watcher(0, 100.0, "w1", 60.0, &[50.0, 65.0]);
    run.stands_at(0, 60.0);
    run.send(0, 100.5, Some(("w2", SourceMark::Holding)), &[]);
    run.watcher(0, 101.0, "w1", 65.0, &[]);
    run.stands_at(0, 60.0);
    run.watcher(0, 102.0, "w2", 63.0, &[]);
    run.stands_at(0, 63.0);
    run.watcher(0, 103.0, "w2", 10.0, &[]);
    run.stands_at(0, 63.0);
}

#[test]
fn no_clock_pushes_time_beyond_what_has_arrived() {
    let mut run = Run::new(definition(1));
    run.watcher(0, 100.0, "w1", 1e6, &[]);
    run.stands_at(0, 70.0);
    run.send(0, 101.0, Some(("w1", SourceMark::Drained(Run::at(360.0)))), &[]);
    run.stands_at(0, 360.0);
    run.send(0, 102.0, Some(("w1", SourceMark::Drained(Run::at(1e9)))), &[]);
    run.stands_at(0, 420.0);
}

#[test]
fn a_line_is_late_by_the_watermark_from_before_its_record() {
    let mut run = Run::new(definition(1));
    run.watcher(0, 200.0, "w1", 120.0, &[10.0]);
    run.watcher(0, 201.0, "w1", 121.0, &[119.9, 120.0]);
    let late = [(Run::raw(0), Offset(1), 0)];
    assert_eq!(run.model.late(), late);
    assert_eq!(run.model.open_from(), minute("202101010002"));
    let books = SlowBooks { lines: 3, counted: 2, late: 1, ..SlowBooks::default() };
    assert_eq!(run.model.books(), books);
}

#[test]
fn a_silent_source_is_waited_for_until_the_timeout_and_an_outage_counts_little() {
    let mut run = Run::new(definition(1));
    run.watcher(0, 100.0, "w1", 60.0, &[]);
    run.watcher(0, 100.0, "w2", 65.0, &[]);
    // Ten minutes without any record are two seconds of silence.
    run.watcher(0, 700.0, "w2", 650.0, &[]);
    run.stands_at(0, 60.0);
    for second in 701..818 {
        run.watcher(0, f64::from(second), "w2", f64::from(second - 40), &[]);
        run.stands_at(0, 60.0);
    }
    run.watcher(0, 818.0, "w2", 780.0, &[]);
    run.stands_at(0, 780.0);
    run.watcher(0, 818.5, "w1", 70.0, &[]);
    run.watcher(0, 819.0, "w2", 785.0, &[]);
    run.stands_at(0, 780.0);
}

#[test]
fn a_source_that_only_holds_is_not_waited_for_either() {
    let mut run = Run::new(definition(1));
    run.send(0, 0.0, Some(("w1", SourceMark::Holding)), &[]);
    for second in 1..120 {
        run.watcher(0, f64::from(second) - 0.5, "w2", f64::from(second) - 40.0, &[]);
        run.send(0, f64::from(second), Some(("w1", SourceMark::Holding)), &[]);
    }
    run.stands_before_all(0);
    run.watcher(0, 120.0, "w2", 80.0, &[]);
    run.stands_at(0, 80.0);
}

#[test]
fn foreign_producers_are_one_source_that_lives_while_its_time_rises() {
    let mut run = Run::new(definition(1));
    run.foreign(0, 1000.0, &[100.0, 40.0]);
    run.stands_at(0, 70.0);
    run.watcher(0, 1001.0, "w1", 960.0, &[]);
    for second in 1002..1120 {
        run.foreign(0, f64::from(second), &[50.0]);
        run.watcher(0, f64::from(second), "w1", f64::from(second - 40), &[]);
    }
    run.stands_at(0, 70.0);
    run.watcher(0, 1120.0, "w1", 1080.0, &[]);
    run.stands_at(0, 1080.0);
}

#[test]
fn a_wrong_clock_moves_nothing_and_is_no_click() {
    let mut run = Run::new(definition(1));
    run.foreign(0, 100.0, &[80.0]);
    run.foreign(0, 101.0, &[401.1]);
    run.stands_at(0, 50.0);
    run.foreign(0, 102.0, &[402.0]);
    run.stands_at(0, 72.0);
    assert_eq!(run.model.rejected(), [(Run::raw(0), Offset(1), 0)]);
}

#[test]
fn a_partition_without_sources_goes_by_the_others() {
    let mut run = Run::new(definition(2));
    for second in 0..=119 {
        run.watcher(0, f64::from(second), "w1", f64::from(second) - 40.0, &[]);
    }
    run.idle(1, 0, 119);
    run.stands_before_all(1);
    run.idle(1, 120, 120);
    run.stands_at(1, 79.0);
}

#[test]
fn when_all_fell_silent_time_goes_on_after_foreign_producers_but_waits_for_watchers() {
    for is_watcher in [false, true] {
        let mut run = Run::new(definition(2));
        if is_watcher {
            run.watcher(0, 100.0, "w1", 30.0, &[60.0]);
        } else {
            run.foreign(0, 100.0, &[60.0]);
        }
        for second in 101..221 {
            run.idle(0, second, second);
            run.idle(1, second, second);
        }
        run.stands_at(0, 30.0);
        for second in 221..400 {
            run.idle(0, second, second);
            run.idle(1, second, second);
        }
        if is_watcher {
            run.stands_at(0, 30.0);
        } else {
            run.stands_at(0, 279.0);
            run.stands_at(1, 279.0);
        }
    }
}

#[test]
fn named_sources_are_awaited_unless_it_drains() {
    let sources = ["w1".to_owned(), "w2".to_owned()].into();
    let mut run = Run::new(Definition { sources, ..definition(1) });
    run.watcher(0, 100.0, "w1", 60.0, &[]);
    run.stands_before_all(0);
    run.watcher(0, 101.0, "w2", 50.0, &[]);
    run.stands_at(0, 50.0);
    let mut run = Run::new(Definition { sources: ["w2".to_owned()].into(), ..definition(1) });
    run.send(0, 100.0, Some(("w1", SourceMark::Drained(Run::at(60.0)))), &[]);
    run.stands_at(0, 60.0);
}

#[test]
fn lines_are_read_as_the_design_says() {
    let check = |text: &str, expected: Option<(&str, &str)>| {
        let click = line::read(text.as_bytes()).map(|click| (click.timestamp.to_string(), click.ip.to_string()));
        assert_eq!(click, expected.map(|(time, ip)| (time.to_owned(), ip.to_owned())), "{text}");
    };
    let good = "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA";
    check(good, Some(("2021-01-01T00:00:01Z", "207.148.22.22")));
    check(&format!("  {good}\r"), Some(("2021-01-01T00:00:01Z", "207.148.22.22")));
    check(&good.replace("00:00:01", "00:00:01.25Z"), Some(("2021-01-01T00:00:01.250Z", "207.148.22.22")));
    check(&good.replace("2021-01-01 00:00:01", "1969-12-31T23:59:59"), Some(("1969-12-31T23:59:59Z", "207.148.22.22")));
    check(&good.replace("2021-01-01 00:00:01", "2024-02-29 12:00:00"), Some(("2024-02-29T12:00:00Z", "207.148.22.22")));
    check(
        &good.replace("2021-01-01 00:00:01", "2016-12-31 23:59:60"),
        Some(("2016-12-31T23:59:59.999999Z", "207.148.22.22")),
    );
    check(&good.replace("207.148.22.22", "::FFFF:1.2.3.4"), Some(("2021-01-01T00:00:01Z", "1.2.3.4")));
    check(&good.replace("207.148.22.22", "2001:0DB8::0001"), Some(("2021-01-01T00:00:01Z", "2001:db8::1")));
    let json = r#"{"ad_id":"ad001","click_timestamp":"2021-01-01T00:00:01Z","user_id":"u","ip":"1.2.3.4","country":"USA","x":[1]}"#;
    check(json, Some(("2021-01-01T00:00:01Z", "1.2.3.4")));
    for bad in [
        "",
        "[AdClickEvent]",
        &good.replace("USA", ""),
        &good.replace("USA", "USA, x"),
        &good.replace("2021-01-01", "2021-02-30"),
        &good.replace("00:00:01", "25:00:01"),
        &good.replace("00:00:01", "00:00:60"),
        &good.replace("207.148", "307.148"),
        &good.replace("ad001", &"a".repeat(257)),
        &good.replace("user", "us\0er"),
        &json.replace("\"ad001\"", "1"),
        &json.replace("\"x\":[1]", "\"ad_id\":\"b\""),
        &json[1..],
    ] {
        check(bad, None);
    }
}

fn filters() -> Vec<Filter> {
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    vec![
        Filter::all(),
        filter(r#"{"id":1,"country":["USA"]}"#),
        filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
        filter(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8:8::/45"]}"#),
    ]
}

#[test]
fn filters_are_matched_field_by_field() {
    let check = |country: &str, ip: &str, expected: &[u16]| {
        let mut model = Model::new(&Definition { filters: filters(), ..definition(1) });
        let line = format!("[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, {ip}, {country}");
        model.record(&Run::raw(0), Offset(0), Run::at(10.0), None, line.as_bytes());
        let found: Vec<u16> = model.counts().keys().map(|(_, filter, _)| filter.0).collect();
        assert_eq!(found, expected, "{country} {ip}");
    };
    check("USA", "1.1.1.1", &[0, 1]);
    check("India", "207.148.255.1", &[0, 3]);
    check("Chad", "207.149.0.1", &[0, 2]);
    check("Chad", "2001:db8:f::1", &[0, 2, 3]);
    check("Chad", "2001:db8:10::1", &[0, 2]);
}

#[test]
fn without_faults_the_model_finds_the_generators_truth() {
    let options = Options { clicks: 20_000, ads: 300, duplicates: 0.1, minutes: 4, ..Options::new("") };
    let (bytes, truth) = lines(&options).unwrap();
    let mut run = Run::new(Definition { filters: filters(), ..definition(1) });
    let all: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    for (i, lines) in all.chunks(777).enumerate() {
        let origin = Origin { runs: vec![("log".into(), vec![0; lines.len()])] };
        let header = SourceHeader { source: "w".into(), mark: SourceMark::Holding, origin };
        let arrival = Run::at(1000.0 + i as f64);
        run.model.record(&Run::raw(0), Offset(i as u64), arrival, Some(&header), &lines.join(&b'\n'));
    }
    let mut by_filter: BTreeMap<FilterId, BTreeMap<(Minute, String), u64>> = BTreeMap::new();
    for ((minute, filter, ad), count) in run.model.counts() {
        by_filter.entry(*filter).or_default().insert((*minute, ad.clone()), *count);
    }
    assert_eq!(by_filter[&FilterId::ALL], truth.counts);
    let total = |filter: u16| by_filter[&FilterId(filter)].values().sum::<u64>();
    assert!(total(1) > 3000 && total(2) > 3000 && total(3) > 500, "the other filters match something");
    assert_eq!(run.model.books().counted, 20_000);
    assert_eq!(run.model.duplicates(), all.len() as u64 - 20_000);

    let first = minute("202101010000");
    let ranking = run.model.ranking(FilterId::ALL, Window(2), first.plus(2));
    let mut expected: Vec<(u64, String)> = (1..=300)
        .map(|ad| format!("ad{ad:03}"))
        .map(|ad| ((1..=2).map(|m| truth.counts.get(&(first.plus(m), ad.clone())).unwrap_or(&0)).sum(), ad))
        .filter(|(count, _)| *count > 0)
        .collect();
    expected.sort_by(|a, b| (b.0, &a.1).cmp(&(a.0, &b.1)));
    assert_eq!(ranking, expected.into_iter().map(|(count, ad)| (ad, count)).collect::<Vec<_>>());
}

#[test]
fn disorder_within_bounds_is_never_late() {
    let time = clickmill_model::TimeSettings { max_disorder: Duration::from_secs(5), ..Default::default() };
    let mut run = Run::new(Definition { time, ..definition(1) });
    for second in 0..200 {
        let now = f64::from(second);
        run.watcher(0, now, "w", now - 5.0, &[now, now - 4.9]);
    }
    assert_eq!(run.model.books().counted, 400);
    assert_eq!(run.model.open_from(), minute("202101010003"));
}
