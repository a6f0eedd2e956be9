//! What only a cluster can show that does what it is told: librdkafka's mock of one.

#![allow(clippy::unwrap_used, clippy::panic)]

mod kafka_common;

use std::time::{Duration, Instant};

use clickmill_model::Offset;
use clickmill_queue::kafka::{KafkaQueue, Options};
use clickmill_queue::{Committed, InputCommit, Poll, Queue, QueueError, Record, TopicPartition, Transaction};
use kafka_common::wait;
use rdkafka::mocking::{MockCluster, MockCoordinator};

#[test]
fn a_commit_comes_back_though_the_coordinator_of_the_group_is_gone() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic("a", 1, 1).unwrap();
    cluster.partition_leader("a", 0, Some(1)).unwrap();
    cluster.coordinator(MockCoordinator::Transaction("p".to_owned()), 1).unwrap();
    cluster.coordinator(MockCoordinator::Group("g".to_owned()), 2).unwrap();
    let timeout = Duration::from_secs(2);
    let options = Options { brokers: cluster.bootstrap_servers(), transaction_timeout: timeout, ..Options::default() };
    let queue = KafkaQueue::open(options).unwrap();
    let a = TopicPartition::new("a", 0);
    let mut producer = queue.producer("p").unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    wait("the partition", || matches!(consumer.poll(Duration::from_millis(10), 1 << 20).unwrap(), Poll::Assigned(_)));

    cluster.broker_down(2).unwrap();
    let mut transaction = Transaction::default();
    transaction.send(a.clone(), Record::of(b"1".to_vec()));
    let committed = Committed { offset: Offset(0), metadata: Vec::new() };
    transaction.inputs.push(InputCommit { input: a, committed, keep_from: Offset(0) });
    let began = Instant::now();
    let error = producer.commit(&transaction, Some(&*consumer)).unwrap_err();
    assert!(matches!(error, QueueError::Unknown(_) | QueueError::Unavailable { .. }), "{error}");
    assert!(began.elapsed() < 10 * timeout, "{:?}", began.elapsed());
}
