//! What is past its retention goes, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clickmill_db_writer::late::{LateConfig, LateWriter};
use clickmill_db_writer::raw::{Files, RawConfig};
use clickmill_db_writer::{ResultsConfig, ResultsWriter};
use clickmill_model::records::{
    CLICK_RESULTS, FilterSpan, LATE_CLICKS, MapperCheckpoint, Ranking, ResultBody, ResultRecord, SetAside,
    SetAsideBatch,
};
use clickmill_model::{
    Announced, Columns, FilterId, Minute, Offset, Partition, RawPartition, Revision, Span, Timestamp, Watermark, Window,
};
use clickmill_queue::{
    Committed, InputCommit, Poll, Queue, Record, TopicPartition, Transaction, definitions, topology,
};
use clickmill_store::embedded::{EmbeddedStore, Options};
use clickmill_store::{AggregateStore, MinuteRange, View};
use common::{GROUP, Rig, TOPIC, line, reading, spec};

const DAY: Duration = Duration::from_secs(86_400);

fn send(rig: &Rig, from: usize, records: usize) {
    for i in from..from + records {
        rig.send_lines(&[line(i).as_bytes()]);
    }
}

fn keeping(rig: &Rig, days: u32) -> RawConfig {
    RawConfig { keep: DAY * days, ..rig.config("a") }
}

/// Lets a writer that keeps lines for so many days look around once, and write all that is there.
fn look(rig: &Rig, days: u32) {
    let mut writer = rig.writer_of(keeping(rig, days));
    rig.flush.store(true, Ordering::SeqCst);
    rig.settle(&mut writer).unwrap();
    rig.flush.store(false, Ordering::SeqCst);
    clickmill_queue::Stage::stop(Box::new(writer)).unwrap();
}

#[test]
fn raw_files_go_when_their_newest_line_is_past_its_retention() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = clickmill_s3::S3::start().unwrap();
    for rig in [Rig::in_memory(), Rig::new(Files::local(dir.path()).unwrap()), Rig::new(common::in_s3(&s3, "a"))] {
        send(&rig, 0, 2);
        rig.drain("a").unwrap();
        rig.clock.advance(DAY);
        send(&rig, 2, 1);
        // Of two days, which one file holds.
        rig.clock.advance(DAY);
        send(&rig, 3, 1);
        rig.drain("a").unwrap();
        assert_eq!(rig.paths("raw").len(), 2);
        rig.clock.advance(DAY);
        look(&rig, 3);
        assert_eq!(rig.paths("raw").len(), 1, "three days and a bit after the first lines");
        rig.clock.advance(DAY);
        look(&rig, 3);
        assert_eq!(rig.paths("raw").len(), 1, "its newest line is two days old");
        rig.clock.advance(DAY + Duration::from_secs(1));
        look(&rig, 3);
        look(&rig, 3);
        assert_eq!(rig.paths("raw"), Vec::<String>::new());
        send(&rig, 4, 1);
        rig.drain("a").unwrap();
        assert_eq!(rig.lines("raw").len(), 1, "who comes later goes on behind what is gone");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("raw")).unwrap().count(), 1, "folders of days without files go too");
}

#[test]
fn a_writer_that_runs_deletes_again_and_again() {
    let rig = Rig::in_memory();
    let mut writer = rig.writer_of(keeping(&rig, 1));
    rig.flush.store(true, Ordering::SeqCst);
    for day in 0..4 {
        send(&rig, day, 1);
        rig.settle(&mut writer).unwrap();
        assert!(rig.paths("raw").len() <= 2, "{:?}", rig.paths("raw"));
        rig.clock.advance(DAY);
    }
}

#[test]
fn lines_that_are_not_committed_are_kept_however_old() {
    let rig = Rig::in_memory();
    send(&rig, 0, 3);
    // The file was published, and the commit behind it failed.
    rig.queue.fail_next_commit(clickmill_queue::memory::CommitFault::NotApplied);
    rig.drain("a").unwrap_err();
    assert_eq!((rig.paths("raw").len(), rig.committed()), (1, None));
    rig.clock.advance(DAY * 100);
    let mut writer = rig.writer_of(RawConfig { keep: DAY, ..rig.config("b") });
    rig.step(&mut writer).unwrap();
    assert_eq!(rig.paths("raw").len(), 1, "they would be written again under the same name");
    rig.flush.store(true, Ordering::SeqCst);
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.committed(), Some(Offset(3)));
    rig.clock.advance(Duration::from_secs(601));
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.paths("raw").len(), 0);
}

#[test]
fn files_that_are_left_are_adopted_where_the_oldest_are_gone_and_so_is_the_offset() {
    let rig = Rig::in_memory();
    for i in 0..4 {
        send(&rig, 3 * i, 3);
        rig.drain("a").unwrap();
        rig.clock.advance(DAY);
    }
    look(&rig, 3);
    let left = rig.paths("raw");
    assert_eq!(left.len(), 2);
    rig.queue.delete_offsets(GROUP);
    send(&rig, 12, 1);
    rig.drain("b").unwrap();
    let mut offsets: Vec<u64> = rig.lines_of_every_file("raw").into_iter().map(|(_, _, offset, ..)| offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..13).collect::<Vec<_>>(), "each line is in one file");
    assert!(left.iter().all(|path| rig.paths("raw").contains(path)));
    assert_eq!(rig.committed(), Some(Offset(13)));
}

#[test]
fn late_clicks_are_kept_as_long_as_raw_ones() {
    let rig = Rig::in_memory();
    rig.queue.create_topics(&[spec(LATE_CLICKS, 1)]).unwrap();
    let late = SetAside {
        offset: Offset(1),
        line_number: 0,
        arrival: rig.now(),
        reason: None,
        origin: None,
        line: line(1).into_bytes(),
    };
    let batch = SetAsideBatch { raw: RawPartition::new(TOPIC, Partition(0)), lines: vec![late] };
    rig.send(LATE_CLICKS, Record::of(batch.encode()));
    rig.flush.store(true, Ordering::SeqCst);
    let config = LateConfig { flush: Arc::clone(&rig.flush), keep: DAY * 2, ..LateConfig::default() };
    let mut writer = LateWriter::start(Arc::new(rig.queue.clone()), Arc::clone(&rig.files), config).unwrap();
    rig.settle(&mut writer).unwrap();
    for (days, files) in [(1, 1), (2, 0)] {
        rig.clock.advance(DAY + Duration::from_secs(1));
        rig.settle(&mut writer).unwrap();
        assert_eq!(rig.paths("late").len(), files, "after {days} days");
    }
}

/// What the mapper of a partition has committed: that it has read so far, and announced these definitions.
fn mapped(rig: &Rig, topic: &str, to: u64, announced: &[u32]) {
    let checkpoint = MapperCheckpoint {
        watermark: Watermark::NONE,
        has_live_source: false,
        replay_from: Offset(to),
        highest_counted: None,
        last_heard: None,
        definitions: announced.iter().map(|version| Announced::new(*version, Minute::MIN)).collect(),
        books: Default::default(),
        inputs_since: 0,
        clock_bounds: Vec::new(),
    };
    let mut consumer = rig.queue.consumer(topology::MAPPER, &[topic]).unwrap();
    assert!(matches!(consumer.poll(Duration::ZERO, 1).unwrap(), Poll::Assigned(_)));
    let committed = Committed { offset: Offset(to), metadata: checkpoint.encode() };
    let input = TopicPartition::new(topic, 0);
    let inputs = vec![InputCommit { input, committed, keep_from: Offset(to) }];
    let transaction = Transaction { inputs, ..Transaction::default() };
    rig.queue.producer("mapper").unwrap().commit(&transaction, Some(&*consumer)).unwrap();
}

#[test]
fn schedule_34_raw_lines_of_a_retired_topic_are_written_as_far_as_they_were_counted() {
    let rig = Rig::in_memory();
    rig.queue.create_topics(&[spec("more-clicks", 1)]).unwrap();
    rig.flush.store(true, Ordering::SeqCst);
    send(&rig, 0, 2);
    rig.send("more-clicks", Record::of(line(9).into_bytes()));
    let second = clickmill_model::Definition { version: 2, ..reading(&["more-clicks"]) };
    assert!(definitions::append(&rig.queue, &second).unwrap());
    let topics = |found: &[common::Found]| found.iter().map(|(topic, ..)| topic.clone()).collect::<Vec<_>>();
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    assert_eq!(topics(&rig.lines("raw")), [TOPIC; 2], "the mappers have not followed yet");
    send(&rig, 2, 1);
    // Three records were counted, then it was retired; the raw writer has two.
    mapped(&rig, TOPIC, 3, &[1, 2]);
    rig.clock.advance(Duration::from_secs(2));
    let again = rig.step(&mut writer).unwrap_err();
    assert!(matches!(again, clickmill_queue::StageError::Outdated(_)), "{again}");
    drop(writer);
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    assert_eq!(topics(&rig.lines("raw")), [TOPIC, TOPIC, TOPIC, "more-clicks"]);
    rig.clock.advance(Duration::from_secs(2));
    let again = rig.step(&mut writer).unwrap_err();
    assert!(again.to_string().contains("more-clicks now instead of ad-clicks, more-clicks"), "{again}");
    drop(writer);
    send(&rig, 3, 1);
    let mut writer = rig.writer("a");
    rig.settle(&mut writer).unwrap();
    assert_eq!(rig.lines("raw").len(), 4, "what comes into a retired topic is not read");
}

#[test]
fn counts_and_rankings_go_when_they_are_past_their_retention() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::in_memory();
    rig.queue.create_topics(&[spec(CLICK_RESULTS, 1)]).unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path(), Options::default()).unwrap());
    let minute = rig.now().minute();
    let arrival: Option<Timestamp> = Some(rig.now());
    let mut columns = Columns::new(Span::minute(minute), vec![FilterId::ALL]);
    columns.ads.push(b"a");
    columns.counts[0].push(3);
    let partition = Partition(0);
    let filters = vec![FilterSpan { filter: FilterId::ALL, from: Minute::MIN, until: None }];
    let ranking = Ranking {
        filter: FilterId::ALL,
        window: Window::MINUTE,
        minute,
        whole: true,
        complete: true,
        ads: vec![("a".into(), 3)],
    };
    let until = minute.next();
    for body in [
        ResultBody::Counts { partition, oldest_arrival: arrival, columns },
        ResultBody::Closed { partition, until, covered: vec![], filters },
        ResultBody::Rankings { partition, oldest_arrival: arrival, rankings: vec![ranking] },
        ResultBody::Ranked { partition, until },
    ] {
        rig.send(CLICK_RESULTS, Record::of(ResultRecord { revision: Revision::STREAM, body }.encode()));
    }
    let config = ResultsConfig {
        name: "0".into(),
        linger: Duration::ZERO,
        keep_counts: DAY * 2,
        keep_rankings: DAY * 3,
        minutes: None,
    };
    let shared = Arc::clone(&store) as Arc<dyn AggregateStore>;
    let mut writer = ResultsWriter::start(Arc::new(rig.queue.clone()), shared, config).unwrap();
    let mut after = |days: u32| {
        rig.clock.advance(DAY * days);
        rig.settle(&mut writer).unwrap();
        let count =
            store.counts(&View::STREAM, &["a"], FilterId::ALL, MinuteRange { from: minute, to: until }).unwrap()[0];
        let ranked = store.rankings(&View::STREAM, FilterId::ALL, &[(Window::MINUTE, minute)]).unwrap()[0].is_here();
        let progress = store.progress().unwrap();
        (count, ranked, progress.counts_from, progress.rankings_from)
    };
    assert_eq!(after(0), (3, true, None, None));
    assert_eq!(after(1), (3, true, None, None));
    let (count, ranked, counts_from, rankings_from) = after(1);
    assert_eq!((count, ranked, rankings_from), (0, true, None));
    assert!(counts_from.is_some_and(|from| from > minute), "they are told to be gone: {counts_from:?}");
    let (_, ranked, _, rankings_from) = after(1);
    assert!(!ranked && rankings_from.is_some_and(|from| from > minute), "{rankings_from:?}");
}
