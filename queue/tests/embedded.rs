//! What only the embedded queue has: its files, and time.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_disk::with_small_disk;
use clickmill_model::{Offset, Timestamp};
use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::{
    Consumer, ManualClock, Poll, Queue, QueueError, Record, Retention, SystemClock, TopicSpec, Transaction,
};
use common::{at, consumed_by, input, noise, open, own, read_all, record, topic, wait};

fn why(error: QueueError) -> String {
    match error {
        QueueError::Broken(why) => why,
        other => panic!("expected a broken promise: {other:?}"),
    }
}

fn try_open(folder: &Path) -> Result<EmbeddedQueue, QueueError> {
    EmbeddedQueue::open(folder, SystemClock::shared(), Options::default())
}

#[test]
fn everything_is_there_after_it_was_closed_and_opened() {
    let folder = tempfile::tempdir().unwrap();
    let a = at("a", 0);
    {
        let queue = open(folder.path());
        queue.create_topics(&[topic("a", 1)]).unwrap();
        let mut producer = queue.producer("p").unwrap();
        let mut consumer = queue.consumer("g", &["a"]).unwrap();
        own(&mut *consumer, 1);
        producer.commit(&record(&a, b"1"), None).unwrap();
        let mut transaction = record(&a, b"2");
        transaction.inputs.push(input(&a, Offset(1)));
        producer.commit(&transaction, Some(&*consumer)).unwrap();
    }
    let queue = open(folder.path());
    let values: Vec<_> = read_all(&queue, &a).into_iter().map(|fetched| fetched.record.value).collect();
    assert_eq!(values, [b"1", b"2"]);
    assert_eq!(queue.committed("g", "a").unwrap()[0].1.offset, Offset(1));
    let files = std::fs::read_dir(folder.path().join("clients")).unwrap().count();
    assert_eq!(files, 1, "the file of the closed queue is gone");
}

#[test]
fn the_clock_that_it_was_given_stamps_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1000)));
    let queue = EmbeddedQueue::open(folder.path(), clock.clone(), Options::default()).unwrap();
    queue.create_topics(&[topic("a", 2)]).unwrap();
    let mut producer = queue.producer("p").unwrap();
    for (second, partition) in [(1000, 0), (1007, 0), (1003, 0), (1004, 1), (1008, 0)] {
        clock.set(Timestamp::from_secs(second));
        producer.commit(&record(&at("a", partition), b""), None).unwrap();
    }
    let arrivals = |p| {
        let seconds = read_all(&queue, &at("a", p)).into_iter().map(|fetched| fetched.arrival.as_micros() / 1_000_000);
        seconds.collect::<Vec<_>>()
    };
    assert_eq!(arrivals(0), [1000, 1007, 1007, 1008], "it does not go back within a partition");
    assert_eq!(arrivals(1), [1004]);
}

#[test]
fn a_commit_of_the_same_process_wakes_a_reader_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[topic("a", 1)]).unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    own(&mut *consumer, 1);
    let mut producer = queue.producer("p").unwrap();
    let began = Instant::now();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| consumer.poll(Duration::from_secs(600), 1).unwrap());
            producer.commit(&record(&at("a", 0), b"x"), None).unwrap();
            let polled = reader.join().unwrap();
            assert!(matches!(polled, Poll::Records { .. }), "{polled:?}");
        });
    }
    // One that is not woken looks for itself after a second.
    assert!(began.elapsed() < Duration::from_secs(5), "20 records took {:?}", began.elapsed());
}

#[test]
fn an_idle_queue_takes_next_to_no_processor_time() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[topic("a", 4)]).unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    own(&mut *consumer, 4);
    let polls = |consumer: &mut dyn Consumer| {
        // Timed by what this thread needs itself.
        let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let before = used();
        for _ in 0..20 {
            assert!(matches!(consumer.poll(Duration::from_millis(20), 1).unwrap(), Poll::Idle { .. }));
        }
        let after = used();
        Duration::from_nanos(((after.tv_sec - before.tv_sec) * 1_000_000_000 + after.tv_nsec - before.tv_nsec) as u64)
    };
    polls(&mut *consumer);
    let used = polls(&mut *consumer);
    assert!(used < Duration::from_millis(20), "20 idle polls in 400 ms took {used:?}");
}

#[test]
fn a_consumer_that_nobody_uses_loses_its_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { poll_timeout: Duration::from_millis(300), ..Options::default() };
    let queue = EmbeddedQueue::open(folder.path(), SystemClock::shared(), options).unwrap();
    queue.create_topics(&[topic("a", 1)]).unwrap();
    let mut stuck = queue.consumer("g", &["a"]).unwrap();
    own(&mut *stuck, 1);
    let mut producer = queue.producer("p").unwrap();
    // Who commits is alive, though it does not poll.
    let transaction = Transaction { inputs: vec![input(&at("a", 0), Offset(0))], ..Transaction::default() };
    let until = Instant::now() + Duration::from_millis(900);
    while Instant::now() < until {
        producer.commit(&transaction, Some(&*stuck)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut other = queue.consumer("g", &["a"]).unwrap();
    own(&mut *other, 1);
    assert!(matches!(producer.commit(&transaction, Some(&*stuck)), Err(QueueError::Fenced(_))));
    assert_eq!(stuck.poll(Duration::ZERO, 1).unwrap(), Poll::Lost(vec![at("a", 0)]));
}

#[test]
fn a_consumer_that_does_not_give_up_what_it_was_asked_for_loses_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { session_timeout: Duration::from_millis(300), ..Options::default() };
    let queue = EmbeddedQueue::open(folder.path(), SystemClock::shared(), options).unwrap();
    queue.create_topics(&[topic("a", 2)]).unwrap();
    let mut deaf = queue.consumer("g", &["a"]).unwrap();
    own(&mut *deaf, 2);
    let mut other = queue.consumer("g", &["a"]).unwrap();
    let mut asked = Vec::new();
    let mut lost = Vec::new();
    let mut taken = Vec::new();
    wait("the partition moving", || {
        match deaf.poll(Duration::from_millis(5), 1).unwrap() {
            Poll::Revoking(partitions) => asked.extend(partitions),
            Poll::Lost(partitions) => lost.extend(partitions),
            Poll::Assigned(_) | Poll::Records { .. } | Poll::Idle { .. } => {}
        }
        if let Poll::Assigned(partitions) = other.poll(Duration::from_millis(5), 1).unwrap() {
            taken.extend(partitions.into_iter().map(|(of, _)| of));
        }
        !taken.is_empty() && !lost.is_empty()
    });
    assert_eq!((&asked, &lost), (&taken, &taken));
    assert_eq!(taken.len(), 1);
}

#[test]
fn a_damaged_record_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[topic("a", 4)]).unwrap();
    let mut producer = queue.producer("p").unwrap();
    for seed in 0..3 {
        producer.commit(&record(&at("a", 3), &noise(100_000, seed)), None).unwrap();
    }
    drop((producer, queue));
    // One byte, in the middle of the second record.
    let file = std::fs::File::options().read(true).write(true).open(folder.path().join("queue.db")).unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let second = noise(100_000, 1);
    let place = bytes.windows(64).position(|window| window == &second[50_000..50_064]).unwrap();
    file.write_all_at(&[bytes[place] ^ 1], place as u64).unwrap();

    let queue = open(folder.path());
    assert_eq!(queue.read(&at("a", 3), Offset(0), 1).unwrap().len(), 1);
    let error = why(queue.read(&at("a", 3), Offset(0), 1 << 30).unwrap_err());
    assert!(error.contains("a/3@1 ") && error.contains("checksum"), "{error}");
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    own(&mut *consumer, 4);
    consumer.seek(&at("a", 3), Offset(1)).unwrap();
    assert!(why(consumer.poll(Duration::ZERO, 1).unwrap_err()).contains("a/3@1 "));
    consumer.seek(&at("a", 3), Offset(2)).unwrap();
    assert!(matches!(consumer.poll(Duration::ZERO, 1), Ok(Poll::Records { .. })));
}

#[test]
fn a_damaged_or_foreign_or_newer_file_is_refused_by_name() {
    let refused = |make: &dyn Fn(&Path), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queue.db");
        make(&file);
        let before = std::fs::read(&file).unwrap();
        let error = why(try_open(folder.path()).err().unwrap());
        assert!(error.contains(expected) && error.contains("queue.db"), "{error}");
        assert!(std::fs::read(&file).unwrap() == before, "a refused file was changed");
    };
    refused(&|file| std::fs::write(file, b"not a database at all, but long enough to be one").unwrap(), "damaged");
    refused(&|file| std::fs::write(file, noise(100_000, 1)).unwrap(), "damaged");
    let sql = |file: &Path, sql: &str| rusqlite::Connection::open(file).unwrap().execute_batch(sql).unwrap();
    refused(&|file| sql(file, "CREATE TABLE t (x)"), "not a queue of clickmill");
    refused(&|file| sql(file, "PRAGMA application_id = 5; PRAGMA user_version = 1"), "not a queue of clickmill");
    let newer = |file: &Path| {
        drop(try_open(file.parent().unwrap()).unwrap());
        sql(file, "PRAGMA user_version = 2");
    };
    refused(&newer, "newer clickmill (format version 2; this one reads up to 1)");
}

#[test]
fn a_malformed_database_is_a_broken_promise() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[topic("a", 1)]).unwrap();
    let mut producer = queue.producer("p").unwrap();
    for seed in 0..200 {
        producer.commit(&record(&at("a", 0), &noise(5000, seed)), None).unwrap();
    }
    drop((producer, queue));
    // Everything behind the tables' roots: garbage where SQLite expects its pages.
    let file = std::fs::File::options().write(true).open(folder.path().join("queue.db")).unwrap();
    let from = 16_384 * 20;
    file.write_all_at(&noise((file.metadata().unwrap().len() - from) as usize, 9), from).unwrap();
    let queue = open(folder.path());
    let error = why(queue.read(&at("a", 0), Offset(0), 1 << 30).unwrap_err());
    assert!(error.contains("queue.db") || error.contains("a/0@"), "{error}");
}

/// Full, said so, nothing lost, and on again when there is room.
#[test]
fn a_full_file_refuses_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { max_pages: Some(200), ..Options::default() };
    let queue = EmbeddedQueue::open(folder.path(), SystemClock::shared(), options).unwrap();
    fill_and_go_on(&queue, || {});
}

fn fill_and_go_on(queue: &EmbeddedQueue, make_room: impl FnOnce()) {
    queue.create_topics(&[consumed_by("a", "g")]).unwrap();
    let a = at("a", 0);
    let mut producer = queue.producer("p").unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    own(&mut *consumer, 1);
    let mut sent = 0;
    let error = loop {
        match producer.commit(&record(&a, &noise(100_000, sent)), None) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 1000, "it never gets full");
    };
    assert!(sent > 10);
    let said = error.to_string();
    assert!(matches!(error, QueueError::Unavailable { .. }) && said.contains("queue.db"), "{said}");
    let is_intact = |queue: &EmbeddedQueue, sent: u64| {
        let found = read_all(queue, &a);
        found.len() as u64 == sent && found.iter().zip(0..).all(|(f, seed)| f.record.value == noise(100_000, seed))
    };
    assert!(is_intact(queue, sent), "what was acknowledged is there, and nothing else");
    make_room();
    // The same producer goes on: as soon as there is room, by other means or by what its reader has passed.
    let passed = Transaction { inputs: vec![input(&a, Offset(sent / 2))], ..Transaction::default() };
    wait("the offset being committed", || match producer.commit(&passed, Some(&*consumer)) {
        Ok(_) => true,
        Err(QueueError::Unavailable { .. }) => false,
        Err(other) => panic!("{other}"),
    });
    wait("room for more", || match producer.commit(&record(&a, &noise(100_000, sent)), None) {
        Ok(_) => true,
        Err(QueueError::Unavailable { .. }) => false,
        Err(other) => panic!("{other}"),
    });
    let last = read_all(queue, &a).pop().unwrap();
    assert_eq!(last.offset, Offset(sent));
    assert!(last.record.value == noise(100_000, sent));
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    with_small_disk(folder.path(), 16, |disk| {
        let ballast = disk.path().join("ballast");
        std::fs::write(&ballast, noise(6 << 20, 1)).unwrap();
        let queue = open(&disk.path().join("queue"));
        fill_and_go_on(&queue, || disk.make_room());
    });
}

#[test]
fn a_read_only_disk_refuses_by_name_and_goes_on_when_it_is_writable() {
    let folder = tempfile::tempdir().unwrap();
    with_small_disk(folder.path(), 64, |disk| {
        let folder = disk.path().join("queue");
        let queue = open(&folder);
        queue.create_topics(&[topic("a", 1)]).unwrap();
        queue.producer("p").unwrap().commit(&record(&at("a", 0), b"1"), None).unwrap();
        drop(queue);
        disk.read_only(true);
        let error = try_open(&folder).err().unwrap();
        assert!(matches!(error, QueueError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(disk.path().to_str().unwrap()), "{error}");
        disk.read_only(false);
        let queue = open(&folder);
        queue.producer("p").unwrap().commit(&record(&at("a", 0), b"2"), None).unwrap();
        assert_eq!(read_all(&queue, &at("a", 0)).len(), 2);
    });
}

#[test]
fn the_file_does_not_grow_while_what_was_read_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[TopicSpec { max_backlog_bytes: 4 << 20, ..consumed_by("a", "g") }]).unwrap();
    let a = at("a", 0);
    let mut producer = queue.producer("p").unwrap();
    let mut committer = queue.producer("c").unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    own(&mut *consumer, 1);
    for round in 0..8 {
        for seed in 0..50_u64 {
            producer.commit(&record(&a, &noise(100_000, seed)), None).unwrap();
            if let Poll::Records { records, .. } = consumer.poll(Duration::from_secs(30), 1 << 20).unwrap() {
                let offset = records.last().unwrap().offset.next();
                let transaction = Transaction { inputs: vec![input(&a, offset)], ..Transaction::default() };
                committer.commit(&transaction, Some(&*consumer)).unwrap();
            }
        }
        wait("everything being deleted", || queue.sizes().unwrap()[0].records == 0);
        let bytes = std::fs::metadata(folder.path().join("queue.db")).map_or(0, |file| file.len());
        assert!(bytes < 12 << 20, "each round is 5 MB, and after round {round} the file has {bytes} bytes");
    }
}

#[test]
fn sizes_are_those_of_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    let retention = Retention::Compacted;
    queue.create_topics(&[topic("a", 2), TopicSpec { retention, ..topic("b", 1) }]).unwrap();
    let mut producer = queue.producer("p").unwrap();
    for p in 0..2 {
        producer.commit(&record(&at("a", p), &noise(1000, 1)), None).unwrap();
    }
    for seed in 0..5 {
        let mut transaction = Transaction::default();
        let record = Record { key: Some(b"k".to_vec()), ..Record::of(noise(1000, seed)) };
        transaction.send(at("b", 0), record);
        producer.commit(&transaction, None).unwrap();
    }
    let sizes = queue.sizes().unwrap();
    let found: Vec<_> = sizes.iter().map(|size| (size.topic.as_str(), size.records, size.bytes / 100)).collect();
    assert_eq!(found, [("a", 2, 20), ("b", 1, 10)]);
}

/// A database that anybody can look into.
#[test]
fn sqlite_shows_the_messages() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(folder.path());
    queue.create_topics(&[topic("a", 2)]).unwrap();
    queue.producer("p").unwrap().commit(&record(&at("a", 1), b"x"), None).unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("queue.db")).unwrap();
    let row: (String, u32, i64, String) = connection
        .query_row("SELECT topic, partition, record_offset, arrived FROM messages", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    assert_eq!((row.0.as_str(), row.1, row.2), ("a", 1, 0));
    assert!(row.3.starts_with("20"), "{}", row.3);
}
