//! Three brokers and three nodes, each record and row in three copies: one machine of them after the other is lost and comes back. No process ends, nothing stops for longer than others need to take over, and nothing is
//! lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // Helpers of tests give up as tests do.

use std::thread;
use std::time::{Duration, Instant};

use clickmill_generator::{TRUTH_FILE, Truth};
use clickmill_servers::{Cassandra, Kafka, cassandra, kafka};
use clickmill_tests::answers::{assert_everything, wait_for_lines};
use clickmill_tests::process::{LONG, Running, Site};
use clickmill_tests::results::assert_results;
use clickmill_tests::stages::{GONE_WITHIN, STAGES};
use clickmill_tests::traffic::{Traffic, live, on_servers};
use serde_json::Value;

const COPIES: u8 = 3;

const PARTITIONS: u32 = 4;

/// How long a machine is away at least.
const AWAY: Duration = Duration::from_secs(15);

/// In what time others must have taken over what the lost machine did. The cluster itself takes nine seconds until it holds a broker for lost (`broker.session.timeout.ms`), and one or two more where that one led it;
/// the rest is for the clients, on a machine that is busy with something else.
const FAILOVER: Duration = Duration::from_secs(30);

/// The longest time in which something did not go on.
#[derive(Debug)]
struct Gap {
    since: Instant,
    longest: Duration,
}

impl Gap {
    fn new() -> Self {
        Self { since: Instant::now(), longest: Duration::ZERO }
    }

    /// Takes in whether it just went on.
    fn look(&mut self, goes_on: bool) {
        self.longest = self.longest.max(self.since.elapsed());
        if goes_on {
            self.since = Instant::now();
        }
    }
}

/// How many lines went through; `None` while nobody says so.
fn lines(api: &Running<'_>) -> Option<u64> {
    let (_, status) = api.try_get("/v1/status").filter(|(status, _)| *status == 200)?;
    serde_json::from_str::<Value>(&status).ok()?["books"]["lines"].as_u64()
}

/// Looks at the pipeline until `is_over`: how long no line went through, and how long no query was answered.
fn watch(api: &Running<'_>, mut is_over: impl FnMut() -> bool) -> (Duration, Duration) {
    let (mut told, mut answers) = (Gap::new(), Gap::new());
    let mut before = lines(api);
    while !is_over() {
        let now = lines(api);
        told.look(now > before);
        before = now.max(before);
        answers.look(api.try_get("/v1/ads/ad001/aggregated_count").is_some_and(|(status, _)| status == 200));
        thread::sleep(Duration::from_millis(50));
    }
    (told.longest, answers.longest)
}

#[test]
fn one_machine_of_three_after_the_other_is_lost_and_nothing_stops_for_longer_than_others_need_to_take_over() {
    let brokers = kafka::Options { brokers: COPIES.into(), ..kafka::Options::default() };
    let nodes = cassandra::Options { nodes: COPIES, heap_mib: 448, ..cassandra::Options::default() };
    let (mut cassandra, mut kafka) = thread::scope(|scope| {
        let kafka = scope.spawn(|| Kafka::start(&brokers).unwrap());
        (Cassandra::start(&nodes).unwrap(), kafka.join().unwrap())
    });
    let site = Site::new(&on_servers(kafka.bootstrap(), PARTITIONS, cassandra.addresses(), COPIES));
    for command in [&["topics", "create"][..], &["schema", "create"], &["define"]] {
        site.succeed(command, LONG);
    }
    let traffic = Traffic::start(live(&site.logs(), 500));
    let stages: Vec<(&str, Running<'_>)> = STAGES.iter().map(|stage| (*stage, site.start(&[stage]))).collect();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&api, 2000, LONG);

    for machine in 0..usize::from(COPIES) {
        kafka.kill(machine).unwrap();
        cassandra.kill(machine).unwrap();
        let until = Instant::now() + AWAY;
        let away = watch(&api, || Instant::now() > until);
        let back = thread::scope(|scope| {
            let broker = scope.spawn(|| {
                kafka.restart(machine).unwrap();
                kafka.wait_until_replicated().unwrap();
            });
            let node = scope.spawn(|| cassandra.restart(machine).unwrap());
            let back = watch(&api, || broker.is_finished() && node.is_finished());
            broker.join().unwrap();
            node.join().unwrap();
            back
        });
        println!(
            "machine {machine}: lines and answers stood still for {away:?} at most, while it came back for {back:?}"
        );
        for gap in [away.0, away.1, back.0, back.1] {
            assert!(gap < FAILOVER, "machine {machine}: {away:?}, {back:?}");
        }
        wait_for_lines(&api, 2000, LONG);
    }

    drop(api);
    let made = traffic.stop();
    for (stage, mut process) in stages {
        assert!(process.has_not_ended(), "{stage} ended:\n{}", process.stderr());
        let log = process.log();
        let status = process.terminate(GONE_WITHIN);
        assert!(status.success(), "{stage}: {status}\n{}", log.read());
    }
    assert_everything(&site, &made, LONG);
    assert_results(kafka.bootstrap(), PARTITIONS, &Truth::read(&site.logs().join(TRUTH_FILE)).unwrap());
}
