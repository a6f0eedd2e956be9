//! How far the watcher says that time has come: the schedules that break pipelines, as far as the watcher decides them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use clickmill_log_watcher::Watcher;
use clickmill_model::records::SourceMark;
use clickmill_model::{LineParser, Offset, Timestamp};
use clickmill_queue::memory::CommitFault;
use clickmill_queue::{Committed, InputCommit, Poll, Progress, Queue, Stage, TopicPartition, Transaction};
use common::{Said, TOPIC, World, append, at, click, config, gzip, queue, said};

const DISORDER: Duration = Duration::from_secs(30);

/// No click comes after a mark that is later than itself.
fn assert_nothing_is_late(said: &[Said]) {
    for partition in 0..2 {
        let mut mark = Timestamp::MIN;
        let mut parser = LineParser::new();
        for said in said.iter().filter(|said| said.partition == partition) {
            for line in &said.lines {
                if let Ok(click) = parser.parse(line.as_bytes()) {
                    assert!(click.timestamp >= mark, "{line} came after {mark}");
                }
            }
            if let SourceMark::At(time) | SourceMark::Drained(time) = said.mark {
                assert!(time >= mark, "{time} after {mark}");
                mark = time;
            }
        }
    }
}

fn mark_time(world: &World) -> Timestamp {
    match world.mark() {
        SourceMark::At(time) => time,
        other => panic!("{other:?}"),
    }
}

/// The mark is that of an idle watcher: now minus the disorder, but for the age of the last heartbeat.
fn assert_is_now(world: &World) {
    let behind = world.now().since(mark_time(world));
    assert!(behind < DISORDER + Duration::from_millis(2500), "{behind:?} behind");
}

#[test]
fn schedule_01_its_first_word_is_here_holding() {
    let mut world = World::new();
    world.append("a.log", click(at(0, 1), 1) + "\n");
    world.start();
    assert_eq!(world.marks(), [SourceMark::Holding; 2], "before it lists a file");
    world.pass(1);
    assert_nothing_is_late(&world.said());
    assert_eq!(world.mark(), SourceMark::At(at(0, 1).before(DISORDER)), "it may be growing still");
    world.pass(6);
    assert_is_now(&world);
}

#[test]
fn without_any_file_it_holds_and_an_empty_file_holds_nothing() {
    let mut world = World::new();
    world.pass(10);
    assert_eq!(world.mark(), SourceMark::Holding);
    world.append("a.log", "");
    world.pass(2);
    assert_is_now(&world);
}

#[test]
fn schedule_07_a_file_that_is_copied_in_slowly_is_not_late() {
    let mut world = World::new();
    world.append("a.log", click(at(0, 0), 0) + "\n");
    for minute in 1..50 {
        world.pass(2);
        world.append("a.log", click(at(minute, 0), minute as u64) + "\n");
    }
    world.pass(10);
    assert_eq!(world.texts().len(), 50);
    assert_nothing_is_late(&world.said());
    assert_is_now(&world);
}

#[test]
fn schedule_08_lines_written_while_it_was_stopped_are_not_late() {
    let mut world = World::new();
    world.append("a.log", click(world.now(), 0) + "\n");
    world.pass(8);
    for second in 0..600 {
        world.clock.advance(Duration::from_secs(1));
        world.append("a.log", click(world.now(), second) + "\n");
    }
    // It read the clock before it was stopped, and looks at the files when it wakes.
    let before = world.now().before(Duration::from_secs(600));
    world.watcher.as_mut().unwrap().step(before, Duration::ZERO).unwrap();
    world.pass(8);
    assert_eq!(world.texts().len(), 601);
    assert_nothing_is_late(&world.said());
    assert_is_now(&world);
}

#[test]
fn schedule_09_a_line_of_2099_and_one_of_1969_change_nothing() {
    for poison in [at(42_000_000, 0), at(-27_000_000, 0)] {
        let mut world = World::new();
        world.append("a.log", click(poison, 99) + "\n");
        let lines: String = (0..5000).map(|i| click(at(i / 60, i % 60), i as u64) + "\n").collect();
        world.append("a.log", &lines);
        world.append("b.log", lines.replace("user ", "user 1"));
        world.append("b.log", click(poison, 98) + "\n");
        world.step();
        world.pass(8);
        let without: Vec<Said> = world
            .said()
            .into_iter()
            .map(|said| Said {
                lines: said.lines.into_iter().filter(|line| !line.contains("user 9")).collect(),
                ..said
            })
            .collect();
        assert_nothing_is_late(&without);
        assert_is_now(&world);
        assert_eq!(world.texts().len(), 10_002);
    }
}

#[test]
fn schedule_10_a_server_whose_clock_is_a_day_behind_holds_for_the_timeout_only() {
    let mut world = World::new();
    world.append("now.log", click(world.now(), 0) + "\n");
    for second in 0..200 {
        let old = world.now().before(Duration::from_secs(86_400));
        world.append("behind.log", click(old, second) + "\n");
        world.pass(1);
        if second > 130 {
            assert_is_now(&world);
        }
    }
}

#[test]
fn schedule_12_a_drain_ends_with_the_minute_of_a_click_ahead_of_now() {
    let mut world = World::new();
    let last = world.now().after(Duration::from_secs(290));
    world.append("a.log", click(last, 0) + "\n");
    world.append("a.log", click(world.now().after(Duration::from_secs(400)), 1) + "\n");
    let report = world.drain();
    assert_eq!(report.drained, Some(last.minute().end()), "not that of the wrong clock");
    assert_eq!(world.mark(), SourceMark::Drained(last.minute().end()));
}

#[test]
fn schedule_13_a_drain_that_was_killed_before_its_last_heartbeat_ends_when_run_again() {
    let mut world = World::new();
    world.config.drain = true;
    world.append("a.log", (click(at(3, 7), 1) + "\n").repeat(10));
    world.start();
    world.step();
    assert_eq!(world.texts().len(), 10);
    assert!(!world.report().finished);
    world.kill();
    let report = world.drain();
    assert_eq!((report.drained, report.lines), (Some(at(4, 0)), 0));
    assert_eq!(world.mark(), SourceMark::Drained(at(4, 0)));
    let heard = |world: &World| world.said().into_iter().filter(|said| said.partition == 0).map(|said| said.mark);
    let before = heard(&world).count();
    world.pass(5);
    let again: Vec<_> = heard(&world).skip(before).collect();
    assert!(again.len() >= 4 && again.iter().all(|mark| *mark == SourceMark::Drained(at(4, 0))), "{again:?}");
}

#[test]
fn a_drain_never_says_now_and_a_later_one_goes_on_from_it() {
    let mut world = World::new();
    world.append("a.log", (0..600).map(|i| click(at(i / 60, i % 60), i as u64) + "\n").collect::<String>());
    assert_eq!(world.drain().drained, Some(at(10, 0)));
    world.kill();
    world.append("b.log", (600..900).map(|i| click(at(i / 60, i % 60), i as u64) + "\n").collect::<String>());
    assert_eq!(world.drain().drained, Some(at(15, 0)));
    assert_eq!(world.texts().len(), 900);
    assert_nothing_is_late(&world.said());
}

#[test]
fn a_drain_of_files_without_a_click_ends_without_a_minute() {
    let mut world = World::new();
    world.append("a.log", "");
    world.append("b.log", "garbage\n");
    let report = world.drain();
    assert_eq!((report.drained, report.lines, report.files), (None, 1, 2));
    assert_eq!(world.mark(), SourceMark::Holding);
}

#[test]
fn a_drain_of_a_cut_compressed_file_ends_with_what_there_is() {
    let mut world = World::new();
    let lines: String = (0..20_000).map(|i| click(at(0, i % 60), i as u64) + "\n").collect();
    let bytes = gzip(lines.as_bytes());
    fs::write(world.path("a.log.gz"), &bytes[..bytes.len() / 2]).unwrap();
    let report = world.drain();
    assert_eq!(report.drained, Some(at(1, 0)));
    assert!((1000..19_000).contains(&report.lines), "{report:?}");
    assert!(world.texts().iter().all(|line| LineParser::new().parse(line.as_bytes()).is_ok()), "no half line");
}

#[test]
fn schedule_15_a_watcher_that_restarts_again_and_again_says_nothing_but_holding() {
    let mut world = World::new();
    world.append("a.log", click(at(0, 0), 0) + "\n");
    for _ in 0..5 {
        world.start();
        world.kill();
        world.clock.advance(Duration::from_secs(5));
    }
    assert!(world.said().iter().all(|said| said.mark == SourceMark::Holding && said.lines.is_empty()));
}

#[test]
fn schedule_16_garbage_holds_nothing_and_an_unreadable_file_holds_until_the_timeout() {
    let mut world = World::new();
    for n in 0..20 {
        world.append("garbage.log", format!("garbage {n}\n"));
        world.pass(1);
    }
    assert_is_now(&world);
    world.append("empty.log", "");
    world.pass(2);
    assert_is_now(&world);
    let before = mark_time(&world);
    world.append("secret.log", [0x28, 0xb5, 0x2f, 0xfd]);
    world.pass(115);
    assert!(mark_time(&world) < before.after(Duration::from_secs(3)));
    world.pass(10);
    assert_is_now(&world);
    // A drain waits as long for it.
    world.kill();
    let report = world.drain();
    assert_eq!((report.files_unreadable, report.finished), (1, true));
}

#[test]
fn schedule_16_a_file_that_can_only_be_read_half_holds_where_it_broke_off_until_the_timeout() {
    let mut world = World::new();
    let lines: String = (0..40_000).map(|i| click(at(0, i % 60), i as u64) + "\n").collect();
    let mut bytes = gzip(lines.as_bytes());
    let half = bytes.len() / 2;
    bytes[half..half + 100].fill(0x55);
    fs::write(world.path("a.log.gz"), &bytes).unwrap();
    world.append("b.log", click(world.now(), 0) + "\n");
    world.pass(60);
    let sent = world.texts().len();
    assert!((1000..39_000).contains(&sent), "what stands before the damage is read: {sent}");
    assert!(mark_time(&world) <= at(1, 0), "{:?}", world.mark());
    assert_eq!(world.report().files_unreadable, 1);
    world.pass(70);
    assert_is_now(&world);
    assert_nothing_is_late(&world.said());
}

#[test]
fn a_folder_that_may_not_be_listed_holds_until_the_timeout() {
    let mut world = World::of(&["**/*.log"]);
    fs::create_dir(world.path("secret")).unwrap();
    append(&world.path("secret/a.log"), b"x\n");
    world.append("b.log", "y\n");
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::read_dir(world.path("secret")).is_ok();
    world.pass(2);
    if !is_root {
        assert_eq!(world.mark(), SourceMark::Holding);
        world.pass(125);
    }
    assert_is_now(&world);
    fs::set_permissions(world.path("secret"), fs::Permissions::from_mode(0o755)).unwrap();
    world.pass(2);
    assert_eq!(world.texts(), ["x", "y"]);
}

#[test]
fn schedule_18_a_year_of_sparse_history_takes_a_few_steps() {
    let mut world = World::new();
    world.append("a.log", (0..8760).map(|hour| click(at(hour * 60, 0), hour as u64) + "\n").collect::<String>());
    world.pass(2);
    assert_eq!(world.texts().len(), 8760);
    assert_nothing_is_late(&world.said());
}

#[test]
fn every_partition_hears_of_it_every_second() {
    let mut world = World::new();
    world.append("a.log", "x\n");
    world.pass(2);
    for _ in 0..10 {
        let before = world.said().len();
        world.pass(1);
        assert!(world.said().len() >= before + 2);
        assert_is_now(&world);
    }
    let heartbeats = world.said().len();
    assert!(heartbeats < 2 * 17, "not more often than that: {heartbeats}");
}

/// Two watchers with history that begins at the same time; the second has clicks of as many minutes in fewer bytes.
fn two_watchers() -> (World, World) {
    let (queue, clock) = queue(2, 0);
    let mut worlds = [("web-1", 60), ("web-2", 2)].map(|(name, per_minute)| {
        let mut world = World::new();
        (world.queue, world.clock) = (queue.clone(), clock.clone());
        world.config.source = name.into();
        world.config.max_ahead_bytes = 1 << 20;
        let lines =
            (0..3000_i64).flat_map(|minute| (0..per_minute).map(move |s| click(at(minute, s), s as u64) + "\n"));
        world.append("a.log", lines.collect::<String>());
        world.start();
        world
    });
    // Each says that it catches up.
    worlds[1].step();
    let [first, second] = worlds;
    (first, second)
}

#[test]
fn schedule_19_a_watcher_that_catches_up_waits_for_one_that_is_behind() {
    let mut world = World::new();
    world.config.max_ahead_bytes = 1 << 20;
    let lines: String = (0..180_000).map(|i| click(at(i / 60, i % 60), i as u64) + "\n").collect();
    world.append("a.log", lines);
    world.start();
    // Another one catches up and stands at minute 5.
    let row = |catching_up: bool| {
        let mut out = clickmill_model::codec::Writer::new(1);
        for time in [at(5, 0), at(5, 0)] {
            out.u8(1);
            out.int(time.as_micros());
        }
        out.u8(catching_up.into());
        out.finish()
    };
    let mut other = world.queue.producer("log-watcher-web-2").unwrap();
    let mut say = |catching_up| {
        let mut transaction = Transaction::default();
        let key = Some(b"source:web-2".to_vec());
        let record = clickmill_queue::Record { key, headers: Vec::new(), value: row(catching_up) };
        transaction.send(TopicPartition::new("log-positions", 0), record);
        other.commit(&transaction, None).unwrap();
    };
    for _ in 0..20 {
        say(true);
        world.pass(1);
    }
    let sent = world.report().line_bytes;
    assert!((1 << 20..10 << 20).contains(&sent), "{sent}");
    assert!(world.report().read_bytes < world.report().known_bytes);
    let mark = world.mark();
    assert!(matches!(mark, SourceMark::At(time) if time > at(5, 0)), "it speaks on: {mark:?}");
    // Silent for too long: it is not waited for.
    world.pass(130);
    assert_eq!(world.texts().len(), 180_000);
    let (mut first, mut second) = two_watchers();
    for _ in 0..200 {
        first.step();
        second.step();
        first.clock.advance(Duration::from_millis(100));
    }
    assert_eq!(first.texts().len(), 3000 * 62, "neither waits for ever");
}

#[test]
fn a_full_queue_is_waited_for_and_nothing_is_lost_or_doubled() {
    let mut world = World::new();
    let (full, clock) = queue(2, 300_000);
    (world.queue, world.clock) = (full, clock);
    let mut consumer = world.queue.consumer("mapper", &[TOPIC]).unwrap();
    let mut producer = world.queue.producer("mapper").unwrap();
    world.append("a.log", (0..200_000).map(|i| click(at(0, i % 60), i as u64) + "\n").collect::<String>());
    world.start();
    let mut found = 0;
    let mut waited = 0;
    for _ in 0..3000 {
        let now = world.now();
        let progress = world.watcher.as_mut().unwrap().step(now, Duration::ZERO).unwrap();
        waited += u32::from(progress == Progress::Idle);
        world.clock.advance(Duration::from_millis(100));
        // The mapper is slow.
        if !waited.is_multiple_of(5) {
            continue;
        }
        if let Poll::Records { from, records, .. } = consumer.poll(Duration::ZERO, 1).unwrap() {
            found += said_lines(&records);
            let next = records.last().unwrap().offset.next();
            let committed = Committed { offset: next, metadata: Vec::new() };
            let input = InputCommit { input: from, committed, keep_from: next };
            let transaction = Transaction { inputs: vec![input], ..Transaction::default() };
            producer.commit(&transaction, Some(&*consumer)).unwrap();
        }
        if found == 200_000 {
            break;
        }
    }
    assert_eq!(found, 200_000);
    assert!(waited > 0);
}

fn said_lines(records: &[clickmill_queue::Fetched]) -> usize {
    let lines = records.iter().map(|fetched| match fetched.record.value.as_slice() {
        [] => 0,
        value => value.split(|byte| *byte == b'\n').count(),
    });
    lines.sum()
}

#[test]
fn after_a_commit_of_unknown_outcome_the_next_watcher_goes_on_from_what_is_committed() {
    for fault in [CommitFault::AppliedButReportedFailed, CommitFault::LostBefore] {
        let mut world = World::new();
        world.append("a.log", "one\ntwo\n");
        world.start();
        world.queue.fail_next_commit(fault);
        assert!(world.try_step().is_err());
        world.kill();
        world.pass(2);
        assert_eq!(world.texts(), ["one", "two"], "{fault:?}");
    }
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.start();
    world.queue.fail_next_commit(CommitFault::NotApplied);
    world.pass(2);
    assert_eq!(world.texts(), ["one"], "tried again");
}

#[test]
fn a_topic_with_another_number_of_partitions_is_refused() {
    let (queue, clock) = queue(3, 0);
    let config = config(vec!["/nowhere".into()], 2);
    let now = clickmill_queue::Clock::now(&*clock);
    let error = Watcher::start(Arc::new(queue.clone()), config, now).err().unwrap();
    assert!(error.to_string().contains("3 partitions"), "{error}");
    assert!(said(&queue, 3).is_empty());
    assert_eq!(queue.range(&TopicPartition::new(TOPIC, 0)).unwrap().end, Offset(0));
}
