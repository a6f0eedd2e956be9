//! Topics: made with what the promises need, and refused where they lack it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;

use super::client::Context;
use super::options::{MAX_RECORD_BYTES, Options};
use super::shared::{ANSWER_WITHIN, Shared, client_name, configured};
use crate::check;
use crate::types::{QueueError, Result, Retention, TopicSpec};

/// How long new topics may take to be there on every broker.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The smallest limit of a topic that takes what is sent together.
const LEAST_MESSAGE_BYTES: i64 = 1_000_012;

/// Makes the topics that are not there, and checks the others.
pub(super) fn create(shared: &Shared, specs: &[TopicSpec]) -> Result<()> {
    let missing = check(shared, specs)?;
    if missing.is_empty() {
        return Ok(());
    }
    let settings: Vec<Vec<(&str, String)>> = missing.iter().map(|spec| settings(spec, &shared.options)).collect();
    let replication = shared.options.replication.map_or(-1, i32::from);
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .zip(&settings)
        .map(|(spec, settings)| {
            let topic = NewTopic::new(&spec.name, spec.partitions.cast_signed(), TopicReplication::Fixed(replication));
            settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let admin = admin(shared)?;
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_WITHIN)).request_timeout(Some(READY_WITHIN));
    let results = wait(admin.create_topics(&new, &options))
        .map_err(|error| shared.trouble.unavailable("making topics", &error))?;
    for result in results {
        match result {
            // Another process was faster: what it made is looked at below.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code @ (RDKafkaErrorCode::InvalidReplicationFactor | RDKafkaErrorCode::PolicyViolation))) => {
                return Err(QueueError::Broken(format!(
                    "the cluster does not make the topic {topic} ({code}): look at queue.replication, which is {}",
                    shared.options.replication.map_or("not set".into(), |n| n.to_string())
                )));
            }
            Err((topic, code)) => return Err(shared.trouble.failed(format!("making the topic {topic}"), code)),
        }
    }
    let deadline = Instant::now() + READY_WITHIN;
    for spec in &missing {
        while !shared.is_ready(&spec.name)? {
            if Instant::now() >= deadline {
                return Err(QueueError::Unavailable {
                    what: format!("making the topic {}", spec.name),
                    why: "its partitions have no leaders yet".into(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // Another process may have made one of them otherwise.
    for spec in &missing {
        other_partitions(shared, spec)?;
    }
    Ok(())
}

/// Refuses topics that are there, but otherwise than the promises need; returns those that are not there.
pub(super) fn check<'a>(shared: &Shared, specs: &'a [TopicSpec]) -> Result<Vec<&'a TopicSpec>> {
    let (mut missing, mut there) = (Vec::new(), Vec::new());
    for spec in specs {
        match other_partitions(shared, spec)? {
            None => missing.push(spec),
            Some(_) => there.push(spec),
        }
    }
    if there.is_empty() {
        return Ok(missing);
    }
    let admin = admin(shared)?;
    let names: Vec<ResourceSpecifier<'_>> = there.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
    let options = AdminOptions::new().request_timeout(Some(READY_WITHIN));
    let found = wait(admin.describe_configs(&names, &options))
        .map_err(|error| shared.trouble.unavailable("asking how topics are set", &error))?;
    let mut wrong = Vec::new();
    for (spec, found) in there.iter().zip(found) {
        let found =
            found.map_err(|code| shared.trouble.failed(format!("asking how the topic {} is set", spec.name), code))?;
        let replicas = shared.ask_replicas(&spec.name)?;
        wrong.extend(faults(spec, &shared.options, replicas, &Found(&found)));
    }
    if wrong.is_empty() { Ok(missing) } else { Err(QueueError::Broken(wrong.join("; "))) }
}

fn other_partitions(shared: &Shared, spec: &TopicSpec) -> Result<Option<u32>> {
    match shared.ask_partitions(&spec.name)? {
        Some(has) if has != spec.partitions => Err(check::other_partitions(&spec.name, has, spec.partitions)),
        found => Ok(found),
    }
}

/// What a topic is made with.
fn settings(spec: &TopicSpec, options: &Options) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("max.message.bytes", MAX_RECORD_BYTES.to_string()),
        ("retention.bytes", "-1".to_owned()),
    ];
    match &spec.retention {
        Retention::Consumed { .. } => settings.extend([
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", options.retention.as_millis().to_string()),
        ]),
        Retention::Forever => {
            settings.extend([("cleanup.policy", "delete".to_owned()), ("retention.ms", "-1".to_owned())]);
        }
        Retention::Compacted => settings.extend([
            ("cleanup.policy", "compact".to_owned()),
            ("segment.ms", options.compact_after.as_millis().to_string()),
            ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ]),
    }
    if options.replication.is_some_and(|replication| replication >= 3) {
        settings.push(("min.insync.replicas", "2".to_owned()));
    }
    settings
}

/// How a topic is set.
struct Found<'a>(&'a ConfigResource);

impl Found<'_> {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or_default()
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }
}

/// What is wrong with a topic, each with its setting, what it is and what would be right.
fn faults(spec: &TopicSpec, options: &Options, replicas: u32, found: &Found<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |holds: bool, name: &str, found: &str, right: &str, why: &str| {
        if !holds {
            faults.push(format!("topic {}: {name} is {found}, it must be {right}: {why}", spec.name));
        }
    };
    let stamped = found.text("message.timestamp.type");
    demand(
        stamped == "LogAppendTime",
        "message.timestamp.type",
        stamped,
        "LogAppendTime",
        "no sender's clock is trusted",
    );
    let policy = found.text("cleanup.policy");
    let right = if spec.retention == Retention::Compacted { "compact" } else { "delete" };
    demand(policy == right, "cleanup.policy", policy, right, "records would go that are needed");
    let retention = found.number("retention.ms");
    let wanted = i64::try_from(options.retention.as_millis()).unwrap_or(i64::MAX);
    let shown = retention.to_string();
    let why = "records would go that are needed (queue.retention says how long)";
    match &spec.retention {
        Retention::Consumed { .. } => demand(
            retention == -1 || retention >= wanted,
            "retention.ms",
            &shown,
            &format!("at least {wanted}, or -1"),
            why,
        ),
        Retention::Forever => demand(retention == -1, "retention.ms", &shown, "-1", "nothing of it may ever go"),
        Retention::Compacted => {}
    }
    if spec.retention != Retention::Compacted {
        let bytes = found.text("retention.bytes");
        demand(bytes == "-1", "retention.bytes", bytes, "-1", "records would go that are needed");
    }
    let largest = found.number("max.message.bytes");
    demand(
        largest >= LEAST_MESSAGE_BYTES,
        "max.message.bytes",
        &largest.to_string(),
        &format!("at least {LEAST_MESSAGE_BYTES}, better {MAX_RECORD_BYTES}"),
        "what is sent together would be refused",
    );
    let wanted = options.replication.map_or(1, u32::from);
    demand(
        replicas >= wanted,
        "its replication factor",
        &replicas.to_string(),
        &format!("at least {wanted}, as queue.replication says"),
        "reassign its partitions",
    );
    let in_sync = found.number("min.insync.replicas");
    let shown = in_sync.to_string();
    if replicas >= 3 {
        demand(in_sync >= 2, "min.insync.replicas", &shown, "2", "what is acknowledged must outlive a broker");
    }
    if replicas >= 2 {
        demand(
            in_sync < i64::from(replicas),
            "min.insync.replicas",
            &shown,
            &format!("less than its {replicas} replicas"),
            "one broker away would stop everything",
        );
    }
    faults
}

fn admin(shared: &Shared) -> Result<AdminClient<Context>> {
    let config = shared.options.looker(&client_name("topics"));
    config
        .create_with_context(Context(Arc::clone(&shared.trouble)))
        .map_err(|error| configured(&shared.options, &error))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for the answer of the admin client, which has a thread of its own.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut task = TaskContext::from_waker(&waker);
    let mut answer = pin!(answer);
    loop {
        match answer.as_mut().poll(&mut task) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    use super::*;

    fn spec(retention: Retention) -> TopicSpec {
        TopicSpec { name: "t".into(), partitions: 1, retention, max_backlog_bytes: 0 }
    }

    /// What is wrong with a topic that is made as it should be, but for these settings.
    fn check(retention: Retention, replicas: u32, changed: &[(&str, &str)], expected: &[&str]) {
        let options = Options { replication: Some(3), ..Options::default() };
        let spec = spec(retention);
        let entry = |name: &str, value: &str| ConfigEntry {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            source: ConfigSource::DynamicTopic,
            is_read_only: false,
            is_default: false,
            is_sensitive: false,
        };
        let mut entries: Vec<ConfigEntry> = changed.iter().map(|(name, value)| entry(name, value)).collect();
        entries.extend(settings(&spec, &options).iter().map(|(name, value)| entry(name, value)));
        let found = ConfigResource { specifier: OwnedResourceSpecifier::Topic("t".into()), entries };
        let faults = faults(&spec, &options, replicas, &Found(&found));
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for (fault, part) in faults.iter().zip(expected) {
            assert!(fault.contains(part), "{fault} does not say {part}");
        }
    }

    #[test]
    fn a_topic_that_breaks_a_promise_is_refused_by_the_setting() {
        let consumed = || Retention::Consumed { by: Vec::new(), at_least_bytes: 0 };
        check(consumed(), 3, &[], &[]);
        check(Retention::Compacted, 3, &[], &[]);
        check(Retention::Forever, 3, &[], &[]);
        check(consumed(), 3, &[("retention.ms", "-1")], &[]);
        check(
            consumed(),
            3,
            &[("retention.ms", "86400000")],
            &["retention.ms is 86400000, it must be at least 604800000"],
        );
        check(Retention::Forever, 3, &[("retention.ms", "86400000")], &["it must be -1"]);
        check(consumed(), 3, &[("message.timestamp.type", "CreateTime")], &["must be LogAppendTime"]);
        check(
            consumed(),
            3,
            &[("cleanup.policy", "compact,delete")],
            &["cleanup.policy is compact,delete, it must be delete"],
        );
        check(Retention::Compacted, 3, &[("cleanup.policy", "delete")], &["it must be compact"]);
        check(consumed(), 3, &[("max.message.bytes", "65536")], &["max.message.bytes is 65536"]);
        check(consumed(), 3, &[("retention.bytes", "1000000")], &["retention.bytes"]);
        check(consumed(), 3, &[("min.insync.replicas", "1")], &["min.insync.replicas is 1, it must be 2"]);
        check(
            consumed(),
            3,
            &[("min.insync.replicas", "3")],
            &["min.insync.replicas is 3, it must be less than its 3"],
        );
        check(consumed(), 1, &[], &["replication factor is 1"]);
    }
}
