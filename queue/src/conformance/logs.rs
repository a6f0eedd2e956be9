//! Records as they are stored and read: order, arrival, bytes.

use std::time::Duration;

use super::{Fixture, Offset, Poll, Reader, Record, Transaction, assert_broken, at, forever, noise, read_all, send};
use crate::types::QueueError;

/// In the order in which they were sent, with rising offsets, gaps or not.
pub fn records_of_a_partition_keep_their_order(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for round in 0..40 {
        let mut transaction = Transaction::default();
        for i in 0..5 {
            let value = format!("{}", round * 5 + i);
            transaction.send(at(fixture, "a", 0), Record::of(value.clone().into_bytes()));
            transaction.send(at(fixture, "a", 1), Record::of(value.into_bytes()));
        }
        producer.commit(&transaction, None).unwrap();
    }
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, 400);
    for p in 0..2 {
        let of = at(fixture, "a", p);
        let of_one: Vec<_> = reader.records.iter().filter(|(from, _)| *from == of).map(|(_, r)| r.clone()).collect();
        let texts: Vec<String> = of_one.iter().map(super::text).collect();
        assert_eq!(texts, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(of_one.is_sorted_by(|a, b| a.offset < b.offset));
        assert_eq!(read_all(&*queue, &of, Offset(0)), of_one, "read without a group");
    }
}

/// The queue's clock stamps them.
pub fn arrivals_never_go_back(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for _ in 0..50 {
        send(&mut *producer, &a, &["x", "y"]).unwrap();
    }
    let arrivals: Vec<_> = read_all(&*queue, &a, Offset(0)).iter().map(|record| record.arrival).collect();
    assert_eq!(arrivals.len(), 100);
    assert!(arrivals.is_sorted());
}

/// Keys, headers and values of any bytes and sizes.
pub fn a_record_comes_back_as_it_was_sent(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let lines = "[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA\n".repeat(20_000).into_bytes();
    let records = [
        Record::of(b"v".to_vec()),
        Record::of(Vec::new()),
        Record { key: Some(b"k".to_vec()), ..Record::of(Vec::new()) },
        Record { key: Some(all_bytes.clone()), headers: Vec::new(), value: all_bytes.clone() },
        Record {
            headers: vec![header("a", b""), header("é", &all_bytes), header("a", b"again")],
            ..Record::of(vec![0])
        },
        Record::of(lines),
        Record::of(noise(700_000, 7)),
        Record { key: Some(noise(2000, 3)), headers: vec![header("h", &noise(5000, 4))], value: vec![b'z'; 900_000] },
    ];
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for chunk in records.chunks(3) {
        let records = chunk.iter().map(|record| (a.clone(), record.clone())).collect();
        producer.commit(&Transaction { records, ..Transaction::default() }, None).unwrap();
    }
    let found: Vec<Record> = read_all(&*queue, &a, Offset(0)).into_iter().map(|fetched| fetched.record).collect();
    assert!(found == records, "read without a group");
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, records.len());
    assert!(reader.records.iter().map(|(_, fetched)| &fetched.record).eq(&records), "read by a group");
    assert_eq!(records[4].header("é"), Some(all_bytes.as_slice()));
}

/// Partitions take turns, however much waits in one of them.
pub fn no_partition_starves(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 3)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for i in 0..30 {
        let mut transaction = Transaction::default();
        transaction.send(at(fixture, "a", 0), Record::of(noise(10_000, i)));
        producer.commit(&transaction, None).unwrap();
    }
    let mut consumer = queue.consumer(&fixture.name("g"), &[&fixture.name("a")]).unwrap();
    let mut turns = Vec::new();
    super::wait(fixture, "records of every partition", || {
        match consumer.poll(Duration::from_millis(5), 20_000).unwrap() {
            Poll::Records { from, records, .. } => {
                assert!(records.len() <= 3, "{} records of 10,000 bytes in 20,000", records.len());
                if turns.is_empty() {
                    send(&mut *producer, &at(fixture, "a", 1), &["x"]).unwrap();
                    send(&mut *producer, &at(fixture, "a", 2), &["x"]).unwrap();
                }
                turns.push(from.partition.0);
            }
            Poll::Assigned(_) | Poll::Idle { .. } => {}
            other => panic!("{other:?}"),
        }
        turns.contains(&1) && turns.contains(&2)
    });
    assert!(turns.iter().filter(|p| **p == 0).count() < 12, "the other partitions came late: {turns:?}");
}

/// Only after a partition was asked and had nothing more.
pub fn idle_names_the_partitions_that_were_read_to_their_end(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2)]).unwrap();
    let both = [at(fixture, "a", 0), at(fixture, "a", 1)];
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.until(fixture, "being at the end of empty partitions", |reader| reader.at_end == both);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &both[1], &["x"]).unwrap();
    reader.at_end.clear();
    reader.until(fixture, "being at the end again", |reader| reader.at_end == both);
    assert_eq!(reader.texts(), ["x"], "at the end before the record was read");
}

/// At most about so many bytes, at least one record, nothing left out.
pub fn reading_without_a_group_is_bounded_and_complete(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    assert_eq!(queue.read(&a, Offset(0), 1 << 20).unwrap(), []);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for i in 0..20 {
        let mut transaction = Transaction::default();
        transaction.send(a.clone(), Record::of(noise(1000, i)));
        producer.commit(&transaction, None).unwrap();
    }
    let mut next = Offset(0);
    let mut found = Vec::new();
    loop {
        let records = queue.read(&a, next, 3500).unwrap();
        assert!(records.len() <= 4, "{} records", records.len());
        let Some(last) = records.last() else { break };
        next = last.offset.next();
        found.extend(records);
    }
    assert_eq!(found.len(), 20);
    assert_eq!(queue.read(&a, Offset(0), 0).unwrap().len(), 1);
    let end = queue.range(&a).unwrap().end;
    assert_eq!(queue.read(&a, end, 1 << 20).unwrap(), []);
    assert_broken(queue.read(&a, Offset(end.0 + 1000), 1 << 20));
}

/// Made again they stay as they are, with all of their records; another number of partitions is refused.
pub fn topics_are_made_once(fixture: &dyn Fixture) {
    let queue = fixture.open();
    let (a, b) = (forever(fixture, "a", 2), forever(fixture, "b", 1));
    assert_eq!(queue.partitions(&a.name).unwrap(), None);
    assert_eq!(queue.missing_topics(&[a.clone(), b.clone()]).unwrap(), [a.clone(), b.clone()]);
    queue.create_topics(std::slice::from_ref(&a)).unwrap();
    assert_eq!(queue.partitions(&a.name).unwrap(), Some(2));
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &at(fixture, "a", 1), &["x"]).unwrap();
    let mut more = a.clone();
    more.partitions = 3;
    assert_broken(queue.missing_topics(std::slice::from_ref(&more)));
    assert_broken(queue.create_topics(&[b.clone(), more]));
    assert_eq!(queue.missing_topics(&[a.clone(), b.clone()]).unwrap(), std::slice::from_ref(&b));
    fixture.open().create_topics(&[a.clone(), b.clone()]).unwrap();
    assert_eq!(queue.partitions(&a.name).unwrap(), Some(2));
    assert_eq!(queue.partitions(&b.name).unwrap(), Some(1));
    assert_eq!(super::values(&*queue, &at(fixture, "a", 1)), ["x"]);
}

/// No topic: passing, it may be made yet. No partition: never.
pub fn what_is_not_there_is_an_error(fixture: &dyn Fixture) {
    let queue = fixture.open();
    let nowhere = at(fixture, "nowhere", 0);
    let unavailable = |error: QueueError| assert!(matches!(error, QueueError::Unavailable { .. }), "{error:?}");
    unavailable(queue.range(&nowhere).unwrap_err());
    unavailable(queue.read(&nowhere, Offset(0), 1).unwrap_err());
    unavailable(queue.consumer(&fixture.name("g"), &[&nowhere.topic]).err().unwrap());
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    unavailable(send(&mut *producer, &nowhere, &["x"]).unwrap_err());
    queue.create_topics(&[forever(fixture, "nowhere", 1)]).unwrap();
    send(&mut *producer, &nowhere, &["x"]).unwrap();
    assert_broken(queue.range(&at(fixture, "nowhere", 1)));
    assert_broken(queue.read(&at(fixture, "nowhere", 1), Offset(0), 1));
    assert_broken(send(&mut *producer, &at(fixture, "nowhere", 1), &["x"]));
}
