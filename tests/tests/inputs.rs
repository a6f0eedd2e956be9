//! `clickmill up` while input topics come and go, with records of other programs in the real queue.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, Summary, TRUTH_FILE, Truth, generate};
use clickmill_model::{Definition, FilterId, InputTopic, Minute, Timestamp, partition};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::embedded::{self, EmbeddedQueue};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{Producer, Queue, Record, SystemClock, TopicPartition, Transaction, topology};
use clickmill_tests::answers::{assert_counts, lines_of_logs};
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::raw;

fn configuration(topic: &str, topics: &[&str]) -> String {
    format!(
        "[input]\nlogs = [\"logs/*.log\"]\nsource = \"test\"\ntopic = {topic:?}\ntopics = {topics:?}\n\
         [time]\nmax_disorder = \"5s\"\nsource_timeout = \"5s\"\n[queue]\npartitions = 2\n"
    )
}

/// Another program that sends clicks into the pipeline's queue.
struct Foreign {
    queue: EmbeddedQueue,
    producer: Box<dyn Producer>,
}

impl Foreign {
    /// Makes the topics that are not there yet, as another program may have done before anybody counted them.
    fn open(site: &Site, topics: &[&str]) -> Self {
        let dir = site.data().join("queue");
        let queue = EmbeddedQueue::open(&dir, SystemClock::shared(), embedded::Options::default()).unwrap();
        let input = |topic: &&str| InputTopic { topic: (*topic).into(), partitions: 2 };
        let definition =
            Definition { inputs: topics.iter().map(input).collect(), partitions: 2, ..Definition::default() };
        queue.create_topics(&topology::topics(&definition)).unwrap();
        let producer = queue.producer("foreign").unwrap();
        Self { queue, producer }
    }

    /// A click a record, by the key `ad`, as Kafka's clients would send it.
    fn send(&mut self, topic: &str, ad: &str, time: Timestamp, users: std::ops::Range<u64>) {
        let mut transaction = Transaction::default();
        for user in users {
            let to = TopicPartition::new(topic, partition::of_key(ad.as_bytes(), 2).0);
            transaction.send(to, Record::of(line(ad, time, user).into_bytes()));
        }
        self.producer.commit(&transaction, None).unwrap();
    }

    fn topics_read(&self) -> BTreeSet<String> {
        let definitions = Definitions::load(&self.queue).unwrap();
        RawTopics::load(&self.queue, definitions.all()).unwrap().of_mapper()
    }
}

fn line(ad: &str, time: Timestamp, user: u64) -> String {
    let time = time.to_string().replace('T', " ").replace('Z', "");
    format!("[AdClickEvent] {ad}, {time}, user {user}, 1.2.3.4, USA")
}

fn soon(seconds: i64) -> Timestamp {
    Timestamp::from_micros(SystemClock::shared().now().as_micros() + seconds * 1_000_000)
}

fn wait_for_books(up: &Running<'_>, counted: u64, late: u64) {
    let mut last = String::new();
    let probe = || {
        let books = up.get("/v1/status")["books"].clone();
        last = books.to_string();
        ((&books["counted"], &books["late"]) == (&counted.into(), &late.into())).then_some(())
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for("the books", LONG, probe)));
    assert!(found.is_ok(), "{last} is not {counted} counted, {late} late");
}

/// Clicks of an ad in the two hours around now.
fn count(api: &Running<'_>, ad: &str) -> u64 {
    let (from, to) = (soon(-3600).minute(), soon(3600).minute());
    api.get(&format!("/v1/ads/{ad}/aggregated_count?from={from}&to={to}"))["count"].as_u64().unwrap()
}

#[test]
fn schedule_34_up_follows_topics_that_come_and_go_between_and_during_its_runs() {
    let site = Site::new(&configuration("ad-clicks", &["ad-clicks"]));
    let options =
        Options { clicks: 4000, ads: 50, minutes: 6, files: 2, duplicates: 0.02, ..Options::new(site.logs()) };
    let Summary { clicks, .. } = generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    site.succeed(&["up", "--drain"], LONG);

    // Between two runs a topic comes that has a backlog: of minutes that are closed, and of one that is open.
    let mut foreign = Foreign::open(&site, &["more-clicks", "later-clicks"]);
    let closed: Minute = truth.counts.keys().next().unwrap().0;
    foreign.send("more-clicks", "old", closed.start(), 0..30);
    foreign.send("more-clicks", "more", soon(60), 0..20);
    site.configure(&configuration("ad-clicks", &["ad-clicks", "more-clicks"]));
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    wait_for_books(&up, clicks + 20, 30);
    foreign.send("more-clicks", "more", soon(60), 20..40);
    wait_for_books(&up, clicks + 40, 30);

    // While it runs, one goes and another one comes. The watcher's own topic may not go as long as it sends there.
    site.configure(&configuration("ad-clicks", &["ad-clicks", "later-clicks"]));
    foreign.send("later-clicks", "later", soon(60), 0..10);
    let said = site.succeed(&["define"], LONG);
    assert!(said.contains("definition 3 is in force"), "{said}");
    wait_for_books(&up, clicks + 50, 30);
    let read = wait_for("the topic to be retired", LONG, || {
        let read = foreign.topics_read();
        (!read.contains("more-clicks")).then_some(read)
    });
    assert_eq!(read, ["ad-clicks", "later-clicks"].map(str::to_owned).into());
    foreign.send("more-clicks", "unread", soon(60), 0..5);
    foreign.send("later-clicks", "later", soon(60), 10..20);
    wait_for_books(&up, clicks + 60, 30);
    up.kill();

    // The last lines, in a minute behind all others, close everything.
    let last: String = (0..7).fold(String::new(), |mut text, user| {
        writeln!(text, "{}", line("last", soon(130), user)).unwrap();
        text
    });
    std::fs::write(site.logs().join("last.log"), last).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("7 lines: 7 clicks, 0 duplicates, 0 late"), "{summary}");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let counts = ["more", "later", "last", "old", "unread"].map(|ad| count(&api, ad));
    assert_eq!(counts, [40, 20, 7, 0, 0]);
    assert_counts(&api, FilterId::ALL, &truth);
    drop(api);

    // Raw Parquet has what was read of each topic, and nothing twice.
    let lines = raw::read(&site.data().join("files/raw"));
    let places: BTreeSet<_> = lines.iter().map(|l| (&l.topic, l.partition, l.offset, l.line_number)).collect();
    assert_eq!(places.len(), lines.len());
    // The writer may have been ahead of the mapper when the topic was retired.
    let is_read = |line: &&raw::RawLine| !line.line.starts_with(b"[AdClickEvent] unread");
    let of = |topic: &str| lines.iter().filter(is_read).filter(|line| line.topic == topic).count();
    let all = lines_of_logs(&site.logs()).len();
    assert_eq!((of("ad-clicks"), of("more-clicks"), of("later-clicks")), (all, 70, 20));
}

#[test]
fn inputs_that_cannot_be_are_refused_with_the_reason() {
    let site = Site::new(&configuration("ad-clicks", &["ad-clicks"]));
    std::fs::write(site.logs().join("a.log"), line("a", soon(-60), 1) + "\n").unwrap();
    site.succeed(&["up", "--drain"], LONG);
    let foreign = Foreign::open(&site, &[]);
    let spec = |partitions| {
        let inputs = vec![InputTopic { topic: "wide-clicks".into(), partitions }];
        topology::topics(&Definition { inputs, partitions: 2, ..Definition::default() })
    };
    foreign.queue.create_topics(&spec(3)).unwrap();
    for (topic, topics, why) in [
        ("ad-clicks", vec!["ad-clicks", "wide-clicks"], "wide-clicks has 3 partitions"),
        ("ad-clicks", vec!["ad-clicks", "click-results"], "which the pipeline itself writes"),
        ("ad-clicks", vec!["ad-clicks", "ad-clicks"], "names ad-clicks twice"),
        ("ad-clicks", vec!["more-clicks"], "which is not among input.topics"),
    ] {
        site.configure(&configuration(topic, &topics));
        for command in [["define", "--dry-run"], ["up", "--drain"]] {
            let refused = site.run(&command, LONG);
            assert_eq!(refused.status.code(), Some(2), "{topics:?}: {}", refused.stderr);
            assert!(refused.stderr.contains(why), "{topics:?}: {}", refused.stderr);
        }
    }
    site.configure(&configuration("ad-clicks", &["ad-clicks"]));
    let said = site.succeed(&["define"], LONG);
    assert!(said.contains("says the same"), "nothing was written: {said}");
}

#[test]
fn a_watcher_whose_topic_is_retired_ends_and_says_so() {
    let site = Site::new(&configuration("ad-clicks", &["ad-clicks"]));
    std::fs::write(site.logs().join("a.log"), line("a", soon(-60), 1) + "\n").unwrap();
    let mut up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    wait_for_books(&up, 1, 0);
    site.configure(&configuration("more-clicks", &["more-clicks"]));
    site.succeed(&["define"], LONG);
    assert_eq!(up.wait(LONG).code(), Some(2), "with the same configuration it would end again");
    let log = up.stderr();
    assert!(log.contains("ad-clicks") && log.contains("set input.topic to more-clicks"), "{log}");
    drop(up);

    // Whoever starts with the new configuration goes on.
    std::fs::write(site.logs().join("b.log"), line("b", soon(60), 1) + "\n").unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("1 lines: 1 clicks"), "{summary}");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    assert_eq!([count(&api, "a"), count(&api, "b")], [1, 1]);
}
