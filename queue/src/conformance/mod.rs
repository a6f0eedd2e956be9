//! What every queue must do, as tests that run against any implementation.
//!
//! A case takes a [`Fixture`], a queue that is empty. It assumes neither that offsets have no gaps between them nor that anything happens at once:
//! it waits for what must come, with a deadline. [`conformance_tests!`](crate::conformance_tests) makes a test of each case.

// This is test code, though it is compiled into the library: what fails shall panic.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

mod groups;
mod logs;
mod retention;
mod transactions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clickmill_model::Offset;

use crate::types::{
    Committed, Consumer, ConsumerIdentity, Fetched, InputCommit, Poll, Producer, Queue, QueueError, Record, Result,
    Retention, TopicPartition, TopicSpec, Transaction,
};

pub use groups::*;
pub use logs::*;
pub use retention::*;
pub use transactions::*;

/// A queue that is empty, and what a test must know of it.
pub trait Fixture {
    /// One more handle to the queue, as another process would open it.
    fn open(&self) -> Box<dyn Queue>;

    /// Makes the group believe that this member is gone, or does nothing where that comes by itself when the member does not poll.
    fn expire(&self, who: &ConsumerIdentity);

    /// A name for a topic, a group or a transactional id. Where fixtures share a server, it must differ between them.
    fn name(&self, base: &str) -> String {
        base.to_owned()
    }

    /// How long the longest of all waits may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// False where records are kept by time instead of by what the groups need.
    fn deletes_what_groups_passed(&self) -> bool {
        true
    }

    /// False where earlier records of a key go only when more records come behind the later one.
    fn compacts_at_once(&self) -> bool {
        true
    }

    /// False where senders are never held back.
    fn holds_senders_back(&self) -> bool {
        true
    }
}

/// Makes a test of each case of the suite. The argument is an expression that makes a [`Fixture`].
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr) => {
        $crate::conformance_tests! { $make;
            a_transaction_returns_the_first_offset_of_each_partition
            a_reader_never_sees_half_a_transaction
            a_refused_transaction_leaves_nothing_behind
            offsets_come_back_with_their_metadata
            offsets_and_records_commit_together
            inputs_need_their_consumer
            a_newer_producer_ends_the_older
            a_fenced_producer_commits_no_offsets
            a_single_member_gets_every_partition
            a_member_reads_on_from_the_committed_offset
            groups_do_not_disturb_each_other
            a_group_may_read_several_topics
            partitions_move_to_a_second_member_and_back
            a_partition_is_handed_over_only_when_released
            every_record_is_consumed_once_while_members_come_and_go
            a_zombie_commits_nothing
            a_member_that_gives_up_a_partition_gets_no_other
            seeking_reads_again
            only_an_owner_seeks
            records_of_a_partition_keep_their_order
            arrivals_never_go_back
            a_record_comes_back_as_it_was_sent
            no_partition_starves
            idle_names_the_partitions_that_were_read_to_their_end
            reading_without_a_group_is_bounded_and_complete
            topics_are_made_once
            what_is_not_there_is_an_error
            what_every_group_passed_is_deleted
            a_reader_that_was_left_behind_is_told
            a_group_keeps_what_it_says
            the_newest_bytes_stay
            the_newest_record_of_each_key_stays
            a_full_backlog_holds_senders_back
            a_group_that_only_keeps_holds_nobody_back
        }
    };
    ($make:expr; $($case:ident)*) => {
        $(#[test]
        fn $case() {
            $crate::conformance::$case(&$make);
        })*
    };
}

/// A topic that keeps everything.
fn forever(fixture: &dyn Fixture, name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: fixture.name(name), partitions, retention: Retention::Forever, max_backlog_bytes: 0 }
}

/// A topic that keeps what one of the groups still needs.
fn consumed(fixture: &dyn Fixture, name: &str, by: &[&str]) -> TopicSpec {
    let by = by.iter().map(|group| fixture.name(group)).collect();
    TopicSpec { retention: Retention::Consumed { by, at_least_bytes: 0 }, ..forever(fixture, name, 1) }
}

/// A partition of the topic that the fixture calls so.
fn at(fixture: &dyn Fixture, topic: &str, partition: u32) -> TopicPartition {
    TopicPartition::new(fixture.name(topic), partition)
}

/// Bytes that do not compress, different for each seed.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

/// Sends values to one partition, in one transaction.
fn send(producer: &mut dyn Producer, to: &TopicPartition, values: &[&str]) -> Result<()> {
    let mut transaction = Transaction::default();
    for value in values {
        transaction.send(to.clone(), Record::of(value.as_bytes().to_vec()));
    }
    producer.commit(&transaction, None).map(|_| ())
}

/// All records of a partition from an offset on.
fn read_all(queue: &dyn Queue, of: &TopicPartition, mut from: Offset) -> Vec<Fetched> {
    let mut all = Vec::new();
    loop {
        let records = queue.read(of, from, 1 << 20).unwrap();
        let Some(last) = records.last() else { return all };
        from = last.offset.next();
        all.extend(records);
    }
}

/// The values of a partition, as text.
fn values(queue: &dyn Queue, of: &TopicPartition) -> Vec<String> {
    let start = queue.range(of).unwrap().start;
    read_all(queue, of, start).iter().map(text).collect()
}

fn text(fetched: &Fetched) -> String {
    String::from_utf8(fetched.record.value.clone()).unwrap()
}

/// Waits until the condition holds.
fn wait(fixture: &dyn Fixture, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + fixture.patience();
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn assert_broken<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(QueueError::Broken(_))), "{result:?}");
}

fn assert_fenced<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(QueueError::Fenced(_))), "{result:?}");
}

/// A member of a group that notes what it is told.
struct Reader {
    consumer: Box<dyn Consumer>,
    /// What it owns, with what was committed when it got it.
    owned: BTreeMap<TopicPartition, Option<Committed>>,
    revoking: Vec<TopicPartition>,
    lost: Vec<TopicPartition>,
    records: Vec<(TopicPartition, Fetched)>,
    /// The partitions that the last poll found at their end.
    at_end: Vec<TopicPartition>,
}

impl Reader {
    fn new(fixture: &dyn Fixture, queue: &dyn Queue, group: &str, topics: &[&str]) -> Self {
        let topics: Vec<String> = topics.iter().map(|topic| fixture.name(topic)).collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let consumer = queue.consumer(&fixture.name(group), &topics).unwrap();
        Self {
            consumer,
            owned: BTreeMap::new(),
            revoking: Vec::new(),
            lost: Vec::new(),
            records: Vec::new(),
            at_end: Vec::new(),
        }
    }

    fn poll(&mut self) {
        match self.consumer.poll(Duration::from_millis(5), 1 << 20).unwrap() {
            Poll::Assigned(partitions) => {
                for (of, committed) in partitions {
                    assert_eq!(self.owned.insert(of.clone(), committed), None, "{of} was assigned twice");
                }
            }
            Poll::Revoking(partitions) => {
                assert!(partitions.iter().all(|of| self.owned.contains_key(of)), "{partitions:?}");
                self.revoking.extend(partitions);
            }
            Poll::Lost(partitions) => {
                self.owned.retain(|of, _| !partitions.contains(of));
                self.revoking.retain(|of| !partitions.contains(of));
                self.lost.extend(partitions);
            }
            Poll::Records { from, records, end } => {
                assert!(self.owned.contains_key(&from), "records of {from}, which is not owned");
                assert!(!self.revoking.contains(&from), "records of {from}, which shall be given up");
                assert!(!records.is_empty() && records.iter().all(|record| record.offset < end));
                self.records.extend(records.into_iter().map(|record| (from.clone(), record)));
            }
            Poll::Idle { at_end } => self.at_end = at_end,
        }
    }

    /// Polls until the condition holds.
    fn until(&mut self, fixture: &dyn Fixture, what: &str, holds: impl Fn(&Self) -> bool) {
        wait(fixture, what, || {
            self.poll();
            holds(self)
        });
    }

    fn own(&mut self, fixture: &dyn Fixture, partitions: usize) {
        self.until(fixture, &format!("owning {partitions} partitions"), |reader| reader.owned.len() == partitions);
    }

    fn read(&mut self, fixture: &dyn Fixture, records: usize) {
        self.until(fixture, &format!("{records} records"), |reader| reader.records.len() >= records);
        assert_eq!(self.records.len(), records);
    }

    fn texts(&self) -> Vec<String> {
        self.records.iter().map(|(_, fetched)| text(fetched)).collect()
    }

    fn release(&mut self, of: &TopicPartition) {
        self.consumer.release(of).unwrap();
        self.owned.remove(of);
        self.revoking.retain(|other| other != of);
    }

    fn release_what_is_asked_for(&mut self) {
        for of in std::mem::take(&mut self.revoking) {
            self.release(&of);
        }
    }

    /// Commits that the next record to read is this one.
    fn commit(&self, producer: &mut dyn Producer, of: &TopicPartition, offset: Offset) -> Result<()> {
        let transaction = Transaction { inputs: vec![input(of, offset, b"")], ..Transaction::default() };
        producer.commit(&transaction, Some(&*self.consumer)).map(|_| ())
    }
}

fn input(of: &TopicPartition, offset: Offset, metadata: &[u8]) -> InputCommit {
    let committed = Committed { offset, metadata: metadata.to_vec() };
    InputCommit { input: of.clone(), committed, keep_from: offset }
}
