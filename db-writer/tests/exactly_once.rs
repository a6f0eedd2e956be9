//! Whatever happens to writers, each line is in one file.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clickmill_db_writer::raw::{Before, FileSpan, Files, RawConfig, parts};
use clickmill_model::Offset;
use clickmill_queue::memory::CommitFault;
use clickmill_queue::{Queue, QueueError, Stage, StageError, TopicPartition};
use common::{GROUP, Rig, TOPIC, line, rolling_at, spec, watched};
use proptest::prelude::*;

/// Sends records of two lines each.
fn send(rig: &Rig, from: usize, records: usize) {
    for i in from..from + records {
        rig.send_lines(&[line(2 * i).as_bytes(), line(2 * i + 1).as_bytes()]);
    }
}

/// Demands lines 0 to `2 * records`, each once, for every reader.
fn check(rig: &Rig, records: usize) {
    let expected: Vec<_> = (0..2 * records).map(|i| (i as u64 / 2, i as u32 % 2, line(i).into_bytes())).collect();
    for found in [rig.lines("raw"), rig.lines_of_every_file("raw")] {
        let found: Vec<_> = found.into_iter().map(|(_, _, offset, place, _, bytes)| (offset, place, bytes)).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(rig.committed(), Some(Offset(records as u64)));
    check_chain(rig);
}

/// Demands that each file says where the one before it ended, and the committed offset where the last one did.
fn check_chain(rig: &Rig) {
    let mut known = Before::Nothing;
    for part in parts(&rig.files, "raw").unwrap() {
        let FileSpan { before, last_offset, last_arrival, .. } = part.span;
        assert!(before == known || before == Before::Unknown, "{}: {before:?}, not {known:?}", part.path);
        known = Before::File { last_offset, last_arrival };
    }
    let committed = rig.queue.committed(GROUP, TOPIC).unwrap().pop().unwrap().1;
    let before = Before::committed(&committed.metadata);
    assert!(before == known || before == Before::Unknown, "committed {before:?}, not {known:?}");
}

/// A writer that has read what there is, is due to write it, and hears nothing any more.
fn stopped_writer(rig: &Rig, name: &str) -> (impl Stage + use<>, String) {
    let mut writer = rig.writer(name);
    let member = rig.newest_member();
    rig.settle(&mut writer).unwrap();
    rig.queue.deafen(GROUP, &member);
    (writer, member)
}

fn expire_all(rig: &Rig) {
    for member in rig.queue.members(GROUP) {
        rig.queue.expire_member(GROUP, &member);
    }
}

/// Wakes a writer that was stopped before its file appeared.
fn wake(rig: &Rig, writer: &mut impl Stage) -> Result<(), StageError> {
    rig.clock.advance(Duration::from_secs(301));
    rig.settle(writer)
}

fn is_fenced(result: Result<(), StageError>) -> bool {
    matches!(result, Err(StageError::Queue(QueueError::Fenced(_))))
}

#[test]
fn a_crash_after_each_step_leaves_each_line_once() {
    // What becomes of the first commits; the file was published before each of them.
    for faults in [
        vec![CommitFault::NotApplied],
        vec![CommitFault::LostBefore],
        vec![CommitFault::AppliedButReportedFailed],
        vec![CommitFault::NotApplied, CommitFault::LostBefore, CommitFault::AppliedButReportedFailed],
    ] {
        for more in [0, 3] {
            let rig = Rig::in_memory();
            send(&rig, 0, 5);
            for (i, fault) in faults.iter().enumerate() {
                rig.queue.fail_next_commit(*fault);
                rig.drain(&format!("a{i}")).unwrap_err();
                expire_all(&rig);
            }
            send(&rig, 5, more);
            rig.drain("b").unwrap();
            check(&rig, 5 + more);
        }
    }
}

#[test]
fn a_crash_before_the_file_appears_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    send(&rig, 0, 5);
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 1);
    drop(writer);
    expire_all(&rig);
    assert_eq!(rig.committed(), None);
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    rig.drain("b").unwrap();
    check(&rig, 5);
}

#[test]
fn schedule_24_a_writer_stopped_before_its_file_wakes_after_a_longer_one() {
    let rig = Rig::in_memory();
    send(&rig, 0, 3);
    let (mut a, _) = stopped_writer(&rig, "a");
    expire_all(&rig);
    send(&rig, 3, 4);
    rig.drain("b").unwrap();
    assert!(is_fenced(wake(&rig, &mut a)));
    check(&rig, 7);
}

#[test]
fn schedule_24_a_writer_stopped_behind_its_file_leaves_a_shorter_one() {
    let rig = Rig::in_memory();
    send(&rig, 0, 3);
    let (mut a, _) = stopped_writer(&rig, "a");
    expire_all(&rig);
    send(&rig, 3, 4);
    let (mut b, b_member) = stopped_writer(&rig, "b");
    // A's file appears while B, who owns the partition, has a longer one in hand.
    assert!(is_fenced(wake(&rig, &mut a)));
    rig.queue.undeafen(GROUP, &b_member);
    rig.clock.advance(Duration::from_secs(301));
    rig.settle(&mut b).unwrap();
    Box::new(b).stop().unwrap();
    rig.drain("c").unwrap();
    check(&rig, 7);
    assert_eq!(rig.paths("raw").len(), 2);
}

#[test]
fn schedule_25_a_compacted_file_covers_that_of_a_writer_that_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    send(&rig, 0, 3);
    let (mut a, _) = stopped_writer(&rig, "a");
    expire_all(&rig);
    send(&rig, 3, 4);
    rig.drain("b").unwrap();
    let expected = rig.lines("raw");
    // The compaction: the same lines under another name, and the file gone.
    std::fs::rename(dir.path().join(&rig.paths("raw")[0]), dir.path().join("raw/compacted.parquet")).unwrap();
    assert!(is_fenced(wake(&rig, &mut a)));
    assert_eq!(rig.paths("raw").len(), 2, "nothing kept A from writing its file");
    assert_eq!(rig.lines("raw"), expected);
}

#[test]
fn schedule_26_a_topic_made_anew_replaces_nothing() {
    let rig = Rig::in_memory();
    send(&rig, 0, 5);
    rig.drain("a").unwrap();
    let before = rig.lines("raw");
    rig.queue.delete_topic(TOPIC);
    rig.queue.create_topics(&[spec(TOPIC, 1)]).unwrap();
    rig.clock.advance(Duration::from_secs(60));
    send(&rig, 0, 7);
    rig.drain("b").unwrap();
    let found = rig.lines("raw");
    assert_eq!(found, rig.lines_of_every_file("raw"));
    assert_eq!((before.len(), found.len()), (10, 24));
    assert!(before.iter().all(|line| found.contains(line)));
}

#[test]
fn schedule_26_equal_offsets_of_two_topics_are_two_lines() {
    let rig = Rig::of_topics(&[TOPIC, "more-clicks"]);
    send(&rig, 0, 2);
    rig.send("more-clicks", watched(&[b"one", b"two"]));
    rig.flush.store(true, Ordering::SeqCst);
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    let found: Vec<_> =
        rig.lines("raw").into_iter().map(|(topic, _, offset, place, _, _)| (topic, offset, place)).collect();
    let expected =
        [(TOPIC, 0, 0), (TOPIC, 0, 1), (TOPIC, 1, 0), (TOPIC, 1, 1), ("more-clicks", 0, 0), ("more-clicks", 0, 1)];
    assert_eq!(found, expected.map(|(topic, offset, place)| (topic.to_owned(), offset, place)));
}

#[test]
fn schedule_27_expired_offsets_are_refused_when_the_log_begins_later() {
    let rig = Rig::in_memory();
    send(&rig, 0, 5);
    rig.drain("a").unwrap();
    rig.queue.delete_offsets(GROUP);
    rig.queue.truncate(&TopicPartition::new(TOPIC, 0), Offset(3));
    let error = rig.drain("b").unwrap_err();
    assert!(matches!(&error, StageError::Broken(why) if why.contains("restore the offset")), "{error}");
}

#[test]
fn schedule_27_expired_offsets_are_found_again_when_the_log_is_whole() {
    let rig = Rig::in_memory();
    for i in 0..4 {
        send(&rig, 2 * i, 2);
        rig.drain(&format!("a{i}")).unwrap();
    }
    rig.queue.delete_offsets(GROUP);
    send(&rig, 8, 1);
    rig.drain("b").unwrap();
    check(&rig, 9);
}

#[test]
fn a_partition_is_handed_over_with_everything_written() {
    let rig = Rig::of_topics(&[TOPIC, "more-clicks"]);
    let mut a = rig.writer("a");
    send(&rig, 0, 2);
    rig.send("more-clicks", watched(&[b"one"]));
    rig.settle(&mut a).unwrap();
    assert_eq!(rig.paths("raw").len(), 0);
    let mut b = rig.writer("b");
    rig.settle(&mut a).unwrap();
    assert_eq!(rig.paths("raw").len(), 1, "what goes to B is written, what stays is not");
    rig.settle(&mut b).unwrap();
    rig.flush.store(true, Ordering::SeqCst);
    rig.settle(&mut a).unwrap();
    rig.settle(&mut b).unwrap();
    assert_eq!(rig.lines_of_every_file("raw").len(), 5);
}

#[test]
fn files_are_complete_by_rows_bytes_and_age() {
    let rig = Rig::in_memory();
    let mut writer = rig.writer_of(RawConfig { rolling: rolling_at(6), ..rig.config("a") });
    send(&rig, 0, 2);
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), None, "four lines wait");
    send(&rig, 2, 1);
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), Some(Offset(3)), "six lines are enough");
    send(&rig, 3, 1);
    rig.clock.advance(Duration::from_secs(299));
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), Some(Offset(3)));
    rig.clock.advance(Duration::from_secs(2));
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), Some(Offset(4)), "five minutes are enough");
    let rolling = clickmill_db_writer::raw::Rolling { input_bytes: 1000, ..Default::default() };
    Box::new(writer).stop().unwrap();
    let mut writer = rig.writer_of(RawConfig { rolling, ..rig.config("a") });
    send(&rig, 4, 20);
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), Some(Offset(24)), "a kilobyte of records is enough");
}

#[test]
fn old_lines_of_a_backlog_do_not_make_a_file_each() {
    let rig = Rig::in_memory();
    for i in 0..20 {
        // More than one poll's worth, an hour old.
        rig.send_lines(&[line(i).as_bytes(), &vec![b'x'; 3 << 20]]);
    }
    rig.clock.advance(Duration::from_secs(3600));
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.paths("raw").len(), 1);
    assert_eq!(rig.committed(), Some(Offset(20)));
}

#[test]
fn files_that_take_too_much_memory_together_are_completed() {
    let rig = Rig::of_topics(&[TOPIC, "more-clicks"]);
    let rolling = clickmill_db_writer::raw::Rolling { memory_bytes: 250_000, ..Default::default() };
    let mut writer = rig.writer_of(RawConfig { rolling, ..rig.config("a") });
    let lines: Vec<String> = (0..1000).map(line).collect();
    let lines: Vec<&[u8]> = lines.iter().map(|l| l.as_bytes()).collect();
    rig.send(TOPIC, watched(&lines));
    rig.send("more-clicks", watched(&lines[..900]));
    rig.settle(&mut writer).unwrap();
    let paths = rig.paths("raw");
    assert!(paths.len() == 1 && paths[0].contains("ad-clicks"), "the largest is enough: {paths:?}");
}

#[test]
fn heartbeats_are_passed_without_a_file() {
    let rig = Rig::in_memory();
    let mut writer = rig.writer("a");
    for _ in 0..3 {
        rig.send_heartbeat();
    }
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), None);
    rig.clock.advance(Duration::from_secs(6));
    rig.settle(&mut writer).unwrap();
    assert_eq!((rig.committed(), rig.paths("raw").len()), (Some(Offset(3)), 0));
}

#[test]
fn a_file_that_cannot_be_relied_on_stops_the_writer_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    send(&rig, 0, 500);
    rig.queue.fail_next_commit(CommitFault::NotApplied);
    rig.drain("a").unwrap_err();
    expire_all(&rig);
    let name = "ad-clicks-0-00000000000000000000-1609459200001.parquet";
    let path = dir.path().join("raw/date=2021-01-01").join(name);
    let good = std::fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[300..340].fill(0x55);
    let mut newer = good.clone();
    let at = newer.windows(16).position(|w| w == b"clickmill.format").unwrap();
    let digit = at + newer[at..].iter().position(|b| *b == b'1').unwrap();
    newer[digit] = b'9';
    let foreign = foreign_parquet();
    for (bad, why) in [
        (&b""[..], ""),
        (&good[..good.len() / 2], ""),
        (&good[good.len() / 2..], ""),
        (b"no parquet at all, but long enough for a footer", ""),
        (&flipped, ""),
        (&newer, "use a newer one"),
        (&foreign, "no clickmill.format"),
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = rig.drain("b").unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StageError::Broken(_)) && text.contains(name) && text.contains(why), "{text}");
        expire_all(&rig);
        assert_eq!(rig.committed(), None);
    }
    std::fs::remove_file(&path).unwrap();
    rig.drain("c").unwrap();
    check(&rig, 500);
}

fn foreign_parquet() -> Vec<u8> {
    use arrow_array::{ArrayRef, Int32Array, RecordBatch};
    let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn a_folder_that_cannot_be_written_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(Files::local(dir.path()).unwrap());
    send(&rig, 0, 5);
    std::fs::write(dir.path().join("raw"), "in the way").unwrap();
    let error = rig.drain("a").unwrap_err();
    assert!(matches!(&error, StageError::Unavailable(why) if why.contains("date=2021-01-01")), "{error}");
    expire_all(&rig);
    std::fs::remove_file(dir.path().join("raw")).unwrap();
    rig.drain("b").unwrap();
    check(&rig, 5);
}

#[derive(Debug, Clone)]
enum Action {
    Send(usize),
    Heartbeat,
    Step(usize),
    Age,
    Restart(usize),
    Expire,
    /// It hears nothing any more, and its partition goes to the other.
    Stop(usize),
    Wake(usize),
    Fault(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (1_usize..4).prop_map(Action::Send),
        1 => Just(Action::Heartbeat),
        8 => (0_usize..2).prop_map(Action::Step),
        2 => Just(Action::Age),
        1 => (0_usize..2).prop_map(Action::Restart),
        1 => Just(Action::Expire),
        3 => (0_usize..2).prop_map(Action::Stop),
        1 => (0_usize..2).prop_map(Action::Wake),
        1 => (0_u8..3).prop_map(Action::Fault),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_line_is_in_one_file(actions in proptest::collection::vec(action(), 1..80)) {
        let rig = Rig::in_memory();
        let mut writers: BTreeMap<usize, (Box<dyn Stage>, String)> = BTreeMap::new();
        let mut records = Vec::new();
        let mut fault = None;
        for action in actions {
            match action {
                Action::Send(n) => {
                    let lines: Vec<String> = (0..n).map(|i| line(10 * records.len() + i)).collect();
                    rig.send_lines(&lines.iter().map(|l| l.as_bytes()).collect::<Vec<_>>());
                    records.push(lines);
                }
                Action::Heartbeat => {
                    rig.send_heartbeat();
                    records.push(Vec::new());
                }
                Action::Step(who) => {
                    let (writer, _) = writers.entry(who).or_insert_with(|| {
                        let rolling = rolling_at(5 + 6 * who as u64);
                        let config = RawConfig { rolling, ..rig.config(&who.to_string()) };
                        let writer = rig.writer_of(config);
                        (Box::new(writer), rig.newest_member())
                    });
                    fault.into_iter().for_each(|fault| rig.queue.fail_next_commit(fault));
                    // Joining, being given the partition, reading, writing.
                    match (0..4).try_for_each(|_| writer.step(rig.now(), Duration::ZERO).map(drop)) {
                        Ok(()) => {}
                        Err(StageError::Broken(why)) => panic!("{why}"),
                        Err(_) => {
                            writers.remove(&who);
                            fault = None;
                        }
                    }
                    rig.queue.forget_faults();
                }
                Action::Age => rig.clock.advance(Duration::from_secs(301)),
                Action::Restart(who) => drop(writers.remove(&who)),
                Action::Expire => expire_all(&rig),
                Action::Stop(who) => {
                    if let Some((_, member)) = writers.get(&who) {
                        rig.queue.deafen(GROUP, member);
                        expire_all(&rig);
                    }
                }
                Action::Wake(who) => {
                    if let Some((_, member)) = writers.get(&who) {
                        rig.queue.undeafen(GROUP, member);
                    }
                }
                Action::Fault(0) => fault = Some(CommitFault::NotApplied),
                Action::Fault(1) => fault = Some(CommitFault::LostBefore),
                Action::Fault(_) => fault = Some(CommitFault::AppliedButReportedFailed),
            }
        }
        writers.clear();
        expire_all(&rig);
        rig.drain("last").unwrap();
        let expected: Vec<_> = records
            .iter()
            .enumerate()
            .flat_map(|(offset, lines)| lines.iter().enumerate().map(move |(i, l)| (offset as u64, i as u32, l.clone().into_bytes())))
            .collect();
        for found in [rig.lines("raw"), rig.lines_of_every_file("raw")] {
            let found: Vec<_> = found.into_iter().map(|(_, _, offset, place, _, bytes)| (offset, place, bytes)).collect();
            prop_assert_eq!(&found, &expected);
        }
        prop_assert_eq!(rig.committed(), (!records.is_empty()).then_some(Offset(records.len() as u64)));
    }
}
