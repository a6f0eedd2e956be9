//! A span that is counted again is what the generator's truth and the slow model say, whatever the lines, wherever they lie.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use clickmill_generator::{Options, Truth, lines};
use clickmill_model::records::FilterSpan;
use clickmill_model::{Definition, FilterId, Minute, Offset, Partition, RawPartition, Span, SpanKind, TimeSettings};
use clickmill_recalc::{Plan, RecalcError};
use clickmill_tests::dice::{Dice, seeds};

use common::{Figures, PARTITIONS, TOPIC, World, assert_same, definition, figures, filter, minute};

fn generated(seed: u64, minutes: u32, clicks: u64) -> (Vec<Vec<u8>>, Truth) {
    let disorder = Duration::from_secs(40);
    let options = Options { clicks, ads: 60, minutes, seed, duplicates: 0.05, disorder, ..Options::new("") };
    let (bytes, truth) = lines(&options).unwrap();
    (bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect(), truth)
}

fn whole() -> Range<Minute> {
    minute("202101010000")..minute("202101020000")
}

#[test]
fn counts_are_the_generators_truth() {
    let (lines, truth) = generated(7, 90, 20_000);
    let mut world = World::in_memory(&definition());
    for chunk in lines.chunks(4000) {
        world.send_all(chunk.iter().map(Vec::as_slice), 40);
        world.write(1 << 20);
    }
    let (told, summary) = figures(&world.files, &world.plan(whole())).unwrap();
    assert_same(&of_minutes(&told), &truth.counts);
    assert_eq!(summary.lines.counted, truth.total());
    assert_eq!(summary.lines.duplicates, lines.len() as u64 - truth.total());
    assert!(summary.files > 6);
}

#[test]
fn files_of_many_pages_and_row_groups_are_read_in_slices() {
    let (lines, truth) = generated(8, 90, 450_000);
    let mut world = World::in_memory(&definition());
    world.send_all(lines.iter().map(Vec::as_slice), 400);
    world.write(1 << 20);
    for (slice_rows, from, to) in [(50_000, "202101010000", "202101020000"), (1 << 20, "202101010031", "202101010044")]
    {
        let plan = Plan { slice_rows, ..world.plan(minute(from)..minute(to)) };
        let mut expected = truth.counts.clone();
        expected.retain(|(minute, _), _| plan.minutes.contains(minute));
        let (told, summary) = figures(&world.files, &plan).unwrap();
        assert_same(&of_minutes(&told), &expected);
        // What is far from the span is not read.
        let read = summary.lines.counted + summary.lines.duplicates + summary.lines.elsewhere;
        assert!(to == "202101020000" || read < lines.len() as u64 / 2, "{read}");
        assert_eq!(summary.files, u64::from(PARTITIONS));
    }
}

/// Clicks of each minute and ad.
fn of_minutes(told: &Figures) -> BTreeMap<(Minute, String), u64> {
    let of_minutes =
        told.counts.iter().filter(|((span, filter, _), _)| span.kind == SpanKind::Minute && *filter == FilterId::ALL);
    of_minutes.map(|((span, _, ad), count)| ((span.start, ad.clone()), *count)).collect()
}

/// Lines with everything that can be the matter with them: no clicks, a wrong clock, hours late, told again in another partition, with an event id whose country changes.
fn troubled(world: &mut World, dice: &mut Dice) {
    let (lines, _) = generated(dice.below(1 << 40), 150, 8000);
    let (mut late, mut now) = (Vec::new(), Vec::new());
    for line in &lines {
        match dice.below(60) {
            0 => late.push(line.as_slice()),
            1 => now.extend([line.as_slice(), b"no click at all"]),
            2 => {
                now.extend([line.as_slice(), b"[AdClickEvent] ad001, 2030-01-01 00:00:01, user 1, 207.148.22.22, USA"]);
            }
            _ => now.push(line),
        }
    }
    let chunks: Vec<&[&[u8]]> = now.chunks(700).collect();
    for (i, chunk) in chunks.iter().enumerate() {
        world.send_all(chunk.iter().copied(), 25);
        // The same click in every partition: each counts it once.
        for partition in 0..PARTITIONS {
            let again = chunk[dice.below(chunk.len() as u64) as usize];
            world.send(TOPIC, partition, &[again, again]);
        }
        let event = |country: &str, number: u64| {
            format!(
                r#"{{"ad_id":"ad009","click_timestamp":"2021-01-01 00:{number:02}:07","user_id":"u","ip":"207.148.1.1","country":"{country}","event_id":"e{number}"}}"#
            )
        };
        let number = i as u64 % 60;
        // The first of them counts, and says from where.
        let (first, second) = (event("USA", number), event("India", number));
        world.send(TOPIC, 1, &[first.as_bytes(), second.as_bytes()]);
        if i % 3 == 0 {
            world.write(500 + dice.below(3000));
        }
        if i % 4 == 1 {
            let some = late.len().min(5);
            world.send_all(late.drain(..some), 3);
        }
    }
    world.clock.advance(Duration::from_secs(7200));
    world.send_all(late, 9);
    world.write(2000);
}

#[test]
fn any_span_is_what_the_slow_model_says() {
    for seed in seeds(3) {
        let mut dice = Dice::new(seed);
        let mut world = World::in_memory(&definition());
        troubled(&mut world, &mut dice);
        let all = world.check(&world.plan(whole()));
        assert_eq!(all.lines.counted, world.model.books().counted, "seed {seed}");
        assert_eq!(all.lines.duplicates, world.model.books().duplicates, "seed {seed}");
        assert!(all.lines.rejected > 0 && all.lines.duplicates > 100);
        for (from, to) in [
            ("202101010000", "202101010100"),
            ("202101010017", "202101010018"),
            ("202101010017", "202101010143"),
            ("202012311200", "202101010005"),
            ("202101010225", "202101020000"),
        ] {
            let plan = world.plan(minute(from)..minute(to));
            world.check(&plan);
            // However small the slices and however many read at once.
            world.check(&Plan { slice_rows: 300, threads: 1, ..plan.clone() });
            world.check(&Plan { slice_rows: 1, threads: 4, ..plan });
        }
    }
}

#[test]
fn duplicates_count_where_they_are_not_removed() {
    let definition = Definition { dedup: false, ..definition() };
    let mut world = World::in_memory(&definition);
    troubled(&mut world, &mut Dice::new(5));
    let summary = world.check(&world.plan(whole()));
    assert_eq!(summary.lines.duplicates, 0);
}

#[test]
fn a_late_click_far_from_its_time_does_not_have_all_files_read_at_once() {
    let (lines, _) = generated(3, 60, 9000);
    let mut world = World::in_memory(&definition());
    // Each file has one line of the first minute.
    let first: Vec<Vec<u8>> = (0..9)
        .map(|n| format!("[AdClickEvent] ad001, 2021-01-01 00:00:01, late {n}, 10.0.0.1, USA").into_bytes())
        .collect();
    for (chunk, late) in lines.chunks(1000).zip(&first) {
        world.send_all(chunk.iter().map(Vec::as_slice).chain([late.as_slice()]), 50);
        world.write(100_000);
    }
    let summary = world.check(&world.plan(minute("202101010000")..minute("202101010001")));
    assert!(summary.files > 9);
    world.check(&Plan { slice_rows: 400, ..world.plan(whole()) });
}

#[test]
fn the_oldest_arrival_of_each_minute_is_told() {
    let mut world = World::in_memory(&definition());
    let line =
        |time: &str, user: &str| format!("[AdClickEvent] ad001, 2021-01-01 {time}, {user}, 10.0.0.1, USA").into_bytes();
    let lines = [line("00:00:01", "a"), line("00:00:02", "b"), line("00:05:00", "c"), line("00:00:03", "late")];
    let sent: Vec<_> = lines
        .iter()
        .map(|line| {
            world.send(TOPIC, 0, &[line]);
            clickmill_queue::Clock::now(&*world.clock)
        })
        .collect();
    world.write(100);
    let (told, _) = figures(&world.files, &world.plan(whole())).unwrap();
    let of = |text: &str| told.oldest_arrivals[&Span::minute(minute(text))];
    assert_eq!((of("202101010000"), of("202101010005")), (sent[0], sent[2]));
}

#[test]
fn a_line_that_was_no_click_when_it_was_written_is_judged_anew() {
    // Written by who takes a clock that is ten minutes ahead for wrong.
    let mut world = World::in_memory(&definition());
    world.clock_is_right = false;
    let line = |time: &str| format!("[AdClickEvent] ad001, 2021-01-01 {time}, u, 10.0.0.1, USA").into_bytes();
    for time in ["00:04:01", "00:10:00", "00:50:00"] {
        world.send(TOPIC, 0, &[&line(time)]);
    }
    world.write(100);
    let counted = |skew: u64, from: &str, to: &str| {
        let time = TimeSettings { max_clock_skew: Duration::from_secs(skew), ..TimeSettings::default() };
        let newest = Definition { time, ..definition() };
        let plan = Plan::new(minute(from)..minute(to), &[newest]);
        figures(&world.files, &plan).map(|(_, summary)| summary.lines.counted)
    };
    assert_eq!(counted(300, "202101010000", "202101010100").unwrap(), 1);
    // What was right by the bound of its time stays so.
    assert_eq!(counted(30, "202101010000", "202101010100").unwrap(), 1);
    assert_eq!(counted(900, "202101010000", "202101010100").unwrap(), 2);
    assert_eq!(counted(3600, "202101010000", "202101010100").unwrap(), 3);
    // The file says that it holds clicks of the fifth minute only.
    assert_eq!(counted(3600, "202101010050", "202101010051").unwrap(), 1);
    assert!(matches!(counted(900, "202101010050", "202101010051"), Err(RecalcError::NoRawData { .. })));
}

#[test]
fn a_line_that_the_parser_of_its_time_refused_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::in_folder(&definition(), folder.path());
    let line = |time: &str| format!("[AdClickEvent] ad001, 2021-01-01 {time}, u, 10.0.0.1, USA").into_bytes();
    for time in ["00:00:01", "00:00:02", "00:07:00"] {
        world.send(TOPIC, 0, &[&line(time)]);
    }
    world.write(100);
    let path = world.files.list("raw").unwrap().pop().unwrap().path;
    // As a parser with an error would have written the last row.
    common::refuse_last_row(&folder.path().join(path), &line("00:07:00"));
    let (told, summary) = figures(&world.files, &world.plan(minute("202101010005")..minute("202101010010"))).unwrap();
    assert_eq!(summary.lines.counted, 1);
    assert_eq!(of_minutes(&told), BTreeMap::from([((minute("202101010007"), "ad001".to_owned()), 1)]));
    world.check(&world.plan(whole()));
}

#[test]
fn lines_behind_the_pins_are_left_out() {
    let mut world = World::in_memory(&definition());
    let line = |n: u64| format!("[AdClickEvent] ad001, 2021-01-01 00:00:{n:02}, u, 10.0.0.1, USA").into_bytes();
    let offsets: Vec<Offset> = (0..20).map(|n| world.send(TOPIC, n as u32 % 2, &[&line(n)])).collect();
    world.write(4);
    let raw = |partition| RawPartition::new(TOPIC, Partition(partition));
    let counted = |pins: &[(u32, Offset)]| {
        let pins = pins.iter().map(|(partition, offset)| (raw(*partition), *offset)).collect();
        figures(&world.files, &Plan { pins, ..world.plan(whole()) }).map(|(_, summary)| summary.lines.counted)
    };
    assert_eq!(counted(&[]).unwrap(), 20);
    assert_eq!(counted(&[(0, offsets[6])]).unwrap(), 13);
    assert_eq!(counted(&[(0, offsets[6]), (1, Offset(0))]).unwrap(), 3);
    assert!(matches!(counted(&[(0, Offset(0)), (1, Offset(0))]), Err(RecalcError::NoRawData { .. })));
}

#[test]
fn a_filter_of_the_time_and_a_new_one_are_both_counted() {
    let old = Definition { version: 1, ..definition() };
    let mut world = World::in_memory(&old);
    troubled(&mut world, &mut Dice::new(11));
    // Today there is no filter 1, and filter 3 was added a minute ago.
    let newest = Definition {
        version: 2,
        filters: old.filters.iter().filter(|f| f.id.0 != 1).cloned().collect(),
        ..old.clone()
    };
    let before = filter(r#"{"id":1,"country":["USA"]}"#);
    let span = |filter, from, until| FilterSpan { filter: FilterId(filter), from, until };
    let gone = minute("202101010030");
    let published = vec![span(0, Minute::MIN, None), span(1, Minute::MIN, Some(gone))];
    let plan = Plan { published, slice_rows: 1000, ..Plan::new(whole(), &[old.clone(), newest]) };
    let (told, _) = figures(&world.files, &plan).unwrap();
    let mut expected = world.model.counts().clone();
    expected.retain(|(minute, filter, _), _| *filter != before.id || *minute < gone);
    let mut minutes = told.counts.clone();
    minutes.retain(|(span, ..), count| span.kind == SpanKind::Minute && *count > 0);
    let minutes: BTreeMap<_, _> = minutes.into_iter().map(|((s, f, ad), n)| ((s.start, f, ad), n)).collect();
    assert_same(&minutes, &expected);
    // A window that reaches behind its end is told no more.
    let last = told.rankings.keys().filter(|(filter, ..)| *filter == before.id).map(|(.., minute)| *minute).max();
    assert_eq!(last, Some(gone.previous()));
}

#[test]
fn a_span_without_a_click_is_refused() {
    let mut world = World::in_memory(&definition());
    let plan = |from: &str, to: &str| Plan::new(minute(from)..minute(to), &[definition()]);
    let error = figures(&world.files, &plan("202101010000", "202101010100")).unwrap_err();
    assert!(matches!(error, RecalcError::NoRawData { .. }), "{error}");
    world.send_all([b"[AdClickEvent] ad001, 2021-01-01 00:00:01, u, 10.0.0.1, USA".as_slice()], 1);
    world.write(10);
    let error = figures(&world.files, &plan("202101010001", "202101010100")).unwrap_err();
    assert!(error.to_string().contains("202101010001 to 202101010100"), "{error}");
    let error = figures(&world.files, &plan("202101010100", "202101010100")).unwrap_err();
    assert!(matches!(error, RecalcError::EmptySpan { .. }), "{error}");
}
