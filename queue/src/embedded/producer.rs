//! The producer: prepares a transaction without the lock, then has the writer perform it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clickmill_model::Offset;
use rusqlite::OptionalExtension;

use super::Handle;
use super::body::Encoder;
use super::commit::{Prepared, too_much_waits};
use super::topics::Log;
use crate::check;
use crate::types::{Consumer, Producer, QueueError, Result, TopicPartition, Transaction};

pub(super) struct EmbeddedProducer {
    handle: Arc<Handle>,
    id: String,
    epoch: i64,
    encoder: Encoder,
    /// True after a transaction found no room.
    was_full: bool,
    /// True after an error that ends a producer.
    is_useless: bool,
}

impl EmbeddedProducer {
    /// Takes over the transactional id.
    pub(super) fn new(handle: Arc<Handle>, id: &str) -> Result<Self> {
        let name = id.to_owned();
        let epoch = handle.shared.writer.run("making a producer in", move |connection| {
            let last: Option<i64> = connection
                .prepare_cached("SELECT epoch FROM producers WHERE id = ?")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            let epoch = last.unwrap_or(0) + 1;
            connection
                .prepare_cached("INSERT OR REPLACE INTO producers VALUES (?, ?)")?
                .execute(rusqlite::params![name, epoch])?;
            Ok(epoch)
        })?;
        Ok(Self { handle, id: id.to_owned(), epoch, encoder: Encoder::new(), was_full: false, is_useless: false })
    }

    fn perform(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        check::transaction(transaction, consumer.is_some())?;
        let shared = &self.handle.shared;
        let who = consumer.map(Consumer::identity);
        if let Some(who) = &who {
            // Who tries to commit is alive, also while the queue is full and it does not poll.
            shared.members().iter().filter(|member| member.who == *who).for_each(|member| member.touch());
        }
        if self.was_full {
            // Trying again costs a look only, no compression.
            self.look_for_room(transaction)?;
        }
        let prepared =
            Prepared::new((&self.id, self.epoch), transaction, who, |topic| shared.topic(topic), &mut self.encoder)?;
        let bytes = prepared.bytes();
        let began = Instant::now();
        let clock = Arc::clone(&shared.clock);
        let offsets = shared.writer.run("committing to", move |connection| prepared.perform(connection, &*clock))?;
        metrics::histogram!("clickmill_queue_commit_seconds").record(began.elapsed());
        shared.unwritten_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.handle.upkeep.look();
        shared.wake_if(|member| member.topics.iter().any(|topic| offsets.iter().any(|(to, _)| *to.topic == **topic)));
        Ok(offsets)
    }

    fn look_for_room(&self, transaction: &Transaction) -> Result<()> {
        let shared = &self.handle.shared;
        for (to, _) in &transaction.records {
            let topic = shared.topic(&to.topic)?;
            let log = topic.log(to)?;
            let waits = shared.read("reading", |connection| {
                let log = Log::load(connection, log)?;
                Ok(too_much_waits(connection, &topic, &log)?)
            })?;
            if let Some(backlog_bytes) = waits {
                return Err(QueueError::Full { topic: to.clone(), backlog_bytes });
            }
        }
        Ok(())
    }
}

impl Producer for EmbeddedProducer {
    fn commit(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        if self.is_useless {
            return Err(QueueError::Fenced(format!("producer {} failed before: make a new one", self.id)));
        }
        if transaction.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.perform(transaction, consumer);
        self.was_full = matches!(result, Err(QueueError::Full { .. }));
        self.is_useless = !matches!(result, Ok(_) | Err(QueueError::Full { .. } | QueueError::Unavailable { .. }));
        result
    }
}
