//! The records of one partition as they come from librdkafka, and how far it was read: behind the last record, or, past what is no record (the markers of transactions, what was compacted
//! away, what was aborted), as far as the broker said that there was nothing more.

use std::sync::Arc;

use clickmill_model::Offset;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::native::{Bell, Event, PartitionQueue};
use super::shared::Shared;
use crate::check;
use crate::types::{Fetched, QueueError, Result, TopicPartition};

/// How many records are ready at most: of small ones no more than stay in the processor's cache until they were worked on.
const MOST_READY: usize = 4096;

/// A partition that is being read.
pub(super) struct Fetching {
    of: TopicPartition,
    queue: PartitionQueue,
    ready: Vec<Fetched>,
    ready_bytes: usize,
    /// The size of a record of late, for the next guess.
    usual_bytes: usize,
    position: Offset,
    given: Offset,
    trouble: Option<Bad>,
}

/// Why reading cannot go on.
enum Bad {
    /// The record at this offset was not stamped by the broker.
    SendersTime(Offset),
    Error(RDKafkaErrorCode, String),
}

impl Fetching {
    /// Gets ready to read from `from` on. The partition must be assigned after this, from there.
    pub(super) fn new<C: ConsumerContext + 'static>(
        consumer: &Arc<BaseConsumer<C>>,
        of: &TopicPartition,
        from: Offset,
        bell: &Arc<Bell>,
    ) -> Result<Self> {
        let queue = PartitionQueue::split(consumer, &of.topic, of.partition.0, Arc::clone(bell));
        let Some(queue) = queue else {
            return Err(QueueError::Broken(format!("{of} is nothing that Kafka could have")));
        };
        Ok(Self {
            of: of.clone(),
            queue,
            ready: Vec::new(),
            ready_bytes: 0,
            usual_bytes: 64 << 10,
            position: from,
            given: from,
            trouble: None,
        })
    }

    /// Everything before it was given out or is ready. Behind it there was nothing when the broker was last asked.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    /// Behind the last record that was given out.
    pub(super) fn given(&self) -> Offset {
        self.given
    }

    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reading goes on elsewhere.
    pub(super) fn moved_to(&mut self, offset: Offset) {
        self.ready.clear();
        self.ready_bytes = 0;
        self.position = offset;
        self.given = offset;
        self.trouble = None;
    }

    /// Takes over what has come, until there are about so many bytes, or [`MOST_READY`] records.
    pub(super) fn fill(&mut self, shared: &Shared, max_bytes: usize) -> Result<()> {
        while self.ready_bytes < max_bytes.max(1) && self.ready.len() < MOST_READY && self.trouble.is_none() {
            let room = max_bytes.saturating_sub(self.ready_bytes);
            let most = (room / self.usual_bytes).clamp(1, MOST_READY - self.ready.len());
            let (bytes_before, count_before) = (self.ready_bytes, self.ready.len());
            let taken = self.queue.take(most, |event| match event {
                // It was taken already, and came again.
                Event::Record(fetched) if fetched.offset < self.position => {}
                Event::Record(fetched) => {
                    self.position = fetched.offset.next();
                    self.ready_bytes += fetched.record.size_bytes();
                    self.ready.push(fetched);
                }
                Event::End(end) => self.position = self.position.max(end),
                Event::SendersTime(offset) => self.trouble = self.trouble.take().or(Some(Bad::SendersTime(offset))),
                Event::Error(code, why) => self.trouble = self.trouble.take().or(Some(Bad::Error(code, why))),
            });
            let count = self.ready.len() - count_before;
            if let Some(usual) = (self.ready_bytes - bytes_before).checked_div(count) {
                self.usual_bytes = usual.max(1);
            }
            if taken < most {
                break;
            }
        }
        // What came before the trouble is still good.
        if self.ready.is_empty() { self.fail(shared) } else { Ok(()) }
    }

    /// What is ready.
    pub(super) fn give(&mut self) -> Vec<Fetched> {
        self.ready_bytes = 0;
        self.given = self.ready.last().map_or(self.given, |last| last.offset.next());
        std::mem::take(&mut self.ready)
    }

    fn fail(&mut self, shared: &Shared) -> Result<()> {
        use RDKafkaErrorCode as Code;
        let of = &self.of;
        match self.trouble.take() {
            None => Ok(()),
            Some(Bad::SendersTime(offset)) => Err(QueueError::Broken(format!(
                "{of}@{offset} bears its sender's time: set message.timestamp.type of the topic to LogAppendTime"
            ))),
            Some(Bad::Error(Code::AutoOffsetReset | Code::OffsetOutOfRange, why)) => {
                check::within(of, self.position, shared.range(of)?)?;
                Err(QueueError::Unavailable { what: format!("reading {of}"), why })
            }
            Some(Bad::Error(Code::BadMessage | Code::InvalidMessage | Code::LogTruncation, why)) => {
                Err(QueueError::Broken(format!("{of}, at or behind offset {}: {why}", self.position)))
            }
            Some(Bad::Error(code, _)) => Err(shared.trouble.failed(format!("reading {of}"), code)),
        }
    }
}
