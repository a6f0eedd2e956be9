//! What an administrator or time takes away on a real Kafka: topics that are deleted and made anew, committed offsets that expire, records that are deleted before they were read for the last time, partitions that are
//! added. Each ends in right figures or in a refusal that names it and that no supervisor answers with another start; never in a wrong figure.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, Start, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Minute, Timestamp};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::answers::{assert_counts, wait_for_lines};
use clickmill_tests::process::{LONG, Site};
use clickmill_tests::traffic::{CONFIGURATION, Traffic, live};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const PARTITIONS: u32 = 4;

/// Everything that a pipeline has on its queue.
const TOPICS: [&str; 8] = [
    "ad-clicks",
    "click-partials",
    "top-candidates",
    "click-results",
    "log-positions",
    "late-clicks",
    "dead-letters",
    "pipeline",
];

const GROUPS: [&str; 6] = ["mapper", "aggregator", "reducer", "db-writer", "raw-writer", "late-writer"];

/// How it must end.
enum End {
    /// Every figure is right, of what came before and of what came after.
    Right,
    /// Nothing is counted; what is said names these.
    Refused(&'static [&'static str]),
}

/// Somebody who may do everything to the cluster.
struct Administrator(AdminClient<DefaultClientContext>);

impl Administrator {
    fn of(kafka: &Kafka) -> Self {
        Self(ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap())
    }

    fn wait<T>(answer: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
    }

    /// What is not there is no error: a case may have taken it away.
    fn delete_topics(&self, names: &[&str]) {
        Self::wait(self.0.delete_topics(names, &AdminOptions::new())).unwrap();
    }

    fn delete_offsets(&self) {
        Self::wait(self.0.delete_groups(&GROUPS, &AdminOptions::new())).unwrap();
    }

    fn delete_records(&self, topic: &str) {
        let mut ends = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            ends.add_partition_offset(topic, partition.cast_signed(), Offset::End).unwrap();
        }
        let deleted = Self::wait(self.0.delete_records(&ends, &AdminOptions::new())).unwrap();
        assert!(deleted.elements().iter().all(|partition| partition.error().is_ok()), "{deleted:?}");
    }

    /// For the next case.
    fn clean_up(&self) {
        self.delete_topics(&TOPICS);
        self.delete_offsets();
    }

    fn add_partitions(&self, topic: &str, to: usize) {
        let more = NewPartitions::new(topic, to);
        let added = Self::wait(self.0.create_partitions([&more], &AdminOptions::new())).unwrap();
        assert!(added.iter().all(Result::is_ok), "{added:?}");
    }
}

/// Ten minutes of lines from this one on, in a file of this name. Returns what is true of them.
fn write(site: &Site, name: &str, from: &str) -> Truth {
    let folder = tempfile::tempdir().unwrap();
    let start = Start::At(Minute::parse(from).unwrap());
    let seed = name.len() as u64;
    let options = Options { clicks: 4_000, ads: 50, duplicates: 0.03, start, seed, ..Options::new(folder.path()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            std::fs::copy(path, site.logs().join(name)).unwrap();
        }
    }
    Truth::read(&folder.path().join(TRUTH_FILE)).unwrap()
}

fn site(kafka: &Kafka) -> Site {
    let queue = format!("[queue]\nkind = \"kafka\"\nbrokers = \"{}\"\npartitions = {PARTITIONS}\n", kafka.bootstrap());
    let site = Site::new(&format!("{CONFIGURATION}\n{queue}\n[files]\nshared = true\n"));
    site.succeed(&["topics", "create"], LONG);
    site
}

fn assert_refused(site: &Site, args: &[&str], what: &str, parts: &[&str]) {
    let refused = site.run(args, LONG);
    assert_eq!(refused.status.code(), Some(2), "{what}: {}\n{}", refused.stdout, refused.stderr);
    let said = refused.stderr.lines().last().unwrap();
    for part in parts {
        assert!(said.contains(part), "{what}: {part:?} is not in {said:?}");
    }
}

fn assert_figures(site: &Site, truth: &Truth) {
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    assert_counts(&api, FilterId::ALL, truth);
}

#[test]
fn what_was_taken_away_is_made_right_or_refused() {
    let kafka = Kafka::start(&kafka::Options::default()).unwrap();
    let administrator = Administrator::of(&kafka);
    let anew = |topic: &'static str| move |administrator: &Administrator| administrator.delete_topics(&[topic]);
    type Taken<'a> = Box<dyn Fn(&Administrator) + 'a>;
    let more_partitions =
        |topic: &'static str| move |administrator: &Administrator| administrator.add_partitions(topic, 6);
    let cases: Vec<(&str, Taken<'_>, End)> = vec![
        (
            "the offsets of all groups",
            Box::new(Administrator::delete_offsets),
            End::Refused(&["no committed offsets", "Restore"]),
        ),
        // The offsets of a topic go with it.
        ("ad-clicks", Box::new(anew("ad-clicks")), End::Refused(&["no committed offsets", "Restore"])),
        ("click-partials", Box::new(anew("click-partials")), End::Refused(&["click-partials/", "made anew"])),
        ("top-candidates", Box::new(anew("top-candidates")), End::Refused(&["top-candidates/", "made anew"])),
        ("click-results", Box::new(anew("click-results")), End::Refused(&["click-results/", "made anew"])),
        // All lines are sent again, and each is known, or late.
        ("log-positions", Box::new(anew("log-positions")), End::Right),
        ("pipeline", Box::new(anew("pipeline")), End::Refused(&["no committed offsets", "Restore"])),
        (
            "partitions of ad-clicks",
            Box::new(more_partitions("ad-clicks")),
            End::Refused(&["ad-clicks has 6 partitions", "4"]),
        ),
        (
            "partitions of click-partials",
            Box::new(more_partitions("click-partials")),
            End::Refused(&["click-partials has 6 partitions", "4"]),
        ),
    ];
    for (what, take, end) in &cases {
        let site = site(&kafka);
        let mut truth = write(&site, "a.log", "202101010000");
        site.succeed(&["up", "--drain"], LONG);
        take(&administrator);
        // Makes what is not there, and may refuse what is there.
        site.run(&["topics", "create"], LONG);
        let more = write(&site, "more.log", "202101010030");
        match end {
            End::Right => {
                site.succeed(&["up", "--drain"], LONG);
                truth.counts.extend(more.counts);
            }
            End::Refused(parts) => assert_refused(&site, &["up", "--drain"], what, parts),
        }
        assert_figures(&site, &truth);
        administrator.clean_up();
    }
}

#[test]
fn lines_that_a_restart_must_read_again_and_that_were_deleted_are_missed() {
    let kafka = Kafka::start(&kafka::Options::default()).unwrap();
    let site = site(&kafka);
    let traffic = Traffic::start(live(&site.logs(), 500));
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&up, 2000, LONG);
    up.kill();
    traffic.stop();
    Administrator::of(&kafka).delete_records("ad-clicks");
    assert_refused(&site, &["up", "--listen", "127.0.0.1:0"], "its lines", &["ad-clicks/", "was deleted"]);
}
