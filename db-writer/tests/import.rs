//! Old log files become raw lines: each once, whatever is interrupted, and none that is not settled.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_db_writer::raw::import::{
    Brought, End, Fate, ImportError, Progress, Request, Summary, drop_import, import, imports,
};
use clickmill_db_writer::raw::{Files, FilesError, Rolling, parts, read};
use clickmill_model::partition::of_identity;
use clickmill_model::{LineParser, Minute, Offset, PartitionBy, Timestamp};
use clickmill_queue::Stage;
use common::fuse::Fuse;
use common::{GROUP, Rig, START, TOPIC, line};
use object_store::memory::InMemory;

const PARTITIONS: u32 = 3;

fn request() -> Request {
    Request {
        topic: TOPIC.into(),
        partitions: PARTITIONS,
        partition_by: PartitionBy::Identity,
        max_clock_skew: Duration::from_secs(3600),
        is_complete: false,
        now: START.after(Duration::from_secs(60)),
        // Several files a partition.
        rolling: Rolling { rows: 5000, ..Rolling::default() },
    }
}

fn run(files: &Files, paths: &[PathBuf]) -> Result<Summary, ImportError> {
    import(files, &request(), paths, false, &AtomicBool::new(false), &mut |_| ())
}

fn fates(summary: &Summary) -> Vec<Fate> {
    summary.files.iter().map(|(_, fate)| fate.clone()).collect()
}

/// A log file with these lines.
fn log(folder: &Path, name: &str, lines: impl IntoIterator<Item = String>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, lines.into_iter().map(|line| line + "\n").collect::<String>()).unwrap();
    path
}

/// What is read of imports that are done: partition, offset, file, byte offset, line.
type Row = (u32, u64, String, u64, Vec<u8>);

fn rows(files: &Files) -> Vec<Row> {
    let done: Vec<u32> = imports(files)
        .unwrap()
        .iter()
        .filter(|entry| entry.brought().is_some())
        .map(|entry| entry.import.number)
        .collect();
    let mut rows = Vec::new();
    for part in parts(files, "raw").unwrap() {
        if !part.span.import().is_some_and(|number| done.contains(&number)) {
            continue;
        }
        let end = read::rows(files, &part, |row| {
            let (file, at) = row.origin.unwrap();
            assert_eq!(row.source, Some(&*format!("import {}", row.offset.import().unwrap())));
            rows.push((row.partition.0, row.offset.0, file.to_owned(), at, row.line.to_vec()));
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(end.unwrap(), None);
    }
    rows
}

fn assert_rows(files: &Files, expected: &[Row]) {
    let found = rows(files);
    let differs = found.iter().zip(expected).find(|(found, expected)| found != expected);
    assert_eq!((differs, found.len()), (None, expected.len()));
}

/// The rows that an import of files must come to, by nothing but their bytes.
fn expected(number: u32, paths: &[&Path]) -> Vec<Row> {
    let (mut parser, mut places, mut rows) = (LineParser::new(), BTreeMap::new(), Vec::new());
    for path in paths {
        let mut at = 0;
        for line in fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n') {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let partition = match parser.parse(text) {
                Ok(click) => of_identity(click.identity(&mut Vec::new()), PARTITIONS).0,
                Err(_) => (xxhash_rust::xxh3::xxh3_64(text) % u64::from(PARTITIONS)) as u32,
            };
            let place: &mut u64 = places.entry(partition).or_default();
            let offset = Offset::imported(number, *place).unwrap().0;
            *place += 1;
            rows.push((partition, offset, path.display().to_string(), at, text.to_vec()));
            at += line.len() as u64;
        }
    }
    rows.sort();
    rows
}

#[test]
fn each_line_is_there_once_with_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let (local, s3) = (tempfile::tempdir().unwrap(), clickmill_s3::S3::start().unwrap());
    let old = log(folder.path(), "old.log", (0..20_000).map(line).chain(["no click".into(), String::new()]));
    let older = log(folder.path(), "older.log", (20_000..20_100).map(line));
    let ahead = "[AdClickEvent] ad1, 2021-01-01 02:00:00, u, 1.2.3.4, USA".to_owned();
    let copy = log(folder.path(), "copy.log", (20_000..20_100).map(line));
    let empty = log(folder.path(), "empty.log", []);
    let later = log(folder.path(), "later.log", [ahead, line(1)]);
    let given = [&old, &older, &copy, &empty].map(Clone::clone);
    let memory = Files::new(Arc::new(InMemory::new())).unwrap();
    for files in [memory, Files::local(local.path()).unwrap(), common::in_s3(&s3, "a")] {
        let summary = run(&files, &given).unwrap();
        assert_eq!(fates(&summary), [Fate::Imported(1), Fate::Imported(1), Fate::Same(older.clone()), Fate::Empty]);
        let [(1, Brought { lines, rejected: 2, minutes })] = &summary.brought[..] else { panic!("{summary:?}") };
        assert_eq!(lines.values().sum::<u64>(), 20_102);
        let minute = Minute::parse("202101010000").unwrap();
        assert_eq!(*minutes, Some((minute, minute)));
        assert_rows(&files, &expected(1, &[&old, &older]));
        let paths: Vec<_> = files.list("raw").unwrap();
        assert!(paths.len() > PARTITIONS as usize, "{paths:?}");
        // Whatever it is called, once is enough; what is new becomes an import of its own.
        let summary = run(&files, &[copy.clone(), later.clone()]).unwrap();
        assert_eq!(fates(&summary), [Fate::Before(1), Fate::Imported(2)]);
        // Two hours are more than its clock may be ahead.
        assert!(matches!(&summary.brought[..], [(2, Brought { rejected: 1, .. })]), "{:?}", summary.brought);
        let mut all = [expected(1, &[&old, &older]), expected(2, &[&later])].concat();
        all.sort();
        assert_rows(&files, &all);
        let arrivals: Vec<Timestamp> = imports(&files).unwrap().iter().map(|entry| entry.import.arrival).collect();
        assert!(arrivals[0] < arrivals[1], "{arrivals:?}");
    }
}

#[test]
fn a_crash_after_any_operation_is_made_good_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let paths =
        [log(folder.path(), "a.log", (0..8000).map(line)), log(folder.path(), "b.log", (8000..16_000).map(line))];
    let turned = expected(1, &[&paths[1], &paths[0]]);
    let expected = expected(1, &[&paths[0], &paths[1]]);
    let mut crashes = 0;
    for last_is_done in [false, true] {
        for operations in 1.. {
            let inner = Arc::new(InMemory::new());
            let files = Files::new(inner.clone()).unwrap();
            let fuse = Files::new(Arc::new(Fuse::new(inner, operations, last_is_done))).unwrap();
            let end = run(&fuse, &paths);
            // All of it counts, or none.
            let found = rows(&files);
            assert!(found.is_empty() || found == expected, "after {operations} operations: {} rows", found.len());
            if end.is_ok() {
                assert_rows(&files, &expected);
                break;
            }
            crashes += 1;
            // In the other order, which matters only where it had not begun.
            let had_begun = !imports(&files).unwrap().is_empty();
            run(&files, &[paths[1].clone(), paths[0].clone()]).unwrap();
            assert_rows(&files, if had_begun { &expected } else { &turned });
            assert_eq!(imports(&files).unwrap().len(), 1);
        }
    }
    assert!(crashes > 15, "{crashes}");
}

#[test]
fn of_several_at_once_each_line_comes_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let shared = log(folder.path(), "shared.log", (0..9000).map(line));
    let own: Vec<PathBuf> = (0..4)
        .map(|n| log(folder.path(), &format!("own-{n}.log"), (10_000 + 100 * n..10_100 + 100 * n).map(line)))
        .collect();
    for _ in 0..5 {
        let files = Files::new(Arc::new(InMemory::new())).unwrap();
        std::thread::scope(|scope| {
            for own in &own {
                let (files, shared) = (&files, shared.clone());
                // Where one of them is in another's way it is told so.
                scope.spawn(move || match run(files, &[shared, own.clone()]) {
                    Ok(_) | Err(ImportError::Unfinished { .. } | ImportError::Beside(_)) => {}
                    Err(error) => panic!("{error}"),
                });
            }
        });
        let all: Vec<PathBuf> = own.iter().chain([&shared]).cloned().collect();
        run(&files, &all).unwrap();
        let mut found: Vec<Vec<u8>> = rows(&files).into_iter().map(|(.., line)| line).collect();
        found.sort();
        let mut lines: Vec<Vec<u8>> = all
            .iter()
            .flat_map(|path| fs::read(path).unwrap())
            .collect::<Vec<u8>>()
            .split(|b| *b == b'\n')
            .map(<[u8]>::to_vec)
            .collect();
        lines.retain(|line| !line.is_empty());
        lines.sort();
        assert!(found == lines, "{} lines of {}", found.len(), lines.len());
    }
}

#[test]
fn a_file_that_grows_is_taken_as_it_was_and_refused_when_it_is_longer() {
    let folder = tempfile::tempdir().unwrap();
    let path = log(folder.path(), "a.log", (0..9000).map(line));
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    let was = fs::read(&path).unwrap();
    let grow = |_: Progress| fs::write(&path, [&was[..], line(9000).as_bytes(), b"\n"].concat()).unwrap();
    // It grows when its first lines are taken, after it was surveyed.
    let mut grown = |progress: Progress| {
        if progress.lines > 0 {
            grow(progress);
        }
    };
    import(&files, &request(), std::slice::from_ref(&path), false, &AtomicBool::new(false), &mut grown).unwrap();
    assert_eq!(rows(&files).len(), 9000);
    let error = run(&files, std::slice::from_ref(&path)).unwrap_err();
    assert!(matches!(&error, ImportError::Grown { import: 1, bytes, .. } if *bytes == was.len() as u64), "{error}");
}

#[test]
fn a_file_that_is_changed_meanwhile_is_given_up_with_all_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = log(folder.path(), "a.log", (0..50_000).map(line));
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    let was = fs::read(&path).unwrap();
    let mut change = |progress: Progress| {
        if progress.lines > 0 {
            let mut other = was.clone();
            let last = other.len() - 100;
            other[last] ^= 1;
            fs::write(&path, other).unwrap();
        }
    };
    let given = std::slice::from_ref(&path);
    let error = import(&files, &request(), given, false, &AtomicBool::new(false), &mut change).unwrap_err();
    assert!(matches!(error, ImportError::Changed { import: 1, .. }), "{error}");
    assert_eq!(imports(&files).unwrap()[0].end, Some(End::Dropped));
    assert_eq!(files.list("raw").unwrap(), []);
    fs::write(&path, &was).unwrap();
    run(&files, given).unwrap();
    assert_rows(&files, &expected(2, &[&path]));
}

/// Other lines are durable in the places of those that the list promises, or behind them: found out, whoever goes on.
#[test]
fn lines_of_another_file_that_took_the_name_never_count() {
    // All lines differ; or there are more of one partition, behind all that the right file has.
    let same: fn(usize) -> String = |n| line(if n < 9000 { n } else { 0 });
    for (lines, other) in [
        ((0..30_000).map(line).collect::<Vec<_>>(), line as fn(usize) -> String),
        ((0..30_000).map(same).collect(), same),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = log(folder.path(), "a.log", lines);
        let files = Files::new(Arc::new(InMemory::new())).unwrap();
        let was = fs::read(&path).unwrap();
        let given = std::slice::from_ref(&path);
        let stop = AtomicBool::new(false);
        let mut rotate = |progress: Progress| {
            if progress.bytes == was.len() as u64 && progress.lines == 0 {
                fs::rename(&path, folder.path().join("a.log.1")).unwrap();
                log(folder.path(), "a.log", (100_000..130_000).map(other));
            }
            stop.store(progress.lines > 25_000, Ordering::Relaxed);
        };
        let error = import(&files, &request(), given, false, &stop, &mut rotate).unwrap_err();
        assert!(matches!(error, ImportError::Stopped), "{error}");
        assert!(!files.list("raw").unwrap().is_empty());
        fs::write(&path, &was).unwrap();
        let error = run(&files, given).unwrap_err();
        assert!(matches!(error, ImportError::Changed { import: 1, .. }), "{error}");
        assert_eq!((files.list("raw").unwrap(), rows(&files)), (vec![], vec![]));
        run(&files, given).unwrap();
        assert_rows(&files, &expected(2, &[&path]));
    }
}

#[test]
fn a_file_that_grew_since_its_import_was_interrupted_goes_on_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = log(folder.path(), "a.log", (0..30_000).map(line));
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    let expected = expected(1, &[&path]);
    let given = std::slice::from_ref(&path);
    let stop = AtomicBool::new(false);
    let mut tell = |progress: Progress| stop.store(progress.lines > 25_000, Ordering::Relaxed);
    import(&files, &request(), given, false, &stop, &mut tell).unwrap_err();
    let was = fs::read(&path).unwrap();
    fs::write(&path, [&was[..], line(30_000).as_bytes(), b"\n"].concat()).unwrap();
    run(&files, given).unwrap();
    assert_rows(&files, &expected);
    assert!(matches!(run(&files, given), Err(ImportError::Grown { import: 1, .. })));
}

#[test]
fn a_last_line_without_an_end_may_be_half_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    fs::write(&path, line(0)).unwrap();
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    let given = std::slice::from_ref(&path);
    let error = run(&files, given).unwrap_err();
    assert!(matches!(&error, ImportError::Unended { path: of } if *of == path), "{error}");
    assert_eq!(imports(&files).unwrap(), []);
    let complete = Request { is_complete: true, ..request() };
    import(&files, &complete, given, false, &AtomicBool::new(false), &mut |_| ()).unwrap();
    assert_rows(&files, &expected(1, &[&path]));
    // To another topic it would be another click.
    let other = Request { topic: "ad-clicks-eu".into(), ..complete };
    let error = import(&files, &other, given, false, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(matches!(&error, ImportError::OtherTopic { import: 1, topic, .. } if topic == TOPIC), "{error}");
}

#[test]
fn what_is_not_at_its_end_wants_all_of_its_files_or_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let paths =
        [log(folder.path(), "a.log", (0..30_000).map(line)), log(folder.path(), "b.log", (30_000..40_000).map(line))];
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    let stop = AtomicBool::new(false);
    // Some files are durable then.
    let mut tell = |progress: Progress| stop.store(progress.lines > 25_000, Ordering::Relaxed);
    let error = import(&files, &request(), &paths, false, &stop, &mut tell).unwrap_err();
    assert!(matches!(error, ImportError::Stopped), "{error}");
    assert!(!files.list("raw").unwrap().is_empty());
    assert_eq!(rows(&files), []);
    let error = run(&files, &paths[1..]).unwrap_err();
    let ImportError::Unfinished { import: 1, missing, .. } = &error else { panic!("{error}") };
    assert_eq!(*missing, paths[0].display().to_string());
    // A dry run tells what would be, and does nothing.
    let planned = import(&files, &request(), &paths, true, &AtomicBool::new(false), &mut |_| ()).unwrap();
    assert_eq!((planned.files[0].1.clone(), planned.brought.len()), (Fate::Imported(1), 0));
    assert!(matches!(drop_import(&files, 2), Err(ImportError::Unknown(2))));
    assert!(drop_import(&files, 1).unwrap() > 0);
    assert_eq!(files.list("raw").unwrap(), []);
    run(&files, &paths[1..]).unwrap();
    assert_rows(&files, &expected(2, &[&paths[1]]));
    assert!(matches!(drop_import(&files, 2), Err(ImportError::Done(2))));
}

#[test]
fn a_log_that_cannot_be_read_is_named_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let good = log(folder.path(), "a.log", [line(0)]);
    let cut = folder.path().join("cut.log.gz");
    fs::write(&cut, [0x1f, 0x8b, 8, 0, 0]).unwrap();
    let files = Files::new(Arc::new(InMemory::new())).unwrap();
    for bad in [cut, folder.path().join("none.log"), folder.path().to_owned()] {
        let error = run(&files, &[good.clone(), bad.clone()]).unwrap_err();
        assert!(matches!(&error, ImportError::Log { path, .. } if *path == bad), "{error}");
        assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
    }
    assert_eq!((imports(&files).unwrap(), files.list("raw").unwrap()), (vec![], vec![]));
}

#[test]
fn a_list_that_is_damaged_or_newer_is_named() {
    let (folder, local) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = log(folder.path(), "a.log", [line(0)]);
    let files = Files::local(local.path()).unwrap();
    run(&files, &[path]).unwrap();
    let begun = local.path().join("imports/000001.json");
    let good = fs::read_to_string(&begun).unwrap();
    for (bad, why) in [(good.replace("\"format\": 1", "\"format\": 2"), "newer"), (String::new(), "EOF")] {
        fs::write(&begun, bad).unwrap();
        let error = imports(&files).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FilesError::Damaged { .. }) && text.contains("000001.json"), "{text}");
        assert!(text.contains(why), "{text}");
    }
}

/// Neither the writer of raw lines nor its retention takes imported lines for its own.
#[test]
fn the_stream_goes_on_beside_imports() {
    let folder = tempfile::tempdir().unwrap();
    let path = log(folder.path(), "a.log", (0..3000).map(line));
    let rig = Rig::in_memory();
    let request = Request { partitions: 1, now: rig.now(), ..request() };
    let stop = AtomicBool::new(false);
    import(&rig.files, &request, &[path], false, &stop, &mut |_| ()).unwrap();
    let imported = rig.paths("raw");
    assert_eq!(imported.len(), 1);
    for n in 0..2 {
        rig.send_lines(&[line(n).as_bytes()]);
        rig.drain(&format!("w{n}")).unwrap();
    }
    assert_eq!(rig.paths("raw").len(), 3);
    assert_eq!(rig.lines("raw").len(), 3002);
    // A writer whose offset is gone adopts what it wrote, and no import.
    rig.queue.delete_offsets(GROUP);
    rig.send_lines(&[line(5).as_bytes()]);
    rig.drain("again").unwrap();
    assert_eq!(rig.lines("raw").len(), 3003);
    // All of it is past its retention.
    rig.clock.advance(Duration::from_secs(100 * 86_400));
    rig.send_heartbeat();
    let mut writer = rig.writer("late");
    rig.settle(&mut writer).unwrap();
    Box::new(writer).stop().unwrap();
    assert!(!rig.paths("raw").contains(&imported[0]), "{:?}", rig.paths("raw"));
}
