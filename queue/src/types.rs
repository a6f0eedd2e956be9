//! The queue's trait and the values that go through it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Partition, Timestamp};
use thiserror::Error;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition within it.
    pub partition: Partition,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition: Partition(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The key, by which a compacted topic keeps the latest record. The sender chooses the partition, not the key.
    pub key: Option<Vec<u8>>,
    /// Names with values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The value. Empty in a compacted topic: the key is removed.
    pub value: Vec<u8>,
}

impl Record {
    /// A record without key and headers.
    pub fn of(value: Vec<u8>) -> Self {
        Self { value, ..Self::default() }
    }

    /// The value of the header with this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// Bytes of key, headers and value.
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Vec::len) + headers + self.value.len()
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its place in the partition. Offsets rise; there may be gaps between them.
    pub offset: Offset,
    /// The queue's clock when it was appended.
    pub arrival: Timestamp,
    /// The record.
    pub record: Record,
}

/// How long the records of a topic stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    /// Until each of these groups has said, by [`Transaction::keep`] or [`InputCommit::keep_from`], that it needs them no more; a group that never committed needs
    /// all. Besides, the newest `at_least_bytes` stay. (Kafka keeps by time instead, long enough.)
    Consumed {
        /// The groups that must have passed.
        by: Vec<String>,
        /// How much of the newest stays in any case, in bytes per partition.
        at_least_bytes: u64,
    },
    /// The newest record of each key.
    Compacted,
    /// For ever.
    Forever,
}

/// A topic that shall be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions it has, for good.
    pub partitions: u32,
    /// How long its records stay.
    pub retention: Retention,
    /// How many bytes per partition may wait for the slowest group of [`Retention::Consumed`] before [`Producer::commit`] answers [`QueueError::Full`]; 0 for any number.
    pub max_backlog_bytes: u64,
}

/// The offsets that a partition has: `start` is the first record's (or where the next one will be), `end` the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// Records before it were deleted.
    pub start: Offset,
    /// Every committed record lies before it.
    pub end: Offset,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset of the next record to read.
    pub offset: Offset,
    /// What the stage wrote beside it: at most [`MAX_METADATA_BYTES`].
    pub metadata: Vec<u8>,
}

/// The most that the metadata of a committed offset may hold, in bytes. (Kafka's default limit is 4,096 characters; metadata is written there in base 64.)
pub const MAX_METADATA_BYTES: usize = 3000;

/// The offset of one input partition that a transaction commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputCommit {
    /// The input.
    pub input: TopicPartition,
    /// The next record to read, and what a restart needs beside it.
    pub committed: Committed,
    /// The first record of the input that the group still needs, at most `committed.offset`.
    pub keep_from: Offset,
}

/// What becomes visible at once: gathered by a stage, performed by [`Producer::commit`].
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Records, each to its partition; those of one partition in this order.
    pub records: Vec<(TopicPartition, Record)>,
    /// Offsets of the consumer that is given to [`Producer::commit`].
    pub inputs: Vec<InputCommit>,
    /// What the consumer's group still needs of partitions that are not its inputs.
    pub keep: Vec<(TopicPartition, Offset)>,
}

impl Transaction {
    /// Adds a record.
    pub fn send(&mut self, to: TopicPartition, record: Record) {
        self.records.push((to, record));
    }

    /// True where committing it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.inputs.is_empty() && self.keep.is_empty()
    }
}

/// Why the queue did not do it.
#[derive(Debug, Error)]
pub enum QueueError {
    /// Another process took over: this producer or consumer can do nothing any more.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The topic's backlog is full. Nothing was done: try again when its readers have caught up.
    #[error("{topic} holds {backlog_bytes} bytes that wait to be read: its readers are behind")]
    Full {
        /// The topic's partition.
        topic: TopicPartition,
        /// How much waits.
        backlog_bytes: u64,
    },
    /// A passing fault. Nothing was done.
    #[error("{what}: {why}")]
    Unavailable {
        /// What was being done.
        what: String,
        /// What came back.
        why: String,
    },
    /// A commit whose outcome is unknown: make a new producer and read back what is committed.
    #[error("commit of unknown outcome: {0}")]
    Unknown(String),
    /// What is stored is not what it should be, or was written by a newer clickmill; going on would lose or double clicks.
    #[error("{0}")]
    Broken(String),
}

/// Queue results.
pub type Result<T, E = QueueError> = std::result::Result<T, E>;

/// What a consumer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// These partitions are this consumer's now, with what its group has committed. Reading goes on from the committed offset, from the start of the log where there is none,
    /// or from where [`Consumer::seek`] says.
    Assigned(Vec<(TopicPartition, Option<Committed>)>),
    /// These partitions shall go to another consumer: commit what is under way, then [`Consumer::release`] them. Their records no longer come.
    Revoking(Vec<TopicPartition>),
    /// These partitions belong to another consumer already: forget what was not committed.
    Lost(Vec<TopicPartition>),
    /// Records of one partition, in order.
    Records {
        /// Where from.
        from: TopicPartition,
        /// The records, at least one.
        records: Vec<Fetched>,
        /// The partition's end when they were read.
        end: Offset,
    },
    /// Nothing came. Each of these partitions was asked, and was read to its end.
    Idle {
        /// The partitions at their end.
        at_end: Vec<TopicPartition>,
    },
}

/// A message queue.
pub trait Queue: Send + Sync {
    /// Makes the topics that are not there. One that is there with another number of partitions is [`QueueError::Broken`].
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<()>;

    /// Refuses topics that are there, but lack what the queue's promises need ([`QueueError::Broken`], naming the setting and what would be right), and returns those that are not there.
    /// Nothing is changed.
    fn missing_topics(&self, topics: &[TopicSpec]) -> Result<Vec<TopicSpec>> {
        let mut missing = Vec::new();
        for spec in topics {
            match self.partitions(&spec.name)? {
                None => missing.push(spec.clone()),
                Some(has) if has != spec.partitions => {
                    return Err(crate::check::other_partitions(&spec.name, has, spec.partitions));
                }
                Some(_) => {}
            }
        }
        Ok(missing)
    }

    /// How many partitions the topic has; `None` where there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Option<u32>>;

    /// A producer. It ends every earlier one of this transactional id, in whatever process, and what that one had not committed.
    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>>;

    /// A member of the group, which shares the partitions of these topics.
    fn consumer(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Consumer>>;

    /// Where the partition's log begins and ends.
    fn range(&self, of: &TopicPartition) -> Result<OffsetRange>;

    /// What the group has committed for the partitions of a topic, by partition.
    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>>;

    /// Reads committed records from `from` on, without any group: at most about `max_bytes`, at least one if there is one. Empty at the end.
    /// An offset before the log's start is [`QueueError::Broken`].
    fn read(&self, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>>;
}

/// Sends records, in transactions.
pub trait Producer: Send {
    /// Performs the transaction, all of it or nothing, and returns the offset of the first record that went to each partition. `consumer` must be there where the transaction has inputs or
    /// keeps.
    ///
    /// After [`QueueError::Full`] and [`QueueError::Unavailable`] the same transaction may be tried again. After every other error this producer is of no use.
    fn commit(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>>;
}

/// Reads records as a member of a group.
pub trait Consumer: Send {
    /// What is next; waits up to `timeout` for it. Records come as at most about `max_bytes` at once, partition after partition, so that none starves.
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Poll>;

    /// Reads on from this offset. One before the log's start is [`QueueError::Broken`].
    fn seek(&mut self, of: &TopicPartition, offset: Offset) -> Result<()>;

    /// Gives up a partition, after [`Poll::Revoking`] or of its own accord at the end.
    fn release(&mut self, of: &TopicPartition) -> Result<()>;

    /// Who this is, for the implementation's own use in [`Producer::commit`].
    fn identity(&self) -> ConsumerIdentity;
}

/// Names a member of a group towards the queue that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerIdentity {
    /// The group.
    pub group: String,
    /// The member.
    pub member: String,
}
