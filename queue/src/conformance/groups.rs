//! Groups: who reads what, handing over, zombies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{
    Fixture, Offset, Poll, Reader, Record, Transaction, assert_broken, assert_fenced, at, forever, input, send, values,
};
use crate::types::{QueueError, TopicPartition};

/// Alone in its group, a member reads everything from the start.
pub fn a_single_member_gets_every_partition(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 5)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for p in 0..5 {
        send(&mut *producer, &at(fixture, "a", p), &["x", "y"]).unwrap();
    }
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, 10);
    let expected: BTreeMap<_, _> = (0..5).map(|p| (at(fixture, "a", p), None)).collect();
    assert_eq!(reader.owned, expected);
    assert_eq!((reader.lost.len(), reader.revoking.len()), (0, 0));
}

/// A new member gets what its group has committed, and reads on from there.
pub fn a_member_reads_on_from_the_committed_offset(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a, &["1", "2", "3"]).unwrap();
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, 3);
    let third = reader.records[2].1.offset;
    let inputs = vec![input(&a, third, b"state")];
    producer.commit(&Transaction { inputs, ..Transaction::default() }, Some(&*reader.consumer)).unwrap();
    drop(reader);
    let mut reader = Reader::new(fixture, &*fixture.open(), "g", &["a"]);
    reader.read(fixture, 1);
    assert_eq!(reader.texts(), ["3"]);
    let committed = reader.owned[&a].as_ref().unwrap();
    assert_eq!((committed.offset, committed.metadata.as_slice()), (third, b"state".as_slice()));
}

/// What one group reads and commits means nothing to another.
pub fn groups_do_not_disturb_each_other(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a, &["1", "2"]).unwrap();
    let mut one = Reader::new(fixture, &*queue, "one", &["a"]);
    one.read(fixture, 2);
    one.commit(&mut *producer, &a, one.records[1].1.offset.next()).unwrap();
    let mut two = Reader::new(fixture, &*queue, "two", &["a"]);
    two.read(fixture, 2);
    assert_eq!(two.owned[&a], None);
    one.poll();
    assert_eq!((one.revoking.len(), one.lost.len()), (0, 0));
}

/// A member reads every topic that it names, and no other.
pub fn a_group_may_read_several_topics(fixture: &dyn Fixture) {
    let queue = fixture.open();
    let specs = ["a", "b", "c"].map(|name| forever(fixture, name, 2));
    queue.create_topics(&specs).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for topic in ["a", "b", "c"] {
        send(&mut *producer, &at(fixture, topic, 1), &[topic]).unwrap();
    }
    let mut reader = Reader::new(fixture, &*queue, "g", &["a", "c"]);
    reader.own(fixture, 4);
    reader.read(fixture, 2);
    let mut texts = reader.texts();
    texts.sort();
    assert_eq!(texts, ["a", "c"]);
}

/// One member, two, one again: each time they share everything evenly.
pub fn partitions_move_to_a_second_member_and_back(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 4)]).unwrap();
    let mut first = Reader::new(fixture, &*queue, "g", &["a"]);
    first.own(fixture, 4);
    let mut second = Reader::new(fixture, &*fixture.open(), "g", &["a"]);
    wait_for_shares(fixture, &mut first, &mut second, (2, 2));
    assert!(first.owned.keys().all(|of| !second.owned.contains_key(of)));
    drop(second);
    first.own(fixture, 4);
    assert_eq!(first.lost, []);
}

fn wait_for_shares(fixture: &dyn Fixture, first: &mut Reader, second: &mut Reader, shares: (usize, usize)) {
    super::wait(fixture, "the partitions being shared", || {
        first.poll();
        second.poll();
        first.release_what_is_asked_for();
        second.release_what_is_asked_for();
        (first.owned.len(), second.owned.len()) == shares
    });
}

/// The old owner finishes and commits; the new one begins where it ended, not before.
pub fn a_partition_is_handed_over_only_when_released(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    for p in 0..2 {
        send(&mut *producer, &at(fixture, "a", p), &["1", "2"]).unwrap();
    }
    let mut first = Reader::new(fixture, &*queue, "g", &["a"]);
    first.read(fixture, 4);
    let mut second = Reader::new(fixture, &*queue, "g", &["a"]);
    super::wait(fixture, "being asked for a partition", || {
        first.poll();
        second.poll();
        !first.revoking.is_empty()
    });
    assert_eq!((first.revoking.len(), first.owned.len()), (1, 2));
    let of = first.revoking[0].clone();
    send(&mut *producer, &of, &["3"]).unwrap();
    let while_asked = Instant::now() + Duration::from_millis(50);
    while Instant::now() < while_asked {
        // `Reader::poll` refuses records of a partition that shall be given up.
        first.poll();
        second.poll();
        assert!(second.owned.is_empty(), "handed over before it was released");
    }
    let last = first.records.iter().filter(|(from, _)| *from == of).map(|(_, record)| record.offset).max().unwrap();
    first.commit(&mut *producer, &of, last.next()).unwrap();
    first.release(&of);
    super::wait(fixture, "the other member taking over", || {
        first.poll();
        second.poll();
        second.records.len() == 1
    });
    assert_eq!(second.owned.keys().collect::<Vec<_>>(), [&of]);
    assert_eq!(second.texts(), ["3"]);
    assert_fenced(first.commit(&mut *producer, &of, last));
}

/// Set of inputs equals set of outputs, whoever did the work.
pub fn every_record_is_consumed_once_while_members_come_and_go(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "in", 3), forever(fixture, "out", 1)]).unwrap();
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    let total: u32 = 300;
    let mut sent = 0;
    let mut workers: Vec<(Reader, Box<dyn crate::Producer>)> = Vec::new();
    let out = at(fixture, "out", 0);
    let mut round = 0_u32;
    super::wait(fixture, "every record coming out", || {
        round += 1;
        if sent < total {
            let batch: Vec<String> = (sent..sent + 5).map(|n| n.to_string()).collect();
            let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
            send(&mut *producer, &at(fixture, "in", round % 3), &batch).unwrap();
            sent += 5;
        }
        match round % 17 {
            3 if workers.len() < 3 => {
                let id = fixture.name(&format!("worker-{round}"));
                workers.push((Reader::new(fixture, &*queue, "g", &["in"]), queue.producer(&id).unwrap()));
            }
            // It goes without a word, in the middle of its work.
            16 if workers.len() > 1 => drop(workers.remove(0)),
            _ => {}
        }
        for (reader, producer) in &mut workers {
            reader.poll();
            pass_on(reader, &mut **producer, &out);
            reader.release_what_is_asked_for();
        }
        sent == total && read_count(&*queue, &out) >= total as usize
    });
    let mut found: Vec<u32> = values(&*queue, &out).iter().map(|text| text.parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..total).collect::<Vec<_>>());
}

fn read_count(queue: &dyn crate::Queue, of: &TopicPartition) -> usize {
    super::read_all(queue, of, Offset(0)).len()
}

/// Commits what was read and sends it on. Records of a partition that was lost meanwhile are forgotten.
fn pass_on(reader: &mut Reader, producer: &mut dyn crate::Producer, to: &TopicPartition) {
    let mut transaction = Transaction::default();
    let mut next: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
    for (from, fetched) in std::mem::take(&mut reader.records) {
        if reader.owned.contains_key(&from) {
            transaction.send(to.clone(), Record::of(fetched.record.value));
            next.insert(from, fetched.offset.next());
        }
    }
    transaction.inputs = next.iter().map(|(of, offset)| input(of, *offset, b"")).collect();
    match producer.commit(&transaction, Some(&*reader.consumer)) {
        Ok(_) | Err(QueueError::Fenced(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

/// A member that lost its partitions without knowing it can do no harm, and begins anew.
pub fn a_zombie_commits_nothing(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1), forever(fixture, "out", 1)]).unwrap();
    let (a, out) = (at(fixture, "a", 0), at(fixture, "out", 0));
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a, &["1", "2"]).unwrap();
    let mut zombie = Reader::new(fixture, &*queue, "g", &["a"]);
    zombie.read(fixture, 2);
    let mut zombies_producer = queue.producer(&fixture.name("zombie")).unwrap();
    let mut other = Reader::new(fixture, &*fixture.open(), "g", &["a"]);
    fixture.expire(&zombie.consumer.identity());
    other.read(fixture, 2);
    let end = other.records[1].1.offset.next();
    let transaction = Transaction {
        records: vec![(out.clone(), Record::of(b"never".to_vec()))],
        inputs: vec![input(&a, end, b"zombie")],
        keep: vec![(out.clone(), Offset(0))],
    };
    assert_fenced(zombies_producer.commit(&transaction, Some(&*zombie.consumer)));
    assert_eq!(values(&*queue, &out), Vec::<String>::new());
    assert_eq!(queue.committed(&fixture.name("g"), &fixture.name("a")).unwrap(), []);
    other.commit(&mut *producer, &a, end).unwrap();
    // It is told, and becomes a member again.
    super::wait(fixture, "the zombie learning that it lost its partition", || {
        other.poll();
        zombie.poll();
        zombie.lost == [a.clone()]
    });
    zombie.records.clear();
    drop(other);
    zombie.own(fixture, 1);
    assert_eq!(zombie.owned[&a].as_ref().map(|committed| committed.offset), Some(end));
    send(&mut *producer, &a, &["3"]).unwrap();
    zombie.read(fixture, 1);
    assert_eq!(zombie.texts(), ["3"]);
}

/// Who releases what nobody asked for is about to leave.
pub fn a_member_that_gives_up_a_partition_gets_no_other(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 2)]).unwrap();
    let mut first = Reader::new(fixture, &*queue, "g", &["a"]);
    first.own(fixture, 2);
    for p in 0..2 {
        first.release(&at(fixture, "a", p));
    }
    let mut second = Reader::new(fixture, &*queue, "g", &["a"]);
    super::wait(fixture, "the other member owning both", || {
        first.poll();
        second.poll();
        second.owned.len() == 2
    });
    assert!(first.owned.is_empty());
}

/// Reading starts over where a member says, within the log.
pub fn seeking_reads_again(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let a = at(fixture, "a", 0);
    let mut producer = queue.producer(&fixture.name("p")).unwrap();
    send(&mut *producer, &a, &["1", "2", "3"]).unwrap();
    let mut reader = Reader::new(fixture, &*queue, "g", &["a"]);
    reader.read(fixture, 3);
    let offsets: Vec<Offset> = reader.records.iter().map(|(_, record)| record.offset).collect();
    for (from, expected) in [(1, vec!["2", "3"]), (0, vec!["1", "2", "3"]), (2, vec!["3"])] {
        reader.consumer.seek(&a, offsets[from]).unwrap();
        reader.records.clear();
        reader.read(fixture, expected.len());
        assert_eq!(reader.texts(), expected);
    }
    let end = queue.range(&a).unwrap().end;
    reader.consumer.seek(&a, end).unwrap();
    reader.records.clear();
    send(&mut *producer, &a, &["4"]).unwrap();
    reader.read(fixture, 1);
    assert_eq!(reader.texts(), ["4"]);
    assert_broken(reader.consumer.seek(&a, Offset(end.0 + 1000)));
}

/// A partition of others is not for seeking.
pub fn only_an_owner_seeks(fixture: &dyn Fixture) {
    let queue = fixture.open();
    queue.create_topics(&[forever(fixture, "a", 1)]).unwrap();
    let mut owner = Reader::new(fixture, &*queue, "g", &["a"]);
    owner.own(fixture, 1);
    let mut other = queue.consumer(&fixture.name("g"), &[&fixture.name("a")]).unwrap();
    assert_fenced(other.seek(&at(fixture, "a", 0), Offset(0)));
    assert!(matches!(other.poll(Duration::ZERO, 1), Ok(Poll::Idle { at_end }) if at_end.is_empty()));
}
