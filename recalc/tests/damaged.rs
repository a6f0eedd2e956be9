//! A file that cannot be relied on is named, with what it held, and nothing is recalculated from the rest.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_db_writer::raw::{Before, Files, FilesError, parts};
use clickmill_model::RawPartition;
use clickmill_queue::Queue;
use clickmill_queue::memory::MemoryQueue;
use clickmill_recalc::{LeftOut, Plan, RecalcError, Summary, recalculate};
use clickmill_s3::{Fault, S3};
use tempfile::TempDir;

use common::{TOPIC, World, definition, figures, minute};

/// One click a second for ten minutes, a file of each partition for each five of them.
fn world() -> (TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::in_folder(&definition(), folder.path());
    fill(&mut world);
    (folder, world)
}

fn fill(world: &mut World) {
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

/// What each way of looking at it says of the six files with one of them damaged: refused, or counted without it.
struct Without {
    left_out: Vec<LeftOut>,
    counted: u64,
}

fn without(world: &World, plan: &Plan) -> Without {
    let skipping = Plan { skip_damaged: true, ..plan.clone() };
    let (_, Summary { left_out, lines, .. }) = figures(&world.files, &skipping).unwrap();
    Without { left_out, counted: lines.counted }
}

/// A file with our footer and all rows, but without one of the columns.
fn without_column(file: &[u8], name: &str) -> Vec<u8> {
    let builder =
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::copy_from_slice(file))
            .unwrap();
    let footer = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap();
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    let kept: Vec<usize> =
        (0..batches[0].num_columns()).filter(|i| batches[0].schema().field(*i).name() != name).collect();
    let mut bytes = Vec::new();
    let schema = batches[0].project(&kept).unwrap().schema();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    for batch in &batches {
        writer.write(&batch.project(&kept).unwrap()).unwrap();
    }
    for pair in footer.into_iter().filter(|pair| pair.key.starts_with("clickmill.")) {
        writer.append_key_value_metadata(pair);
    }
    writer.close().unwrap();
    bytes
}

/// Damages the first file of partition 1 in each way, and demands that it is left out as a whole, named with all that is known of what it held.
#[test]
fn each_kind_of_damage_is_passed_over_where_that_is_asked_and_named_with_what_it_may_hold() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let good = fs::read(&path).unwrap();
    let part = parts(&world.files, "raw").unwrap().into_iter().find(|part| path.ends_with(&part.path)).unwrap();
    let rows = part.span.rows;
    let all = plan(&world, "202101010000", "202101010010");
    let page = {
        let mut bytes = good.clone();
        bytes.iter_mut().skip(200).take(400).for_each(|byte| *byte ^= 0x55);
        bytes
    };
    let foreign = {
        let batch = arrow_array::RecordBatch::try_from_iter([(
            "ad_id",
            std::sync::Arc::new(arrow_array::StringArray::from(vec!["ad001"])) as arrow_array::ArrayRef,
        )])
        .unwrap();
        let mut bytes = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes
    };
    let other_schema = without_column(&good, "country");
    for (what, bytes, knows_its_minutes) in [
        ("zero bytes", Vec::new(), false),
        ("cut short", good[..good.len() / 2].to_vec(), false),
        ("damaged in a page", page, true),
        ("another schema", other_schema, true),
        ("a foreign file", foreign, false),
    ] {
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(figures(&world.files, &all), Err(RecalcError::File { .. })), "{what}");
        let Without { left_out, counted } = without(&world, &all);
        assert_eq!(counted, 600 - rows, "{what}: all of the file, and nothing else");
        let [left] = &left_out[..] else { panic!("{what}: {left_out:?}") };
        let text = left.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{what}: {text}");
        assert_eq!(
            (&left.raw, left.first_offset),
            (&Some(part.span.from.clone()), Some(part.span.first_offset)),
            "{what}"
        );
        // What its own footer does not tell any more, the file behind it does.
        assert_eq!(
            (left.last_offset, left.last_arrival),
            (Some(part.span.last_offset), Some(part.span.last_arrival)),
            "{what}"
        );
        assert_eq!(left.minutes, if knows_its_minutes { part.span.minutes } else { None }, "{what}");
        assert!(text.contains(if knows_its_minutes { SPAN } else { "minutes that are not known" }), "{what}: {text}");
        assert_eq!(left.counted_until, None);
    }
    fs::write(&path, good).unwrap();
    let Without { left_out, counted } = without(&world, &all);
    assert_eq!((left_out, counted), (Vec::new(), 600));
}

#[test]
fn a_file_that_is_gone_is_passed_over_where_that_is_asked() {
    let (folder, world) = world();
    let path = first_file(folder.path());
    let part = parts(&world.files, "raw").unwrap().into_iter().find(|part| path.ends_with(&part.path)).unwrap();
    fs::remove_file(&path).unwrap();
    let Without { left_out, counted } = without(&world, &plan(&world, "202101010000", "202101010010"));
    assert_eq!(counted, 600 - part.span.rows);
    let [left] = &left_out[..] else { panic!("{left_out:?}") };
    assert_eq!((&left.path, &left.raw), (&None, &Some(part.span.from.clone())));
    assert_eq!((left.first_offset, left.last_offset), (Some(clickmill_model::Offset(0)), Some(part.span.last_offset)));
    assert_eq!(left.last_arrival, Some(part.span.last_arrival));
    assert!(left.to_string().contains("ad-clicks/1: a file is gone, as raw/date=2021-01-01/"), "{left}");
}

/// What was counted before a file went stays, and is told; the rest of the span is counted without it, as by a plan that never saw it.
#[test]
fn a_file_that_goes_while_it_is_read_is_passed_over_from_then_on() {
    for is_deleted in [true, false] {
        let (folder, world) = world();
        let path = first_file(folder.path());
        let plan =
            Plan { slice_rows: 60, threads: 1, skip_damaged: true, ..plan(&world, "202101010000", "202101010010") };
        let whole = figures(&world.files, &plan).unwrap().0;
        let mut found = common::Figures::default();
        let summary = recalculate::<RecalcError>(
            &world.files,
            &plan,
            &AtomicBool::new(false),
            |progress| {
                if progress.until == minute("202101010002") {
                    if is_deleted {
                        fs::remove_file(&path).unwrap();
                    } else {
                        fs::write(&path, b"something else").unwrap();
                    }
                }
            },
            |told| {
                found.take_in(told);
                Ok(())
            },
        )
        .unwrap();
        let [left] = &summary.left_out[..] else { panic!("{:?}", summary.left_out) };
        assert_eq!(left.counted_until, Some(minute("202101010002")));
        let text = left.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("before 202101010002 were counted"), "{text}");
        let without = figures(&world.files, &plan).unwrap().0;
        assert_ne!(whole.counts, without.counts);
        let minutes = |figures: &common::Figures, from: &str, to: &str| -> Vec<_> {
            let inside = |span: &clickmill_model::Span| {
                span.kind == clickmill_model::SpanKind::Minute && span.start >= minute(from) && span.start < minute(to)
            };
            figures.counts.iter().filter(|((span, ..), _)| inside(span)).map(|(key, n)| (key.clone(), *n)).collect()
        };
        let (first, last) = (("202101010000", "202101010002"), ("202101010002", "202101010010"));
        assert_eq!(minutes(&found, first.0, first.1), minutes(&whole, first.0, first.1));
        assert_eq!(minutes(&found, last.0, last.1), minutes(&without, last.0, last.1));
    }
}

#[test]
fn without_any_line_nothing_is_counted_though_it_was_asked_to_go_on() {
    let (folder, world) = world();
    for entry in fs::read_dir(folder.path().join("raw/date=2021-01-01")).unwrap() {
        fs::write(entry.unwrap().path(), b"").unwrap();
    }
    let plan = Plan { skip_damaged: true, ..plan(&world, "202101010000", "202101010010") };
    assert!(matches!(figures(&world.files, &plan), Err(RecalcError::NoRawData { .. })));
}

/// An object store that is away says nothing about the files in it.
#[test]
fn a_store_that_does_not_answer_is_an_error_though_damage_is_passed_over() {
    let s3 = S3::start().unwrap();
    let files = |timeout| {
        let settings = clickmill_config::S3 {
            endpoint: Some(s3.endpoint()),
            access_key_id: Some(clickmill_s3::ACCESS_KEY.into()),
            secret_access_key: Some(clickmill_config::Secret(clickmill_s3::SECRET_KEY.into())),
            allow_http: true,
            timeout,
            ..clickmill_config::S3::default()
        };
        let url = Some(format!("s3://{}/a", clickmill_s3::BUCKET));
        let place = clickmill_config::Files { url, s3: settings, ..Default::default() }.place(Path::new("."));
        let clickmill_config::Place::Store { store, root } = place.unwrap() else { panic!() };
        Files::named(store, &root).unwrap()
    };
    let mut world = World::new(&definition(), files(Duration::from_secs(60)));
    fill(&mut world);
    let plan = Plan { skip_damaged: true, threads: 1, ..plan(&world, "202101010000", "202101010010") };
    world.check(&plan);
    let impatient = files(Duration::from_millis(300));
    let requests = s3.requests("GET", ".parquet");
    for after in (0..requests).step_by(4) {
        for fault in [Fault::Status(503), Fault::HalfBody] {
            s3.fail("GET", ".parquet", fault, after, 1000);
            let found = figures(&impatient, &plan);
            s3.heal();
            let Err(error) = found else { continue };
            let text = error.to_string();
            let is_away = matches!(error, RecalcError::File { error: FilesError::Unavailable { .. }, .. });
            assert!(is_away && text.contains("s3://clicks/a/raw/date=2021-01-01/"), "{after} {fault:?}: {text}");
        }
    }
    world.check(&plan);
}

#[test]
fn it_can_be_stopped() {
    let (_folder, world) = world();
    let stop = AtomicBool::new(true);
    let plan = plan(&world, "202101010000", "202101010010");
    let end = recalculate::<RecalcError>(&world.files, &plan, &stop, |_| (), |_| Ok(()));
    assert!(matches!(end, Err(RecalcError::Stopped)));
}

/// Nothing of it can be of the span: what stands in it does not matter, nor is it waited for.
#[test]
fn a_file_that_was_written_long_before_the_span_is_not_opened() {
    let (folder, mut world) = world();
    world.clock.advance(Duration::from_secs(3 * 86_400));
    let lines: Vec<String> = (0..300)
        .map(|n| format!("[AdClickEvent] ad{}, 2021-01-04 00:{:02}:{:02}, u, 1.2.3.4, USA", n % 7, n / 60, n % 60))
        .collect();
    world.send_all(lines.iter().map(|line| line.as_bytes()), 20);
    world.write(1 << 20);
    let path = first_file(folder.path());
    fs::write(&path, b"not what it was").unwrap();
    let written_at = |time: clickmill_model::Timestamp| {
        let time = std::time::UNIX_EPOCH + Duration::from_micros(time.as_micros().unsigned_abs());
        fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    let plan = plan(&world, "202101040000", "202101040010");
    written_at(common::START.after(Duration::from_secs(600)));
    world.check(&plan);
    // Within a day clocks may be apart.
    written_at(common::START.after(Duration::from_secs(2 * 86_400 + 1)));
    let error = figures(&world.files, &plan).unwrap_err();
    assert!(matches!(&error, RecalcError::File { error: FilesError::Damaged { .. }, .. }), "{error}");
}
