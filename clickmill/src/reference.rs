//! The configuration reference, `docs/configuration.md`, made from the defaults and from what is said of each key here.

use crate::config::Config;

/// What each key means.
const MEANINGS: &[(&str, &str)] = &[
    ("data_dir", "where the embedded queue and store and the local files are"),
    ("input.logs", "the log files: files, folders and globs"),
    ("input.topic", "the raw topic that this watcher sends to"),
    (
        "input.topics",
        "all raw topics of the pipeline; a new one counts from the first open minute on, one that is left out is read to its end",
    ),
    (
        "input.partition_by",
        "what chooses a click's partition: `identity`, or `ad_id` where foreign producers key by ad",
    ),
    ("input.source", "the watcher's name; default: the host's. Two watchers of one name fence each other"),
    ("input.sources", "wait for these sources before the first minute closes"),
    ("input.settle", "an old file that has not grown for so long is at its end"),
    ("input.max_ahead", "how much a watcher that catches up may send in front of the others"),
    ("time.max_disorder", "how far out of order one source may be"),
    ("time.max_clock_skew", "a click further ahead of its arrival has a wrong clock and is rejected"),
    ("time.source_timeout", "a source silent for so long is no longer waited for; at least 5s"),
    ("dedup.enabled", "whether a click told twice counts once"),
    (
        "filter",
        "the filters, each a table `[[filter]]` with `id`, `name` and at least one of `country`, `exclude_country`, `ip`, `user_id`; at most 63",
    ),
    ("top.n", "how many ads a ranking answers with unless asked otherwise; 1 to 1000"),
    ("top.windows", "the sliding windows, in minutes; 1 to 1440, at most 16"),
    ("queue.kind", "`embedded` (one machine), or `kafka` (a cluster): see [kafka.md](kafka.md)"),
    ("queue.partitions", "partitions of every topic, for good; 1 to 1024"),
    ("queue.brokers", "of Kafka: where clients connect first, `host:port,…`"),
    (
        "queue.properties",
        "of Kafka: anything that librdkafka knows, such as `security.protocol`, except what clickmill's promises rest on. In the environment a name is written with `_` for `.`: `CLICKMILL_QUEUE__PROPERTIES__SASL_PASSWORD`",
    ),
    ("queue.password_file", "of Kafka: a file that holds `sasl.password`"),
    (
        "queue.replication",
        "of Kafka: how many brokers keep each partition of a topic that is made; default: the cluster's",
    ),
    (
        "queue.retention",
        "of Kafka: how long topics keep what was read; at least 3 days, and longer than any stage is ever away",
    ),
    ("store.kind", "`embedded`"),
    ("files.url", "where `raw/` and `late/` go: `file:///path`; default: `DATA_DIR/files`"),
    ("files.shared", "with Kafka: true where the local folder is one that every machine sees"),
    ("retention.counts", "how long counts are kept, from their arrival"),
    ("retention.rankings", "how long rankings are kept, from their arrival"),
    ("retention.raw", "how long raw and late lines are kept in files, from their arrival"),
    ("api.listen", "where HTTP is served; port 0 picks a free one"),
];

fn leaves(prefix: &str, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                leaves(&path, value, out);
            }
        }
        other => out.push((prefix.to_owned(), other.to_string())),
    }
}

fn page() -> String {
    let mut config = Config::default();
    config.input.source = "(the host's name)".into();
    let mut defaults = Vec::new();
    leaves("", &serde_json::to_value(&config).unwrap(), &mut defaults);
    let mut page = String::from(
        "# Configuration\n\n\
         One file, `clickmill.toml` (or `--config FILE`). Every key can be overridden by the environment: `CLICKMILL_TIME__MAX_DISORDER=10s` is \
         `time.max_disorder`. An unknown key, a bad value or a contradiction is refused at the start, with the key's path.\n\n\
         | key | default | meaning |\n|---|---|---|\n",
    );
    for (key, meaning) in MEANINGS {
        let default = defaults.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value.as_str());
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        page += &format!("| `{key}` | {default} | {meaning} |\n");
    }
    for (key, _) in &defaults {
        assert!(MEANINGS.iter().any(|(k, _)| k == key), "{key} is not in the reference");
    }
    page += "\n```toml\n[input]\nlogs = [\"/var/log/ads/*.log\"]\n\n[[filter]]\nid = 1\nname = \"USA\"\ncountry = [\"USA\"]\n\n\
             [[filter]]\nid = 2\nname = \"office\"\nip = [\"207.148.0.0/16\", \"2001:db8::/32\"]\n\n[top]\nwindows = [1, 5, 60]\n```\n";
    page += "\n```toml\n[queue]\nkind = \"kafka\"\nbrokers = \"kafka-1:9093,kafka-2:9093\"\npartitions = 16\nreplication = 3\npassword_file = \"/run/secrets/kafka\"\n\n\
             [queue.properties]\nsecurity.protocol = \"SASL_SSL\"\nsasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"clickmill\"\nssl.ca.location = \"/etc/ssl/kafka-ca.pem\"\n\n\
             [files]\nurl = \"file:///mnt/clickmill\"\nshared = true\n```\n";
    page
}

/// `CLICKMILL_TEST_WRITE_DOCS=1 cargo test -p clickmill` writes the page anew.
#[test]
fn the_configuration_reference_is_made_from_the_code() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var_os("CLICKMILL_TEST_WRITE_DOCS").is_some() {
        std::fs::write(file, page()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), page(), "write it anew with CLICKMILL_TEST_WRITE_DOCS=1");
}

#[test]
fn the_examples_in_the_reference_are_configurations() {
    let page = page();
    let dir = tempfile::tempdir().unwrap();
    let examples = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let configs: Vec<Config> = examples
        .map(|example| {
            let file = dir.path().join("clickmill.toml");
            std::fs::write(&file, example).unwrap();
            let common = crate::cli::Common { config: Some(file), data_dir: None, logs: vec![], listen: None };
            Config::load(&common).unwrap()
        })
        .collect();
    assert_eq!(configs.len(), 2);
    assert_eq!(configs[0].filter.len(), 2);
    assert_eq!(configs[1].queue.properties.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
}
