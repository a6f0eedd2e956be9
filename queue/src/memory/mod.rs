//! A queue in memory: deterministic, without threads, with a clock and faults of the test's choosing.
//!
//! A handle is cheap to clone; clones are the same queue. Nothing here ever waits, and no member is ever found silent: what happens is what
//! the test does. What a real queue does by time, the test does by [`MemoryQueue::expire_member`], [`MemoryQueue::truncate`] and
//! [`MemoryQueue::delete_offsets`]. Retention and compaction happen with the commit that allows them.

mod groups;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Partition};
use parking_lot::Mutex;

use self::state::{Delayed, State};
use crate::check;
use crate::clock::Clock;
use crate::types::{
    Committed, Consumer, ConsumerIdentity, Fetched, OffsetRange, Poll, Producer, Queue, QueueError, Result,
    TopicPartition, TopicSpec, Transaction,
};

/// What goes wrong with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// Nothing is done, and the producer is told so: [`QueueError::Unavailable`].
    NotApplied,
    /// Everything is done, and the producer is told that it may not be: [`QueueError::Unknown`].
    AppliedButReportedFailed,
    /// Nothing is done, and the producer is told that it may be: [`QueueError::Unknown`].
    LostBefore,
    /// The same, but the transaction is still under way, and arrives with [`MemoryQueue::deliver`].
    Delayed,
}

/// A queue in memory.
#[derive(Clone)]
pub struct MemoryQueue {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl MemoryQueue {
    /// An empty queue, whose records arrive when `clock` says.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// The next commit, of whatever producer, goes wrong like this. Faults wait in a row.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.state.lock().faults.push_back(fault);
    }

    /// Forgets the faults that have not come to pass.
    pub fn forget_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// The members of a group, by name.
    pub fn members(&self, group: &str) -> Vec<String> {
        self.state.lock().group(group).members.keys().cloned().collect()
    }

    /// Who owns the partition in the group.
    pub fn owner(&self, group: &str, of: &TopicPartition) -> Option<String> {
        self.state.lock().group(group).shares.get(of).and_then(|share| share.owner.clone())
    }

    /// Throws a member out of its group, as though it had been silent for too long: its partitions go to others, it becomes a zombie, and joins again with its next poll.
    pub fn expire_member(&self, group: &str, member: &str) {
        let state = &mut *self.state.lock();
        state.leave(group, member);
    }

    /// From now on the member hears nothing: to its consumer there are neither records nor news. A process that is stopped between reading and committing, and wakes, does
    /// not know what happened meanwhile until it commits.
    pub fn deafen(&self, group: &str, member: &str) {
        self.state.lock().deaf.insert((group.to_owned(), member.to_owned()));
    }

    /// The member hears again.
    pub fn undeafen(&self, group: &str, member: &str) {
        self.state.lock().deaf.remove(&(group.to_owned(), member.to_owned()));
    }

    /// The oldest transaction that is still under way ([`CommitFault::Delayed`]) arrives: it is applied or refused as it would be if it came from its producer now. `None` where there is none.
    pub fn deliver(&self) -> Option<Result<()>> {
        let now = self.clock.now();
        let state = &mut *self.state.lock();
        let Delayed { producer, epoch, transaction, who } = state.delayed.pop_front()?;
        if state.producers.get(&producer) != Some(&epoch) {
            return Some(Err(check::replaced_producer(&producer)));
        }
        let permitted = state.permit(&transaction, who.as_ref());
        Some(permitted.map(|()| {
            state.apply(&transaction, who.map(|who| who.group).unwrap_or_default().as_str(), now);
        }))
    }

    /// Deletes what a group has committed and kept, as though it had expired.
    pub fn delete_offsets(&self, group: &str) {
        self.state.lock().group(group).positions.clear();
    }

    /// Deletes the records before `start`, whoever needs them.
    pub fn truncate(&self, of: &TopicPartition, start: Offset) {
        if let Some(log) = self.state.lock().log_mut(of) {
            log.truncate(start);
        }
    }

    /// Deletes a topic with its records, and what groups have committed for it.
    pub fn delete_topic(&self, topic: &str) {
        self.state.lock().delete_topic(topic);
    }
}

impl Queue for MemoryQueue {
    fn create_topics(&self, topics: &[TopicSpec]) -> Result<()> {
        self.state.lock().create_topics(topics)
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        Ok(self.state.lock().topics.get(topic).map(|topic| topic.spec.partitions))
    }

    fn producer(&self, transactional_id: &str) -> Result<Box<dyn Producer>> {
        let state = &mut *self.state.lock();
        let epoch = state.producers.entry(transactional_id.to_owned()).or_default();
        *epoch += 1;
        let epoch = *epoch;
        Ok(Box::new(MemoryProducer { queue: self.clone(), id: transactional_id.to_owned(), epoch, useless: false }))
    }

    fn consumer(&self, group: &str, topics: &[&str]) -> Result<Box<dyn Consumer>> {
        let state = &mut *self.state.lock();
        for topic in topics {
            state.topics.get(*topic).ok_or_else(|| check::no_topic(topic))?;
        }
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        let member = state.join(group, None, &topics);
        let identity = ConsumerIdentity { group: group.to_owned(), member };
        Ok(Box::new(MemoryConsumer { queue: self.clone(), identity, topics, owned: BTreeMap::new(), turn: None }))
    }

    fn range(&self, of: &TopicPartition) -> Result<OffsetRange> {
        Ok(self.state.lock().log(of)?.range())
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>> {
        let state = &mut *self.state.lock();
        Ok(state
            .group(group)
            .positions
            .iter()
            .filter(|(of, _)| &*of.topic == topic)
            .filter_map(|(of, position)| Some((of.partition, position.committed.clone()?)))
            .collect())
    }

    fn read(&self, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>> {
        self.state.lock().log(of)?.read(of, from, max_bytes)
    }
}

struct MemoryProducer {
    queue: MemoryQueue,
    id: String,
    epoch: u64,
    useless: bool,
}

impl Producer for MemoryProducer {
    fn commit(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        if self.useless {
            return Err(QueueError::Fenced(format!("producer {} failed before: make a new one", self.id)));
        }
        let result = self.try_commit(transaction, consumer);
        self.useless = !matches!(result, Ok(_) | Err(QueueError::Full { .. }) | Err(QueueError::Unavailable { .. }));
        result
    }
}

impl MemoryProducer {
    fn try_commit(
        &self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        check::transaction(transaction, consumer.is_some())?;
        let now = self.queue.clock.now();
        let state = &mut *self.queue.state.lock();
        if state.producers.get(&self.id) != Some(&self.epoch) {
            return Err(check::replaced_producer(&self.id));
        }
        state.permit(transaction, consumer.map(Consumer::identity).as_ref())?;
        let fault = state.faults.pop_front();
        match fault {
            Some(CommitFault::NotApplied) => {
                return Err(QueueError::Unavailable { what: "committing".into(), why: "as the test wished".into() });
            }
            Some(CommitFault::LostBefore) => return Err(QueueError::Unknown("as the test wished".into())),
            Some(CommitFault::Delayed) => {
                state.delayed.push_back(Delayed {
                    producer: self.id.clone(),
                    epoch: self.epoch,
                    transaction: transaction.clone(),
                    who: consumer.map(Consumer::identity),
                });
                return Err(QueueError::Unknown("as the test wished".into()));
            }
            Some(CommitFault::AppliedButReportedFailed) | None => {}
        }
        let group = consumer.map(|consumer| consumer.identity().group).unwrap_or_default();
        let offsets = state.apply(transaction, &group, now);
        match fault {
            Some(_) => Err(QueueError::Unknown("as the test wished".into())),
            None => Ok(offsets),
        }
    }
}

struct MemoryConsumer {
    queue: MemoryQueue,
    identity: ConsumerIdentity,
    topics: Vec<String>,
    owned: BTreeMap<TopicPartition, Owned>,
    /// The partition that was served last.
    turn: Option<TopicPartition>,
}

struct Owned {
    next: Offset,
    /// True once the consumer was asked to give it up.
    asked: bool,
}

impl MemoryConsumer {
    /// What became of this member's partitions, if anything.
    fn news(&mut self, state: &mut State) -> Result<Option<Poll>> {
        let member = &self.identity.member;
        let shares = &state.group(&self.identity.group).shares;
        let lost: Vec<_> = self
            .owned
            .keys()
            .filter(|of| shares.get(of).is_none_or(|share| share.owner.as_ref() != Some(member)))
            .cloned()
            .collect();
        if !lost.is_empty() {
            self.owned.retain(|of, _| !lost.contains(of));
            return Ok(Some(Poll::Lost(lost)));
        }
        if !state.group(&self.identity.group).members.contains_key(member) {
            state.join(&self.identity.group, Some(member.clone()), &self.topics);
        }
        let mut revoking = Vec::new();
        for (of, share) in &state.group(&self.identity.group).shares {
            if let Some(owned) = self.owned.get_mut(of)
                && share.target.as_ref() != Some(member)
                && !owned.asked
            {
                owned.asked = true;
                revoking.push(of.clone());
            }
        }
        if !revoking.is_empty() {
            return Ok(Some(Poll::Revoking(revoking)));
        }
        let claimed = state.claim(&self.identity);
        if claimed.is_empty() {
            return Ok(None);
        }
        let mut assigned = Vec::new();
        for (of, committed) in claimed {
            let start = state.log(&of)?.range().start;
            let next = committed.as_ref().map_or(start, |committed| committed.offset);
            self.owned.insert(of.clone(), Owned { next, asked: false });
            assigned.push((of, committed));
        }
        Ok(Some(Poll::Assigned(assigned)))
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, _timeout: Duration, max_bytes: usize) -> Result<Poll> {
        let queue = self.queue.clone();
        let state = &mut *queue.state.lock();
        if state.is_deaf(&self.identity) {
            return Ok(Poll::Idle { at_end: self.owned.keys().cloned().collect() });
        }
        if let Some(news) = self.news(state)? {
            return Ok(news);
        }
        let after = self.owned.iter().filter(|(of, _)| self.turn.as_ref().is_some_and(|turn| *of > turn));
        let upto = self.owned.iter().filter(|(of, _)| self.turn.as_ref().is_none_or(|turn| *of <= turn));
        let order: Vec<TopicPartition> =
            after.chain(upto).filter(|(_, owned)| !owned.asked).map(|(of, _)| of.clone()).collect();
        for of in &order {
            let log = state.log(of)?;
            let Some(owned) = self.owned.get_mut(of) else { continue };
            let records = log.read(of, owned.next, max_bytes)?;
            let end = log.range().end;
            match records.last() {
                Some(last) => {
                    owned.next = last.offset.next();
                    self.turn = Some(of.clone());
                    return Ok(Poll::Records { from: of.clone(), records, end });
                }
                None => owned.next = end,
            }
        }
        let mut at_end = order;
        at_end.sort();
        Ok(Poll::Idle { at_end })
    }

    fn seek(&mut self, of: &TopicPartition, offset: Offset) -> Result<()> {
        let state = self.queue.state.lock();
        let Some(owned) = self.owned.get_mut(of) else {
            return Err(check::not_owner(&self.identity.group, &self.identity.member, of));
        };
        check::within(of, offset, state.log(of)?.range())?;
        owned.next = offset;
        Ok(())
    }

    fn release(&mut self, of: &TopicPartition) -> Result<()> {
        if let Some(owned) = self.owned.remove(of) {
            self.queue.state.lock().release(&self.identity, of, owned.asked);
        }
        Ok(())
    }

    fn identity(&self) -> ConsumerIdentity {
        self.identity.clone()
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.queue.state.lock().leave(&self.identity.group, &self.identity.member);
    }
}
