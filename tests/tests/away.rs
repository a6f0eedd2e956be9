//! Cassandra is away, and then Kafka is, while clicks come: every process waits within bounds, and goes on by itself. The processes run on machines whose clocks are an hour apart from each other's.
//!
//! `CLICKMILL_TEST_AWAY_SECONDS=600 cargo test -p clickmill-tests --test away -- --nocapture` has each of them away for ten minutes.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Helpers of tests give up as tests do.

use std::thread;
use std::time::{Duration, Instant};

use clickmill_servers::{Cassandra, Kafka, cassandra, kafka};
use clickmill_tests::answers::{assert_everything, lines_so_far, wait_for_lines};
use clickmill_tests::preload::Preload;
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::stages::{GONE_WITHIN, STAGES};
use clickmill_tests::traffic::{FILTERS, Traffic, live, on_servers};

const LINES_PER_SECOND: u64 = 2000;

/// How much more memory a process may take because somebody is away.
const MORE_MEMORY: u64 = 128 << 20;

fn away() -> Duration {
    let seconds = std::env::var("CLICKMILL_TEST_AWAY_SECONDS").map_or(10, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// The largest memory of each process in a while in which none of them may end.
fn watch(stages: &mut [(&str, Running<'_>)], at_most: Duration, mut is_over: impl FnMut() -> bool) -> Vec<u64> {
    let until = Instant::now() + at_most;
    let mut largest = vec![0; stages.len()];
    while Instant::now() < until && !is_over() {
        for ((stage, process), largest) in stages.iter_mut().zip(&mut largest) {
            assert!(process.has_not_ended(), "{stage} ended:\n{}", process.stderr());
            *largest = process.memory_bytes().max(*largest);
        }
        thread::sleep(Duration::from_millis(200));
    }
    largest
}

fn assert_bounded(stages: &[(&str, Running<'_>)], before: &[u64], then: &[u64], who: &str) {
    for (((stage, _), before), then) in stages.iter().zip(before).zip(then) {
        println!("{who} away: {stage} took {} MiB before and {} MiB at most then", before >> 20, then >> 20);
        assert!(*then < before + MORE_MEMORY, "{who} away: {stage} took {before} bytes before and {then} then");
    }
}

#[test]
fn who_waits_for_a_server_that_is_away_takes_no_more_memory_and_goes_on_by_itself() {
    let (mut cassandra, mut kafka) = thread::scope(|scope| {
        let kafka = scope.spawn(|| Kafka::start(&kafka::Options::default()).unwrap());
        (Cassandra::start(&cassandra::Options::default()).unwrap(), kafka.join().unwrap())
    });
    let site = Site::new(&(on_servers(kafka.bootstrap(), 4, cassandra.addresses(), 1) + FILTERS));
    for command in [&["topics", "create"][..], &["schema", "create"], &["define"]] {
        site.succeed(command, LONG);
    }
    let traffic = Traffic::start(live(&site.logs(), LINES_PER_SECOND));
    let clock = Preload::clock();
    let start = |(stage, hours): (&'static str, i32)| {
        let mut command = site.command(&[stage]);
        clock.give_to(&mut command);
        command.env("SHIFT_SECONDS", (hours * 3600).to_string());
        (stage, site.serve_command(command, LONG))
    };
    let mut stages: Vec<(&str, Running<'_>)> = STAGES.into_iter().zip([1, -1, 0, 1, 1]).map(start).collect();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let complete = || api.get("/v1/status")["complete_until"].as_u64();
    let first = wait_for("a complete minute", LONG, complete);
    let before = watch(&mut stages, Duration::from_secs(5), || false);

    // The stream goes on to click-results; the writer waits.
    let lines = lines_so_far(&api);
    cassandra.kill(0).unwrap();
    let then = watch(&mut stages, away(), || false);
    assert_bounded(&stages, &before, &then, "Cassandra");
    let status = api.get("/v1/status");
    assert_eq!(status["store"], "unavailable", "{status}");
    let more = status["books"]["lines"].as_u64().unwrap() - lines;
    let expected = away().as_secs() * LINES_PER_SECOND;
    assert!(more > expected / 2, "{more} lines of about {expected} went through");
    cassandra.restart(0).unwrap();
    let back = Instant::now();
    wait_for("figures behind what was there before", LONG, || complete().filter(|until| *until > first));
    println!("Cassandra back: figures came {:?} later", back.elapsed());
    // What is written from now on bears a time before that of what is there.
    let (stage, writer) = stages.pop().unwrap();
    assert!(writer.terminate(GONE_WITHIN).success());
    stages.push(start((stage, -1)));

    // The log watcher holds its place in the files.
    let before = watch(&mut stages, Duration::from_secs(5), || false);
    kafka.kill(0).unwrap();
    let then = watch(&mut stages, away(), || false);
    assert_bounded(&stages, &before, &then, "Kafka");
    kafka.restart(0).unwrap();
    let back = Instant::now();
    wait_for_lines(&api, away().as_secs() * LINES_PER_SECOND, LONG + away());
    println!("Kafka back: what had waited went through {:?} later", back.elapsed());

    drop(api);
    let made = traffic.stop();
    for (stage, process) in stages {
        let log = process.log();
        let status = process.terminate(GONE_WITHIN);
        assert!(status.success(), "{stage}: {status}\n{}", log.read());
    }
    assert_everything(&site, &made, LONG + away());
}
