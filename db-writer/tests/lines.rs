//! Every kind of line comes back byte by byte, with its columns, its reason and where it stood.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use clickmill_db_writer::late::{LateConfig, LateWriter};
use clickmill_db_writer::raw::{FileSpan, Files, parts, read};
use clickmill_model::records::{LATE_CLICKS, SetAside, SetAsideBatch};
use clickmill_model::{Minute, Offset, Partition, RawPartition};
use clickmill_queue::{Queue, Record, Stage};
use common::{Rig, START, TOPIC, line, spec, watched};

const GOOD: &str = "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA";
const JSON: &str = r#"{"ad_id":"ad001","click_timestamp":"2021-01-01T00:00:01Z","user_id":"user 1","ip":"::FFFF:1.2.3.4","country":"USA","event_id":"e,1"}"#;

/// A line, and what its row must say: ad, address, event id, reason.
type Kind = (Vec<u8>, Option<(&'static str, &'static str, Option<&'static str>)>, Option<&'static str>);

fn kinds() -> Vec<Kind> {
    let ip = "207.148.22.22";
    let click = |line: &str| (line.as_bytes().to_vec(), Some(("ad001", ip, None)), None);
    let rejected = |line: &[u8], reason| (line.to_vec(), None, Some(reason));
    vec![
        click(GOOD),
        click(&format!("  {GOOD}\t\r")),
        click(&GOOD.replace(", ", ",")),
        click(&GOOD.replace("00:00:01", "00:00:01.250")),
        click(&GOOD.replace("00:00:01", "00:00:01.25")),
        (GOOD.replace("ad001", "реклама/%?").into_bytes(), Some(("реклама/%?", ip, None)), None),
        (GOOD.replace(ip, "2001:DB8::0:1").into_bytes(), Some(("ad001", "2001:db8::1", None)), None),
        (JSON.as_bytes().to_vec(), Some(("ad001", "1.2.3.4", Some("e,1"))), None),
        (JSON.replace("ad001", r"ad\u002C 1").into_bytes(), Some(("ad, 1", "1.2.3.4", Some("e,1"))), None),
        (GOOD.replace("2021-01-01", "2099-01-01").into_bytes(), Some(("ad001", ip, None)), Some("wrong_clock")),
        rejected(b"", "empty"),
        rejected(b"\r", "empty"),
        rejected(b"[AdClickEvent] ad\x00001, 2021-01-01 00:00:01, user 1, 1.1.1.1, USA", "control_character"),
        rejected(b"\xff\xfe not text", "not_utf8"),
        rejected(b"{\"ad_id\":", "broken_json"),
        rejected(GOOD.replace("01-01", "02-30").as_bytes(), "bad_timestamp"),
        rejected(&[b'x'; 64 * 1024 + 1], "too_long"),
    ]
}

/// What `read` gives back of a folder's only file.
fn check_rows(rig: &Rig, folder: &str, expected: &[Kind], first: (&str, u64), has_origin: bool) {
    let parts = parts(&rig.files, folder).unwrap();
    assert_eq!(parts.len(), 1);
    let mut i = 0;
    read::rows(&rig.files, &parts[0], |row| {
        let (bytes, click, reason) = &expected[i];
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(row.line, bytes, "{shown}");
        assert_eq!(row.click.map(|c| (c.ad_id, c.ip, c.event_id)), *click, "{shown}");
        assert_eq!(row.reason.map(|r| r.as_str()), *reason, "{shown}");
        assert_eq!((row.topic, row.partition, row.offset), (first.0, Partition(0), Offset(first.1)));
        assert_eq!(row.line_number, i as u32);
        assert_eq!(row.source, has_origin.then_some("web-17"));
        assert_eq!(row.origin, has_origin.then_some(("/var/log/ads/a.log", 1000 + 70 * i as u64)));
        i += 1;
        ControlFlow::<()>::Continue(())
    })
    .unwrap();
    assert_eq!(i, expected.len());
}

fn bytes_of(kinds: &[Kind]) -> Vec<&[u8]> {
    kinds.iter().map(|(bytes, _, _)| bytes.as_slice()).collect()
}

#[test]
fn every_kind_of_line_comes_back_as_it_was() {
    let (rig, kinds) = (Rig::in_memory(), kinds());
    rig.send_lines(&bytes_of(&kinds));
    rig.drain("a").unwrap();
    check_rows(&rig, "raw", &kinds, (TOPIC, 0), true);
}

#[test]
fn lines_of_a_foreign_producer_come_back_as_they_were() {
    let (rig, kinds) = (Rig::in_memory(), kinds());
    let mut value = bytes_of(&kinds).join(&b'\n');
    value.push(b'\n');
    // Its headers are its own.
    rig.send(TOPIC, Record { headers: vec![("clickmill".into(), b"\x01\xff".to_vec())], ..Record::of(value) });
    rig.drain("a").unwrap();
    check_rows(&rig, "raw", &kinds, (TOPIC, 0), false);
}

#[test]
fn late_clicks_keep_where_they_came_from() {
    let rig = Rig::in_memory();
    rig.queue.create_topics(&[spec(LATE_CLICKS, 1)]).unwrap();
    let kinds: Vec<Kind> =
        kinds().into_iter().filter(|(_, click, reason)| click.is_some() && reason.is_none()).collect();
    let lines = kinds.iter().enumerate().map(|(i, (bytes, _, _))| SetAside {
        offset: Offset(4711),
        line_number: i as u32,
        arrival: START,
        reason: None,
        origin: Some(("web-17".into(), "/var/log/ads/a.log".into(), 1000 + 70 * i as u64)),
        line: bytes.clone(),
    });
    let batch = SetAsideBatch { raw: RawPartition::new("other-clicks", Partition(0)), lines: lines.collect() };
    rig.send(LATE_CLICKS, Record::of(batch.encode()));
    rig.flush.store(true, std::sync::atomic::Ordering::SeqCst);
    let config = LateConfig { flush: Arc::clone(&rig.flush), ..LateConfig::default() };
    let mut writer = LateWriter::start(Arc::new(rig.queue.clone()), Arc::clone(&rig.files), config).unwrap();
    rig.settle(&mut writer).unwrap();
    Box::new(writer).stop().unwrap();
    check_rows(&rig, "late", &kinds, ("other-clicks", 4711), true);
    let path = &rig.paths("late")[0];
    assert!(path.starts_with("late/date=2021-01-01/late-clicks-0-00000000000000000000-"), "{path}");
    assert_eq!(rig.queue.committed("late-writer", LATE_CLICKS).unwrap()[0].1.offset, Offset(1));
}

#[test]
fn the_footer_says_what_the_file_holds() {
    let rig = Rig::in_memory();
    rig.send_heartbeat();
    let wrong_clock = line(1).replace("2021-01-01", "2099-01-01");
    let before_1970 = line(2).replace("2021-01-01 00:00:01", "1969-12-31 23:59:59");
    let arrived = rig.now().as_micros() + 1000;
    rig.send_lines(&[line(0).as_bytes(), wrong_clock.as_bytes(), b"garbage", before_1970.as_bytes()]);
    rig.send_lines(&[b"more garbage"]);
    rig.send_heartbeat();
    rig.drain("a").unwrap();
    let paths = rig.paths("raw");
    assert_eq!(paths, ["raw/date=2021-01-01/ad-clicks-0-00000000000000000001-1609459200002.parquet"]);
    let span = FileSpan::read(&rig.files, &paths[0]).unwrap();
    let minute = |text| Minute::parse(text).unwrap();
    assert_eq!((span.first_offset, span.last_offset), (Offset(1), Offset(3)));
    assert_eq!((span.first_arrival.as_micros(), span.last_arrival.as_micros()), (arrived, arrived + 2000));
    assert_eq!((span.rows, span.rejected), (5, 3));
    assert_eq!(span.minutes, Some((minute("196912312359"), minute("202101010000"))));
    assert!(span.may_hold(minute("202101010000"), minute("202101010001")));
    assert!(!span.may_hold(minute("202101010001"), minute("209901010001")));
}

#[test]
fn a_local_folder_gives_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(Files::local(dir.path()).unwrap());
    assert_eq!(rig.paths("raw"), Vec::<String>::new());
    rig.begin_with(&["odd topic%"]);
    let kinds = kinds();
    rig.send("odd topic%", watched(&bytes_of(&kinds)));
    rig.flush.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    check_rows(&rig, "raw", &kinds, ("odd topic%", 0), true);
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0, "nothing temporary is left");
}

#[test]
fn many_lines_from_many_files_keep_their_order() {
    let rig = Rig::in_memory();
    let lines: Vec<String> = (0..50_000).map(line).collect();
    let mut expected = BTreeMap::new();
    for (offset, chunk) in lines.chunks(7001).enumerate() {
        rig.send_lines(&chunk.iter().map(|l| l.as_bytes()).collect::<Vec<_>>());
        expected.extend(chunk.iter().enumerate().map(|(i, l)| ((offset as u64, i as u32), l.clone().into_bytes())));
    }
    rig.drain("a").unwrap();
    let found: BTreeMap<_, _> =
        rig.lines("raw").into_iter().map(|(_, _, offset, number, _, line)| ((offset, number), line)).collect();
    assert!(found == expected);
}

/// The file of the first format that was ever written.
#[test]
fn files_of_format_1_are_read() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");
    if std::env::var_os("CLICKMILL_WRITE_FIXTURES").is_some() {
        let rig = Rig::new(Files::local(std::path::Path::new(dir)).unwrap());
        rig.send_lines(&bytes_of(&kinds()));
        rig.drain("a").unwrap();
        std::fs::remove_dir(format!("{dir}/.tmp")).unwrap();
    }
    let copy = tempfile::tempdir().unwrap();
    let path = "raw/date=2021-01-01/ad-clicks-0-00000000000000000000-1609459200001.parquet";
    std::fs::create_dir_all(copy.path().join(path).parent().unwrap()).unwrap();
    std::fs::copy(format!("{dir}/{path}"), copy.path().join(path)).unwrap();
    check_rows(&Rig::new(Files::local(copy.path()).unwrap()), "raw", &kinds(), (TOPIC, 0), true);
}

/// The table in `docs/raw-files.md` is what other programs rely on.
#[test]
fn the_columns_are_those_of_the_document() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    rig.send_lines(&[line(1).as_bytes()]);
    rig.drain("a").unwrap();
    let file = std::fs::File::open(dir.path().join(&rig.paths("raw")[0])).unwrap();
    let metadata = parquet::file::metadata::ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let columns = metadata.file_metadata().schema_descr();
    let found: Vec<String> = columns
        .columns()
        .iter()
        .map(|column| {
            use parquet::basic::{LogicalType, Repetition, Type};
            let kind = match (column.physical_type(), column.logical_type_ref()) {
                (Type::BYTE_ARRAY, Some(LogicalType::String)) => "string",
                (Type::BYTE_ARRAY, None) => "binary",
                (Type::INT32, None) => "int32",
                (Type::INT64, None) => "int64",
                (Type::INT64, Some(LogicalType::Timestamp { .. })) => "timestamp, µs, UTC",
                other => panic!("{}: {other:?}", column.name()),
            };
            let never = column.self_type().get_basic_info().repetition() == Repetition::REQUIRED;
            format!("`{}` | {kind} | {never}", column.name())
        })
        .collect();
    let document = include_str!("../../docs/raw-files.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            format!("{} | {} | {}", cells[1], cells[2], cells[3] == "never")
        })
        .collect();
    assert_eq!(found, rows);
}
