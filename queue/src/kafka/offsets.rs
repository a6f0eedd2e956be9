//! Committed offsets, with what a stage wrote beside them: in base 64, because Kafka keeps text there.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clickmill_model::Partition;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as Place;
use rdkafka::types::RDKafkaErrorCode;

use super::client::is_passing;
use super::shared::{ANSWER_WITHIN, Shared, list, offset_of, place};
use crate::types::{Committed, InputCommit, QueueError, Result, TopicPartition};

/// How long one question may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long a transaction that is about to change offsets is waited for.
const STABLE_WITHIN: Duration = Duration::from_secs(2);

/// What the group has committed for the partitions of a topic. A transaction with such offsets that is being committed is waited for; one that its process left open is not: what it would change is
/// not committed.
pub(super) fn committed(shared: &Shared, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>> {
    let Some(partitions) = shared.ask_partitions(topic)? else { return Ok(Vec::new()) };
    let all: Vec<TopicPartition> = (0..partitions).map(|p| TopicPartition::new(topic, p)).collect();
    let began = Instant::now();
    loop {
        let client = shared.group(group, began.elapsed() < STABLE_WITHIN)?;
        match ask(&client, &all, ATTEMPT) {
            Ok(found) => {
                let found = all.iter().zip(found?);
                return Ok(found.filter_map(|(of, committed)| Some((of.partition, committed?))).collect());
            }
            Err(error) => {
                let passes = error.rdkafka_error_code().is_some_and(may_pass);
                if !passes || began.elapsed() >= STABLE_WITHIN + ANSWER_WITHIN {
                    let what = format!("asking what group {group} has committed of {topic}");
                    return Err(shared.trouble.unavailable(what, &error));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// True for an error after which the same question may be answered.
pub(super) fn may_pass(code: RDKafkaErrorCode) -> bool {
    is_passing(code) || code == RDKafkaErrorCode::OperationTimedOut
}

/// What the client's group has committed for these partitions, in their order: the stable offsets, which no transaction is about to change. `Err` of librdkafka's where it cannot be known (yet),
/// of ours where it cannot be read.
#[allow(clippy::type_complexity)]
pub(super) fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    of: &[TopicPartition],
    at_most: Duration,
) -> Result<Result<Vec<Option<Committed>>>, KafkaError> {
    let answer = client.committed_offsets(list(of.iter().map(|of| (of, Place::Invalid)))?, at_most)?;
    let mut all = Vec::with_capacity(of.len());
    for of in of {
        let found = super::shared::find(&answer, of);
        let found = found.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
        found.error()?;
        let committed = match found.offset() {
            Place::Offset(offset) => match STANDARD.decode(found.metadata()) {
                Ok(metadata) => Some(Committed { offset: offset_of(offset), metadata }),
                Err(error) => {
                    return Ok(Err(QueueError::Broken(format!(
                        "what is committed beside offset {offset} of {of} was not written by clickmill: {error}"
                    ))));
                }
            },
            _ => None,
        };
        all.push(committed);
    }
    Ok(Ok(all))
}

/// The list that commits these offsets.
pub(super) fn to_commit(inputs: &[InputCommit]) -> Result<TopicPartitionList, KafkaError> {
    let list = list(inputs.iter().map(|input| (&input.input, place(input.committed.offset))))?;
    for (element, input) in list.elements().iter_mut().zip(inputs) {
        element.set_metadata(STANDARD.encode(&input.committed.metadata));
    }
    Ok(list)
}
