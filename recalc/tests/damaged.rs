//! A file that cannot be relied on is named, with what it held, and nothing is recalculated from the rest.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clickmill_db_writer::raw::Before;
use clickmill_model::RawPartition;
use clickmill_queue::Queue;
use clickmill_queue::memory::MemoryQueue;
use clickmill_recalc::{Plan, RecalcError, recalculate};
use tempfile::TempDir;

use common::{TOPIC, World, definition, figures, minute};

/// One click a second for ten minutes, a file of each partition for each five of them.
fn world() -> (TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::in_folder(&definition(), folder.path());
    for half in 0..2 {
        let line = |n: u64| {
            let (minute, second) = (half * 5 + n / 60, n % 60);
            format!(
                "[AdClickEvent] ad{:03}, 2021-01-01 00:{minute:02}:{second:02}, user {n}, 207.148.22.22, USA",
                n % 7
            )
        };
        let lines: Vec<String> = (0..300).map(line).collect();
        world.send_all(lines.iter().map(|line| line.as_bytes()), 20);
        world.write(1 << 20);
    }
    (folder, world)
}

/// The first file of partition 1, with the minutes 00:00 to 00:04.
fn first_file(folder: &Path) -> PathBuf {
    let day = folder.join("raw/date=2021-01-01");
    let mut paths: Vec<PathBuf> = fs::read_dir(day).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("ad-clicks-1-"));
    paths.sort();
    paths[0].canonicalize().unwrap()
}

fn plan(world: &World, from: &str, to: &str) -> Plan {
    world.plan(minute(from)..minute(to))
}

/// What recalculating everything says, which must name the file.
fn refused(world: &World, path: &Path, span: &str) {
    let error = figures(&world.files, &plan(world, "202101010000", "202101010010")).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RecalcError::File { .. }), "{text}");
    assert!(text.contains(path.to_str().unwrap()) && text.contains(span), "{text}");
}

const SPAN: &str = "202101010000 to 202101010004";
const UNKNOWN: &str = "which minutes it holds is not known";

#[test]
fn a_file_damaged_in_a_page_is_named_where_it_matters() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let good = fs::read(&path).unwrap();
    assert_eq!(figures(&world.files, &plan(&world, "202101010000", "202101010010")).unwrap().1.lines.counted, 600);
    // Somewhere in the pages; the footer is whole.
    let mut bytes = good.clone();
    for byte in bytes.iter_mut().skip(200).take(400) {
        *byte ^= 0x55;
    }
    fs::write(&path, bytes).unwrap();
    refused(&world, &path, SPAN);
    // Minutes that it does not hold need it not.
    world.check(&plan(&world, "202101010005", "202101010010"));
}

#[test]
fn a_file_that_is_no_whole_file_of_ours_is_named() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let good = fs::read(&path).unwrap();
    for bytes in
        [&good[..0], &good[..5], &good[..good.len() / 2], &good[..good.len() - 1], b"something else altogether"]
    {
        fs::write(&path, bytes).unwrap();
        refused(&world, &path, UNKNOWN);
    }
}

#[test]
fn a_foreign_file_is_named() {
    let (folder, world) = world();
    let path = first_file(folder.path()).with_file_name("of-somebody-else.parquet");
    // Parquet, but without our footer: what a tool leaves that rewrites files.
    let batch = arrow_array::RecordBatch::try_from_iter([(
        "ad_id",
        std::sync::Arc::new(arrow_array::StringArray::from(vec!["ad001"])) as arrow_array::ArrayRef,
    )])
    .unwrap();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    refused(&world, &path, UNKNOWN);
}

#[test]
fn a_file_that_goes_while_it_is_needed_is_named() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let plan = Plan { slice_rows: 60, threads: 1, ..plan(&world, "202101010000", "202101010010") };
    let end = recalculate::<RecalcError>(
        &world.files,
        &plan,
        &AtomicBool::new(false),
        |progress| {
            if progress.until == minute("202101010001") {
                fs::remove_file(&path).unwrap();
            }
        },
        |_| Ok(()),
    );
    let text = end.unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains(SPAN), "{text}");
}

#[test]
fn another_file_under_the_same_name_is_named() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let is_other = |found: &PathBuf| found.file_name() != path.file_name();
    let second =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).find(is_other).unwrap();
    let plan = Plan { slice_rows: 60, threads: 1, ..plan(&world, "202101010000", "202101010010") };
    let end = recalculate::<RecalcError>(
        &world.files,
        &plan,
        &AtomicBool::new(false),
        |progress| {
            if progress.until == minute("202101010001") {
                fs::copy(&second, &path).unwrap();
            }
        },
        |_| Ok(()),
    );
    let text = end.unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("another file"), "{text}");
}

#[test]
fn a_file_that_was_deleted_is_missed() {
    let (folder, world) = world();
    let day = folder.path().join("raw/date=2021-01-01");
    let mut paths: Vec<PathBuf> = fs::read_dir(day).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert_eq!(paths.len(), 6);
    let all = plan(&world, "202101010000", "202101010010");
    let ends = |of: &MemoryQueue| {
        let committed = of.committed("raw-writer", TOPIC).unwrap();
        committed.into_iter().map(|(p, at)| (RawPartition::new(TOPIC, p), Before::committed(&at.metadata))).collect()
    };
    let knowing = Plan { ends: ends(&world.queue), ..all.clone() };
    world.check(&knowing);
    for (i, path) in paths.iter().enumerate() {
        let held = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        let told = figures(&world.files, &knowing);
        let text = told.map(|_| ()).unwrap_err().to_string();
        assert!(text.contains(&format!("a file of raw lines of ad-clicks/{} is gone", i / 2)), "{text}");
        let is_first = i % 2 == 0;
        assert!(text.contains(if is_first { ".parquet says" } else { "the writer of raw lines says" }), "{text}");
        // Who does not ask the writer misses those that another file speaks of.
        assert_eq!(figures(&world.files, &all).is_err(), is_first);
        // What came so long before cannot be of the span.
        let later = Plan { minutes: minute("202101020000")..minute("202101020001"), ..knowing.clone() };
        assert!(matches!(figures(&world.files, &later), Err(RecalcError::NoRawData { .. })));
        fs::write(path, held).unwrap();
    }
    world.check(&knowing);
}

#[test]
fn it_can_be_stopped() {
    let (_folder, world) = world();
    let stop = AtomicBool::new(true);
    let plan = plan(&world, "202101010000", "202101010010");
    let end = recalculate::<RecalcError>(&world.files, &plan, &stop, |_| (), |_| Ok(()));
    assert!(matches!(end, Err(RecalcError::Stopped)));
}
