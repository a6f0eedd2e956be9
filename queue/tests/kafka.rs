//! The conformance suite on a real broker, and what only Kafka has.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kafka_common;

use std::time::Duration;

use clickmill_model::Offset;
use clickmill_queue::conformance::Fixture;
use clickmill_queue::kafka::{KafkaQueue, Options, Properties};
use clickmill_queue::{
    Consumer, Fetched, Poll, Producer, Queue, QueueError, Record, Retention, TopicPartition, TopicSpec, Transaction,
};
use clickmill_servers::process::Signal;
use kafka_common::{Broker, PATIENCE, options, wait};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

clickmill_queue::conformance_tests!(Broker::new());

fn topic(name: &str, partitions: u32) -> TopicSpec {
    TopicSpec { name: name.to_owned(), partitions, retention: Retention::Forever, max_backlog_bytes: 0 }
}

fn send(producer: &mut dyn Producer, to: &TopicPartition, value: &[u8]) -> Result<(), QueueError> {
    let mut transaction = Transaction::default();
    transaction.send(to.clone(), Record::of(value.to_vec()));
    producer.commit(&transaction, None).map(|_| ())
}

fn read_all(queue: &dyn Queue, of: &TopicPartition) -> Vec<Fetched> {
    let mut all: Vec<Fetched> = Vec::new();
    loop {
        let from = all.last().map_or(Offset(0), |last| last.offset.next());
        let records = queue.read(of, from, 1 << 20).unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

fn values(queue: &dyn Queue, of: &TopicPartition) -> Vec<String> {
    read_all(queue, of).into_iter().map(|fetched| String::from_utf8(fetched.record.value).unwrap()).collect()
}

/// A client that has nothing to do with ours.
fn foreign(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &options().brokers);
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

#[test]
fn records_of_any_client_arrive_as_they_are() {
    let broker = Broker::new();
    let queue = broker.open();
    queue.create_topics(&[topic(&broker.name("a"), 1)]).unwrap();
    let a = TopicPartition::new(broker.name("a"), 0);
    let line = b"[AdClickEvent] ad001, 2021-01-01 00:00:01, user 1, 207.148.22.22, USA";
    let garbage: Vec<u8> = (0..=255).rev().cycle().take(3000).collect();
    let large = vec![b'x'; 900 << 10];
    let mut expected = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let producer = foreign(&[("compression.codec", codec)]);
        for (key, value) in [
            (None, Some(line.as_slice())),
            (Some(b"ad001".as_slice()), Some(line.as_slice())),
            (Some(b"".as_slice()), Some(b"".as_slice())),
            (Some(&garbage), Some(&garbage)),
            (None, None),
            (None, Some(&large)),
        ] {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&a.topic).partition(0).timestamp(1);
            record.key = key;
            record.payload = value;
            let headers = if key.is_some() { vec![("trace".to_owned(), b"7".to_vec())] } else { Vec::new() };
            for (name, value) in &headers {
                record = record.headers(OwnedHeaders::new().insert(Header { key: name, value: Some(value) }));
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
            let (key, value) = (key.map(<[u8]>::to_vec), value.unwrap_or_default().to_vec());
            expected.push(Record { key, headers, value });
        }
        producer.flush(PATIENCE).unwrap();
    }
    let found = read_all(&*queue, &a);
    assert!(found.iter().map(|fetched| &fetched.record).eq(&expected), "read without a group");
    assert!(found.iter().all(|fetched| fetched.arrival.as_secs_f64() > 1e9), "stamped by the broker");
    let mut consumer = queue.consumer(&broker.name("g"), &[&a.topic]).unwrap();
    let mut read = Vec::new();
    wait("the records", || {
        if let Poll::Records { records, .. } = consumer.poll(Duration::from_millis(10), 1 << 20).unwrap() {
            read.extend(records);
        }
        read.len() >= expected.len()
    });
    assert!(read.iter().map(|fetched| &fetched.record).eq(&expected), "read by a group");
}

/// A producer that began a transaction, sent a record, and says no more.
fn dead_producer(id: &str, to: &TopicPartition, timeout_ms: &str) -> BaseProducer {
    let dead = foreign(&[("transactional.id", id), ("transaction.timeout.ms", timeout_ms)]);
    dead.init_transactions(PATIENCE).unwrap();
    dead.begin_transaction().unwrap();
    let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&to.topic).partition(0).payload(b"never");
    dead.send(record).map_err(|(error, _)| error).unwrap();
    dead.flush(PATIENCE).unwrap();
    dead
}

#[test]
fn reading_waits_for_what_a_dead_producer_left_open() {
    let broker = Broker::new();
    let queue = broker.open();
    queue.create_topics(&[topic(&broker.name("a"), 1)]).unwrap();
    let a = TopicPartition::new(broker.name("a"), 0);
    let _dead = dead_producer(&broker.name("dead"), &a, "2000");
    send(&mut *queue.producer(&broker.name("p")).unwrap(), &a, b"behind it").unwrap();
    // The broker aborts it after two seconds.
    assert_eq!(values(&*queue, &a), ["behind it"]);
}

#[test]
fn a_successor_ends_what_a_dead_producer_left_open() {
    let broker = Broker::new();
    let queue = broker.open();
    queue.create_topics(&[topic(&broker.name("a"), 1)]).unwrap();
    let a = TopicPartition::new(broker.name("a"), 0);
    // Longer than reading waits.
    let _dead = dead_producer(&broker.name("p"), &a, "600000");
    let mut successor = queue.producer(&broker.name("p")).unwrap();
    assert_eq!(values(&*queue, &a), Vec::<String>::new());
    send(&mut *successor, &a, b"1").unwrap();
    assert_eq!(values(&*queue, &a), ["1"]);
}

/// Makes a topic as an administrator would.
fn make(name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &options().brokers).create().unwrap();
    let topic = settings
        .iter()
        .fold(NewTopic::new(name, 1, TopicReplication::Fixed(1)), |topic, (name, value)| topic.set(name, value));
    // The admin client has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let made = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

#[test]
fn a_topic_that_breaks_a_promise_is_refused_by_its_setting() {
    let broker = Broker::new();
    let queue = broker.open();
    let name = broker.name("a");
    make(&name, &[("max.message.bytes", "1000"), ("retention.ms", "-1")]);
    let spec = topic(&name, 1);
    wait("the topic", || queue.partitions(&name).unwrap().is_some());
    for refused in [queue.create_topics(std::slice::from_ref(&spec)).err(), queue.missing_topics(&[spec]).err()] {
        let refused = refused.unwrap();
        assert!(matches!(refused, QueueError::Broken(_)));
        for part in
            [&name, "message.timestamp.type is CreateTime, it must be LogAppendTime", "max.message.bytes is 1000"]
        {
            assert!(refused.to_string().contains(part), "{refused}");
        }
    }
    // Whoever reads it all the same is told as well.
    let producer = foreign(&[]);
    let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&name).partition(0).payload(b"x");
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
    let error = queue.read(&TopicPartition::new(name.as_str(), 0), Offset(0), 1).unwrap_err();
    assert!(matches!(&error, QueueError::Broken(why) if why.contains("message.timestamp.type")), "{error}");
    // What does not fit is refused by the setting, too.
    let mut ours = queue.producer(&broker.name("p")).unwrap();
    let incompressible: Vec<u8> = (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let error = send(&mut *ours, &TopicPartition::new(name.as_str(), 0), &incompressible).unwrap_err();
    assert!(matches!(&error, QueueError::Broken(why) if why.contains("max.message.bytes")), "{error}");
}

#[test]
fn what_cannot_be_reached_or_is_not_taken_is_named() {
    let nowhere = Options { brokers: "127.0.0.1:1".into(), ..Options::default() };
    let error = KafkaQueue::open(nowhere).err().unwrap().to_string();
    assert!(error.contains("queue.brokers") && error.contains("127.0.0.1:1"), "{error}");
    let properties = Properties::new([("security.protocol".into(), "SASL_PLAINTEXT".into())]);
    let error = KafkaQueue::open(Options { properties, ..options() }).err().unwrap().to_string();
    assert!(error.contains("sasl"), "{error}");
}

#[test]
fn tls_and_scram_let_in_who_knows_the_password_and_tell_everybody_else_which_setting_is_wrong() {
    let (cluster, certificates) = clickmill_servers::Kafka::start_secure("clickmill", "hunter2").unwrap();
    let [certificate, strangers] = certificates.map(|file| file.to_string_lossy().into_owned());
    let open = |changed: &[(&str, &str)]| {
        let mut properties = Properties::default();
        for (name, value) in [
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "clickmill"),
            ("sasl.password", "hunter2"),
            ("ssl.ca.location", certificate.as_str()),
        ]
        .iter()
        .chain(changed)
        {
            properties.set(name, value);
        }
        KafkaQueue::open(Options { brokers: cluster.bootstrap().to_owned(), properties, ..Options::default() })
    };
    let queue = open(&[]).unwrap();
    queue.create_topics(&[topic("a", 1)]).unwrap();
    let a = TopicPartition::new("a", 0);
    send(&mut *queue.producer("p").unwrap(), &a, b"1").unwrap();
    assert_eq!(values(&queue, &a), ["1"]);
    for (name, value, part) in [
        ("sasl.password", "hunter3", "queue.password_file"),
        ("sasl.username", "nobody", "sasl.username"),
        ("ssl.ca.location", strangers.as_str(), "ssl.ca.location"),
        ("security.protocol", "PLAINTEXT", "security.protocol"),
    ] {
        let error = open(&[(name, value)]).err().unwrap().to_string();
        assert!(error.contains(part), "{name}: {error}");
        assert!(!error.contains("hunter"), "{error}");
    }
}

#[test]
fn of_two_static_members_of_one_name_the_older_ends() {
    let broker = Broker::new();
    let queue = broker.open();
    queue.create_topics(&[topic(&broker.name("a"), 1)]).unwrap();
    let properties = Properties::new([("group.instance.id".into(), "one".into())]);
    let named = KafkaQueue::open(Options { properties, ..options() }).unwrap();
    let (group, topic) = (broker.name("g"), broker.name("a"));
    let mut older = named.consumer(&group, &[&topic]).unwrap();
    wait("the older owning the partition", || {
        matches!(older.poll(Duration::from_millis(10), 1).unwrap(), Poll::Assigned(_))
    });
    let mut newer = named.consumer(&group, &[&topic]).unwrap();
    let mut ended = None;
    wait("the older being told", || {
        let _ = newer.poll(Duration::from_millis(10), 1).unwrap();
        ended = older.poll(Duration::from_millis(10), 1).err();
        ended.is_some()
    });
    let ended = ended.unwrap();
    assert!(matches!(&ended, QueueError::Fenced(why) if why.contains("group.instance.id")), "{ended}");
}

/// A consumer that has read everything.
fn at_end(consumer: &mut dyn Consumer) -> bool {
    matches!(consumer.poll(Duration::from_millis(10), 1 << 20).unwrap(), Poll::Idle { at_end } if !at_end.is_empty())
}

#[test]
fn a_broker_that_hangs_is_not_taken_for_a_log_without_news_and_everything_goes_on_after_it() {
    let mut cluster = clickmill_servers::Kafka::start(&clickmill_servers::kafka::Options::default()).unwrap();
    let options = Options {
        brokers: cluster.bootstrap().to_owned(),
        transaction_timeout: Duration::from_secs(3),
        ..Options::default()
    };
    let queue = KafkaQueue::open(options).unwrap();
    queue.create_topics(&[topic("a", 1)]).unwrap();
    let a = TopicPartition::new("a", 0);
    let mut producer = queue.producer("p").unwrap();
    send(&mut *producer, &a, b"1").unwrap();
    let mut consumer = queue.consumer("g", &["a"]).unwrap();
    wait("the end", || at_end(&mut *consumer));

    cluster.signal(0, Signal::STOP).unwrap();
    assert!(!at_end(&mut *consumer), "nobody can know that");
    let error = send(&mut *producer, &a, b"2").unwrap_err();
    assert!(matches!(error, QueueError::Unknown(_) | QueueError::Unavailable { .. }), "{error}");
    assert!(!at_end(&mut *consumer));
    cluster.signal(0, Signal::CONT).unwrap();

    let mut producer = None;
    wait("a new producer", || {
        producer = queue.producer("p").ok();
        producer.is_some()
    });
    let has_second = values(&queue, &a) == ["1", "2"];
    if !has_second {
        assert_eq!(values(&queue, &a), ["1"]);
        send(&mut *producer.unwrap(), &a, b"2").unwrap();
    }
    let mut read = Vec::new();
    wait("the second record, and the end behind it", || {
        match consumer.poll(Duration::from_millis(10), 1 << 20).unwrap() {
            Poll::Records { records, .. } => read.extend(records.into_iter().map(|fetched| fetched.record.value)),
            Poll::Idle { at_end } => return !at_end.is_empty() && !read.is_empty(),
            Poll::Assigned(_) | Poll::Revoking(_) | Poll::Lost(_) => read.clear(),
        }
        false
    });
    assert_eq!(read.last().unwrap(), b"2");
}
