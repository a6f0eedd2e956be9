//! Topics, their logs, and what a commit does to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clickmill_model::{Offset, Timestamp};

use super::CommitFault;
use super::groups::{Group, Position};
use crate::check;
use crate::types::{
    ConsumerIdentity, Fetched, OffsetRange, QueueError, Record, Result, Retention, TopicPartition, TopicSpec,
    Transaction,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) producers: BTreeMap<String, u64>,
    pub(super) faults: VecDeque<CommitFault>,
    pub(super) delayed: VecDeque<Delayed>,
    /// By group and name.
    pub(super) deaf: BTreeSet<(String, String)>,
}

/// A transaction that is still under way although its producer was told otherwise.
#[derive(Debug)]
pub(super) struct Delayed {
    pub(super) producer: String,
    pub(super) epoch: u64,
    pub(super) transaction: Transaction,
    pub(super) who: Option<ConsumerIdentity>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) spec: TopicSpec,
    logs: Vec<Log>,
}

/// The records of a partition.
#[derive(Debug)]
pub(super) struct Log {
    start: Offset,
    end: Offset,
    records: BTreeMap<Offset, Fetched>,
    last_arrival: Timestamp,
}

impl Default for Log {
    fn default() -> Self {
        Self { start: Offset(0), end: Offset(0), records: BTreeMap::new(), last_arrival: Timestamp::MIN }
    }
}

impl Log {
    pub(super) fn range(&self) -> OffsetRange {
        OffsetRange { start: self.start, end: self.end }
    }

    pub(super) fn truncate(&mut self, start: Offset) {
        if start > self.start {
            self.start = start.min(self.end);
            self.records = self.records.split_off(&self.start);
        }
    }

    pub(super) fn read(&self, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>> {
        check::within(of, from, self.range())?;
        let mut bytes = 0;
        let mut records = Vec::new();
        for fetched in self.records.range(from..).map(|(_, fetched)| fetched) {
            bytes += fetched.record.size_bytes();
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(fetched.clone());
        }
        Ok(records)
    }

    fn bytes_from(&self, from: Offset) -> u64 {
        self.records.range(from..).map(|(_, fetched)| fetched.record.size_bytes() as u64).sum()
    }

    fn append(&mut self, record: Record, now: Timestamp, compacted: bool) -> Offset {
        let offset = self.end;
        self.end = offset.next();
        self.last_arrival = self.last_arrival.max(now);
        if compacted {
            // Only the newest record of each key stays; of a removed one, its removal.
            self.records.retain(|_, old| old.record.key != record.key);
        }
        self.records.insert(offset, Fetched { offset, arrival: self.last_arrival, record });
        offset
    }
}

impl State {
    pub(super) fn is_deaf(&self, who: &ConsumerIdentity) -> bool {
        self.deaf.iter().any(|(group, member)| *group == who.group && *member == who.member)
    }

    pub(super) fn group(&mut self, name: &str) -> &mut Group {
        self.groups.entry(name.to_owned()).or_default()
    }

    pub(super) fn log(&self, of: &TopicPartition) -> Result<&Log> {
        let topic = self.topics.get(&*of.topic).ok_or_else(|| check::no_topic(&of.topic))?;
        let log = topic.logs.get(of.partition.0 as usize);
        log.ok_or_else(|| check::no_partition(of, topic.spec.partitions))
    }

    pub(super) fn log_mut(&mut self, of: &TopicPartition) -> Option<&mut Log> {
        self.topics.get_mut(&*of.topic)?.logs.get_mut(of.partition.0 as usize)
    }

    pub(super) fn create_topics(&mut self, specs: &[TopicSpec]) -> Result<()> {
        let other = |spec: &&TopicSpec| self.topics.get(&spec.name).filter(|t| t.spec.partitions != spec.partitions);
        if let Some((spec, topic)) = specs.iter().find_map(|spec| Some((spec, other(&spec)?))) {
            return Err(check::other_partitions(&spec.name, topic.spec.partitions, spec.partitions));
        }
        for spec in specs {
            let topic = self.topics.entry(spec.name.clone()).or_insert_with(|| Topic {
                spec: spec.clone(),
                logs: (0..spec.partitions).map(|_| Log::default()).collect(),
            });
            topic.spec = spec.clone();
        }
        Ok(())
    }

    pub(super) fn delete_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
        for group in self.groups.values_mut() {
            group.shares.retain(|of, _| &*of.topic != topic);
            group.positions.retain(|of, _| &*of.topic != topic);
        }
    }

    /// Refuses what must not be committed.
    pub(super) fn permit(&mut self, transaction: &Transaction, who: Option<&ConsumerIdentity>) -> Result<()> {
        if let Some(who) = who {
            let group = self.group(&who.group);
            if !transaction.keep.is_empty() && !group.members.contains_key(&who.member) {
                return Err(check::no_member(&who.group, &who.member));
            }
            for input in &transaction.inputs {
                let owner = group.shares.get(&input.input).and_then(|share| share.owner.as_ref());
                if owner != Some(&who.member) {
                    return Err(check::not_owner(&who.group, &who.member, &input.input));
                }
            }
        }
        for input in &transaction.inputs {
            let range = self.log(&input.input)?.range();
            if input.committed.offset > range.end {
                return Err(check::within(&input.input, input.committed.offset, range).err().unwrap_or_else(|| {
                    QueueError::Broken(format!("{}: offset {} is no offset", input.input, input.committed.offset))
                }));
            }
        }
        for (of, _) in &transaction.keep {
            self.log(of)?;
        }
        for (to, record) in &transaction.records {
            self.log(to)?;
            let Some(topic) = self.topics.get(&*to.topic) else { return Err(check::no_topic(&to.topic)) };
            if topic.spec.retention == Retention::Compacted && record.key.is_none() {
                return Err(check::no_key(to));
            }
            let backlog_bytes = self.backlog(to);
            if topic.spec.max_backlog_bytes > 0 && backlog_bytes >= topic.spec.max_backlog_bytes {
                return Err(QueueError::Full { topic: to.clone(), backlog_bytes });
            }
        }
        Ok(())
    }

    /// Bytes that the slowest of the groups that must pass has not read.
    fn backlog(&self, of: &TopicPartition) -> u64 {
        let Some(Retention::Consumed { by, .. }) = self.topics.get(&*of.topic).map(|topic| &topic.spec.retention)
        else {
            return 0;
        };
        let Ok(log) = self.log(of) else { return 0 };
        by.iter()
            .map(|group| match self.groups.get(group).and_then(|group| group.positions.get(of)) {
                Some(Position { committed: Some(committed), .. }) => log.bytes_from(committed.offset),
                Some(Position { committed: None, .. }) => 0,
                None => log.bytes_from(log.start),
            })
            .max()
            .unwrap_or_default()
    }

    /// Performs a transaction that [`State::permit`] let pass.
    pub(super) fn apply(
        &mut self,
        transaction: &Transaction,
        group: &str,
        now: Timestamp,
    ) -> Vec<(TopicPartition, Offset)> {
        let mut first: Vec<(TopicPartition, Offset)> = Vec::new();
        for (to, record) in &transaction.records {
            let compacted = self.topics.get(&*to.topic).is_some_and(|t| t.spec.retention == Retention::Compacted);
            let Some(log) = self.log_mut(to) else { continue };
            let offset = log.append(record.clone(), now, compacted);
            if !first.iter().any(|(of, _)| of == to) {
                first.push((to.clone(), offset));
            }
        }
        let mut touched: Vec<TopicPartition> = first.iter().map(|(of, _)| of.clone()).collect();
        for input in &transaction.inputs {
            let position = Position { committed: Some(input.committed.clone()), keep_from: input.keep_from };
            self.group(group).positions.insert(input.input.clone(), position);
            touched.push(input.input.clone());
        }
        for (of, keep_from) in &transaction.keep {
            let positions = &mut self.group(group).positions;
            positions.entry(of.clone()).or_insert(Position { committed: None, keep_from: *keep_from }).keep_from =
                *keep_from;
            touched.push(of.clone());
        }
        for of in touched {
            self.retain(&of);
        }
        first
    }

    /// Deletes what no group needs any more.
    fn retain(&mut self, of: &TopicPartition) {
        let Some(Retention::Consumed { by, at_least_bytes }) =
            self.topics.get(&*of.topic).map(|topic| topic.spec.retention.clone())
        else {
            return;
        };
        let kept = |group: &String| self.groups.get(group).and_then(|g| g.positions.get(of)).map(|p| p.keep_from);
        let floor = by.iter().map(|group| kept(group).unwrap_or(Offset(0))).min();
        let Some(log) = self.log_mut(of) else { return };
        let mut left = log.bytes_from(log.start);
        let mut start = log.start;
        for (offset, fetched) in log.records.range(..floor.unwrap_or(log.end)) {
            left -= fetched.record.size_bytes() as u64;
            if left < at_least_bytes {
                break;
            }
            start = offset.next();
        }
        log.truncate(start);
    }
}
