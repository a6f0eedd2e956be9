//! The queue of many machines: Apache Kafka, through librdkafka.
//!
//! - **Commit**: records and offsets in one Kafka transaction (KIP-447), under stable transactional ids (`producer`). A transaction is open only while it is being committed.
//! - **Read**: committed records only, partition by partition (`fetch`); without a group up to the end that the log had when it was asked, past open transactions (`reader`).
//! - **Groups**: cooperative rebalancing. What a group decides is recorded and carried out by the worker's own calls (`group`, `consumer`): a partition is handed over when it was
//!   released, after what was under way is committed. Offsets are committed under the membership in which the partition was got (`member`).
//! - **Topics**: made with what the promises need, and checked for it (`topics`): stamped by the broker, kept long enough, safe with a broker lost.
//!
//! Where Kafka differs by nature: records are kept by time, not by what the groups still need, and senders are never held back. A reader that was left behind is told so, as everywhere.

mod client;
mod consumer;
mod fetch;
mod group;
mod member;
mod native;
mod offsets;
mod options;
mod producer;
mod reader;
mod shared;
mod topics;

use std::sync::Arc;

use clickmill_model::{Offset, Partition};

use self::consumer::KafkaConsumer;
use self::producer::KafkaProducer;
use self::shared::Shared;
use crate::types::{Committed, Consumer, Fetched, OffsetRange, Producer, Queue, Result, TopicPartition, TopicSpec};

pub use self::options::{Options, Properties};

/// A queue in a Kafka cluster.
#[derive(Clone)]
pub struct KafkaQueue {
    shared: Arc<Shared>,
}

impl KafkaQueue {
    /// Connects to the cluster.
    ///
    /// `Broken` where librdkafka does not take the properties; `Unavailable` where no broker answers, or not to this user.
    pub fn open(options: Options) -> Result<Self> {
        Ok(Self { shared: Arc::new(Shared::open(options)?) })
    }
}

impl Queue for KafkaQueue {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<()> {
        topics::create(&self.shared, topics)
    }

    fn missing_topics(&self, topics: &[TopicSpec]) -> Result<Vec<TopicSpec>> {
        Ok(topics::check(&self.shared, topics)?.into_iter().cloned().collect())
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        self.shared.ask_partitions(topic)
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        Ok(Box::new(KafkaProducer::new(&self.shared, transactional_id)?))
    }

    fn consumer(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(KafkaConsumer::new(&self.shared, group, topics)?))
    }

    fn range(&self, of: &TopicPartition) -> Result<OffsetRange> {
        self.shared.range(of)
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>> {
        offsets::committed(&self.shared, group, topic)
    }

    fn read(&self, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>> {
        reader::read(&self.shared, of, from, max_bytes)
    }
}
