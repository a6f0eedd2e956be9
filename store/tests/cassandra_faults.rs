//! The store on a Cassandra that asks for passwords and TLS, and on one that is killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::{FilterId, Minute, Partition};
use clickmill_servers::cassandra::{self, Cassandra};
use clickmill_servers::process::Signal;
use clickmill_store::cassandra::{Login, OpenError, Options, Replication, Tls, create_schema};
use clickmill_store::conformance::told::Told;
use clickmill_store::{AggregateStore, CassandraStore, MinuteRange, StoreError};

/// Longer than anything here takes, on a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(120);

fn options(cassandra: &Cassandra, copies: u32) -> Options {
    Options {
        nodes: cassandra.addresses().to_vec(),
        replication: Some(Replication::Everywhere(copies)),
        buckets: Some(8),
        ..Options::default()
    }
}

fn begin() -> Minute {
    Minute::parse("202101010000").unwrap()
}

/// Some ads in each of so many minutes.
fn told(minutes: i64) -> Told {
    let mut told = Told::new(2);
    told.publish(FilterId::ALL, Minute::MIN, None);
    for m in 0..minutes {
        for ad in 0..50 {
            told.add(begin().plus(m), &format!("ad{ad}"), FilterId::ALL, (m * 7 + ad).unsigned_abs() % 11 + 1);
        }
    }
    told
}

#[test]
fn passwords_and_certificates_are_checked_and_what_is_wrong_is_named() {
    let locked = cassandra::Options { passwords: true, tls: true, ..cassandra::Options::default() };
    let cassandra = Cassandra::start(&locked).unwrap();
    let login = |password: &str| Some(Login { user: "cassandra".into(), password: password.into() });
    let tls = |ca: &std::path::Path| Some(Tls { ca: ca.to_owned(), identity: None });
    let certificate = cassandra.certificate().unwrap();
    let right = Options { login: login("cassandra"), tls: tls(certificate), ..options(&cassandra, 1) };
    create_schema(&right, false).unwrap();
    let store = CassandraStore::open(&right).unwrap();
    let told = told(3);
    told.close(&store, begin(), begin().plus(3));
    told.check_counts(&store, FilterId::ALL, MinuteRange { from: begin(), to: begin().plus(3) });

    let folder = tempfile::tempdir().unwrap();
    let (empty, missing) = (folder.path().join("empty.pem"), folder.path().join("missing.pem"));
    std::fs::write(&empty, "").unwrap();
    let foreign = Cassandra::certificate_of_nobody(folder.path()).unwrap();
    for (wrong, parts) in [
        (Options { login: login("hunter2"), ..right.clone() }, &["store.user"][..]),
        (Options { login: None, ..right.clone() }, &["store.user", "store.password_file"]),
        (Options { tls: None, ..right.clone() }, &["store.nodes", "store.tls"]),
        (Options { tls: tls(&foreign), ..right.clone() }, &["store.tls", "certificate"]),
        (Options { tls: tls(&empty), ..right.clone() }, &["store.tls.ca", "empty.pem"]),
        (Options { tls: tls(&missing), ..right.clone() }, &["store.tls.ca", "missing.pem"]),
    ] {
        let error = CassandraStore::open(&wrong).unwrap_err();
        let said = format!("{error} {error:?}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// With three copies, two of three nodes are enough.
#[test]
fn of_three_nodes_one_may_be_away() {
    let three = cassandra::Options { nodes: 3, heap_mib: 448, ..cassandra::Options::default() };
    let mut cassandra = Cassandra::start(&three).unwrap();
    let options = options(&cassandra, 3);
    create_schema(&options, false).unwrap();
    let (writer, reader) = (CassandraStore::open(&options).unwrap(), CassandraStore::open(&options).unwrap());
    let told = told(120);
    let close = |from: i64, until: i64| {
        // Where the node dies under a request, the next try must succeed.
        for m in from..until {
            let deadline = Instant::now() + LONG;
            for partition in [Partition(0), Partition(1)] {
                let write = told.write(partition, begin().plus(m), begin().plus(m + 1));
                while let Err(error) = writer.write_closed(&write) {
                    assert!(matches!(error, StoreError::Unavailable { .. }) && Instant::now() < deadline, "{error}");
                }
            }
        }
    };
    let check = |until: i64| {
        let all = MinuteRange { from: begin(), to: begin().plus(until) };
        let deadline = Instant::now() + LONG;
        let progress = loop {
            match reader.progress() {
                Ok(progress) => break progress,
                Err(error) => assert!(Instant::now() < deadline, "two of three nodes do not answer: {error}"),
            }
        };
        assert_eq!(progress.counts_until(2), Some(all.to));
        told.check_counts(&reader, FilterId::ALL, all);
    };
    close(0, 30);
    check(30);
    cassandra.kill(1).unwrap();
    close(30, 60);
    check(60);
    cassandra.signal(2, Signal::STOP).unwrap();
    let lonely = told.write(Partition(0), begin().plus(60), begin().plus(61));
    assert!(matches!(writer.write_closed(&lonely), Err(StoreError::Unavailable { .. })), "one node is not enough");
    cassandra.signal(2, Signal::CONT).unwrap();
    cassandra.restart(1).unwrap();
    close(60, 90);
    // The one that has everything is away; the one that was away has what was written since, and the third has all.
    cassandra.kill(0).unwrap();
    check(90);
    close(90, 120);
    check(120);
}

#[test]
fn a_node_that_is_killed_while_figures_are_written_loses_none() {
    let mut cassandra = Cassandra::start(&cassandra::Options::default()).unwrap();
    let options = options(&cassandra, 1);
    create_schema(&options, false).unwrap();
    let (writer, reader) = (CassandraStore::open(&options).unwrap(), CassandraStore::open(&options).unwrap());
    const MINUTES: i64 = 400;
    let told = told(MINUTES);
    let written = AtomicI64::new(0);
    let refused = AtomicI64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As the stage does it: what was not acknowledged is written again.
            let mut m = 0;
            while m < MINUTES && !stop.load(Ordering::SeqCst) {
                let (from, until) = (begin().plus(m), begin().plus(m + 1));
                let writes = [Partition(0), Partition(1)].map(|partition| told.write(partition, from, until));
                match writes.iter().try_for_each(|write| writer.write_closed(write)) {
                    Ok(()) => m += 1,
                    Err(StoreError::Unavailable { .. }) => {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => panic!("{error}"),
                }
                written.store(m, Ordering::SeqCst);
            }
        });
        let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
            let deadline = Instant::now() + LONG;
            while !is_so() {
                if Instant::now() > deadline {
                    stop.store(true, Ordering::SeqCst);
                    panic!("waited {LONG:?} for {what}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait_until("the first minutes", &|| written.load(Ordering::SeqCst) > 20);
        cassandra.kill(0).unwrap();
        let asked = Instant::now();
        assert!(matches!(reader.progress(), Err(StoreError::Unavailable { .. })));
        assert!(asked.elapsed() < Duration::from_secs(10), "who asks is not kept waiting: {:?}", asked.elapsed());
        wait_until("a refusal", &|| refused.load(Ordering::SeqCst) > 0);
        assert!(matches!(CassandraStore::open(&options), Err(OpenError::Unreachable { .. })));
        cassandra.restart(0).unwrap();
        wait_until("the writer to go on", &|| written.load(Ordering::SeqCst) > 100);
        // It hangs, and wakes.
        cassandra.signal(0, Signal::STOP).unwrap();
        let asked = Instant::now();
        assert!(matches!(reader.progress(), Err(StoreError::Unavailable { .. })));
        assert!(asked.elapsed() < Duration::from_secs(10), "who asks is not kept waiting: {:?}", asked.elapsed());
        cassandra.signal(0, Signal::CONT).unwrap();
        wait_until("the last minute", &|| written.load(Ordering::SeqCst) == MINUTES);
    });
    let all = MinuteRange { from: begin(), to: begin().plus(MINUTES) };
    let deadline = Instant::now() + LONG;
    while reader.progress().is_err() {
        assert!(Instant::now() < deadline, "the reader does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(reader.progress().unwrap().counts_until(2), Some(all.to));
    told.check_counts(&reader, FilterId::ALL, all);
    for from in [0, 1, 59, 60, 61, 130] {
        told.check_counts(&reader, FilterId::ALL, MinuteRange { from: begin().plus(from), ..all });
    }
}
