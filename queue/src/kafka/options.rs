//! How a cluster is reached, and what every client of ours is set to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

/// How a Kafka cluster is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where clients connect first: `host:port,…`.
    pub brokers: String,
    /// Settings of librdkafka, such as `security.protocol`. Those that clickmill's promises rest on are refused ([`Properties::check`]).
    pub properties: Properties,
    /// How many brokers keep each partition of a topic that is made; the cluster's default where it is not said.
    pub replication: Option<u16>,
    /// How long topics keep what was read: longer than any stage is ever away, and than the longest window.
    pub retention: Duration,
    /// A process that says nothing for so long loses its partitions.
    pub session_timeout: Duration,
    /// A consumer that is not polled for so long loses its partitions, though its process lives.
    pub poll_timeout: Duration,
    /// The brokers abort a transaction that was not committed by then. What a dead process left open holds every reader for so long at most.
    pub transaction_timeout: Duration,
    /// When a compacted topic begins a new segment: what is in the newest one is not compacted yet.
    pub compact_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            properties: Properties::default(),
            replication: None,
            retention: Duration::from_secs(7 * 86_400),
            session_timeout: Duration::from_secs(10),
            poll_timeout: Duration::from_secs(300),
            transaction_timeout: Duration::from_secs(10),
            compact_after: Duration::from_secs(3600),
        }
    }
}

/// The largest record that is sent or read, in bytes; topics are made so that they take it.
pub(super) const MAX_RECORD_BYTES: u32 = 32 << 20;

/// How much of each partition is fetched ahead, in KiB, about. A consumer may have many partitions.
const FETCH_AHEAD_KIB: u32 = 8 << 10;

/// What clickmill sets itself, because what it promises rests on it.
const OURS: [(&str, &str); 18] = [
    ("bootstrap.servers", "it is queue.brokers"),
    ("metadata.broker.list", "it is queue.brokers"),
    ("group.id", "every stage has its own"),
    ("client.id", "it tells the members of a group apart"),
    ("transactional.id", "every worker has its own"),
    ("transaction.timeout.ms", "it bounds how long a dead process holds readers up"),
    ("message.timeout.ms", "it must not outlast a transaction"),
    ("delivery.timeout.ms", "it must not outlast a transaction"),
    ("enable.idempotence", "exactly once needs it"),
    ("acks", "an acknowledged record must be safe"),
    ("request.required.acks", "an acknowledged record must be safe"),
    ("enable.auto.commit", "offsets commit with the records that follow from them"),
    ("enable.auto.offset.store", "offsets commit with the records that follow from them"),
    ("auto.offset.reset", "an offset that is gone must be an error"),
    ("isolation.level", "only committed records may be read"),
    ("enable.partition.eof", "the end of a partition must be known"),
    ("partition.assignment.strategy", "partitions are handed over one by one"),
    ("group.protocol", "partitions are handed over one by one"),
];

/// Settings of librdkafka, by name. Passwords and keys among them are never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

/// What stands where a secret is.
const HIDDEN: &str = "***";

/// True for a property whose value nobody but the brokers may see.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "key.pem", "jaas", "token", "sasl.oauthbearer.config", "passphrase", "assertion"]
        .iter()
        .any(|part| name.contains(part))
}

impl Properties {
    /// These properties. A name may be written with `_` for every `.`, as the environment needs it.
    pub fn new(properties: impl IntoIterator<Item = (String, String)>) -> Self {
        let with_dots = |name: String| if name.contains('.') { name } else { name.replace('_', ".") };
        Self(properties.into_iter().map(|(name, value)| (with_dots(name), value)).collect())
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Refuses what clickmill sets itself, and what librdkafka does not know or take. The text names the property and never holds a secret.
    pub fn check(&self) -> Result<(), String> {
        for (name, why) in OURS {
            if self.0.contains_key(name) {
                return Err(format!("{name} is set by clickmill itself, because {why}"));
            }
        }
        let mut config = ClientConfig::new();
        for (name, value) in &self.0 {
            config.set(name, value);
        }
        match config.create_native_config() {
            Ok(_) => Ok(()),
            Err(rdkafka::error::KafkaError::ClientConfig(_, why, name, _)) => Err(self.hide(&format!("{name}: {why}"))),
            Err(other) => Err(self.hide(&other.to_string())),
        }
    }

    /// The text with every secret taken out.
    pub(super) fn hide(&self, text: &str) -> String {
        let secrets = self.0.iter().filter(|(name, value)| is_secret(name) && !value.is_empty());
        secrets.fold(text.to_owned(), |text, (_, secret)| text.replace(secret.as_str(), HIDDEN))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| (name, if is_secret(name) { HIDDEN } else { value }));
        f.debug_map().entries(shown).finish()
    }
}

impl Options {
    fn client(&self, name: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        // What can be overridden comes first.
        config.set("socket.keepalive.enable", "true").set("reconnect.backoff.max.ms", "2000");
        for (name, value) in &self.properties.0 {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", name)
            .set("allow.auto.create.topics", "false")
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
            // A response holds at least one batch, however large that is.
            .set("receive.message.max.bytes", (4 * MAX_RECORD_BYTES).to_string());
        config
    }

    /// A client that asks for topics and offsets. It sees what is not committed yet as well: the end of a log is where its last record is.
    pub(super) fn looker(&self, name: &str) -> ClientConfig {
        let mut config = self.client(name);
        config.remove("group.instance.id").set("isolation.level", "read_uncommitted");
        config
    }

    /// A client that reads committed records, of the partitions that it is told.
    pub(super) fn reader(&self, name: &str, group: &str) -> ClientConfig {
        let mut config = self.client(name);
        let own = |config: &ClientConfig, name: &str| config.get(name).is_some();
        for (name, value) in [
            ("check.crcs", "true".to_owned()),
            // How late a new end of a partition is noticed.
            ("fetch.wait.max.ms", "30".to_owned()),
            ("queued.min.messages", "100000".to_owned()),
            ("queued.max.messages.kbytes", FETCH_AHEAD_KIB.to_string()),
            ("max.partition.fetch.bytes", (4 << 20).to_string()),
            ("fetch.error.backoff.ms", "100".to_owned()),
            // What was fetched ahead is read in less: with the default of a second readers would wait most of the time.
            ("fetch.queue.backoff.ms", "5".to_owned()),
        ] {
            if !own(&config, name) {
                config.set(name, value);
            }
        }
        config
            .remove("group.instance.id")
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        config
    }

    /// A member of a group.
    pub(super) fn member(&self, name: &str, group: &str) -> ClientConfig {
        let mut config = self.reader(name, group);
        let poll = self.poll_timeout.max(self.session_timeout).as_millis();
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("group.protocol", "classic")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", (self.session_timeout.as_millis() / 4).max(100).to_string())
            .set("max.poll.interval.ms", poll.to_string());
        if let Some(instance) = self.properties.get("group.instance.id") {
            config.set("group.instance.id", instance);
        }
        config
    }

    /// A producer of transactions.
    pub(super) fn producer(&self, name: &str, transactional_id: &str) -> ClientConfig {
        let mut config = self.client(name);
        let timeout = self.transaction_timeout.as_millis().to_string();
        for (name, value) in [
            ("compression.type", "lz4"),
            // Nobody waits for it: a commit sends at once what is there.
            ("linger.ms", "50"),
            ("batch.size", "1000000"),
        ] {
            if config.get(name).is_none() && !(name == "compression.type" && config.get("compression.codec").is_some())
            {
                config.set(name, value);
            }
        }
        config
            .remove("group.instance.id")
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("transaction.timeout.ms", &timeout)
            .set("message.timeout.ms", &timeout);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(list: &[(&str, &str)]) -> Properties {
        Properties::new(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn what_promises_rest_on_and_what_nobody_knows_is_refused_by_name() {
        for (name, value, part) in [
            ("isolation.level", "read_uncommitted", "isolation.level is set by clickmill"),
            ("transactional_id", "x", "transactional.id is set by clickmill"),
            ("security.protokol", "SSL", "security.protokol"),
            ("security.protocol", "TLS", "security.protocol"),
        ] {
            let error = properties(&[(name, value)]).check().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        properties(&[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512")]).check().unwrap();
        properties(&[("sasl_username", "u"), ("sasl_password", "p")]).check().unwrap();
        properties(&[("compression.codec", "zstd"), ("group.instance.id", "a")]).check().unwrap();
    }

    #[test]
    fn secrets_are_never_shown() {
        let properties =
            properties(&[("sasl.password", "hunter2"), ("ssl.key.pem", "PEM"), ("sasl.username", "clickmill")]);
        let shown = format!("{properties:?}");
        assert!(shown.contains("clickmill") && !shown.contains("hunter2") && !shown.contains("PEM"), "{shown}");
        assert_eq!(properties.hide("wrong: hunter2"), "wrong: ***");
    }
}
