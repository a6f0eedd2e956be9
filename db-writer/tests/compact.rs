//! Small files become large ones: whatever happens meanwhile, each line is read once.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clickmill_db_writer::raw::compact::{Done, Settled, compact, plan};
use clickmill_db_writer::raw::{Files, FilesError, spans};
use clickmill_disk::with_small_disk;
use clickmill_model::{Offset, RawPartition};
use clickmill_queue::Stage;
use common::fuse::Fuse;
use common::{GROUP, Rig, TOPIC, line};
use object_store::memory::InMemory;

/// What a rig's writer has committed.
struct Committed(Option<Offset>);

impl Settled for Committed {
    fn before(&self, _: &RawPartition) -> Option<Offset> {
        self.0
    }
}

fn settled(rig: &Rig) -> Committed {
    Committed(Some(rig.committed().unwrap_or(Offset(0))))
}

fn send(rig: &Rig, from: usize, records: usize) {
    for i in from..from + records {
        rig.send_lines(&[line(2 * i).as_bytes(), line(2 * i + 1).as_bytes()]);
    }
}

/// Files of two records each.
fn write(rig: &Rig, from: usize, files: usize) {
    for i in from..from + files {
        send(rig, 2 * i, 2);
        rig.drain(&format!("w{i}")).unwrap();
    }
}

fn run(files: &Files, committed: &Committed) -> Result<Done, FilesError> {
    let work = plan(&spans(files, "raw")?, committed);
    compact(files, &work, &AtomicBool::new(false), |_| ())
}

fn expected(records: usize) -> Vec<(u64, u32, Vec<u8>)> {
    (0..2 * records).map(|i| (i as u64 / 2, i as u32 % 2, line(i).into_bytes())).collect()
}

/// Demands that our own readers see each line once.
fn check(rig: &Rig, records: usize) {
    let found: Vec<_> =
        rig.lines("raw").into_iter().map(|(_, _, offset, place, _, bytes)| (offset, place, bytes)).collect();
    assert_eq!(found, expected(records));
}

#[test]
fn small_files_become_one_with_every_line_and_all_that_was_known_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = clickmill_s3::S3::start().unwrap();
    for rig in [Rig::in_memory(), Rig::new(Files::local(dir.path()).unwrap()), Rig::new(common::in_s3(&s3, "a"))] {
        write(&rig, 0, 5);
        let before = spans(&rig.files, "raw").unwrap();
        let lines = rig.lines_of_every_file("raw");
        assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 1, deleted: 5 });
        check(&rig, 10);
        assert_eq!(rig.lines_of_every_file("raw"), lines);
        let [(_, merged)] = &spans(&rig.files, "raw").unwrap()[..] else { panic!() };
        let (first, last) = (&before[0].1, &before[4].1);
        assert_eq!((merged.first_offset, merged.first_arrival), (first.first_offset, first.first_arrival));
        assert_eq!((merged.last_offset, merged.last_arrival), (last.last_offset, last.last_arrival));
        assert_eq!((merged.rows, merged.rejected, merged.before), (20, 0, first.before));
        assert_eq!(merged.minutes, first.minutes);
        let paths = rig.paths("raw");
        assert_eq!(
            paths,
            ["raw/date=2021-01-01/ad-clicks-0-00000000000000000000-1609459200001.to-00000000000000000009.parquet"]
        );
        // Nothing is left to do, and what comes later joins it.
        assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done::default());
        write(&rig, 5, 1);
        assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 1, deleted: 2 });
        check(&rig, 12);
        assert_eq!(rig.paths("raw").len(), 1);
    }
}

#[test]
fn a_crash_after_any_operation_leaves_each_line_once_and_the_next_run_ends_the_same() {
    let fresh = || {
        let inner = Arc::new(InMemory::new());
        let rig = Rig::new(Files::new(inner.clone()).unwrap());
        write(&rig, 0, 4);
        (inner, rig)
    };
    let wanted = {
        let (_, rig) = fresh();
        run(&rig.files, &settled(&rig)).unwrap();
        rig.paths("raw")
    };
    let mut crashes = 0;
    for last_is_done in [false, true] {
        for operations in 1.. {
            let (inner, rig) = fresh();
            let fuse = Files::new(Arc::new(Fuse::new(inner, operations, last_is_done))).unwrap();
            let end = run(&fuse, &settled(&rig));
            check(&rig, 8);
            if end.is_ok() {
                break;
            }
            crashes += 1;
            // More comes before it is run again, or nothing does.
            if operations % 2 == 0 {
                run(&rig.files, &settled(&rig)).unwrap();
                check(&rig, 8);
                assert_eq!(rig.paths("raw"), wanted, "after {operations} operations");
            }
            write(&rig, 4, 1);
            check(&rig, 10);
            while run(&rig.files, &settled(&rig)).unwrap() != Done::default() {
                check(&rig, 10);
            }
            assert_eq!(rig.paths("raw").len(), 1, "after {operations} operations");
            assert_eq!(rig.lines_of_every_file("raw").len(), 20);
        }
    }
    assert!(crashes > 30, "{crashes}");
}

#[test]
fn what_is_not_settled_not_consecutive_or_of_another_day_stays() {
    let rig = Rig::in_memory();
    write(&rig, 0, 3);
    assert_eq!(run(&rig.files, &Committed(Some(Offset(0)))).unwrap(), Done::default());
    assert_eq!(run(&rig.files, &Committed(Some(Offset(4)))).unwrap(), Done { written: 1, deleted: 2 });
    // The next day.
    rig.clock.advance(std::time::Duration::from_secs(86_400));
    write(&rig, 3, 2);
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 2, deleted: 4 });
    check(&rig, 10);
    assert_eq!(rig.paths("raw").len(), 2);
}

#[test]
fn a_file_that_is_gone_is_not_hidden_by_a_merged_one() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    write(&rig, 0, 5);
    let gone = dir.path().join(&rig.paths("raw")[2]);
    let held = std::fs::read(&gone).unwrap();
    std::fs::remove_file(&gone).unwrap();
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 2, deleted: 4 });
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done::default());
    // Given back, it closes the gap.
    std::fs::write(&gone, held).unwrap();
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 1, deleted: 3 });
    check(&rig, 10);
}

#[test]
fn a_file_that_is_damaged_is_named_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    for i in 0..3 {
        let lines: Vec<String> = (0..500).map(|k| line(500 * i + k)).collect();
        rig.send_lines(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
        rig.drain(&format!("w{i}")).unwrap();
    }
    let paths = rig.paths("raw");
    let damaged = dir.path().join(&paths[1]);
    let good = std::fs::read(&damaged).unwrap();
    let mut flipped = good.clone();
    flipped[300..400].fill(0x55);
    std::fs::write(&damaged, flipped).unwrap();
    let error = run(&rig.files, &settled(&rig)).unwrap_err();
    assert!(
        matches!(error, FilesError::Damaged { .. }) && error.to_string().contains(damaged.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(rig.paths("raw"), paths);
    std::fs::write(&damaged, good).unwrap();
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 1, deleted: 3 });
}

/// A merged file that has lost lines, whatever its footer says, must not take the others with it.
#[test]
fn files_whose_lines_a_merged_one_lacks_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    write(&rig, 0, 2);
    let kept: Vec<(String, Vec<u8>)> = rig
        .paths("raw")
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(dir.path().join(path)).unwrap()))
        .collect();
    run(&rig.files, &settled(&rig)).unwrap();
    let merged = rig.paths("raw").remove(0);
    // Other lines under the same offsets and arrivals.
    let other = Rig::new(Files::local(&dir.path().join("other")).unwrap());
    for i in 0..4 {
        other.send_lines(&[line(900 + i).as_bytes(), line(2 * i + 1).as_bytes()]);
    }
    other.drain("a").unwrap();
    let impostor = other.paths("raw").remove(0);
    std::fs::copy(dir.path().join("other").join(impostor), dir.path().join(&merged)).unwrap();
    for (path, bytes) in &kept {
        std::fs::write(dir.path().join(path), bytes).unwrap();
    }
    let error = run(&rig.files, &settled(&rig)).unwrap_err();
    assert!(error.to_string().contains("neither is deleted"), "{error}");
    assert_eq!(rig.paths("raw").len(), 3);
}

#[test]
fn a_writer_that_was_suspended_before_its_file_appeared_doubles_nothing() {
    let rig = Rig::in_memory();
    send(&rig, 0, 3);
    let mut zombie = rig.writer("a");
    let member = rig.newest_member();
    rig.settle(&mut zombie).unwrap();
    rig.queue.deafen(GROUP, &member);
    rig.queue.expire_member(GROUP, &member);
    send(&rig, 3, 1);
    rig.drain("b").unwrap();
    send(&rig, 4, 2);
    rig.drain("c").unwrap();
    run(&rig.files, &settled(&rig)).unwrap();
    assert_eq!(rig.paths("raw").len(), 1);
    rig.clock.advance(std::time::Duration::from_secs(301));
    rig.settle(&mut zombie).unwrap_err();
    assert_eq!(rig.paths("raw").len(), 2, "it wrote its file once more");
    check(&rig, 6);
    assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 0, deleted: 1 });
    check(&rig, 6);
    assert_eq!(rig.lines_of_every_file("raw").len(), 12);
}

#[test]
fn a_writer_without_its_offset_relies_on_merged_files() {
    let rig = Rig::in_memory();
    write(&rig, 0, 3);
    run(&rig.files, &settled(&rig)).unwrap();
    write(&rig, 3, 2);
    rig.queue.delete_offsets(GROUP);
    send(&rig, 10, 1);
    rig.drain("z").unwrap();
    assert_eq!(rig.committed(), Some(Offset(11)));
    check(&rig, 11);
    assert_eq!(rig.lines_of_every_file("raw").len(), 22, "nothing was written again");
}

#[test]
fn a_disk_that_is_full_in_the_middle_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    with_small_disk(dir.path(), 4, |disk| {
        let rig = Rig::new(Files::local(dir.path()).unwrap());
        let noise = |i: usize| -> String {
            (0..300).map(|k| char::from(b'!' + ((i * 7919 + k * 104_729 + i * k * 31) % 90) as u8)).collect()
        };
        for i in 0..4 {
            let lines: Vec<String> = (0..2000).map(|k| noise(i * 2000 + k)).collect();
            rig.send_lines(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
            rig.drain(&format!("w{i}")).unwrap();
        }
        let (paths, lines) = (rig.paths("raw"), rig.lines("raw"));
        disk.fill();
        let error = run(&rig.files, &settled(&rig)).unwrap_err();
        assert!(matches!(error, FilesError::Unavailable { .. }) && error.to_string().contains("No space"), "{error}");
        assert_eq!((rig.paths("raw"), rig.lines("raw").len()), (paths, lines.len()));
        assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
        disk.make_room();
        assert_eq!(run(&rig.files, &settled(&rig)).unwrap(), Done { written: 1, deleted: 4 });
        assert!(rig.lines("raw") == lines);
    });
}

#[test]
fn retention_and_compaction_leave_each_other_alone() {
    let rig = Rig::in_memory();
    write(&rig, 0, 3);
    run(&rig.files, &settled(&rig)).unwrap();
    rig.clock.advance(std::time::Duration::from_secs(3 * 86_400));
    let keep = std::time::Duration::from_secs(86_400);
    let mut writer = rig.writer_of(clickmill_db_writer::raw::RawConfig { keep, ..rig.config("x") });
    rig.settle(&mut writer).unwrap();
    Box::new(writer).stop().unwrap();
    assert_eq!(rig.paths("raw"), Vec::<String>::new());
    assert_eq!(TOPIC, "ad-clicks");
}
