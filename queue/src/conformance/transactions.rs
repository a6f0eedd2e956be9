//! Transactions over topics and offsets; fencing of producers.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Fixture, Offset, QueueError, Reader, Record, Transaction, assert_broken, assert_fenced, at, forever, input,
    read_all, send, values,
};
use crate::types::MAX_METADATA_BYTES;

/// A commit says where the first record of each partition went.
pub fn a_transaction_returns_the_first_offset_of_each_partition(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2), forever(fixture, "b", 1)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    let (a0, a1, b0) = (at(fixture, "a", 0), at(fixture, "a", 1), at(fixture, "b", 0));
    for round in 0..3 {
        let mut transaction = Transaction::default();
        for (to, name) in [(&a1, "first of a1"), (&b0, "b"), (&a1, "second of a1"), (&a0, "a0")] {
            transaction.send(to.clone(), Record::of(format!("{name} {round}").into_bytes()));
        }
        let first = producer.commit(&transaction, None).unwrap();
        assert_eq!(first.len(), 3);
        for (of, name) in [(&a0, "a0"), (&a1, "first of a1"), (&b0, "b")] {
            let offset = first.iter().find(|(to, _)| to == of).unwrap().1;
            let found = queue.read(of, offset, 1).unwrap();
            assert_eq!(found[0].offset, offset, "{of}");
            assert_eq!(found[0].record.value, format!("{name} {round}").into_bytes(), "{of}");
            assert!(queue.range(of).unwrap().end > offset);
        }
    }
}

/// What two topics get in one transaction is there in both or in neither.
pub fn a_reader_never_sees_half_a_transaction(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1), forever(fixture, "b", 1)]).unwrap();
    let (a, b) = (at(fixture, "a", 0), at(fixture, "b", 0));
    let finished = AtomicBool::new(false);
    let count = 60;
    std::thread::scope(|scope| {
        let mut producer = queue.producer(&fixture.name("p")).unwrap();
        let (a, b, finished) = (&a, &b, &finished);
        scope.spawn(move || {
            for i in 0..count {
                let mut transaction = Transaction::default();
                for to in [b, a, b, a] {
                    transaction.send(to.clone(), Record::of(vec![i]));
                }
                producer.commit(&transaction, None).unwrap();
            }
            finished.store(true, Ordering::SeqCst);
        });
        loop {
            let is_last = finished.load(Ordering::SeqCst);
            let seen = |of| read_all(&*queue, of, Offset(0)).len();
            // What is seen in the first is there in the other, which is looked at later.
            for (first, then) in [(a, b), (b, a)] {
                let (before, after) = (seen(first), seen(then));
                assert!(before <= after, "{before} records in {first}, but {after} in {then}");
                assert!(before.is_multiple_of(2), "{before} records in {first}");
            }
            if is_last {
                assert_eq!((seen(a), seen(b)), (usize::from(count) * 2, usize::from(count) * 2));
                break;
            }
        }
    });
}

/// A transaction of which one part cannot be done is not done at all.
pub fn a_refused_transaction_leaves_nothing_behind(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.own(fixture, 1);
    let record = (a.clone(), Record::of(b"never".to_vec()));
    let missing = (at(fixture, "a", 7), Record::of(b"never".to_vec()));
    let too_much = input(&a, Offset(0), &vec![0; MAX_METADATA_BYTES + 1]);
    let mut kept_too_late = input(&a, Offset(0), b"");
    kept_too_late.keep_from = Offset(1);
    for transaction in [
        Transaction { records: vec![record.clone(), missing], ..Transaction::default() },
        Transaction { records: vec![record.clone()], inputs: vec![too_much], ..Transaction::default() },
        Transaction { records: vec![record.clone()], inputs: vec![kept_too_late], ..Transaction::default() },
    ] {
        let mut producer = queue.producer(&fixture.name("p")).unwrap();
        assert_broken(producer.commit(&transaction, Some(&*reader.consumer)));
    }
    assert_eq!(values(&*queue, &a), Vec::<String>::new());
    assert_eq!(queue.committed(&fixture.name("g"), &fixture.name("a")).unwrap(), []);
}

/// Metadata of any bytes, up to its limit.
pub fn offsets_come_back_with_their_metadata(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2)]).unwrap();
    let (a0, a1) = (at(fixture, "a", 0), at(fixture, "a", 1));
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a0, &["1", "2", "3"]).unwrap();
    let (group, topic) = (fixture.name("g"), fixture.name("a"));
    assert_eq!(queue.committed(&group, &topic).unwrap(), []);
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.own(fixture, 2);
    let end = queue.range(&a0).unwrap().end;
    let all_bytes: Vec<u8> = (0..=255).collect();
    for metadata in [vec![], b"text".to_vec(), all_bytes, super::noise(MAX_METADATA_BYTES, 1)] {
        let inputs = vec![input(&a0, end, &metadata), input(&a1, Offset(0), b"other")];
        producer.commit(&Transaction { inputs, ..Transaction::default() }, Some(&*reader.consumer)).unwrap();
        let committed = fixture.open().committed(&group, &topic).unwrap();
        let found: Vec<_> = committed.iter().map(|(p, c)| (p.0, c.offset, c.metadata.as_slice())).collect();
        assert_eq!(found, [(0, end, metadata.as_slice()), (1, Offset(0), b"other".as_slice())]);
    }
    assert_eq!(queue.committed(&fixture.name("other"), &topic).unwrap(), []);
}

/// What a stage reads and what it sends move on together.
pub fn offsets_and_records_commit_together(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "in", 1), forever(fixture, "out", 1)]).unwrap();
    let (from, to) = (at(fixture, "in", 0), at(fixture, "out", 0));
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for i in 0..10 {
        send(&mut *producer, &from, &[&i.to_string()]).unwrap();
    }
    let mut stage = queue.producer(&fixture.name("stage")).unwrap();
    let mut done = 0;
    // A stage that starts over after each record, as though it had crashed.
    while done < 10 {
        let mut reader = Reader::new(fixture, &*queue, "g", &["in"]);
        reader.until(fixture, "a record", |reader| !reader.records.is_empty());
        let (_, first) = &reader.records[0];
        let inputs = vec![input(&from, first.offset.next(), b"")];
        let records = vec![(to.clone(), first.record.clone())];
        stage.commit(&Transaction { records, inputs, ..Transaction::default() }, Some(&*reader.consumer)).unwrap();
        done += 1;
    }
    assert_eq!(values(&*queue, &to), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

/// Offsets are committed for a member, never for nobody.
pub fn inputs_need_their_consumer(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    for transaction in [
        Transaction { inputs: vec![input(&a, Offset(0), b"")], ..Transaction::default() },
        Transaction { keep: vec![(a.clone(), Offset(0))], ..Transaction::default() },
    ] {
        let mut producer = queue.producer(&fixture.name("p")).unwrap();
        assert_broken(producer.commit(&transaction, None));
    }
}

/// One producer of a name at a time, in whatever process.
pub fn a_newer_producer_ends_the_older(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut old = queue.producer(&fixture.name("p")).unwrap();
    let mut other = queue.producer(&fixture.name("other")).unwrap();
    send(&mut *old, &a, &["1"]).unwrap();
    let mut new = fixture.open().producer(&fixture.name("p")).unwrap();
    assert_fenced(send(&mut *old, &a, &["never"]));
    send(&mut *new, &a, &["2"]).unwrap();
    assert_fenced(send(&mut *old, &a, &["never"]));
    send(&mut *other, &a, &["3"]).unwrap();
    assert_eq!(values(&*queue, &a), ["1", "2", "3"]);
}

/// An ended producer moves no offsets either, though its consumer is in order.
pub fn a_fenced_producer_commits_no_offsets(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut old = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *old, &a, &["1"]).unwrap();
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, 1);
    let next = reader.records[0].1.offset.next();
    let mut new = queue.producer(&fixture.name("p")).unwrap();
    assert_fenced(reader.commit(&mut *old, &a, next));
    assert_eq!(queue.committed(&fixture.name("g"), &fixture.name("a")).unwrap(), []);
    match reader.commit(&mut *new, &a, next) {
        Ok(()) => {}
        Err(QueueError::Unavailable { .. }) => panic!("the new producer must work at once"),
        Err(other) => panic!("{other}"),
    }
}
