//! A writer is killed in the middle of its work, again and again: what is acknowledged is there, and progress never claims more than the figures.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clickmill_model::records::Ranking;
use clickmill_model::{Columns, FilterId, Minute, Partition, Revision, Span, SpanKind, Window};
use clickmill_store::embedded::{EmbeddedStore, Options};
use clickmill_store::{AggregateStore, ClosedWrite, MinuteRange, RankedWrite, StoredRanking, View};

/// Names the folder to the writer that this test starts itself as.
const DIR: &str = "CLICKMILL_STORE_CRASH_DIR";
const ADS: u64 = 6000;
/// Minutes that the writer would write if nobody killed it.
const MINUTES: i64 = 100_000;

fn begin() -> Minute {
    Minute::parse("202101010000").unwrap()
}

/// Clicks of an ad in a minute. In each minute some ads are there for the first time.
fn clicks(minute: i64, ad: u64) -> u64 {
    if ad >= 100 + minute.unsigned_abs() * 40 { 0 } else { (minute.unsigned_abs() * 7 + ad * 13) % 5 }
}

fn columns(span: Span) -> Columns {
    let first = span.start.minus(begin());
    let mut columns = Columns::new(span, vec![FilterId::ALL]);
    for ad in 0..ADS {
        let count: u64 = (first..first + span.kind.minutes()).map(|minute| clicks(minute, ad)).sum();
        if count > 0 {
            columns.ads.push(format!("ad{ad}").as_bytes());
            columns.counts[0].push(count);
        }
    }
    columns
}

fn ranking(minute: i64) -> Ranking {
    let ads = (0..3).map(|ad| (format!("ad{}", minute * 3 + ad), 9)).collect();
    let (filter, window) = (FilterId::ALL, Window(5));
    Ranking { filter, window, minute: begin().plus(minute), whole: false, complete: true, ads }
}

/// Not a test of its own: the process that is killed. It goes on where the store says it stands, and says each minute that was acknowledged.
#[test]
fn a_writer_that_is_killed() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = EmbeddedStore::open(Path::new(&dir), Options::default()).unwrap();
    let progress = store.progress().unwrap();
    let first = progress.counts_until(1).into_iter().chain(progress.rankings_until(1)).min().unwrap_or(begin());
    let (revision, partition) = (Revision::STREAM, Partition(0));
    for minute in first.minus(begin())..MINUTES {
        let at = begin().plus(minute);
        let mut counts = vec![(columns(Span::minute(at)), Some(at.end()))];
        let hour = Span::holding(SpanKind::Hour, at);
        if hour.last() == at {
            counts.push((columns(hour), Some(at.end())));
        }
        store.write_closed(&ClosedWrite { revision, partition, counts, until: at.next(), filters: vec![] }).unwrap();
        let rankings = vec![(ranking(minute), None)];
        store.write_ranked(&RankedWrite { revision, partition, rankings, until: at.next() }).unwrap();
        println!("\nacknowledged {minute}");
        std::io::stdout().flush().unwrap();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a writer until it has acknowledged that many minutes and some time more has passed. Returns the last minute that it acknowledged.
fn run_and_kill(dir: &Path, minutes: usize, more: Duration) -> i64 {
    let mut child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_that_is_killed", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let number = |line: String| line.strip_prefix("acknowledged ").and_then(|minute| minute.parse::<i64>().ok());
    let mut last = (&mut lines).map_while(Result::ok).filter_map(number).nth(minutes).expect("the writer writes");
    let end = Instant::now() + more;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    drop(child);
    for line in lines.map_while(Result::ok) {
        last = number(line).unwrap_or(last);
    }
    last
}

#[test]
fn after_a_kill_at_any_moment_progress_never_claims_more_than_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let ads: Vec<String> = (0..ADS).map(|ad| format!("ad{ad}")).collect();
    let ads: Vec<&str> = ads.iter().map(String::as_str).collect();
    // One reader stays through all of it, in a process of its own as far as the writers know.
    let beside = EmbeddedStore::open_read_only(dir.path(), Options::default()).unwrap();
    for round in 0..12_u64 {
        let acknowledged =
            run_and_kill(dir.path(), 2 + round as usize % 4, Duration::from_micros(round * round * 97 % 9000));
        let fresh = EmbeddedStore::open_read_only(dir.path(), Options::default()).unwrap();
        for store in [&beside, &fresh] {
            let progress = store.progress().unwrap();
            let (counts, rankings) = (progress.counts_until(1).unwrap(), progress.rankings_until(1).unwrap());
            assert!(counts > begin().plus(acknowledged) && rankings > begin().plus(acknowledged), "round {round}");
            let told = counts.minus(begin());
            let expected: Vec<u64> = (0..ADS).map(|ad| (0..told).map(|minute| clicks(minute, ad)).sum()).collect();
            let range = MinuteRange { from: begin(), to: counts };
            assert_eq!(store.counts(&View::STREAM, &ads, FilterId::ALL, range).unwrap(), expected, "round {round}");
            let which: Vec<_> = (0..rankings.minus(begin())).map(|minute| (Window(5), begin().plus(minute))).collect();
            let expected: Vec<_> =
                (0..rankings.minus(begin())).map(|minute| StoredRanking::Here(ranking(minute))).collect();
            assert_eq!(store.rankings(&View::STREAM, FilterId::ALL, &which).unwrap(), expected, "round {round}");
            // Nothing of what was not acknowledged yet is half there.
            let behind = MinuteRange { from: counts, to: counts.plus(10) };
            assert_eq!(store.top(&View::STREAM, FilterId::ALL, behind, 1).unwrap(), Some(vec![]), "round {round}");
        }
    }
}
