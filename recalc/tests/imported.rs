//! Lines of imports are counted with those of the stream: each click once, and none of an import that has not come to its end.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_db_writer::raw::import::{Entry, ImportError, Progress, Request, import, imports};
use clickmill_db_writer::raw::{Files, Rolling, spans};
use clickmill_generator::{Options, Truth, lines};
use clickmill_model::{Minute, Offset, PartitionBy, SpanKind};
use clickmill_queue::Clock;
use clickmill_recalc::{Plan, RecalcError};

use common::{Figures, PARTITIONS, TOPIC, World, assert_same, definition, figures, minute};

const HOUR: [&str; 2] = ["202101010000", "202101010100"];

fn generated() -> (Vec<Vec<u8>>, Truth) {
    let options = Options { clicks: 30_000, ads: 60, minutes: 60, duplicates: 0.05, ..Options::new("") };
    let (bytes, truth) = lines(&options).unwrap();
    (bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect(), truth)
}

fn log(folder: &tempfile::TempDir, name: &str, lines: &[Vec<u8>]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, lines.join(&b'\n')).unwrap();
    path
}

fn bring(world: &World, paths: &[PathBuf], at_most: u64) -> Result<(), ImportError> {
    let request = Request {
        topic: TOPIC.into(),
        partitions: PARTITIONS,
        partition_by: PartitionBy::Identity,
        max_clock_skew: Duration::from_secs(1 << 34),
        is_complete: true,
        now: world.clock.now(),
        rolling: Rolling { rows: 2000, ..Rolling::default() },
    };
    let stop = AtomicBool::new(false);
    let mut tell = |progress: Progress| stop.store(progress.lines > at_most, Ordering::Relaxed);
    import(&world.files, &request, paths, false, &stop, &mut tell).map(|_| ())
}

fn done(files: &Files) -> Vec<Entry> {
    imports(files).unwrap().into_iter().filter(|entry| entry.brought().is_some()).collect()
}

fn plan(world: &World) -> Plan {
    Plan { slice_rows: 4000, imports: done(&world.files), ..world.plan(minute(HOUR[0])..minute(HOUR[1])) }
}

fn of_minutes(told: &Figures) -> BTreeMap<(Minute, String), u64> {
    let all = told.counts.iter().filter(|((span, filter, _), _)| span.kind == SpanKind::Minute && filter.0 == 0);
    all.map(|((span, _, ad), count)| ((span.start, ad.clone()), *count)).collect()
}

fn worlds() -> Vec<(tempfile::TempDir, World)> {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let local = World::in_folder(&definition(), &first.path().join("files"));
    vec![(first, local), (second, World::in_memory(&definition()))]
}

#[test]
fn clicks_of_stream_and_imports_count_once() {
    let (lines, truth) = generated();
    for (folder, mut world) in worlds() {
        // The stream has the first half, while two imports bring the second, with much that is known already.
        world.send_all(lines[..8000].iter().map(Vec::as_slice), 20);
        world.write(1 << 20);
        let one = log(&folder, "one.log", &lines[5000..20_000]);
        bring(&world, &[one], u64::MAX).unwrap();
        world.send_all(lines[8000..16_000].iter().map(Vec::as_slice), 20);
        world.write(1 << 20);
        let two = log(&folder, "two.log", &lines[18_000..]);
        bring(&world, &[two], u64::MAX).unwrap();
        let (told, summary) = figures(&world.files, &plan(&world)).unwrap();
        assert_same(&of_minutes(&told), &truth.counts);
        assert_eq!(summary.lines.counted, truth.total());
        // Pinned before the second one ended, it counts as though that had never been.
        let pinned = Plan { imports: done(&world.files)[..1].to_vec(), ..plan(&world) };
        let (_, summary) = figures(&world.files, &pinned).unwrap();
        assert!(summary.lines.counted < truth.total());
        // The pins of the stream are none of the imports'.
        let raw = |partition| clickmill_model::RawPartition::new(TOPIC, clickmill_model::Partition(partition));
        let pins = (0..PARTITIONS).map(|partition| (raw(partition), Offset(1 << 20))).collect();
        let (again, _) = figures(&world.files, &Plan { pins, ..plan(&world) }).unwrap();
        assert!(again == told);
    }
}

#[test]
fn an_import_that_has_not_come_to_its_end_does_not_count() {
    let (lines, truth) = generated();
    for (folder, mut world) in worlds() {
        world.send_all(lines[..10_000].iter().map(Vec::as_slice), 20);
        world.write(1 << 20);
        let before = figures(&world.files, &plan(&world)).unwrap().0;
        let files = world.files.list("raw").unwrap().len();
        let rest = [log(&folder, "rest.log", &lines[10_000..])];
        assert!(matches!(bring(&world, &rest, 15_000), Err(ImportError::Stopped)));
        assert!(world.files.list("raw").unwrap().len() > files);
        assert!(figures(&world.files, &plan(&world)).unwrap().0 == before);
        bring(&world, &rest, u64::MAX).unwrap();
        assert_same(&of_minutes(&figures(&world.files, &plan(&world)).unwrap().0), &truth.counts);
    }
}

#[test]
fn imported_lines_that_are_gone_are_missed_where_they_matter() {
    let (lines, _) = generated();
    for (folder, mut world) in worlds() {
        world.send_all(lines[..10_000].iter().map(Vec::as_slice), 20);
        world.write(1 << 20);
        bring(&world, &[log(&folder, "rest.log", &lines[10_000..])], u64::MAX).unwrap();
        let imported = spans(&world.files, "raw").unwrap().into_iter().filter(|(_, span)| span.import().is_some());
        let imported: Vec<_> = imported.map(|(listed, span)| (listed.path, span)).collect();
        let first_minute = imported.iter().filter_map(|(_, span)| span.minutes).map(|(first, _)| first).min().unwrap();
        // The last one of its partition, of which no other tells.
        let of_one = |span: &clickmill_db_writer::raw::FileSpan| span.from.partition.0 == 1;
        let (path, span) =
            imported.iter().filter(|(_, span)| of_one(span)).max_by_key(|(_, span)| span.last_offset).unwrap();
        world.files.delete(path).unwrap();
        let error = figures(&world.files, &plan(&world)).unwrap_err();
        let RecalcError::Missing { raw, last_offset, told_by, .. } = &error else { panic!("{error}") };
        assert_eq!((raw, *last_offset), (&span.from, span.last_offset));
        assert!(told_by.contains("import 1"), "{told_by}");
        // Before the first click of the import nothing of it is needed.
        let early = Plan { minutes: minute(HOUR[0])..first_minute, ..plan(&world) };
        figures(&world.files, &early).unwrap();
        let skipped = figures(&world.files, &Plan { skip_damaged: true, ..plan(&world) }).unwrap().1;
        assert_eq!(skipped.left_out.len(), 1, "{:?}", skipped.left_out);
    }
}

/// Without the list nobody knows which imported lines count.
#[test]
fn a_list_of_imports_that_is_gone_is_missed() {
    let (lines, _) = generated();
    let (folder, mut world) = worlds().remove(0);
    world.send_all(lines[..10_000].iter().map(Vec::as_slice), 20);
    world.write(1 << 20);
    bring(&world, &[log(&folder, "rest.log", &lines[10_000..])], u64::MAX).unwrap();
    std::fs::remove_dir_all(folder.path().join("files/imports")).unwrap();
    let error = figures(&world.files, &plan(&world)).unwrap_err().to_string();
    assert!(error.contains("files/imports") && error.contains("it lacks import 1"), "{error}");
}

/// With an event id a click is that, its ad and its time; what the first line says besides is what counts, and the stream's is the first.
#[test]
fn what_the_stream_told_first_stays() {
    let line = |n: u32, country: &str| {
        let second = n % 60;
        format!(
            r#"{{"ad_id":"ad{}","click_timestamp":"2021-01-01 00:00:{second:02}","user_id":"u","ip":"1.2.3.4","country":"{country}","event_id":"e{n}"}}"#,
            n % 5
        )
        .into_bytes()
    };
    for (folder, mut world) in worlds() {
        let streamed: Vec<Vec<u8>> = (0..300).map(|n| line(n, "USA")).collect();
        // The imports tell the same clicks, and some of their own, from elsewhere.
        let [first, second] = ["India", "France"].map(|country| (0..400).map(|n| line(n, country)).collect::<Vec<_>>());
        bring(&world, &[log(&folder, "first.log", &first)], u64::MAX).unwrap();
        bring(&world, &[log(&folder, "second.log", &second)], u64::MAX).unwrap();
        world.clock.advance(Duration::from_secs(3600));
        world.send_all(streamed.iter().map(Vec::as_slice), 20);
        world.write(1 << 20);
        let (told, summary) = figures(&world.files, &plan(&world)).unwrap();
        assert_eq!(summary.lines.counted, 400);
        let of_filter = |filter: u16| -> u64 {
            let all = told.counts.iter();
            all.filter(|((span, of, _), _)| span.kind == SpanKind::Minute && of.0 == filter).map(|(_, n)| *n).sum()
        };
        // Filter 1 is the USA, filter 2 neither the USA nor India.
        assert_eq!((of_filter(0), of_filter(1), of_filter(2)), (400, 300, 0));
    }
}
