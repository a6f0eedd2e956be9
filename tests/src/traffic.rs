//! Live traffic with a known truth, written while a test does its worst to the program.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickmill_generator::{GenerateError, Options, Start, Summary, generate};
use clickmill_model::Timestamp;

/// One watcher of a site's logs, whose lines are out of order by five seconds at most.
pub const CONFIGURATION: &str = r#"
[input]
logs = ["logs/*.log"]
source = "test"

[time]
max_disorder = "5s"
"#;

/// Three filters as a configuration has them, each of which matches some of the clicks.
pub const FILTERS: &str = r#"
[[filter]]
id = 1
name = "USA"
country = ["USA"]

[[filter]]
id = 2
name = "neither USA nor India"
exclude_country = ["USA", "India"]

[[filter]]
id = 3
name = "two networks"
ip = ["207.148.0.0/16", "2001:db8:8::/45"]
"#;

/// [`CONFIGURATION`] and [`FILTERS`] with the queue of these brokers, for stages that are processes of their own. Further tables, such as `[store]`, may be put behind it.
pub fn on_kafka(brokers: &str, partitions: u32) -> String {
    format!(
        r#"{CONFIGURATION}
[queue]
kind = "kafka"
brokers = "{brokers}"
partitions = {partitions}

[files]
shared = true

{FILTERS}"#
    )
}

/// [`CONFIGURATION`] with the queue of these brokers and the store of these nodes, each record and row in so many copies. Further tables may be put behind it.
pub fn on_servers(brokers: &str, partitions: u32, nodes: &[String], copies: u8) -> String {
    format!(
        r#"{CONFIGURATION}
[queue]
kind = "kafka"
brokers = "{brokers}"
partitions = {partitions}
replication = {copies}

[store]
kind = "cassandra"
nodes = {nodes:?}
replication = {copies}

[files]
shared = true
"#
    )
}

/// Lines that benchmarks measure by while they come: so many a second, of 100,000 ads, a little out of order and now and then told twice, in files that are renamed every minute.
pub fn steady(logs: &Path, rate: u64) -> Options {
    Options {
        clicks: u64::MAX,
        ads: 100_000,
        duplicates: 0.01,
        disorder: Duration::from_secs(3),
        start: Start::Now { history: Duration::ZERO },
        rate: Some(rate),
        rotate_lines: Some(rate * 60),
        ..Options::new(logs)
    }
}

/// A thread that writes log files until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Summary, GenerateError>>>,
}

/// What the machine's clock says.
pub fn wall_clock() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap())
}

/// Lines of now and of the 90 seconds before, without end, at so many a second; two files, each rotated by rename about every second.
pub fn live(folder: &Path, rate: u64) -> Options {
    Options {
        clicks: u64::MAX,
        ads: 200,
        files: 2,
        duplicates: 0.03,
        disorder: Duration::from_secs(2),
        start: Start::Now { history: Duration::from_secs(90) },
        rate: Some(rate),
        rotate_lines: Some(rate * 4 / 3),
        ..Options::new(folder)
    }
}

impl Traffic {
    /// Starts to write.
    pub fn start(options: Options) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || generate(&options, wall_clock, |_| (), &flag));
        Self { stop, thread: Some(thread) }
    }

    /// Ends it, and says what was written.
    ///
    /// # Panics
    /// Where it could not be written.
    pub fn stop(mut self) -> Summary {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
