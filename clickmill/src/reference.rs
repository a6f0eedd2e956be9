//! The configuration reference, `docs/configuration.md`, made from the defaults and from what is said of each key here.

use crate::config::{Config, StoreKind};

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
    ("store.kind", "`embedded`, or `cassandra`, whose tables `clickmill schema create` makes"),
    ("store.nodes", "some of Cassandra's nodes, `host:port`; the others are found by asking these"),
    ("store.keyspace", "the keyspace"),
    (
        "store.replication",
        "how many copies a new keyspace gets in each data centre, or `{ dc1 = 3, dc2 = 3 }`; default: 3. Where it is set, another number is refused",
    ),
    (
        "store.buckets",
        "into how many buckets ads are hashed, for good; default: what the keyspace was made with, 256 for a new one. A multiple of `queue.partitions` writes fastest",
    ),
    ("store.local_dc", "the data centre whose nodes are talked to; needed where there are several"),
    (
        "store.consistency",
        "how many copies must answer and acknowledge: a level, or `{ read = \"…\", write = \"…\" }`. Levels under which a read may miss an acknowledged write are refused",
    ),
    ("store.user", "who logs in to Cassandra"),
    ("store.password", "with which password; better `CLICKMILL_STORE__PASSWORD` or `password_file`"),
    ("store.password_file", "the file that holds the password"),
    (
        "store.tls",
        "`{ ca = \"ca.pem\" }`: speak TLS, and trust these authorities; `certificate` and `key` where nodes ask who we are. A node's certificate must name its address",
    ),
    (
        "files.url",
        "where `raw/`, `late/` and `imports/` go: `file:///path`, or an object store, `s3://bucket/prefix`; default: `DATA_DIR/files`",
    ),
    ("files.shared", "with Kafka: true where the local folder is one that every machine sees"),
    (
        "files.s3.endpoint",
        "where the object store answers, such as `https://minio-1:9000`; default: `AWS_ENDPOINT`, or the region's own address. It must know conditional writes (`If-None-Match: *`)",
    ),
    ("files.s3.region", "its region; default: `AWS_REGION`, or `us-east-1`"),
    (
        "files.s3.access_key_id",
        "who asks; default: `AWS_ACCESS_KEY_ID`, a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`), or the machine's role",
    ),
    (
        "files.s3.secret_access_key",
        "with which secret; better `CLICKMILL_FILES__S3__SECRET_ACCESS_KEY`, `AWS_SECRET_ACCESS_KEY` or `secret_access_key_file`",
    ),
    ("files.s3.secret_access_key_file", "the file that holds the secret"),
    ("files.s3.allow_http", "whether an endpoint without TLS may be talked to"),
    ("files.s3.virtual_hosted", "whether the bucket is part of the host's name"),
    (
        "files.s3.timeout",
        "a request that has no answer for so long is given up; so are its repetitions. A file of 64 MiB must get through within it",
    ),
    ("retention.counts", "how long counts are kept, from their arrival"),
    ("retention.rankings", "how long rankings are kept, from their arrival"),
    ("retention.raw", "how long raw and late lines are kept in files, from their arrival"),
    (
        "reconcile.price_per_click",
        "what an advertiser pays for a click: reconciliation tells differences in money too; default: in clicks alone",
    ),
    ("reconcile.currency", "in which currency"),
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

fn load(file: std::path::PathBuf) -> Config {
    let text = std::fs::read_to_string(&file).unwrap();
    let common = crate::cli::Common { config: Some(file), data_dir: None, logs: vec![], listen: None };
    Config::load(&common).unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

/// The configurations that a page shows.
fn examples(page: &str) -> Vec<Config> {
    let texts = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clickmill.toml");
        std::fs::write(&file, text).unwrap();
        load(file)
    };
    texts.map(load).collect()
}

#[test]
fn what_is_deployed_is_a_configuration() {
    for (name, copies) in [("clickmill.toml", 3), ("clickmill.small.toml", 1)] {
        let config = load(format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR")).into());
        assert_eq!(config.queue.replication, Some(copies), "{name}");
        assert_eq!((config.store.kind, config.files.shared), (StoreKind::Cassandra, true), "{name}");
    }
}

#[test]
fn the_examples_in_the_documents_are_configurations() {
    let configs = examples(&page());
    assert_eq!(configs.iter().map(|config| config.filter.len()).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(configs[1].queue.properties.get("sasl.mechanism"), Some("SCRAM-SHA-512"));
    for (document, expected) in [("README.md", 1), ("docs/cassandra.md", 1)] {
        let page = std::fs::read_to_string(format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let kinds: Vec<StoreKind> = examples(&page).iter().map(|config| config.store.kind).collect();
        assert_eq!(kinds, vec![StoreKind::Cassandra; expected], "{document}");
    }
}
