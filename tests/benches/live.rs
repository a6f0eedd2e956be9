//! The running program under live traffic: CPU, memory, how soon a minute can be read, how long queries take, and how soon it has caught up after a kill.
//!
//! `cargo bench -p clickmill-tests --bench live -- [MINUTES] [LINES_A_SECOND]`, by default 10 minutes of 50,000 lines a second, of 100,000 ads.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::{Minute, Timestamp};
use clickmill_tests::process::{Running, Site, wait_for};
use clickmill_tests::stages::watch_a_minute;
use clickmill_tests::traffic::{CONFIGURATION, FILTERS, Traffic, steady, wall_clock};
use serde_json::Value;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// Requests a second, and over how many connections.
const REQUESTS: u64 = 1000;
const CONNECTIONS: u64 = 8;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let minutes = numbers.first().copied().unwrap_or(10);
    let rate = numbers.get(1).copied().unwrap_or(50_000);
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let traffic = Traffic::start(steady(&site.logs(), rate));
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    println!(
        "{rate} lines/s, {minutes} minutes; each minute: CPU of a core, memory, how long after its watermark it could be read"
    );
    let mut delays = Vec::new();
    for _ in 0..minutes {
        let (cpu, began) = (up.cpu_seconds(), Instant::now());
        delays.extend(watch_a_minute(&up, LONG));
        println!(
            "  {:4.0} % CPU  {:5} MB  {:4} ms",
            (up.cpu_seconds() - cpu) / began.elapsed().as_secs_f64() * 100.0,
            up.memory_bytes() / 1_000_000,
            delays.last().map_or(0, |delay: &Duration| delay.as_millis()),
        );
    }
    println!(
        "a minute could be read at most {} ms after its watermark",
        delays.iter().max().map_or(0, Duration::as_millis)
    );

    let count = |now: Minute| format!("/v1/ads/ad000001/aggregated_count?from={}&to={now}", now.plus(-60));
    report(&format!("count of 60 minutes, {REQUESTS} requests/s"), &load(&up, REQUESTS, 30, count));
    let popular = |now: Minute| format!("/v1/ads/popular_ads?from={}&to={now}", now.plus(-24 * 60));
    report("popular_ads of 24 hours, 50 requests/s", &load(&up, 50, 10, popular));

    let lines = lines_so_far(&up);
    up.kill();
    let began = Instant::now();
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    println!("after a SIGKILL at {lines} lines: ready after {:.1} s", began.elapsed().as_secs_f64());
    wait_for("it to catch up", LONG, || {
        let counts_again = lines_so_far(&up) > lines + rate;
        behind(&up).filter(|behind| counts_again && *behind < Duration::from_secs(7))
    });
    println!("caught up (a second of lines counted, watermark as before) after {:.1} s", began.elapsed().as_secs_f64());
    drop(up);
    let made = traffic.stop();
    println!("{} lines were written", made.lines);
}

/// How far the watermark is behind the clock.
fn behind(up: &Running<'_>) -> Option<Duration> {
    let delay = serde_json::from_str::<Value>(&up.try_get("/v1/status")?.1).ok()?["delay_seconds"].as_f64()?;
    Some(Duration::from_secs_f64(delay.max(0.0)))
}

fn lines_so_far(up: &Running<'_>) -> u64 {
    up.get("/v1/status")["books"]["lines"].as_u64().unwrap()
}

/// Sends requests at a fixed rate for so many seconds. Each is timed from when it was due, so that an answer that holds up others counts for all of them.
fn load(up: &Running<'_>, rate: u64, seconds: u64, path: impl Fn(Minute) -> String + Sync) -> Vec<Duration> {
    let address = up.address().trim_start_matches("http://");
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = TcpStream::connect(address).unwrap();
                    connection.set_nodelay(true).unwrap();
                    let mut times = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= rate * seconds {
                            return times;
                        }
                        let due = began + Duration::from_secs_f64(number as f64 / rate as f64);
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let now: Timestamp = wall_clock();
                        if !ask(&mut connection, &path(now.minute())) {
                            failed.store(true, Ordering::Relaxed);
                        }
                        times.push(due.elapsed());
                    }
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(!failed.into_inner(), "an answer was not 200");
    all.sort_unstable();
    all
}

/// One request over a connection that stays. True where the answer is 200.
fn ask(connection: &mut TcpStream, path: &str) -> bool {
    write!(connection, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let read = connection.read(&mut buffer).unwrap();
        assert!(read > 0, "the connection was closed");
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or_else(|| panic!("no length: {head}")) {
            return head.starts_with("HTTP/1.1 200");
        }
    }
}

fn report(what: &str, times: &[Duration]) {
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, most {:.1} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
