//! Damage, a full disk, locks, other versions: said plainly, and nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use clickmill_model::records::Ranking;
use clickmill_model::{Definition, FilterId, Minute, Partition, Revision, SpanKind, Window};
use clickmill_store::conformance::told::Told;
use clickmill_store::embedded::{EmbeddedStore, FILE_NAME, Options};
use clickmill_store::{
    AggregateStore, MinuteRange, RankedWrite, Result, StoreError, StoreProgress, StoredRanking, Switch, View,
};
use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const ALL: FilterId = FilterId::ALL;
const HOUR: SpanKind = SpanKind::Hour;

fn begin() -> Minute {
    Minute::parse("202101010000").unwrap()
}

fn two_hours() -> MinuteRange {
    MinuteRange { from: begin(), to: begin().plus(120) }
}

fn open(dir: &Path) -> Result<EmbeddedStore> {
    EmbeddedStore::open(dir, Options::default())
}

fn ranking() -> Ranking {
    let ads = vec![("ad1".to_owned(), 2), ("ad7".to_owned(), 1)];
    Ranking { filter: ALL, window: Window(5), minute: begin(), whole: true, complete: true, ads }
}

/// Two hours of ten ads, a ranking and a definition.
fn told() -> Told {
    let mut told = Told::new(1);
    for i in 0..120 {
        for ad in 0..10_u64 {
            told.add(begin().plus(i), &format!("ad{ad}"), ALL, ad + i.unsigned_abs() % 3 + 1);
        }
    }
    told
}

fn fill(store: &EmbeddedStore) {
    told().close(store, begin(), begin().plus(120));
    let (revision, partition) = (Revision::STREAM, Partition(0));
    let rankings = vec![(ranking(), None)];
    store.write_ranked(&RankedWrite { revision, partition, rankings, until: begin().plus(1) }).unwrap();
    store.write_definition(&Definition::default()).unwrap();
}

fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap());
    dir
}

fn with_sql(dir: &Path, sql: &str) {
    Connection::open(dir.join(FILE_NAME)).unwrap().execute_batch(sql).unwrap();
}

/// It is broken, and the message has all of these.
fn check_broken<T>(result: Result<T>, named: &[&str]) {
    match result {
        Err(StoreError::Broken(why)) => {
            for name in named.iter().chain([&FILE_NAME]) {
                assert!(why.contains(name), "{why:?} does not name {name:?}");
            }
        }
        Err(other) => panic!("not broken: {other}"),
        Ok(_) => panic!("it was taken for whole, {named:?}"),
    }
}

#[test]
fn a_store_of_a_newer_clickmill_is_refused_and_left_alone() {
    let dir = filled();
    with_sql(dir.path(), "PRAGMA user_version = 3");
    let before = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
    check_broken(open(dir.path()), &["newer", "version 3"]);
    check_broken(EmbeddedStore::open_read_only(dir.path(), Options::default()), &["newer", "version 3"]);
    assert!(std::fs::read(dir.path().join(FILE_NAME)).unwrap() == before);
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    for content in [&b"a line of text, much longer than the header of a database, to be found in its place ......................................."[..], &[0xff; 8192]] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE_NAME);
        std::fs::write(&file, content).unwrap();
        check_broken(open(dir.path()), &["not a database"]);
        check_broken(EmbeddedStore::open_read_only(dir.path(), Options::default()), &["not a database"]);
        assert_eq!(std::fs::read(&file).unwrap(), content);
    }
    let dir = tempfile::tempdir().unwrap();
    with_sql(dir.path(), "CREATE TABLE accounts (name TEXT)");
    check_broken(open(dir.path()), &["not a store of clickmill"]);
}

#[test]
fn a_damaged_row_is_named() {
    type Read = fn(&EmbeddedStore) -> Result<()>;
    let counts: Read = |store| store.counts(&View::STREAM, &["ad1"], ALL, two_hours()).map(drop);
    let top: Read = |store| store.top(&View::STREAM, ALL, two_hours(), 3).map(drop);
    let minutes: Read = |store| store.series(&View::STREAM, "ad1", ALL, two_hours(), SpanKind::Minute).map(drop);
    let rankings: Read = |store| store.rankings(&View::STREAM, ALL, &[(Window(5), begin())]).map(drop);
    let definitions: Read = |store| store.definitions().map(drop);
    let flip = |column: &str, at: u32| {
        format!("unhex(substr(hex({column}), 1, {0}) || '5a' || substr(hex({column}), {0} + 3))", at * 2)
    };
    for (sql, named, read) in [
        (
            format!("UPDATE counts SET block = {} WHERE kind = 1", flip("block", 18)),
            vec!["counts", "kind 1", "filter 0", "bucket 0", "checksum"],
            counts,
        ),
        (format!("UPDATE counts SET block = {} WHERE kind = 1", flip("block", 9)), vec!["counts", "checksum"], counts),
        (format!("UPDATE counts SET block = {} WHERE kind = 1", flip("block", 20)), vec!["counts", "checksum"], top),
        (
            format!("UPDATE counts SET block = {} WHERE kind = 0", flip("block", 0)),
            vec!["counts", "kind 0", "version 90"],
            minutes,
        ),
        ("UPDATE counts SET block = x'' WHERE kind = 0".to_owned(), vec!["counts", "cut short"], minutes),
        ("UPDATE counts SET block = 'text' WHERE kind = 0".to_owned(), vec!["counts", "kind 0"], minutes),
        (
            format!("UPDATE ads SET block = {} WHERE space = 0", flip("block", 12)),
            vec!["ads", "space 0", "bucket 0", "checksum"],
            counts,
        ),
        ("DELETE FROM ads WHERE space = 0".to_owned(), vec!["ads", "0 of 10"], counts),
        (
            format!("UPDATE rankings SET block = {}", flip("block", 7)),
            vec!["rankings", "window 5", "minute 202101010000", "checksum"],
            rankings,
        ),
        ("UPDATE definitions SET json = '{'".to_owned(), vec!["definitions", "version 1"], definitions),
        ("DROP TABLE progress".to_owned(), vec!["progress"], |store| store.progress().map(drop)),
    ] {
        let dir = filled();
        with_sql(dir.path(), &sql);
        check_broken(open(dir.path()).and_then(|store| read(&store)), &named);
    }
}

#[test]
fn a_damaged_page_is_no_wrong_count() {
    let dir = filled();
    let file = dir.path().join(FILE_NAME);
    let whole = std::fs::read(&file).unwrap();
    let expected = told().count("ad1", ALL, two_hours());
    let mut found = 0;
    for page in 1..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..][..4096].fill(0xa5);
        std::fs::write(&file, &damaged).unwrap();
        // Where the page is not one that is read, the answer is right.
        match open(dir.path()).and_then(|store| store.counts(&View::STREAM, &["ad1"], ALL, two_hours())) {
            Ok(counts) => assert_eq!(counts, [expected], "page {page}"),
            error => {
                check_broken(error, &[]);
                found += 1;
            }
        }
        let _ = std::fs::remove_file(dir.path().join("store.db-wal"));
        let _ = std::fs::remove_file(dir.path().join("store.db-shm"));
    }
    assert!(found >= 3, "{found} pages");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    check_broken(open(dir.path()).and_then(|store| store.counts(&View::STREAM, &["ad1"], ALL, two_hours())), &[]);
}

#[test]
fn a_lock_held_by_another_process_passes() {
    let dir = filled();
    let store =
        EmbeddedStore::open(dir.path(), Options { busy: Duration::from_millis(20), ..Options::default() }).unwrap();
    let other = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let write = told().write(Partition(0), begin(), begin().plus(120));
    assert!(
        matches!(store.write_closed(&write), Err(StoreError::Unavailable { what, .. }) if what.contains(FILE_NAME))
    );
    told().check_counts(&store, ALL, two_hours());
    other.execute_batch("ROLLBACK").unwrap();
    store.write_closed(&write).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open(&file.join("store")), Err(StoreError::Unavailable { what, .. }) if what.contains("a file")));
}

#[test]
fn a_reader_waits_for_a_store_that_is_not_there_yet() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("later");
    let reader = EmbeddedStore::open_read_only(&folder, Options::default()).unwrap();
    let check_empty = || {
        assert_eq!(reader.progress().unwrap(), StoreProgress::default());
        assert_eq!(reader.counts(&View::STREAM, &["ad1", "ad2"], ALL, two_hours()).unwrap(), [0, 0]);
        assert_eq!(
            reader.series(&View::STREAM, "ad1", ALL, two_hours(), HOUR).unwrap(),
            [(begin(), 0), (begin().plus(60), 0)]
        );
        assert_eq!(reader.rankings(&View::STREAM, ALL, &[(Window(5), begin())]).unwrap(), [StoredRanking::Nothing]);
        assert_eq!(reader.top(&View::STREAM, ALL, two_hours(), 3).unwrap(), Some(vec![]));
        assert_eq!(reader.definitions().unwrap(), []);
    };
    check_empty();
    assert!(!folder.exists(), "a reader makes nothing");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(FILE_NAME), "").unwrap();
    check_empty();
    let writer = open(&folder).unwrap();
    check_empty();
    fill(&writer);
    told().check_counts(&reader, ALL, two_hours());
    told().check_top(&reader, ALL, two_hours(), 3);
    assert_eq!(reader.rankings(&View::STREAM, ALL, &[(Window(5), begin())]).unwrap(), [StoredRanking::Here(ranking())]);
    assert_eq!(reader.definitions().unwrap(), [Definition::default()]);
    check_broken(reader.write_definition(&Definition::default()), &["reading only"]);
}

#[test]
fn a_store_of_the_first_version_is_read_as_it_is_and_brought_up_to_date_by_who_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    told().close(&store, begin(), begin().plus(120));
    drop(store);
    // What the first version had: all tables but one.
    let sql = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    sql.execute_batch("DROP TABLE revisions; PRAGMA user_version = 1").unwrap();
    let version = || sql.query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0)).unwrap();
    let reader = EmbeddedStore::open_read_only(dir.path(), Options::default()).unwrap();
    told().check_counts(&reader, ALL, two_hours());
    assert_eq!((reader.revisions().unwrap(), version()), (vec![], 1));
    let writer = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    assert_eq!(version(), 2);
    assert_eq!(writer.switch_revision(Revision(1), Switch::Undo).unwrap(), None);
    told().check_counts(&writer, ALL, two_hours());
    assert_eq!(reader.revisions().unwrap(), []);
}

#[test]
fn two_writers_that_do_not_know_of_each_other_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()).unwrap(), open(dir.path()).unwrap()];
    let mut told = Told::new(2);
    for i in 0..40_i64 {
        // Each minute has ads that neither has seen.
        for ad in 0..150 {
            told.add(begin().plus(i), &format!("ad{}", i * 120 + ad), ALL, i.unsigned_abs() + 1);
        }
        let at = begin().plus(i);
        told.close(&stores[(i % 2) as usize], at, at.next());
        let back = at.plus(-i % 5);
        told.close(&stores[(i % 3 % 2) as usize], back, back.next());
    }
    for store in &stores {
        told.check_counts(store, ALL, two_hours());
        told.check_top(store, ALL, two_hours(), 50);
    }
}

#[test]
fn the_same_write_again_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let rows = || {
        let conn = Connection::open(dir.path().join(FILE_NAME)).unwrap();
        ["counts", "spans", "rankings", "ads", "progress"].map(|table| {
            let mut select = conn.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = select.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i)).collect::<Result<Vec<_>, _>>()
            };
            select.query_map((), row).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
        })
    };
    fill(&store);
    let first = rows();
    assert_eq!(first.each_ref().map(Vec::len), [122, 122, 1, 2, 2]);
    fill(&store);
    fill(&open(dir.path()).unwrap());
    assert!(rows() == first);
}

#[test]
fn whole_hours_are_read_from_their_own_blocks() {
    let dir = filled();
    with_sql(
        dir.path(),
        "DELETE FROM counts WHERE kind = 0 AND start <> (SELECT min(start) FROM counts WHERE kind = 0)",
    );
    let store = open(dir.path()).unwrap();
    told().check_counts(&store, ALL, two_hours());
    let but_the_last = MinuteRange { to: begin().plus(119), ..two_hours() };
    let first_hour = MinuteRange { to: begin().plus(60), ..two_hours() };
    assert_eq!(
        store.counts(&View::STREAM, &["ad1"], ALL, but_the_last).unwrap(),
        [told().count("ad1", ALL, first_hour)]
    );
}

/// Names the folder to the process that this test starts itself as.
const DIR: &str = "CLICKMILL_STORE_FULL_DIR";

/// A limit on the size of files stands for the full disk; it goes for a whole process.
#[test]
fn a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room() {
    let Ok(dir) = std::env::var(DIR) else {
        let dir = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let name = "a_full_disk_loses_nothing_and_the_store_goes_on_when_there_is_room";
        // The signal that comes with the limit would end the process.
        let status = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(me)
            .args(["--exact", name])
            .env(DIR, dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    let store = open(Path::new(&dir)).unwrap();
    let mut told = Told::new(1);
    let limit = getrlimit(Resource::Fsize);
    let set = |current| setrlimit(Resource::Fsize, Rlimit { current, ..limit }).unwrap();
    set(Some(600_000));
    let mut written = begin();
    let deadline = Instant::now() + Duration::from_secs(60);
    let write = loop {
        assert!(Instant::now() < deadline, "the disk never gets full");
        for ad in 0..3000_i64 {
            told.add(written, &format!("ad{}", ad + written.minus(begin()) * 500), ALL, ad.unsigned_abs() % 9 + 1);
        }
        let write = told.write(Partition(0), written, written.next());
        match store.write_closed(&write) {
            Ok(()) => written = written.next(),
            Err(StoreError::Unavailable { what, .. }) => {
                assert!(what.contains(FILE_NAME), "{what}");
                break write;
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert!(written > begin().plus(1), "nothing was written before the disk was full");
    // The log may have been carried over since, which makes room: now there is none at all.
    set(Some(4096));
    let acknowledged = MinuteRange { from: begin(), to: written };
    for _ in 0..3 {
        assert!(store.write_closed(&write).is_err());
        told.check_counts(&store, ALL, acknowledged);
        assert_eq!(store.progress().unwrap().counts_until(1), Some(written));
        assert_eq!(
            store.top(&View::STREAM, ALL, MinuteRange { from: written, to: written.plus(9) }, 3).unwrap(),
            Some(vec![])
        );
    }
    set(limit.current);
    store.write_closed(&write).unwrap();
    told.check_counts(&store, ALL, MinuteRange { from: begin(), to: written.next() });
    assert_eq!(store.progress().unwrap().counts_until(1), Some(written.next()));
}
