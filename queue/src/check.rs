//! What every implementation refuses alike.

use clickmill_model::Offset;

use crate::types::{MAX_METADATA_BYTES, OffsetRange, QueueError, Result, TopicPartition, Transaction};

/// Refuses a transaction that no queue could perform.
pub(crate) fn transaction(transaction: &Transaction, has_consumer: bool) -> Result<()> {
    let needs_consumer = !transaction.inputs.is_empty() || !transaction.keep.is_empty();
    if needs_consumer && !has_consumer {
        return Err(QueueError::Broken("a transaction with inputs was given without its consumer".into()));
    }
    for input in &transaction.inputs {
        let bytes = input.committed.metadata.len();
        if bytes > MAX_METADATA_BYTES {
            return Err(QueueError::Broken(format!(
                "the metadata of {}@{} has {bytes} bytes, at most {MAX_METADATA_BYTES} are allowed",
                input.input, input.committed.offset
            )));
        }
        if input.keep_from > input.committed.offset {
            return Err(QueueError::Broken(format!(
                "{} would be kept from {} only, behind the committed offset {}",
                input.input, input.keep_from, input.committed.offset
            )));
        }
    }
    Ok(())
}

/// Refuses to read from an offset that the log does not have.
pub(crate) fn within(of: &TopicPartition, offset: Offset, range: OffsetRange) -> Result<()> {
    if offset < range.start {
        return Err(QueueError::Broken(format!(
            "{of}: offset {offset} is needed, but the log begins at {}: what lay before was deleted. Going on would lose clicks: \
             restore the queue, or start with a new one and recalculate from the raw files",
            range.start
        )));
    }
    if offset > range.end {
        return Err(QueueError::Broken(format!(
            "{of}: offset {offset} is to be read next, but the log ends at {}: it is not the log that was read before. Going on would \
             lose or double clicks: restore the queue, or start with a new one and recalculate from the raw files",
            range.end
        )));
    }
    Ok(())
}

/// There is no such topic (yet).
pub(crate) fn no_topic(topic: &str) -> QueueError {
    QueueError::Unavailable { what: format!("looking up the topic {topic}"), why: "there is no such topic".into() }
}

/// The topic has no such partition.
pub(crate) fn no_partition(of: &TopicPartition, partitions: u32) -> QueueError {
    QueueError::Broken(format!("there is no {of}: the topic has {partitions} partitions, numbered from 0"))
}

/// The topic is there with another number of partitions.
pub(crate) fn other_partitions(topic: &str, has: u32, wanted: u32) -> QueueError {
    QueueError::Broken(format!(
        "the topic {topic} has {has} partitions, not {wanted}: their number is fixed when a topic is made"
    ))
}

/// A record for a compacted topic came without key.
pub(crate) fn no_key(to: &TopicPartition) -> QueueError {
    QueueError::Broken(format!("{to} is compacted: a record there needs a key"))
}

/// The producer was replaced.
pub(crate) fn replaced_producer(id: &str) -> QueueError {
    QueueError::Fenced(format!("another producer took over the transactional id {id}"))
}

/// The consumer does not own the partition.
pub(crate) fn not_owner(group: &str, member: &str, of: &TopicPartition) -> QueueError {
    QueueError::Fenced(format!("{of} no longer belongs to member {member} of group {group}"))
}

/// The consumer is no member.
pub(crate) fn no_member(group: &str, member: &str) -> QueueError {
    QueueError::Fenced(format!("{member} is no longer a member of group {group}"))
}
