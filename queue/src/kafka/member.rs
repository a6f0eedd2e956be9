//! The consumers of this process, as producers must know them: under which membership a consumer may commit what.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use rdkafka::consumer::BaseConsumer;

use super::group::GroupContext;
use super::native::Membership;
use crate::check;
use crate::types::{ConsumerIdentity, InputCommit, Result, TopicPartition};

/// Every consumer of this process that is alive, by its member's name. A consumer may be given to a producer of another handle to the same cluster, so that this belongs to none of them.
static MEMBERS: LazyLock<Mutex<HashMap<String, Weak<Member>>>> = LazyLock::new(Mutex::default);

pub(super) struct Member {
    pub(super) who: ConsumerIdentity,
    consumer: Weak<BaseConsumer<GroupContext>>,
    /// What it has, each with the name that the broker knew the member by when it got it.
    owned: Mutex<BTreeMap<TopicPartition, String>>,
}

impl Member {
    /// Makes the consumer known.
    pub(super) fn new(who: ConsumerIdentity, consumer: &Arc<BaseConsumer<GroupContext>>) -> Arc<Self> {
        let member = Arc::new(Self { who, consumer: Arc::downgrade(consumer), owned: Mutex::default() });
        MEMBERS.lock().insert(member.who.member.clone(), Arc::downgrade(&member));
        member
    }

    /// The consumer of this name.
    pub(super) fn find(who: &ConsumerIdentity) -> Result<Arc<Self>> {
        let member = MEMBERS.lock().get(&who.member).and_then(Weak::upgrade);
        member.filter(|member| member.who == *who).ok_or_else(|| check::no_member(&who.group, &who.member))
    }

    pub(super) fn gained(&self, partitions: &[TopicPartition], member_id: &str) {
        self.owned.lock().extend(partitions.iter().map(|of| (of.clone(), member_id.to_owned())));
    }

    pub(super) fn gave_up(&self, of: &TopicPartition) {
        self.owned.lock().remove(of);
    }

    /// The membership under which the consumer may commit these inputs: every one is its own, and it has been the same member without a break since it got them. A broker that is given no
    /// membership at all would take the offsets unchecked.
    pub(super) fn membership(&self, inputs: &[InputCommit]) -> Result<Membership> {
        let ConsumerIdentity { group, member } = &self.who;
        let owned = self.owned.lock();
        let consumer = self.consumer.upgrade().ok_or_else(|| check::no_member(group, member))?;
        let membership = Membership::of(&consumer).ok_or_else(|| check::no_member(group, member))?;
        let id = membership.member_id();
        if id.is_empty() || membership.generation() < 0 {
            return Err(check::no_member(group, member));
        }
        match inputs.iter().find(|input| owned.get(&input.input) != Some(&id)) {
            Some(input) => Err(check::not_owner(group, member, &input.input)),
            None => Ok(membership),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        MEMBERS.lock().remove(&self.who.member);
    }
}
