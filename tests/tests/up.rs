//! `clickmill up`, the real program, from log files to answers.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_generator::{Options, Start, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::records::{Origin, SourceHeader, SourceMark};
use clickmill_model::{
    Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, Timestamp, Window,
};
use clickmill_tests::answers::{assert_counts, assert_top, lines_of_logs};
use clickmill_tests::dice::{Dice, seeds};
use clickmill_tests::model::Model;
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::raw::assert_raw;
use clickmill_tests::traffic::{CONFIGURATION, FILTERS, Traffic, live};

fn definition() -> Definition {
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    Definition {
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 1 }],
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
            filter(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8:8::/45"]}"#),
        ],
        ..Definition::default()
    }
}

/// The slow model of lines of which none is late.
fn model_of(lines: &[Vec<u8>]) -> Model {
    let mut model = Model::new(&definition());
    let origin = Origin { runs: vec![("log".into(), vec![0; lines.len()])] };
    let header = SourceHeader { source: "test".into(), mark: SourceMark::Holding, origin };
    let far = Timestamp::from_secs(1 << 40);
    model.record(&RawPartition::new("ad-clicks", Partition(0)), Offset(0), far, Some(&header), &lines.join(&b'\n'));
    model
}

/// What the model says of one filter.
fn truth_of(model: &Model, filter: FilterId) -> Truth {
    let of_filter = model.counts().iter().filter(|((_, of, _), _)| *of == filter);
    Truth { counts: of_filter.map(|((minute, _, ad), count)| ((*minute, ad.clone()), *count)).collect() }
}

fn no_clock() -> Timestamp {
    Timestamp::EPOCH
}

#[test]
fn drain_counts_are_exactly_the_truth() {
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let options =
        Options { clicks: 60_000, ads: 300, minutes: 8, files: 4, duplicates: 0.03, ..Options::new(site.logs()) };
    let Summary { lines, clicks, duplicates, .. } =
        generate(&options, no_clock, |_| (), &AtomicBool::new(false)).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    let expected = format!("{lines} lines: {clicks} clicks, {duplicates} duplicates, 0 late, 0 rejected; 8 minutes");
    assert!(summary.contains(&expected), "{summary:?} does not say {expected:?}");

    let log_lines = lines_of_logs(&site.logs());
    let model = model_of(&log_lines);
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    assert_eq!(truth_of(&model, FilterId::ALL), truth, "the model and the generator agree");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    for filter in [0, 1, 2, 3].map(FilterId) {
        assert_counts(&api, filter, &truth_of(&model, filter));
        let (first, last) = (truth.counts.keys().next().unwrap().0, truth.counts.keys().next_back().unwrap().0);
        for minute in (0..8).map(|m| first.plus(m)) {
            for window in [Window(1), Window(5), Window(60)] {
                let ranking = model.ranking(filter, window, minute);
                assert_top(&api, filter, window.first(minute), minute.next(), 100, &ranking);
            }
        }
        assert_top(&api, filter, first.plus(1), last, 7, &model.top(filter, first.plus(1), last));
    }
    drop(api);
    assert_raw(&site.data(), &log_lines);

    // Again, and nothing is new.
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("0 lines: 0 clicks"), "{summary:?}");
    assert_raw(&site.data(), &log_lines);
}

#[test]
fn thirty_kills_under_load_lose_and_double_nothing() {
    const KILLS: u64 = 30;
    let seed = seeds(1)[0];
    let mut dice = Dice::new(seed);
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let traffic = Traffic::start(Options { seed, ..live(&site.logs(), 3000) });
    let mut ready = 0;
    for kill in 0..KILLS {
        let mut up = site.start(&["up", "--listen", "127.0.0.1:0"]);
        // Some die while they start, some while they catch up, some in the flow.
        if kill % 3 == 0 {
            up.wait_until_ready(LONG);
            ready += 1;
        }
        std::thread::sleep(Duration::from_millis(dice.below(1500)));
        up.kill();
    }
    let made = traffic.stop();
    assert_eq!(ready, KILLS.div_ceil(3));
    let summary = site.succeed(&["up", "--drain"], LONG);
    let drained: u64 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(drained < made.lines / 2, "most lines went through while it was killed again and again: {summary}");

    let log_lines = lines_of_logs(&site.logs());
    assert_eq!(log_lines.len() as u64, made.lines);
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let status = api.get("/v1/status");
    let books = &status["books"];
    assert_eq!((&books["late"], &books["duplicates"]), (&0.into(), &made.duplicates.into()), "{status}");
    assert_counts(&api, FilterId::ALL, &truth);
    let model = model_of(&log_lines);
    for filter in [1, 2, 3].map(FilterId) {
        assert_counts(&api, filter, &truth_of(&model, filter));
    }
    drop(api);
    assert_raw(&site.data(), &log_lines);
}

/// An answer that said it was complete.
struct Told {
    ads: Vec<String>,
    counts: Vec<u64>,
    from: Minute,
    to: Minute,
    is_ranking: bool,
}

/// Asks for counts and rankings of the minutes around the first one that is not complete; keeps what was said to be.
fn ask(api: &Running<'_>, dice: &mut Dice, told: &mut Vec<Told>) {
    let Some(until) = api.get("/v1/status")["complete_until"].as_u64().and_then(Minute::from_number) else { return };
    let to = until.plus(2 - dice.below(4) as i64);
    let from = to.plus(-1 - dice.below(9) as i64);
    let top = api.get(&format!("/v1/ads/popular_ads?from={from}&to={to}&n=20"));
    let listed: Vec<String> = serde_json::from_value(top["ad_ids"].clone()).unwrap();
    if top["complete"] == true {
        let counts = serde_json::from_value(top["counts"].clone()).unwrap();
        told.push(Told { ads: listed.clone(), counts, from, to, is_ranking: true });
    }
    for ad in listed.into_iter().take(3) {
        let answer = api.get(&format!("/v1/ads/{ad}/aggregated_count?from={from}&to={to}"));
        if answer["complete"] == true {
            let counts = vec![answer["count"].as_u64().unwrap()];
            told.push(Told { ads: vec![ad], counts, from, to, is_ranking: false });
        }
    }
}

#[test]
fn schedule_36_what_is_said_to_be_complete_while_it_is_being_written_is_the_truth() {
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let history = Start::Now { history: Duration::from_secs(3600) };
    let traffic = Traffic::start(Options { start: history, ..live(&site.logs(), 60) });
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    // A process of its own reads the same store.
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let (mut told, mut dice) = (Vec::new(), Dice::new(36));
    let first = wait_for("a first complete answer", LONG, || {
        ask(&up, &mut dice, &mut told);
        told.first().map(|told| told.to)
    });
    wait_for("many complete answers of many minutes", LONG, || {
        ask(&up, &mut dice, &mut told);
        ask(&api, &mut dice, &mut told);
        let latest = told.iter().map(|told| told.to).max()?;
        (told.len() > 400 && latest.minus(first) > 20).then_some(())
    });
    traffic.stop();
    drop((up, api));
    site.succeed(&["up", "--drain"], LONG);
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    for Told { ads, counts, from, to, is_ranking } in told {
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, ad), count) in truth.counts.iter().filter(|((minute, _), _)| (from..to).contains(minute)) {
            *totals.entry(ad).or_default() += count;
        }
        let mut ranking: Vec<(String, u64)> = totals.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect();
        ranking.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        ranking.truncate(20);
        let found: Vec<(String, u64)> = ads.iter().cloned().zip(counts).collect();
        let expected = if is_ranking {
            ranking
        } else {
            vec![(ads[0].clone(), totals.get(ads[0].as_str()).copied().unwrap_or(0))]
        };
        assert_eq!(found, expected, "{from} to {to}");
    }
}
