//! What a group decides about a member: recorded when it comes, answered when the consumer is done with it. A revocation is answered only when the worker has released every partition of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::client::{Context, Trouble};
use super::shared::names;
use crate::types::TopicPartition;

/// A decision that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// These come, perhaps none.
    Assign(Vec<TopicPartition>),
    /// These shall go.
    Revoke(Vec<TopicPartition>),
    /// These are gone.
    Lost(Vec<TopicPartition>),
}

/// What the client of a group's member calls back.
pub(super) struct GroupContext {
    context: Context,
    decisions: Mutex<VecDeque<Decision>>,
    /// Nobody waits for decisions any more: they are answered at once.
    leaves: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(trouble: &Arc<Trouble>) -> Self {
        Self { context: Context(Arc::clone(trouble)), decisions: Mutex::default(), leaves: AtomicBool::new(false) }
    }

    /// The oldest decision that was not answered.
    pub(super) fn next(&self) -> Option<Decision> {
        self.decisions.lock().pop_front()
    }

    /// From now on decisions are answered as they come.
    pub(super) fn leave(&self) {
        self.leaves.store(true, Ordering::SeqCst);
    }
}

/// Answers that nothing more is read of these partitions. Those that were never read are passed over: librdkafka refuses the whole answer for one of them.
pub(super) fn give_back(consumer: &BaseConsumer<GroupContext>, partitions: &[TopicPartition]) -> KafkaResult<()> {
    let read = names(&consumer.assignment()?);
    let mut list = TopicPartitionList::new();
    for of in partitions.iter().filter(|of| read.contains(of)) {
        list.add_partition(&of.topic, of.partition.0.cast_signed());
    }
    consumer.incremental_unassign(&list)
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.hear(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.fail(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = names(list);
        let is_assignment = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.leaves.load(Ordering::SeqCst) {
            let answered = if is_assignment {
                consumer.incremental_assign(&TopicPartitionList::new())
            } else {
                give_back(consumer, &partitions)
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "kafka: a member that leaves could not answer its group");
            }
            return;
        }
        let decision = match (is_assignment, consumer.assignment_lost()) {
            (true, _) => Decision::Assign(partitions),
            (false, false) => Decision::Revoke(partitions),
            (false, true) => Decision::Lost(partitions),
        };
        self.decisions.lock().push_back(decision);
    }
}
