//! A real broker that all tests share, each under names of its own.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, dead_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clickmill_queue::conformance::Fixture;
use clickmill_queue::kafka::{KafkaQueue, Options};
use clickmill_queue::{ConsumerIdentity, Queue};
use clickmill_servers::Kafka;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn options() -> Options {
    Options {
        brokers: Kafka::shared().bootstrap().to_owned(),
        compact_after: Duration::from_millis(200),
        ..Options::default()
    }
}

pub fn open() -> KafkaQueue {
    KafkaQueue::open(options()).unwrap()
}

/// The shared broker, under names that no other test has.
pub struct Broker {
    prefix: String,
}

impl Broker {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // The broker may be one that runs longer than this process.
        Self { prefix: format!("t{}-{count}", std::process::id()) }
    }
}

impl Fixture for Broker {
    fn open(&self) -> Box<dyn Queue> {
        Box::new(open())
    }

    fn expire(&self, who: &ConsumerIdentity) {
        leave_for(who);
    }

    fn name(&self, base: &str) -> String {
        format!("{}-{base}", self.prefix)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn deletes_what_groups_passed(&self) -> bool {
        false
    }

    fn holds_senders_back(&self) -> bool {
        false
    }

    fn compacts_at_once(&self) -> bool {
        false
    }
}

/// Tells the broker that a member leaves its group (`LeaveGroup`, version 1), behind the member's back.
pub fn leave_for(who: &ConsumerIdentity) {
    let bootstrap = Kafka::shared().bootstrap();
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let groups = client.fetch_group_list(Some(&who.group), PATIENCE).unwrap();
    let members = groups.groups().iter().flat_map(|group| group.members());
    let member = members.into_iter().find(|member| member.client_id() == who.member);
    let member = member.unwrap_or_else(|| panic!("{who:?} is no member"));
    let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
    let head = [&13_i16.to_be_bytes()[..], &1_i16.to_be_bytes(), &7_i32.to_be_bytes()].concat();
    let request = [head, text("test"), text(&who.group), text(member.id())].concat();
    let mut broker = TcpStream::connect(bootstrap).unwrap();
    broker.write_all(&[&(request.len() as i32).to_be_bytes()[..], &request].concat()).unwrap();
    let mut answer = [0; 14];
    broker.read_exact(&mut answer).unwrap();
    assert_eq!(answer[12..], [0, 0], "the broker refused: {answer:?}");
}

pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
