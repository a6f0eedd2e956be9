//! The independent count beside stores that are right, and that are wrong in a known way.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_db_writer::raw::{Rolling, import};
use clickmill_model::records::Ranking;
use clickmill_model::{FilterId, Minute, Window};
use clickmill_reconcile::{Audit, Kind, Request, audit};
use clickmill_store::{AggregateStore, MemoryStore, MinuteRange, View};

use common::{Fault, World, definition, minute};

const FROM: &str = "202101010000";
const TO: &str = "202101010200";

/// Two hours of clicks of a few ads, in every spelling, some of them told again: soon, after many others, and in the other spelling.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    let users = ["user 1", "user 2", "user 3"];
    let ips =
        ["207.148.22.22", "207.148.200.1", "10.1.2.3", "2001:db8:8::1", "2001:db8:10::1", "2001:0DB8:8:0:0:0:0:2"];
    let countries = ["USA", "India", "France", "Côte d'Ivoire"];
    for n in 0..3000_usize {
        let (hour, min, second) = (n / 1500, n / 25 % 60, n * 7 % 60);
        let (ad, user, ip, country) = (n * n % 7, users[n % 3], ips[n / 2 % 6], countries[n / 3 % 4]);
        let time = format!("2021-01-01 {hour:02}:{min:02}:{second:02}");
        let json = |more: &str| {
            format!(
                r#"{{"ad_id":"ad{ad}","click_timestamp":"{}Z","user_id":"{user}","ip":"{ip}","country":"{country}"{more}}}"#,
                time.replace(' ', "T")
            )
        };
        let text = format!("[AdClickEvent] ad{ad}, {time}, {user}, {ip}, {country}");
        lines.push(match n % 4 {
            0 => json(&format!(r#","event_id":"e{n}""#)),
            1 => json(""),
            2 if n % 8 == 2 => text.replace(", ", " ,"),
            _ => text,
        });
        if n % 20 == 3 {
            lines.push(json(""));
        }
        if n % 24 == 4 {
            let again = lines[lines.len() - 1].clone();
            lines.push(again.replace("user 2", "user 3").replace("USA", "Spain"));
        }
        if n % 50 == 7 && n > 400 {
            lines.push(lines[lines.len() - 20].clone());
        }
        if n % 100 == 50 {
            lines.push("no click at all".into());
        }
    }
    lines
}

fn world() -> World {
    let mut world = World::new(&definition());
    let lines = lines();
    for half in lines.chunks(lines.len() / 2 + 1) {
        world.clock.advance(std::time::Duration::from_secs(3600));
        world.send_all(half.iter().map(|line| line.as_bytes()), 10);
        world.write(500);
    }
    world
}

/// What was found, by kind, with the number of figures.
fn kinds(audit: &Audit) -> BTreeMap<Kind, u64> {
    audit.findings.by_kind.iter().map(|(kind, sum)| (*kind, sum.figures)).collect()
}

#[test]
fn a_right_store_has_no_difference_in_any_figure() {
    let world = world();
    let audit = world.audit(&world.store(Fault::Nothing, minute(TO)), FROM, TO).unwrap();
    assert_eq!(kinds(&audit), BTreeMap::new(), "{:?} {:?}", audit.findings.counts, audit.findings.rankings);
    assert!(audit.books.disagreements.is_empty(), "{:?}", audit.books.disagreements);
    assert!(audit.books.duplicates > 250, "{:?}", audit.books);
    let compared = audit.findings.compared;
    // Four ads in each of 120 minutes under filter 0, fewer under others; two hours; three windows of five filters.
    assert!(compared.counts > 1000 && compared.totals > 30, "{compared:?}");
    assert_eq!(compared.rankings, 120 * 5 * 3);
}

#[test]
fn a_span_in_the_middle_is_proved_with_the_windows_that_reach_into_it() {
    let world = world();
    let store = world.store(Fault::Nothing, minute(TO));
    let audit = world.audit(&store, "202101010110", "202101010120").unwrap();
    assert_eq!(kinds(&audit), BTreeMap::new());
    // Ten minutes, five filters, windows of 1, 5 and 60.
    assert_eq!(audit.findings.compared.rankings, 150);
    assert_eq!(audit.findings.compared.totals, 0);
}

/// The smallest slices find the same as one large one.
#[test]
fn a_span_in_many_slices_is_the_same_as_in_one() {
    let world = world();
    for fault in [Fault::Nothing, Fault::WidePrefix] {
        let store = world.store(fault, minute(TO));
        let (from, to) = ("202101010055", "202101010105");
        let at_once = world.audit(&store, from, to).unwrap();
        let request = Request { slice_rows: 1, ..Request::new(minute(from), minute(to)) };
        let in_slices = audit(&store, &world.file_store(), &request).unwrap();
        assert_eq!(kinds(&at_once), kinds(&in_slices));
        assert_eq!(at_once.findings.counts.len(), in_slices.findings.counts.len());
        assert_eq!(at_once.books.counted, in_slices.books.counted);
    }
}

/// The counts under a filter that two stores do not agree about.
fn differing(right: &MemoryStore, wrong: &MemoryStore) -> BTreeSet<(Minute, FilterId, String, u64, u64)> {
    let mut counts: BTreeMap<(Minute, FilterId, String), (u64, u64)> = BTreeMap::new();
    for filter in definition().filters {
        let range = MinuteRange { from: minute("202012310000"), to: minute("202101020000") };
        let mut of = |store: &MemoryStore, add: fn(&mut (u64, u64), u64)| {
            let kind = clickmill_model::SpanKind::Minute;
            let mut visit = |minute: Minute, ad: &[u8], n| {
                add(counts.entry((minute, filter.id, String::from_utf8_lossy(ad).into_owned())).or_default(), n);
            };
            store.each_count(&View::STREAM, kind, filter.id, range, &mut visit).unwrap();
        };
        of(right, |both, n| both.0 += n);
        of(wrong, |both, n| both.1 += n);
    }
    let of_span = |minute: &Minute| *minute >= common::minute(FROM) && *minute < common::minute(TO);
    let differing = counts.into_iter().filter(|((minute, ..), (a, b))| of_span(minute) && a != b);
    differing.map(|((minute, filter, ad), (a, b))| (minute, filter, ad, a, b)).collect()
}

#[test]
fn schedule_45_an_error_in_parser_duplicates_filters_or_windows_is_found_and_named() {
    let world = world();
    let right = world.store(Fault::Nothing, minute(TO));
    // Only errors of counting are told as counts; only those of ranking as nothing but rankings.
    for (fault, expected) in [
        (Fault::ParserRefusesIpv6, vec![Kind::Missing, Kind::Total, Kind::Ranking]),
        (Fault::ParserShiftsJson, vec![Kind::Missing, Kind::Surplus, Kind::Total, Kind::Ranking]),
        (Fault::ForgetsDuplicates(10), vec![Kind::Surplus, Kind::Total, Kind::Ranking]),
        (Fault::EventsByAllFields, vec![Kind::Surplus, Kind::Total, Kind::Ranking]),
        (Fault::WidePrefix, vec![Kind::Surplus, Kind::Total, Kind::Ranking]),
        (Fault::IgnoresExclusion, vec![Kind::Surplus, Kind::Total, Kind::Ranking]),
        (Fault::LongWindows, vec![Kind::RankingOnly]),
        (Fault::TiesBackwards, vec![Kind::RankingOnly]),
        (Fault::ShortHours, vec![Kind::Total]),
    ] {
        let wrong = world.store(fault, minute(TO));
        let audit = world.audit(&wrong, FROM, TO).unwrap();
        let found: Vec<Kind> = kinds(&audit).into_keys().collect();
        assert_eq!(found, expected, "{fault:?}");
        let named: BTreeSet<_> = audit
            .findings
            .counts
            .iter()
            .filter(|d| d.span == "minute")
            .map(|d| (d.start, d.filter, d.ad_id.clone(), d.raw, d.stored))
            .collect();
        assert_eq!(named, differing(&right, &wrong), "{fault:?}");
    }
}

#[test]
fn a_ranking_of_which_two_places_are_swapped_is_the_only_thing_that_is_named() {
    let world = world();
    let store = world.store(Fault::Nothing, minute(TO));
    let at = (Window(5), minute("202101010107"));
    let mut ranking: Ranking = store.rankings(&View::STREAM, FilterId(0), &[at]).unwrap().remove(0).here().unwrap();
    ranking.ads.swap(1, 2);
    let write = clickmill_store::RankedWrite {
        revision: clickmill_model::Revision::STREAM,
        partition: clickmill_model::Partition(0),
        rankings: vec![(ranking, Some(common::START))],
        until: minute(TO),
    };
    store.write_ranked(&write).unwrap();
    let audit = world.audit(&store, FROM, TO).unwrap();
    assert_eq!(kinds(&audit), BTreeMap::from([(Kind::RankingOnly, 1)]));
    let found = &audit.findings.rankings[0];
    assert_eq!((found.window, found.minute, found.filter, found.place), (at.0, at.1, FilterId(0), 2));
    assert_eq!(audit.findings.rate(), None, "no share of clicks: it contradicts the counts");
    assert_eq!(audit.findings.joined_spans(), [(minute("202101010103"), minute("202101010108"))]);
}

#[test]
fn late_clicks_are_told_apart_from_missing_ones_with_the_lines_behind_them() {
    let mut world = world();
    let line = |user: &str| format!("[AdClickEvent] ad0, 2021-01-01 00:30:59, {user}, 207.148.22.22, USA");
    let (first, second) = (line("late 1"), line("late 2"));
    world.send_late(1, &[first.as_bytes(), second.as_bytes()]);
    // Told again, late too, and so a duplicate of a late click.
    world.send_late(1, &[first.as_bytes()]);
    world.write(500);
    let store = world.store(Fault::Nothing, minute(TO));
    let request = Request { lines: 5, ..Request::new(minute(FROM), minute(TO)) };
    let audit = audit(&store, &world.file_store(), &request).unwrap();
    // Filters 0, 1 and 3 match.
    let minutes: Vec<_> = audit.findings.counts.iter().filter(|d| d.span == "minute").collect();
    let expected: Vec<_> = [0, 1, 3].map(|f| (Kind::Late, FilterId(f), 2)).to_vec();
    assert_eq!(minutes.iter().map(|d| (d.kind, d.filter, d.late)).collect::<Vec<_>>(), expected);
    assert_eq!(minutes[0].raw - minutes[0].stored, 2);
    let lines: Vec<_> = audit.lines.iter().filter(|line| line.filter == FilterId(0)).collect();
    assert_eq!(lines.iter().filter(|line| line.late).count(), 3, "{lines:?}");
    assert_eq!(lines[0].file.as_deref(), Some("/var/log/ads/a.log"));
    assert_eq!(lines[1].byte_offset, lines[0].byte_offset.map(|offset| offset + 100));
}

#[test]
fn clicks_in_several_partitions_are_counted_in_each_and_listed() {
    let mut world = World::new(&definition());
    world.clock.advance(std::time::Duration::from_secs(3600));
    let line = b"[AdClickEvent] ad0, 2021-01-01 00:30:00, user 1, 207.148.22.22, USA".as_slice();
    world.send(0, &[line, line]);
    world.send(1, &[line]);
    world.send(2, &[line]);
    world.write(500);
    let audit = world.audit(&world.store(Fault::Nothing, minute(TO)), FROM, TO).unwrap();
    assert_eq!(kinds(&audit), BTreeMap::new());
    assert_eq!((audit.books.counted, audit.books.duplicates, audit.books.across_partitions), (3, 1, 2));
    assert_eq!(audit.books.across_examples, ["ad ad0 at 2021-01-01T00:30:00Z"]);
}

#[test]
fn without_removal_of_duplicates_each_line_counts() {
    let mut world = World::new(&clickmill_model::Definition { dedup: false, ..definition() });
    let lines = lines();
    world.clock.advance(std::time::Duration::from_secs(7200));
    world.send_all(lines.iter().map(|line| line.as_bytes()), 10);
    world.write(10_000);
    let audit = world.audit(&world.store(Fault::Nothing, minute(TO)), FROM, TO).unwrap();
    assert_eq!(kinds(&audit), BTreeMap::new());
    assert_eq!(audit.books.duplicates, 0);
}

/// Imports these lines; where it is stopped half-way, some of them are in files.
fn bring(world: &World, name: &str, lines: &[String], at_most: u64) {
    let path = world.folder.path().join(name);
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let request = import::Request {
        topic: common::TOPIC.into(),
        partitions: common::PARTITIONS,
        partition_by: world.definition.partition_by,
        max_clock_skew: Duration::from_secs(1 << 34),
        is_complete: false,
        now: clickmill_queue::Clock::now(&*world.clock),
        rolling: Rolling { rows: 500, ..Rolling::default() },
    };
    let stop = AtomicBool::new(false);
    let mut tell = |progress: import::Progress| stop.store(progress.lines > at_most, Ordering::Relaxed);
    let end = import::import(&world.files, &request, &[path], false, &stop, &mut tell);
    assert_eq!(end.is_err(), at_most < lines.len() as u64);
}

#[test]
fn imported_lines_are_told_apart_by_whether_they_count_and_what_is_gone_is_missed() {
    let world = world();
    let store = world.store(Fault::Nothing, minute(TO));
    // Each event a second time, from elsewhere: what the stream was told counts.
    let again: Vec<String> = lines().iter().map(|line| line.replace("\"USA\"", "\"Norway\"")).collect();
    bring(&world, "again.log", &again, u64::MAX);
    let new = |from: usize, to: usize| -> Vec<String> {
        let line = |n: usize| format!("[AdClickEvent] new, 2021-01-01 00:{:02}:00, user {n}, 9.9.9.9, Norway", n % 60);
        (from..to).map(line).collect()
    };
    bring(&world, "unfinished.log", &new(0, 12_000), 8000);
    assert!(world.files.list("raw").unwrap().iter().any(|file| file.path.contains("-046116")), "files of imports");
    let found = world.audit(&store, FROM, TO).unwrap();
    // Without an event id another country is another click.
    let of_norway = again.iter().filter(|line| line.contains("Norway") && !line.contains("event_id")).count();
    assert!(of_norway > 50);
    let kinds_of = |audit: &Audit| kinds(audit).into_keys().collect::<Vec<_>>();
    assert_eq!(kinds_of(&found), [Kind::Late, Kind::Total, Kind::Ranking]);
    let lacks = |audit: &Audit| audit.findings.by_kind.get(&Kind::Late).map_or(0, |sum| sum.lacks);
    let (before, ads) = (lacks(&found), |audit: &Audit| audit.findings.by_ad.keys().cloned().collect::<Vec<_>>());
    assert!(!ads(&found).contains(&"new".to_owned()), "lines of an import that did not end");
    bring(&world, "new.log", &new(20_000, 20_060), u64::MAX);
    let found = world.audit(&store, FROM, TO).unwrap();
    assert!(ads(&found).contains(&"new".to_owned()) && lacks(&found) > before);
    // The first import is gone in part.
    let first =
        world.files.list("raw").unwrap().into_iter().rfind(|file| file.path.contains("-04611687117939")).unwrap();
    world.files.delete(&first.path).unwrap();
    let error = world.audit(&store, FROM, TO).unwrap_err();
    assert!(matches!(error, clickmill_reconcile::ReconcileError::Missing { .. }), "{error}");
    std::fs::remove_dir_all(world.folder.path().join("imports")).unwrap();
    let error = world.audit(&store, FROM, TO).unwrap_err().to_string();
    assert!(error.contains("the list of imports lacks import"), "{error}");
}

/// Nothing of it can be of the span: what stands in it does not matter.
#[test]
fn a_file_that_was_written_long_before_the_span_is_not_opened() {
    let mut world = world();
    let path = world.folder.path().join(&world.files.list("raw").unwrap()[0].path);
    world.clock.advance(Duration::from_secs(3 * 86_400));
    let lines: Vec<String> = (0..300)
        .map(|n| format!("[AdClickEvent] ad{}, 2021-01-04 00:{:02}:{:02}, u, 1.2.3.4, USA", n % 7, n / 60, n % 60))
        .collect();
    world.send_all(lines.iter().map(|line| line.as_bytes()), 10);
    world.write(500);
    std::fs::write(&path, b"not what it was").unwrap();
    let written_at = |hours: u64| {
        let time = common::START.after(Duration::from_secs(hours * 3600)).as_micros().unsigned_abs();
        let time = std::time::UNIX_EPOCH + Duration::from_micros(time);
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let store = world.store(Fault::Nothing, minute("202101040200"));
    let audit = || world.audit(&store, "202101040000", "202101040010");
    written_at(46);
    let found = audit().unwrap();
    assert_eq!((kinds(&found), found.books.counted), (BTreeMap::new(), 300));
    // Within a day clocks may be apart.
    written_at(48);
    let error = audit().unwrap_err();
    assert!(matches!(error, clickmill_reconcile::ReconcileError::Damaged { .. }), "{error}");
}
