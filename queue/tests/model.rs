//! The same random actions on the embedded queue and on the one in memory: both must answer alike.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Timestamp};
use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::memory::MemoryQueue;
use clickmill_queue::{
    Clock, Consumer, ConsumerIdentity, ManualClock, Poll, Producer, Queue, QueueError, Record, Retention,
    TopicPartition, TopicSpec, Transaction,
};
use common::{at, input, read_all, topic};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Action {
    /// A producer sends to these partitions, and commits what a member has read of all that it owns, if there is one.
    Commit {
        producer: usize,
        member: Option<usize>,
        records: Vec<(u8, u8)>,
        keep: bool,
    },
    Poll {
        member: usize,
        max_bytes: usize,
    },
    NewProducer(usize),
    Join(usize),
    Leave(usize),
    Expire(usize),
    Release(usize),
    Seek {
        member: usize,
        back: u64,
    },
    Advance(i8),
}

fn action() -> impl Strategy<Value = Action> {
    let member = 0..3_usize;
    prop_oneof![
        6 => (0..2_usize, proptest::option::of(member.clone()), vec((0..6_u8, any::<u8>()), 0..4), any::<bool>())
            .prop_map(|(producer, member, records, keep)| Action::Commit { producer, member, records, keep }),
        10 => (member.clone(), prop_oneof![Just(1), Just(40), Just(1 << 20)])
            .prop_map(|(member, max_bytes)| Action::Poll { member, max_bytes }),
        1 => (0..2_usize).prop_map(Action::NewProducer),
        2 => member.clone().prop_map(Action::Join),
        1 => member.clone().prop_map(Action::Leave),
        1 => member.clone().prop_map(Action::Expire),
        2 => member.clone().prop_map(Action::Release),
        1 => (member, 0..3_u64).prop_map(|(member, back)| Action::Seek { member, back }),
        1 => any::<i8>().prop_map(Action::Advance),
    ]
}

/// The partitions that records go to: two consumed topics and a compacted one.
fn place(number: u8) -> TopicPartition {
    match number {
        0..3 => at("a", number.into()),
        3..5 => at("b", (number - 3).into()),
        _ => at("c", 0),
    }
}

struct Member {
    consumer: Box<dyn Consumer>,
    next: BTreeMap<TopicPartition, Offset>,
    asked: Vec<TopicPartition>,
}

/// One of the two queues, with what the actions did to it.
struct World<'a> {
    queue: &'a dyn Queue,
    clock: Arc<ManualClock>,
    expire: &'a dyn Fn(&ConsumerIdentity),
    producers: Vec<Box<dyn Producer>>,
    members: [Option<Member>; 3],
}

impl<'a> World<'a> {
    fn new(queue: &'a dyn Queue, clock: Arc<ManualClock>, expire: &'a dyn Fn(&ConsumerIdentity)) -> Self {
        let retention = Retention::Consumed { by: vec!["g".into()], at_least_bytes: 0 };
        let specs = [
            TopicSpec { retention: retention.clone(), ..topic("a", 3) },
            TopicSpec { retention, ..topic("b", 2) },
            TopicSpec { retention: Retention::Compacted, ..topic("c", 1) },
        ];
        queue.create_topics(&specs).unwrap();
        let producers = (0..2).map(|n| queue.producer(&format!("p{n}")).unwrap()).collect();
        Self { queue, clock, expire, producers, members: [None, None, None] }
    }

    /// Does it, and says what came of it.
    fn act(&mut self, action: &Action) -> String {
        match action {
            Action::Commit { producer, member, records, keep } => self.commit(*producer, *member, records, *keep),
            Action::Poll { member, max_bytes } => self.poll(*member, *max_bytes),
            Action::NewProducer(n) => {
                self.producers[*n] = self.queue.producer(&format!("p{n}")).unwrap();
                String::new()
            }
            Action::Join(n) => {
                // Whoever sat there leaves first.
                self.members[*n] = None;
                let consumer = self.queue.consumer("g", &["a", "b"]).unwrap();
                self.members[*n] = Some(Member { consumer, next: BTreeMap::new(), asked: Vec::new() });
                String::new()
            }
            Action::Leave(n) => {
                self.members[*n] = None;
                String::new()
            }
            Action::Expire(n) => {
                if let Some(member) = &self.members[*n] {
                    (self.expire)(&member.consumer.identity());
                }
                String::new()
            }
            Action::Release(n) => {
                let Some(member) = &mut self.members[*n] else { return String::new() };
                for of in std::mem::take(&mut member.asked) {
                    member.consumer.release(&of).unwrap();
                    member.next.remove(&of);
                }
                String::new()
            }
            Action::Seek { member, back } => self.seek(*member, *back),
            Action::Advance(seconds) => {
                let now = self.clock.now().as_micros() + i64::from(*seconds) * 1_000_000;
                self.clock.set(Timestamp::from_micros(now));
                String::new()
            }
        }
    }

    fn commit(&mut self, producer: usize, member: Option<usize>, records: &[(u8, u8)], keep: bool) -> String {
        let mut transaction = Transaction::default();
        for (number, value) in records {
            let key = (*number == 5).then(|| vec![value % 3]);
            let value = if *number == 5 && value % 5 == 0 { Vec::new() } else { vec![*value; 30] };
            transaction.send(place(*number), Record { key, headers: vec![("h".into(), vec![*number])], value });
        }
        let member = member.and_then(|n| self.members[n].as_ref());
        if let Some(member) = member {
            transaction.inputs = member.next.iter().map(|(of, offset)| input(of, *offset)).collect();
            if keep {
                transaction.keep.push((at("c", 0), Offset(1)));
            }
        }
        let result = self.producers[producer].commit(&transaction, member.map(|member| &*member.consumer));
        if let Err(QueueError::Fenced(_)) = result {
            // As a stage does: a new producer after each error.
            self.producers[producer] = self.queue.producer(&format!("p{producer}")).unwrap();
        }
        describe(result)
    }

    fn poll(&mut self, member: usize, max_bytes: usize) -> String {
        let Some(member) = &mut self.members[member] else { return String::new() };
        let polled = member.consumer.poll(Duration::ZERO, max_bytes).unwrap();
        match &polled {
            Poll::Assigned(assigned) => {
                for (of, committed) in assigned {
                    let start = self.queue.range(of).unwrap().start;
                    member.next.insert(of.clone(), committed.as_ref().map_or(start, |committed| committed.offset));
                }
            }
            Poll::Revoking(partitions) => member.asked.extend(partitions.iter().cloned()),
            Poll::Lost(partitions) => {
                member.next.retain(|of, _| !partitions.contains(of));
                member.asked.retain(|of| !partitions.contains(of));
            }
            Poll::Records { from, records, .. } => {
                member.next.insert(from.clone(), records.last().unwrap().offset.next());
            }
            Poll::Idle { .. } => {}
        }
        format!("{polled:?}")
    }

    fn seek(&mut self, member: usize, back: u64) -> String {
        let Some(member) = &mut self.members[member] else { return String::new() };
        let Some((of, next)) = member.next.iter_mut().next() else { return String::new() };
        // What was committed is deleted at some time: only what surely is there can be compared.
        let committed = self.queue.committed("g", &of.topic).unwrap();
        let floor = committed.iter().find(|(p, _)| *p == of.partition).map_or(0, |(_, c)| c.offset.0);
        *next = Offset(next.0.saturating_sub(back).max(floor));
        format!("{:?}", member.consumer.seek(of, *next).is_ok())
    }

    /// Everything that there is to see, but for what is deleted at its own time.
    fn look(&self) -> String {
        let mut seen = String::new();
        for number in 0..6 {
            let of = place(number);
            let committed = self.queue.committed("g", &of.topic).unwrap();
            let floor = committed.iter().find(|(p, _)| *p == of.partition).map_or(0, |(_, c)| c.offset.0);
            let records: Vec<_> =
                read_all(self.queue, &of).into_iter().filter(|fetched| fetched.offset.0 >= floor).collect();
            seen.push_str(&format!("{of} {:?} {committed:?} {records:?}\n", self.queue.range(&of).unwrap().end));
        }
        seen
    }
}

fn describe(result: Result<Vec<(TopicPartition, Offset)>, QueueError>) -> String {
    match result {
        Ok(offsets) => format!("{offsets:?}"),
        Err(QueueError::Fenced(_)) => "fenced".into(),
        Err(other) => panic!("{other}"),
    }
}

fn run(actions: &[Action]) {
    let clocks = [0, 1].map(|_| Arc::new(ManualClock::new(Timestamp::from_secs(1000))));
    // Where the disk is fast: nobody pulls the plug here.
    let fast = Path::new("/dev/shm");
    let folder = if fast.is_dir() { tempfile::tempdir_in(fast) } else { tempfile::tempdir() }.unwrap();
    let memory = MemoryQueue::new(clocks[0].clone());
    let embedded = EmbeddedQueue::open(folder.path(), clocks[1].clone(), Options::default()).unwrap();
    let expire_in_memory = |who: &ConsumerIdentity| memory.expire_member(&who.group, &who.member);
    let expire_in_embedded = |who: &ConsumerIdentity| embedded.expire_member(who).unwrap();
    let mut expected = World::new(&memory, clocks[0].clone(), &expire_in_memory);
    let mut found = World::new(&embedded, clocks[1].clone(), &expire_in_embedded);
    for (i, action) in actions.iter().enumerate() {
        assert_eq!(found.act(action), expected.act(action), "action {i}: {action:?}");
    }
    assert_eq!(found.look(), expected.look());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_queue_answers_as_the_one_in_memory(actions in vec(action(), 1..80)) {
        run(&actions);
    }
}

/// How many runs; more by the environment variable that proptest knows.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}
