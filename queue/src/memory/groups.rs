//! Groups: members, who has which partition, and what was committed.

use std::collections::BTreeMap;

use clickmill_model::Offset;

use super::state::State;
use crate::assign;
use crate::types::{Committed, ConsumerIdentity, TopicPartition};

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) members: BTreeMap<String, Member>,
    pub(super) shares: BTreeMap<TopicPartition, Share>,
    pub(super) positions: BTreeMap<TopicPartition, Position>,
    joined: u64,
}

#[derive(Debug)]
pub(super) struct Member {
    topics: Vec<String>,
    /// True once it gave up a partition of its own accord: it gets no other.
    leaving: bool,
}

/// Who has a partition, and who shall.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) owner: Option<String>,
    pub(super) target: Option<String>,
}

#[derive(Debug)]
pub(super) struct Position {
    /// `None`: the group only keeps.
    pub(super) committed: Option<Committed>,
    pub(super) keep_from: Offset,
}

impl State {
    pub(super) fn join(&mut self, group: &str, member: Option<String>, topics: &[String]) -> String {
        let state = self.group(group);
        let member = member.unwrap_or_else(|| {
            state.joined += 1;
            format!("{group}-{:06}", state.joined)
        });
        state.members.insert(member.clone(), Member { topics: topics.to_vec(), leaving: false });
        self.rebalance(group);
        member
    }

    pub(super) fn leave(&mut self, group: &str, member: &str) {
        let state = self.group(group);
        if state.members.remove(member).is_none() {
            return;
        }
        for share in state.shares.values_mut().filter(|share| share.owner.as_deref() == Some(member)) {
            share.owner = None;
        }
        self.rebalance(group);
    }

    pub(super) fn release(&mut self, who: &ConsumerIdentity, of: &TopicPartition, was_asked: bool) {
        let state = self.group(&who.group);
        let Some(share) = state.shares.get_mut(of).filter(|share| share.owner.as_ref() == Some(&who.member)) else {
            return;
        };
        share.owner = None;
        if let Some(member) = state.members.get_mut(&who.member) {
            member.leaving |= !was_asked;
        }
        self.rebalance(&who.group);
    }

    /// Gives the member what shall be its and nobody has.
    pub(super) fn claim(&mut self, who: &ConsumerIdentity) -> Vec<(TopicPartition, Option<Committed>)> {
        let state = self.group(&who.group);
        let mut claimed = Vec::new();
        for (of, share) in &mut state.shares {
            if share.owner.is_none() && share.target.as_ref() == Some(&who.member) {
                share.owner = Some(who.member.clone());
                claimed.push((of.clone(), state.positions.get(of).and_then(|position| position.committed.clone())));
            }
        }
        claimed
    }

    fn rebalance(&mut self, group: &str) {
        let Some(state) = self.groups.get_mut(group) else { return };
        let members: BTreeMap<String, Vec<String>> = state
            .members
            .iter()
            .map(|(name, member)| (name.clone(), if member.leaving { Vec::new() } else { member.topics.clone() }))
            .collect();
        let topics = state.members.values().flat_map(|member| &member.topics);
        for topic in topics.filter_map(|topic| self.topics.get(topic)) {
            for partition in 0..topic.spec.partitions {
                state.shares.entry(TopicPartition::new(topic.spec.name.as_str(), partition)).or_default();
            }
        }
        let held = state
            .shares
            .iter()
            .map(|(of, share)| (of.clone(), share.target.clone().or_else(|| share.owner.clone())))
            .collect();
        for (of, target) in assign::targets(&members, &held) {
            if let Some(share) = state.shares.get_mut(&of) {
                share.target = target;
            }
        }
    }
}
