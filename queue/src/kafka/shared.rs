//! What the parts of a queue share: the cluster's answers about topics, ends of logs and committed offsets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickmill_model::Offset;
use parking_lot::Mutex;
use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset as Place;
use rdkafka::types::RDKafkaErrorCode;

use super::client::{Context, Trouble, is_passing};
use super::options::Options;
use super::reader::Readers;
use crate::check;
use crate::types::{OffsetRange, QueueError, Result, TopicPartition};

/// How long the cluster may take to answer a question.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long one attempt may take: a broker that is gone must not use up all the time.
const ATTEMPT: Duration = Duration::from_secs(4);

/// How long the first connection may take before it is looked what troubles it.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// A name that no other client has, in whatever process.
pub(super) fn client_name(role: &str) -> String {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let count = CLIENTS.fetch_add(1, Ordering::Relaxed);
    format!("clickmill-{role}-{}-{}-{count}", std::process::id(), since_1970.as_micros())
}

/// A client that asks for the offsets of one group.
type Asker = Arc<BaseConsumer<Context>>;

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) trouble: Arc<Trouble>,
    pub(super) readers: Readers,
    looker: BaseConsumer<Context>,
    /// How many partitions the topics have that were asked for. Their number is fixed.
    counts: Mutex<HashMap<String, u32>>,
    /// Clients for each group whose offsets were asked for: one that waits for stable offsets, one that does not.
    groups: Mutex<HashMap<(String, bool), Asker>>,
}

impl Shared {
    /// Connects, and waits for the first answer.
    pub(super) fn open(options: Options) -> Result<Self> {
        let trouble = Trouble::new(&options.brokers, &options.properties);
        let looker = options
            .looker(&client_name("look"))
            .create_with_context(Context(Arc::clone(&trouble)))
            .map_err(|error| configured(&options, &error))?;
        let shared = Self {
            options,
            trouble,
            readers: Readers::default(),
            looker,
            counts: Mutex::default(),
            groups: Mutex::default(),
        };
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let connected = connect(shared.looker.client());
            hear(&shared.looker);
            match connected {
                Ok(()) => return Ok(shared),
                Err(error) if shared.trouble.is_final() || Instant::now() >= deadline => {
                    return Err(shared.trouble.unavailable("connecting to Kafka", &error));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Asks until there is an answer or an error that does not pass by itself.
    fn insist<T>(&self, at_most: Duration, ask: impl Fn() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
        let deadline = Instant::now() + at_most;
        loop {
            let answer = ask();
            hear(&self.looker);
            match answer {
                Err(error)
                    if error.rdkafka_error_code().is_some_and(is_passing) && Instant::now() + PAUSE < deadline =>
                {
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// How many partitions the topic has. `None` where there is no such topic.
    pub(super) fn ask_partitions(&self, topic: &str) -> Result<Option<u32>> {
        let doing = || format!("looking up the topic {topic}");
        let metadata = self
            .looker
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .map_err(|error| self.trouble.unavailable(doing(), &error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {
                let count = found.partitions().len() as u32;
                self.counts.lock().insert(topic.to_owned(), count);
                Ok(Some(count))
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                self.counts.lock().remove(topic);
                Ok(None)
            }
            Some(code) => Err(self.trouble.failed(doing(), code)),
        }
    }

    /// On how many brokers the topic's partitions are kept, each at least.
    pub(super) fn ask_replicas(&self, topic: &str) -> Result<u32> {
        let metadata = self
            .looker
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .map_err(|error| self.trouble.unavailable(format!("looking up the topic {topic}"), &error))?;
        let partitions = metadata.topics().iter().flat_map(|found| found.partitions());
        Ok(partitions.map(|partition| partition.replicas().len() as u32).min().unwrap_or(0))
    }

    /// True where every partition of the topic has a leader that answers.
    pub(super) fn is_ready(&self, topic: &str) -> Result<bool> {
        let Some(partitions) = self.ask_partitions(topic)? else { return Ok(false) };
        let all: Vec<TopicPartition> = (0..partitions).map(|p| TopicPartition::new(topic, p)).collect();
        Ok(partitions > 0 && self.ask_ends(&all, ATTEMPT).is_ok())
    }

    /// Refuses a partition that is not there.
    pub(super) fn must_have(&self, of: &TopicPartition) -> Result<()> {
        let known = self.counts.lock().get(&*of.topic).copied();
        let has = |count: u32| of.partition.0 < count;
        if known.is_some_and(has) {
            return Ok(());
        }
        match self.ask_partitions(&of.topic)? {
            None => Err(check::no_topic(&of.topic)),
            Some(count) if has(count) => Ok(()),
            Some(count) => Err(check::no_partition(of, count)),
        }
    }

    /// The broker's word, a moment ago, on where the logs end: behind the last record, committed or not.
    pub(super) fn ends(&self, of: &[TopicPartition], at_most: Duration) -> Result<Vec<Offset>> {
        self.ask_ends(of, at_most).map_err(|error| self.trouble.unavailable("asking where logs end", &error))
    }

    fn ask_ends(&self, of: &[TopicPartition], at_most: Duration) -> Result<Vec<Offset>, KafkaError> {
        let list = list(of.iter().map(|of| (of, Place::End)))?;
        let answer = self.looker.offsets_for_times(list, at_most);
        hear(&self.looker);
        let answer = answer?;
        of.iter()
            .map(|of| {
                let found = find(&answer, of).ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
                found.error()?;
                match found.offset() {
                    Place::Offset(offset) => Ok(offset_of(offset)),
                    _ => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable)),
                }
            })
            .collect()
    }

    pub(super) fn range(&self, of: &TopicPartition) -> Result<OffsetRange> {
        self.must_have(of)?;
        let partition = of.partition.0.cast_signed();
        let (start, end) = self
            .insist(ANSWER_WITHIN, || self.looker.fetch_watermarks(&of.topic, partition, ATTEMPT))
            .map_err(|error| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                self.counts.lock().remove(&*of.topic);
                check::no_topic(&of.topic)
            }
            _ => self.trouble.unavailable(format!("asking where {of} begins and ends"), &error),
        })?;
        Ok(OffsetRange { start: offset_of(start), end: offset_of(end) })
    }

    /// A client that asks for the group's offsets: the stable ones, or those of the last transaction that is over, whatever is under way.
    pub(super) fn group(&self, group: &str, stable: bool) -> Result<Asker> {
        let mut groups = self.groups.lock();
        let key = (group.to_owned(), stable);
        if let Some(client) = groups.get(&key) {
            hear(client);
            return Ok(Arc::clone(client));
        }
        let mut config = self.options.reader(&client_name("offsets"), group);
        if !stable {
            config.set("isolation.level", "read_uncommitted");
        }
        let client: BaseConsumer<Context> = config
            .create_with_context(Context(Arc::clone(&self.trouble)))
            .map_err(|error| configured(&self.options, &error))?;
        let client = Arc::new(client);
        groups.insert(key, Arc::clone(&client));
        Ok(client)
    }
}

/// Waits until a broker answers. A client that is asked for more before it is connected looks again for who could answer only after a while, up to half a second.
pub(super) fn connect<C: ClientContext>(client: &Client<C>) -> Result<(), KafkaError> {
    client.fetch_metadata(Some("clickmill-is-anybody-there"), FIRST_ATTEMPT).map(drop)
}

/// Lets a client say what troubles it: its context notes that.
fn hear(client: &BaseConsumer<Context>) {
    while client.poll(Duration::ZERO).is_some() {}
}

/// librdkafka does not take the configuration.
pub(super) fn configured(options: &Options, error: &KafkaError) -> QueueError {
    let why = match error {
        KafkaError::ClientConfig(_, why, name, _) => format!("{name}: {why}"),
        other => other.to_string(),
    };
    QueueError::Broken(format!("queue.properties: {}", options.properties.hide(&why)))
}

/// A list of librdkafka's.
pub(super) fn list<'a>(
    of: impl IntoIterator<Item = (&'a TopicPartition, Place)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (of, place) in of {
        list.add_partition_offset(&of.topic, of.partition.0.cast_signed(), place)?;
    }
    Ok(list)
}

/// The entry of a partition.
pub(super) fn find<'a>(
    list: &'a TopicPartitionList,
    of: &TopicPartition,
) -> Option<rdkafka::topic_partition_list::TopicPartitionListElem<'a>> {
    list.find_partition(&of.topic, of.partition.0.cast_signed())
}

/// What a list names.
pub(super) fn names(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    elements
        .iter()
        .map(|element| TopicPartition::new(element.topic(), element.partition().max(0).cast_unsigned()))
        .collect()
}

pub(super) fn offset_of(offset: i64) -> Offset {
    Offset(offset.max(0).cast_unsigned())
}

/// An offset as librdkafka takes it.
pub(super) fn place(offset: Offset) -> Place {
    Place::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX))
}
