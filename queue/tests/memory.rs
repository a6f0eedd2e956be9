//! The faults that the queue in memory can be told to have.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Timestamp};
use clickmill_queue::memory::{CommitFault, MemoryQueue};
use clickmill_queue::{ManualClock, Poll, Queue, QueueError, Transaction};
use common::{at, input, read_all, record, topic};

fn queue() -> MemoryQueue {
    let queue = MemoryQueue::new(Arc::new(ManualClock::new(Timestamp::EPOCH)));
    queue.create_topics(&[topic("a", 1)]).unwrap();
    queue
}

#[test]
fn a_failed_commit_is_applied_or_not_as_the_fault_says() {
    for (fault, is_unknown, is_applied) in [
        (CommitFault::NotApplied, false, false),
        (CommitFault::AppliedButReportedFailed, true, true),
        (CommitFault::LostBefore, true, false),
    ] {
        let queue = queue();
        let mut producer = queue.producer("p").unwrap();
        queue.fail_next_commit(fault);
        let error = producer.commit(&record(&at("a", 0), b"x"), None).unwrap_err();
        assert_eq!(matches!(error, QueueError::Unknown(_)), is_unknown, "{fault:?}");
        assert_eq!(matches!(error, QueueError::Unavailable { .. }), !is_unknown, "{fault:?}");
        assert_eq!(read_all(&queue, &at("a", 0)).len(), usize::from(is_applied), "{fault:?}");
        // After a passing fault the producer goes on, after an unknown outcome it is of no use.
        let again = producer.commit(&record(&at("a", 0), b"y"), None);
        assert_eq!(matches!(again, Err(QueueError::Fenced(_))), is_unknown, "{fault:?}");
        queue.producer("p").unwrap().commit(&record(&at("a", 0), b"z"), None).unwrap();
    }
}

#[test]
fn faults_wait_in_a_row_and_a_refused_commit_uses_none_up() {
    let queue = queue();
    let mut old = queue.producer("p").unwrap();
    let mut producer = queue.producer("p").unwrap();
    queue.fail_next_commit(CommitFault::NotApplied);
    queue.fail_next_commit(CommitFault::NotApplied);
    let x = record(&at("a", 0), b"x");
    assert!(matches!(old.commit(&x, None), Err(QueueError::Fenced(_))));
    assert!(matches!(producer.commit(&x, None), Err(QueueError::Unavailable { .. })));
    assert!(matches!(producer.commit(&x, None), Err(QueueError::Unavailable { .. })));
    producer.commit(&x, None).unwrap();
    queue.fail_next_commit(CommitFault::NotApplied);
    queue.forget_faults();
    producer.commit(&x, None).unwrap();
}

#[test]
fn what_the_test_deletes_is_missed() {
    let queue = queue();
    let a = at("a", 0);
    let mut producer = queue.producer("p").unwrap();
    for _ in 0..5 {
        producer.commit(&record(&a, b"x"), None).unwrap();
    }
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    assert_eq!(consumer.poll(Duration::ZERO, 1).unwrap(), Poll::Assigned(vec![(a.clone(), None)]));
    let who = consumer.identity();
    assert_eq!(queue.members("g"), std::slice::from_ref(&who.member));
    assert_eq!(queue.owner("g", &a), Some(who.member));
    let inputs = vec![input(&a, Offset(2))];
    producer.commit(&Transaction { inputs, ..Transaction::default() }, Some(&*consumer)).unwrap();
    queue.truncate(&a, Offset(3));
    assert_eq!(queue.range(&a).unwrap().start, Offset(3));
    assert!(matches!(consumer.poll(Duration::ZERO, 1), Err(QueueError::Broken(_))), "it was at 0");
    queue.delete_offsets("g");
    assert_eq!(queue.committed("g", "a").unwrap(), []);
    queue.delete_topic("a");
    assert_eq!(queue.partitions("a").unwrap(), None);
    assert_eq!(consumer.poll(Duration::ZERO, 1).unwrap(), Poll::Lost(vec![a.clone()]));
    queue.create_topics(&[topic("a", 1)]).unwrap();
    assert_eq!(queue.range(&a).unwrap().end, Offset(0));
}

#[test]
fn a_delayed_transaction_arrives_unless_its_producer_or_its_partition_is_anothers_by_then() {
    let queue = queue();
    let a = at("a", 0);
    let delay = |producer: &str, transaction: &Transaction, consumer: Option<&dyn clickmill_queue::Consumer>| {
        queue.fail_next_commit(CommitFault::Delayed);
        let outcome = queue.producer(producer).unwrap().commit(transaction, consumer);
        assert!(matches!(outcome, Err(QueueError::Unknown(_))));
    };
    delay("p", &record(&a, b"one"), None);
    assert_eq!(read_all(&queue, &a).len(), 0, "still under way");
    assert!(matches!(queue.deliver(), Some(Ok(()))));
    assert_eq!(read_all(&queue, &a).len(), 1);
    delay("p", &record(&a, b"two"), None);
    queue.producer("p").unwrap();
    assert!(matches!(queue.deliver(), Some(Err(QueueError::Fenced(_)))), "a newer producer of the name");
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    consumer.poll(Duration::ZERO, 1).unwrap();
    let passed = Transaction { inputs: vec![input(&a, Offset(1))], ..Transaction::default() };
    delay("q", &passed, Some(&*consumer));
    queue.expire_member("g", &consumer.identity().member);
    assert!(matches!(queue.deliver(), Some(Err(QueueError::Fenced(_)))), "the partition is no longer its own");
    assert_eq!((queue.committed("g", "a").unwrap(), queue.deliver().is_none()), (vec![], true));
}

#[test]
fn a_deaf_member_hears_neither_records_nor_news() {
    let queue = queue();
    let a = at("a", 0);
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    consumer.poll(Duration::ZERO, 1).unwrap();
    let member = consumer.identity().member;
    queue.deafen("g", &member);
    queue.producer("p").unwrap().commit(&record(&a, b"x"), None).unwrap();
    queue.expire_member("g", &member);
    assert_eq!(consumer.poll(Duration::ZERO, 1).unwrap(), Poll::Idle { at_end: vec![a.clone()] });
    queue.undeafen("g", &member);
    assert_eq!(consumer.poll(Duration::ZERO, 1).unwrap(), Poll::Lost(vec![a]));
}
