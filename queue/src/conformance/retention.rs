//! How long records stay, and how much may wait.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Fixture, InputCommit, Offset, QueueError, Reader, Record, Retention, TopicSpec, Transaction, assert_broken, at,
    consumed, forever, input, noise, read_all, send, wait,
};
use crate::types::{Producer, Queue, TopicPartition};

fn send_noise(producer: &mut dyn Producer, to: &TopicPartition, records: u64, bytes: usize) {
    for i in 0..records {
        let mut transaction = Transaction::default();
        transaction.send(to.clone(), Record::of(noise(bytes, i)));
        producer.commit(&transaction, None).unwrap();
    }
}

/// A partition whose records go as soon as whoever deletes comes by.
struct Witness(TopicPartition);

impl Witness {
    /// Waits until everything that might be deleted now would be.
    fn sees_deletions(&self, fixture: &dyn Fixture, queue: &dyn Queue) {
        // Who deletes may have been on its way already; the second time it surely came by everything.
        for _ in 0..2 {
            let mut producer = queue.producer(&fixture.name("witness")).unwrap();
            send(&mut *producer, &self.0, &["x"]).unwrap();
            let mut reader = Reader::new(fixture, queue, "witness", &["witness"]);
            reader.own(fixture, 1);
            let end = queue.range(&self.0).unwrap().end;
            reader.commit(&mut *producer, &self.0, end).unwrap();
            wait(fixture, "the witness's records going", || queue.range(&self.0).unwrap().start == end);
        }
    }
}

/// Nothing goes while a group needs it; then it goes, and is never silently missed.
pub fn what_every_group_passed_is_deleted(fixture: &dyn Fixture) {
    if !fixture.deletes_what_groups_passed() {
        return;
    }
    let queue = fixture.open();
    let witness = Witness(at(fixture, "witness", 0));
    queue
        .create_topics(&[consumed(fixture, "a", &["one", "two"]), consumed(fixture, "witness", &["witness"])])
        .unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send_noise(&mut *producer, &a, 20, 1000);
    let mut one = Reader::new(fixture, &*queue, "one", &["a"]);
    let mut two = Reader::new(fixture, &*queue, "two", &["a"]);
    one.read(fixture, 20);
    two.read(fixture, 20);
    let offset = |n: usize| one.records[n].1.offset;
    one.commit(&mut *producer, &a, offset(15)).unwrap();
    witness.sees_deletions(fixture, &*queue);
    assert_eq!(queue.range(&a).unwrap().start, offset(0), "the other group needs them all");
    // It commits further than it still needs.
    let behind = InputCommit { keep_from: offset(5), ..input(&a, offset(18), b"") };
    producer.commit(&Transaction { inputs: vec![behind], ..Transaction::default() }, Some(&*two.consumer)).unwrap();
    wait(fixture, "the records that nobody needs being deleted", || queue.range(&a).unwrap().start == offset(5));
    witness.sees_deletions(fixture, &*queue);
    assert_eq!(read_all(&*queue, &a, offset(5)).len(), 15);
    assert_broken(queue.read(&a, offset(4), 1));
    assert_broken(two.consumer.seek(&a, offset(4)));
    two.consumer.seek(&a, offset(5)).unwrap();
    let end = offset(19).next();
    one.commit(&mut *producer, &a, end).unwrap();
    two.commit(&mut *producer, &a, end).unwrap();
    wait(fixture, "everything being deleted", || queue.range(&a).unwrap().start == queue.range(&a).unwrap().end);
    assert_eq!(queue.range(&a).unwrap().end, end, "offsets go on where they were");
    assert_eq!(queue.read(&a, end, 1 << 20).unwrap(), []);
    let first = producer
        .commit(&Transaction { records: vec![(a.clone(), Record::of(b"x".to_vec()))], ..Transaction::default() }, None);
    assert!(first.unwrap()[0].1 >= end);
}

/// Whose records were deleted under it must not go on with those that are left as though nothing was missing.
pub fn a_reader_that_was_left_behind_is_told(fixture: &dyn Fixture) {
    if !fixture.deletes_what_groups_passed() {
        return;
    }
    let queue = fixture.open();
    queue.create_topics(&[consumed(fixture, "a", &["one"])]).unwrap();
    let a = at(fixture, "a", 0);
    // Nobody waits for this group.
    let mut other = Reader::new(fixture, &*queue, "other", &["a"]);
    other.own(fixture, 1);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a, &["1", "2", "3"]).unwrap();
    let mut one = Reader::new(fixture, &*queue, "one", &["a"]);
    one.read(fixture, 3);
    let second = one.records[1].1.offset;
    one.commit(&mut *producer, &a, second).unwrap();
    wait(fixture, "the first record going", || queue.range(&a).unwrap().start == second);
    assert_broken(other.consumer.poll(Duration::ZERO, 1 << 20));
    other.consumer.seek(&a, second).unwrap();
    other.read(fixture, 2);
    assert_eq!(other.texts(), ["2", "3"]);
}

/// A group that does not read a topic may keep its records.
pub fn a_group_keeps_what_it_says(fixture: &dyn Fixture) {
    if !fixture.deletes_what_groups_passed() {
        return;
    }
    let queue = fixture.open();
    queue.create_topics(&[consumed(fixture, "a", &["keeper", "reader"]), forever(fixture, "in", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send_noise(&mut *producer, &a, 10, 1000);
    let mut reader = Reader::new(fixture, &*queue, "reader", &["a"]);
    reader.read(fixture, 10);
    let offset = |n: usize| reader.records[n].1.offset;
    reader.commit(&mut *producer, &a, offset(9)).unwrap();
    let keeper = Reader::new(fixture, &*queue, "keeper", &["in"]);
    for kept in [3, 8] {
        let transaction = Transaction { keep: vec![(a.clone(), offset(kept))], ..Transaction::default() };
        producer.commit(&transaction, Some(&*keeper.consumer)).unwrap();
        wait(fixture, "what nobody keeps being deleted", || queue.range(&a).unwrap().start == offset(kept));
    }
    assert_eq!(queue.committed(&fixture.name("keeper"), &a.topic).unwrap(), [], "it has not read it");
}

/// Examples for people to look at, though no group reads them.
pub fn the_newest_bytes_stay(fixture: &dyn Fixture) {
    if !fixture.deletes_what_groups_passed() {
        return;
    }
    let queue = fixture.open();
    let retention = Retention::Consumed { by: Vec::new(), at_least_bytes: 10_000 };
    queue.create_topics(&[TopicSpec { retention, ..forever(fixture, "a", 1) }]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send_noise(&mut *producer, &a, 50, 1000);
    let kept = |queue: &dyn Queue| {
        let start = queue.range(&a).unwrap().start;
        read_all(queue, &a, start).len()
    };
    wait(fixture, "the older records being deleted", || kept(&*queue) <= 11);
    assert!((10..=11).contains(&kept(&*queue)), "{} records of 1,000 bytes are left", kept(&*queue));
}

/// A compacted topic tells the last word on every key.
pub fn the_newest_record_of_each_key_stays(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[TopicSpec { retention: Retention::Compacted, ..forever(fixture, "a", 1) }]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    let mut expected = BTreeMap::new();
    for i in 0..60_u8 {
        let (key, value) = (vec![i % 7, 0, 255], if i % 11 == 3 { Vec::new() } else { vec![i] });
        let record = Record { key: Some(key.clone()), ..Record::of(value.clone()) };
        send_record(&mut *producer, &a, &record);
        expected.insert(key, value);
        // Whatever was compacted away: who reads it all knows the last word.
        assert_eq!(last_words(&*queue, &a), without_removed(&expected));
    }
    let until = queue.range(&a).unwrap().end;
    let left = || read_all(&*queue, &a, Offset(0)).iter().filter(|record| record.offset < until).count();
    let newest = expected.last_key_value().unwrap();
    let again = Record { key: Some(newest.0.clone()), ..Record::of(newest.1.clone()) };
    wait(fixture, "earlier records going", || {
        if !fixture.compacts_at_once() {
            send_record(&mut *producer, &a, &again);
        }
        left() <= expected.len() + 1
    });
    assert_eq!(last_words(&*queue, &a), without_removed(&expected));
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.until(fixture, "being at the end", |reader| reader.at_end == [a.clone()]);
    assert!(reader.records.iter().filter(|(_, record)| record.offset < until).count() <= expected.len() + 1);
    let record = Record::of(b"a record without key".to_vec());
    assert_broken(producer.commit(&Transaction { records: vec![(a, record)], ..Transaction::default() }, None));
}

fn send_record(producer: &mut dyn Producer, to: &TopicPartition, record: &Record) {
    let records = vec![(to.clone(), record.clone())];
    producer.commit(&Transaction { records, ..Transaction::default() }, None).unwrap();
}

fn without_removed(all: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    all.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn last_words(queue: &dyn Queue, of: &TopicPartition) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut words = BTreeMap::new();
    for fetched in read_all(queue, of, Offset(0)) {
        words.insert(fetched.record.key.unwrap(), fetched.record.value);
    }
    without_removed(&words)
}

/// The sender learns that its readers are behind, nothing is half done, and it goes on when they caught up.
pub fn a_full_backlog_holds_senders_back(fixture: &dyn Fixture) {
    if !fixture.holds_senders_back() {
        return;
    }
    let queue = fixture.open();
    let limited = TopicSpec { max_backlog_bytes: 10_000, ..consumed(fixture, "a", &["fast", "slow"]) };
    queue.create_topics(&[limited, forever(fixture, "b", 1)]).unwrap();
    let (a, b) = (at(fixture, "a", 0), at(fixture, "b", 0));
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    let mut transaction = Transaction::default();
    transaction.send(b.clone(), Record::of(b"with it".to_vec()));
    transaction.send(a.clone(), Record::of(noise(3000, 1)));
    for _ in 0..4 {
        producer.commit(&transaction, None).unwrap();
    }
    let is_full = |producer: &mut dyn Producer| match producer.commit(&transaction, None) {
        Ok(_) => false,
        Err(QueueError::Full { topic, backlog_bytes }) => {
            assert_eq!(topic, a);
            assert!((10_000..15_000).contains(&backlog_bytes), "{backlog_bytes}");
            true
        }
        Err(other) => panic!("{other}"),
    };
    assert!(is_full(&mut *producer), "no group has read anything");
    let mut fast = Reader::new(fixture, &*queue, "fast", &["a"]);
    let mut slow = Reader::new(fixture, &*queue, "slow", &["a"]);
    fast.read(fixture, 4);
    slow.read(fixture, 4);
    let mut readers = queue.producer(&fixture.name("readers")).unwrap();
    let offset = |n: usize| fast.records[n].1.offset;
    fast.commit(&mut *readers, &a, offset(3).next()).unwrap();
    assert!(is_full(&mut *producer), "one group has read nothing");
    slow.commit(&mut *readers, &a, offset(0).next()).unwrap();
    assert!(!is_full(&mut *producer));
    assert!(is_full(&mut *producer));
    // What a group keeps beside what it has read does not count.
    let all_read = InputCommit { keep_from: offset(0), ..input(&a, offset(3).next(), b"") };
    readers.commit(&Transaction { inputs: vec![all_read], ..Transaction::default() }, Some(&*slow.consumer)).unwrap();
    assert!(!is_full(&mut *producer));
    assert_eq!(read_all(&*queue, &b, Offset(0)).len(), 6, "what was refused left nothing behind");
    // Other topics are not concerned.
    send(&mut *producer, &b, &["x"]).unwrap();
}

/// Who needs records later, but reads them not, is not behind.
pub fn a_group_that_only_keeps_holds_nobody_back(fixture: &dyn Fixture) {
    if !fixture.holds_senders_back() {
        return;
    }
    let queue = fixture.open();
    let limited = TopicSpec { max_backlog_bytes: 5000, ..consumed(fixture, "a", &["keeper"]) };
    queue.create_topics(&[limited, forever(fixture, "in", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let keeper = Reader::new(fixture, &*queue, "keeper", &["in"]);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for i in 0..10 {
        let mut transaction = Transaction { keep: vec![(a.clone(), Offset(0))], ..Transaction::default() };
        transaction.send(a.clone(), Record::of(noise(2000, i)));
        producer.commit(&transaction, Some(&*keeper.consumer)).unwrap();
    }
    assert_eq!(read_all(&*queue, &a, Offset(0)).len(), 10);
}
