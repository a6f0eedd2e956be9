//! The configuration: `clickmill.toml`, overridden by the environment, overridden by the command line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clickmill_model::{Definition, Filter, InputTopic, PartitionBy, TimeSettings, Window};
use clickmill_queue::kafka::Properties;
use serde::{Deserialize, Serialize};

use crate::cli::Common;
use crate::properties;

use clickmill_config::{Files, Reconcile, Retention};
pub(crate) use clickmill_config::{Store, StoreKind};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) input: Input,
    pub(crate) time: Time,
    pub(crate) dedup: Dedup,
    pub(crate) filter: Vec<Filter>,
    pub(crate) top: Top,
    pub(crate) queue: Queue,
    pub(crate) store: Store,
    pub(crate) files: Files,
    pub(crate) retention: Retention,
    pub(crate) reconcile: Reconcile,
    pub(crate) api: Api,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) logs: Vec<String>,
    pub(crate) topic: String,
    pub(crate) topics: Vec<String>,
    pub(crate) partition_by: PartitionBy,
    pub(crate) source: String,
    pub(crate) sources: BTreeSet<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) settle: Duration,
    pub(crate) max_ahead: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Time {
    #[serde(with = "humantime_serde")]
    pub(crate) max_disorder: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) max_clock_skew: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) source_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dedup {
    pub(crate) enabled: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Top {
    pub(crate) n: u32,
    pub(crate) windows: Vec<Window>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum QueueKind {
    Embedded,
    Kafka,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queue {
    pub(crate) kind: QueueKind,
    pub(crate) partitions: u32,
    /// Of Kafka: `host:port,…`.
    pub(crate) brokers: String,
    /// Anything that librdkafka knows.
    #[serde(with = "crate::properties")]
    pub(crate) properties: Properties,
    /// Holds `sasl.password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replication: Option<u16>,
    #[serde(with = "humantime_serde")]
    pub(crate) retention: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Api {
    pub(crate) listen: SocketAddr,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Config {
    fn default() -> Self {
        let time = TimeSettings::default();
        let definition = Definition::default();
        Self {
            data_dir: clickmill_config::DATA_DIR.into(),
            input: Input {
                logs: Vec::new(),
                topic: "ad-clicks".into(),
                topics: vec!["ad-clicks".into()],
                partition_by: PartitionBy::Identity,
                source: host_name(),
                sources: BTreeSet::new(),
                settle: Duration::from_secs(5),
                max_ahead: ByteSize::mib(64),
            },
            time: Time {
                max_disorder: time.max_disorder,
                max_clock_skew: time.max_clock_skew,
                source_timeout: time.source_timeout,
            },
            dedup: Dedup { enabled: true },
            filter: Vec::new(),
            top: Top { n: definition.n, windows: definition.windows },
            queue: Queue {
                kind: QueueKind::Embedded,
                partitions: definition.partitions,
                brokers: String::new(),
                properties: Properties::default(),
                password_file: None,
                replication: None,
                retention: clickmill_queue::kafka::Options::default().retention,
            },
            store: Store::default(),
            files: Files::default(),
            retention: Retention::default(),
            reconcile: Reconcile::default(),
            api: Api { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) },
        }
    }
}

/// What this machine is called.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

impl Config {
    /// Reads the configuration for a command: file, environment, flags, in this order.
    pub(crate) fn load(common: &Common) -> anyhow::Result<Self> {
        let mut config: Self = clickmill_config::load(&Self::default(), common.config.as_deref())?;
        // As they are: a password may look like a number.
        for (name, value) in properties::of_environment() {
            config.queue.properties.set(&name, &value);
        }
        if let Some(password) = clickmill_config::password_of_environment() {
            config.store.password = Some(password);
        }
        if let Some(secret) = clickmill_config::secret_access_key_of_environment() {
            config.files.s3.secret_access_key = Some(secret);
        }
        if let Some(dir) = &common.data_dir {
            config.data_dir.clone_from(dir);
        }
        if !common.logs.is_empty() {
            config.input.logs.clone_from(&common.logs);
        }
        if let Some(listen) = common.listen {
            config.api.listen = listen;
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if !self.input.topics.contains(&self.input.topic) {
            bail!(
                "input.topic is {:?}, which is not among input.topics {:?}: what this watcher sends would be read by nobody",
                self.input.topic,
                self.input.topics
            );
        }
        if !(1..=1024).contains(&self.queue.partitions) {
            bail!("queue.partitions is {}: it may be 1 to 1024", self.queue.partitions);
        }
        self.check_queue()?;
        if self.input.source.is_empty() || self.input.source.len() > 200 || self.input.source.contains(char::is_control)
        {
            bail!("input.source is {:?}: it may be 1 to 200 characters without control characters", self.input.source);
        }
        if self.input.max_ahead < ByteSize::mib(1) {
            bail!("input.max_ahead is {}: it must be at least 1MiB", self.input.max_ahead);
        }
        for (name, value) in [("input.topic", &self.input.topic)]
            .into_iter()
            .chain(self.input.topics.iter().map(|t| ("input.topics", t)))
        {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if value.is_empty() || value.len() > 200 || !value.chars().all(legal) {
                bail!("{name} is {value:?}: a topic's name has 1 to 200 letters, digits, '.', '_' and '-'");
            }
        }
        self.store.check()?;
        self.files.check()?;
        self.reconcile.check()?;
        self.definition().check().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn check_queue(&self) -> anyhow::Result<()> {
        let queue = &self.queue;
        queue.properties.check().map_err(|why| anyhow::anyhow!("queue.properties: {why}"))?;
        if queue.kind != QueueKind::Kafka {
            return Ok(());
        }
        if queue.brokers.trim().is_empty() {
            bail!("queue.brokers is not set: queue.kind = \"kafka\" needs it, such as \"kafka-1:9092,kafka-2:9092\"");
        }
        if queue.password_file.is_some() && queue.properties.get("sasl.password").is_some() {
            bail!("queue.password_file and sasl.password in queue.properties are both set: keep one of them");
        }
        if queue.replication == Some(0) {
            bail!("queue.replication is 0: at least 1 broker must keep a partition");
        }
        // A restarted aggregator reads the results of the longest window and of the day again.
        let least = 3 * DAY;
        if queue.retention < least {
            bail!(
                "queue.retention is {}: it must be at least {}, because a restart reads a day again",
                humantime(queue.retention),
                humantime(least)
            );
        }
        Ok(())
    }

    /// How the cluster is used that the configuration names.
    pub(crate) fn kafka(&self) -> anyhow::Result<clickmill_queue::kafka::Options> {
        let Queue { brokers, properties, password_file, replication, retention, .. } = &self.queue;
        let mut properties = properties.clone();
        if let Some(file) = password_file {
            let password = std::fs::read_to_string(file)
                .with_context(|| format!("queue.password_file: cannot read {}", file.display()))?;
            properties.set("sasl.password", password.trim_end_matches(['\n', '\r']));
        }
        Ok(clickmill_queue::kafka::Options {
            brokers: brokers.clone(),
            properties,
            replication: *replication,
            retention: *retention,
            ..clickmill_queue::kafka::Options::default()
        })
    }

    /// What the configuration proposes to be the pipeline's definition.
    pub(crate) fn definition(&self) -> Definition {
        let mut filters = vec![Filter::all()];
        filters.extend(self.filter.iter().cloned());
        filters.sort_by_key(|filter| filter.id);
        let mut windows = self.top.windows.clone();
        windows.sort_unstable();
        windows.dedup();
        let input = |topic: &String| InputTopic { topic: topic.clone(), partitions: self.queue.partitions };
        Definition {
            version: 1,
            filters,
            windows,
            n: self.top.n,
            inputs: self.input.topics.iter().map(input).collect(),
            partitions: self.queue.partitions,
            time: TimeSettings {
                max_disorder: self.time.max_disorder,
                max_clock_skew: self.time.max_clock_skew,
                source_timeout: self.time.source_timeout,
            },
            dedup: self.dedup.enabled,
            partition_by: self.input.partition_by,
            sources: self.input.sources.clone(),
        }
    }
}

fn humantime(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds >= 86_400 => format!("{}d", seconds / 86_400),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("clickmill.toml");
        std::fs::write(&file, text)?;
        Config::load(&Common { config: Some(file), data_dir: None, logs: vec![], listen: None })
    }

    fn kafka(more: &str) -> String {
        format!("[queue]\nkind = \"kafka\"\nbrokers = \"a:9092\"\n{more}")
    }

    #[test]
    fn a_cluster_is_configured_and_its_password_shown_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "hunter2\n").unwrap();
        let more = format!(
            "replication = 3\npassword_file = \"{}\"\n[queue.properties]\nsecurity.protocol = \"SASL_SSL\"\n\"socket.timeout.ms\" = 5000\nsocket.nagle.disable = true",
            dir.path().join("password").display()
        );
        let config = load(&kafka(&more)).unwrap();
        let options = config.kafka().unwrap();
        let get = |name| options.properties.get(name).unwrap();
        assert_eq!(
            (get("security.protocol"), get("socket.timeout.ms"), get("socket.nagle.disable"), get("sasl.password")),
            ("SASL_SSL", "5000", "true", "hunter2")
        );
        assert_eq!((options.brokers.as_str(), options.replication), ("a:9092", Some(3)));
        assert!(!format!("{config:?}{options:?}").contains("hunter2"));
        let missing = load(&kafka("password_file = \"/nowhere/p\"")).unwrap().kafka().unwrap_err();
        assert!(format!("{missing:#}").contains("queue.password_file: cannot read /nowhere/p"));
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        for (text, parts) in [
            ("colour = 1", vec!["colour"]),
            ("[input]\ntopik = \"x\"", vec!["input", "topik"]),
            ("[time]\nmax_disorder = \"soon\"", vec!["time.max_disorder"]),
            ("[time]\nmax_disorder = \"10m\"", vec!["time.max_disorder", "time.max_clock_skew"]),
            ("[queue]\nkind = \"rabbit\"", vec!["queue.kind", "embedded", "kafka"]),
            ("[queue]\nkind = \"kafka\"", vec!["queue.brokers"]),
            (
                "[queue]\nproperties = { \"security.protokol\" = \"SSL\" }",
                vec!["queue.properties", "security.protokol"],
            ),
            ("[queue]\nproperties = { \"isolation.level\" = \"x\" }", vec!["queue.properties", "isolation.level"]),
            ("[queue]\nproperties = { \"ssl.endpoint\" = [1] }", vec!["queue.properties", "text"]),
            (&kafka("retention = \"1d\""), vec!["queue.retention is 1d", "3d"]),
            (&kafka("replication = 0"), vec!["queue.replication"]),
            (
                &kafka("password_file = \"x\"\nproperties = { \"sasl.password\" = \"p\" }"),
                vec!["queue.password_file", "sasl.password"],
            ),
            ("[queue]\npartitions = 0", vec!["queue.partitions"]),
            ("[store]\nkind = \"redis\"", vec!["store.kind", "cassandra"]),
            ("[store]\nkind = \"cassandra\"", vec!["store.nodes"]),
            ("[store]\nreplication = \"all\"", vec!["store.replication", "a number of copies"]),
            ("[store]\npassword = 4711", vec!["store.password", "in quotes"]),
            ("[reconcile]\nprice_per_click = -1.5", vec!["reconcile.price_per_click", "negative"]),
            ("[reconcile]\nprice = 1", vec!["reconcile", "price"]),
            ("[top]\nwindows = [0]", vec!["window"]),
            ("[top]\nn = -1", vec!["top.n"]),
            ("[[filter]]\nid = 1\ncountry = [\"USA\"]\n[[filter]]\nid = 1\ncountry = [\"UK\"]", vec!["filter id 1"]),
            ("[[filter]]\nid = 1\nip = [\"10.0.0.0/40\"]", vec!["10.0.0.0/40"]),
            ("[input]\ntopic = \"other\"", vec!["input.topic", "input.topics"]),
            ("not toml", vec![]),
        ] {
            let error = format!("{:#}", load(text).expect_err(text));
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }

    #[test]
    fn the_store_is_used_as_the_configuration_says() {
        let cassandra =
            |more: &str| load(&format!("[store]\nkind = \"cassandra\"\nnodes = [\"c1:9042\", \"c2\"]\n{more}"));
        let options = |more: &str| {
            let config = cassandra(more).unwrap();
            config.store.cassandra(&config.retention).unwrap()
        };
        let usual = options("");
        assert_eq!(
            (usual.nodes, usual.keyspace),
            (vec!["c1:9042".to_owned(), "c2".to_owned()], "clickmill".to_owned())
        );
        assert_eq!((usual.keep_counts, usual.replication, usual.buckets), (Some(400 * DAY), None, None));
        use clickmill_store::cassandra::{Consistency, Replication};
        let levels = |more: &str| {
            let options = options(more);
            (options.read, options.write)
        };
        assert_eq!(levels(""), (Consistency::LocalQuorum, Consistency::LocalQuorum));
        assert_eq!(levels("consistency = \"QUORUM\""), (Consistency::Quorum, Consistency::Quorum));
        assert_eq!(levels("consistency = { read = \"one\", write = \"all\" }"), (Consistency::One, Consistency::All));
        assert_eq!(options("replication = 2").replication, Some(Replication::Everywhere(2)));
        let by_dc = Replication::ByDataCentre([("dc1".to_owned(), 3), ("dc2".to_owned(), 2)].into());
        assert_eq!(options("replication = { dc1 = 3, dc2 = 2 }").replication, Some(by_dc));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "se cret\n").unwrap();
        let login = options(&format!("user = \"u\"\npassword_file = {:?}", file.path())).login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("u", "se cret"));
        for (more, part) in [
            ("consistency = \"most\"", "store.consistency"),
            ("consistency = { read = \"one\", write = \"most\" }", "store.consistency.write"),
            ("user = \"u\"", "store.password"),
            ("password = \"p\"", "store.user"),
            ("user = \"u\"\npassword = \"p\"\npassword_file = \"f\"", "keep one"),
            ("tls = { certificate = \"c\" }", "ca"),
            ("tls = { ca = \"a\", certificate = \"c\" }", "store.tls.key"),
        ] {
            let error = format!("{:#}", cassandra(more).expect_err(more));
            assert!(error.contains(part), "{more}: {error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let secret = "[store]\nkind = \"cassandra\"\nnodes = [\"c1\"]\nuser = \"u\"\npassword = \"hunter2\"";
        let config = load(secret).unwrap();
        let options = config.store.cassandra(&config.retention).unwrap();
        let shown = [format!("{config:?}"), format!("{options:?}"), serde_json::to_string(&config).unwrap()].concat();
        let refused = format!("{:#}", load("[store]\npassword = [\"hunter2\"]").unwrap_err());
        assert!(!shown.contains("hunter2") && !refused.contains("hunter2"), "{shown} {refused}");
    }

    #[test]
    fn a_missing_file_that_was_asked_for_is_an_error() {
        let common = Common { config: Some("/nowhere/c.toml".into()), data_dir: None, logs: vec![], listen: None };
        assert!(format!("{:#}", Config::load(&common).unwrap_err()).contains("/nowhere/c.toml"));
    }
}
