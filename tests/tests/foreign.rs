//! Clicks that other programs write to a real Kafka: one line a record, as text or as JSON, to several topics, with no log watcher at all.

#![allow(clippy::unwrap_used)] // Helpers of tests give up as tests do.

use std::collections::BTreeMap;
use std::time::Duration;

use clickmill_generator::Truth;
use clickmill_model::{FilterId, Minute, Timestamp};
use clickmill_servers::{Kafka, kafka};
use clickmill_tests::answers::assert_counts;
use clickmill_tests::process::{LONG, Site, wait_for};
use clickmill_tests::stages::STAGES;
use clickmill_tests::traffic::wall_clock;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const TOPICS: [&str; 2] = ["ad-clicks-eu", "ad-clicks-us"];

fn configuration(kafka: &Kafka) -> String {
    format!(
        r#"
[input]
topic = "{}"
topics = {TOPICS:?}

[time]
source_timeout = "5s"

[queue]
kind = "kafka"
brokers = "{}"
partitions = 3

[files]
shared = true

[[filter]]
id = 1
country = ["USA"]
"#,
        TOPICS[0],
        kafka.bootstrap()
    )
}

/// Clicks in time order, of the four minutes before the last one; what is counted of them.
struct Clicks {
    begin: Timestamp,
    all: Truth,
    usa: Truth,
}

impl Clicks {
    /// A click on an ad so many seconds behind the beginning, as it stands in a log, and as JSON.
    fn line(&mut self, second: i64, is_json: bool) -> (String, String) {
        let (ad, user) = (format!("ad{:03}", second * second % 17), second % 7);
        let country = ["USA", "IND"][usize::from(second % 3 == 0)];
        let at = Timestamp::from_micros(self.begin.as_micros() + second * 1_000_000);
        let time = at.to_string().replace('T', " ").replace('Z', "");
        *self.all.counts.entry((at.minute(), ad.clone())).or_default() += 1;
        if country == "USA" {
            *self.usa.counts.entry((at.minute(), ad.clone())).or_default() += 1;
        }
        let line = if is_json {
            let click = serde_json::json!({
                "ad_id": ad, "click_timestamp": time, "user_id": format!("user {user}"), "ip": "207.148.22.22", "country": country
            });
            click.to_string()
        } else {
            format!("[AdClickEvent] {ad}, {time}, user {user}, 207.148.22.22, {country}")
        };
        (ad, line)
    }
}

#[test]
fn clicks_of_other_programs_in_several_topics_are_counted_as_any_others() {
    let kafka = Kafka::start(&kafka::Options::default()).unwrap();
    let site = Site::new(&configuration(&kafka));
    for command in [&["topics", "create"][..], &["define"]] {
        site.succeed(command, LONG);
    }
    // The last click is a minute old: its minute is over, and no clock is ahead.
    let begin = Timestamp::from_micros(wall_clock().as_micros() - 300_000_000);
    let mut clicks = Clicks { begin, all: Truth { counts: BTreeMap::new() }, usa: Truth { counts: BTreeMap::new() } };
    let stages: Vec<_> = STAGES[1..].iter().map(|stage| site.start(&[stage])).collect();
    // Kafka's clients choose a key's partition in two ways, according to the language that they are written in.
    for (topic, partitioner) in TOPICS.iter().zip(["murmur2_random", "consistent_random"]) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap())
            .set("partitioner", partitioner)
            .create()
            .unwrap();
        for second in (0..240).filter(|second| (second % 2 == 0) == (*topic == TOPICS[0])) {
            let (key, line) = clicks.line(second, second % 5 < 2);
            // Each fourth is sent twice, as a client does that had no answer.
            for _ in 0..1 + usize::from(second % 4 == 0) {
                producer.send(BaseRecord::to(topic).key(&key).payload(&line)).map_err(|(error, _)| error).unwrap();
            }
        }
        producer.send(BaseRecord::to(topic).key("x").payload("no click")).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let last: Minute = clicks.all.counts.keys().next_back().unwrap().0;
    wait_for("the last minute to be complete", LONG, || {
        let status = api.get("/v1/status");
        status["rankings_complete_until"].as_u64().filter(|until| *until > last.as_number())
    });
    let books = api.get("/v1/status")["books"].clone();
    for (name, expected) in [("lines", 302), ("counted", 240), ("duplicates", 60), ("late", 0), ("rejected", 2)] {
        assert_eq!(books[name], expected, "{name}: {books}");
    }
    assert_counts(&api, FilterId::ALL, &clicks.all);
    assert_counts(&api, FilterId(1), &clicks.usa);
    for stage in stages {
        assert!(stage.terminate(LONG).success());
    }
}
