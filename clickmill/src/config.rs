//! The configuration: `clickmill.toml`, overridden by the environment, overridden by the command line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clickmill_model::{Definition, Filter, InputTopic, PartitionBy, TimeSettings, Window};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::cli::Common;

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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queue {
    pub(crate) kind: QueueKind,
    pub(crate) partitions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreKind {
    Embedded,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) kind: StoreKind,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    #[serde(with = "humantime_serde")]
    pub(crate) counts: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) rankings: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) raw: Duration,
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
            data_dir: "clickmill-data".into(),
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
            queue: Queue { kind: QueueKind::Embedded, partitions: definition.partitions },
            store: Store { kind: StoreKind::Embedded },
            files: Files::default(),
            retention: Retention { counts: 400 * DAY, rankings: 400 * DAY, raw: 90 * DAY },
            api: Api { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) },
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name }
}

impl Config {
    /// Reads the configuration for a command: file, environment, flags, in this order.
    pub(crate) fn load(common: &Common) -> anyhow::Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        let file = common.config.clone().unwrap_or_else(|| "clickmill.toml".into());
        if common.config.is_some() || file.exists() {
            let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            figment = figment.merge(Toml::string(&text));
        }
        // `CLICKMILL_TEST_…` steers the tests, which start this program too.
        let environment = Env::prefixed("CLICKMILL_").filter(|key| !key.starts_with("test_")).split("__");
        figment = figment.merge(environment);
        let mut config: Self = figment.extract().map_err(|error| explain(&error, &file))?;
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
        self.definition().check().map_err(|error| anyhow::anyhow!("{error}"))
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

/// Figment's error with the key's path before it and the file or variable behind it.
fn explain(error: &figment::Error, file: &Path) -> anyhow::Error {
    let lines: Vec<String> = error
        .clone()
        .into_iter()
        .map(|one| {
            let path = one.path.join(".");
            let source = one.metadata.as_ref().map_or("", |m| m.name.as_ref());
            let place =
                if source.contains("environment") { "the environment".to_owned() } else { file.display().to_string() };
            if path.is_empty() { format!("{place}: {}", one.kind) } else { format!("{place}: {path}: {}", one.kind) }
        })
        .collect();
    anyhow::anyhow!("{}", lines.join("\n"))
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
            ("[queue]\nkind = \"rabbit\"", vec!["queue.kind", "embedded"]),
            ("[queue]\npartitions = 0", vec!["queue.partitions"]),
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
    fn a_missing_file_that_was_asked_for_is_an_error() {
        let common = Common { config: Some("/nowhere/c.toml".into()), data_dir: None, logs: vec![], listen: None };
        assert!(format!("{:#}", Config::load(&common).unwrap_err()).contains("/nowhere/c.toml"));
    }
}
