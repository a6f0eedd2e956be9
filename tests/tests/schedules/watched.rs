//! Real log watchers before the pipeline: the schedules that begin with files.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_log_watcher::{Config, LiveReport, Watcher};
use clickmill_model::{Definition, FilterId, PartitionBy, TimeSettings, Timestamp, Watermark};
use clickmill_queue::{Progress, Stage};
use clickmill_store::{AggregateStore, MinuteRange, View};
use tempfile::TempDir;

use crate::words::definition;
use crate::world::{KINDS, World, at};

/// A day before the world begins.
const YESTERDAY: i64 = -86_400;

/// A world whose clicks come from files.
struct Watched {
    world: World,
    folder: TempDir,
    watchers: Vec<(Config, Watcher)>,
}

impl Watched {
    fn new(definition: Definition) -> Self {
        Self { world: World::new(definition), folder: tempfile::tempdir().unwrap(), watchers: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, lines: impl IntoIterator<Item = String>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        let mut file = std::io::BufWriter::new(file);
        for line in lines {
            writeln!(file, "{line}").unwrap();
        }
        file.flush().unwrap();
    }

    /// Starts a watcher of the logs in a folder.
    fn watch(&mut self, name: &str, max_ahead_bytes: u64) {
        let config = Config {
            patterns: vec![self.path(name).join("*.log*").to_str().unwrap().to_owned()],
            source: name.into(),
            topic: "ad-clicks".into(),
            partitions: self.world.partitions(),
            partition_by: PartitionBy::Identity,
            time: TimeSettings::default(),
            settle: Duration::from_secs(5),
            max_ahead_bytes,
            drain: false,
            live: LiveReport::default(),
        };
        let watcher = self.started(&config);
        self.watchers.push((config, watcher));
    }

    fn started(&self, config: &Config) -> Watcher {
        Watcher::start(Arc::new(self.world.queue.clone()), config.clone(), self.world.now()).unwrap()
    }

    /// Every watcher is killed and started anew.
    fn restart_watchers(&mut self) {
        let configs: Vec<Config> = self.watchers.drain(..).map(|(config, _)| config).collect();
        for config in configs {
            let watcher = self.started(&config);
            self.watchers.push((config, watcher));
        }
    }

    /// Each watcher takes a step, then each stage. True where a watcher did something.
    fn step(&mut self) -> bool {
        let now = self.world.now();
        let mut worked = false;
        for (_, watcher) in &mut self.watchers {
            worked |= watcher.step(now, Duration::ZERO).unwrap() == Progress::Worked;
        }
        self.world.look_at_all_raw();
        self.world.rest_now();
        worked
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.step();
            self.world.clock.advance(Duration::from_millis(250));
        }
    }

    /// Time passes until all watchers have come to the ends of their files and everything is out but the last minutes.
    fn read_all(&mut self) -> usize {
        let mut steps = 0;
        let is_behind = |world: &World| {
            world.watermark() == Watermark::NONE
                || world.now().since(world.watermark().time()) > Duration::from_secs(60)
        };
        while is_behind(&self.world) {
            self.step();
            self.world.clock.advance(Duration::from_millis(50));
            steps += 1;
            assert!(steps < 200_000, "it never catches up: {}", self.world.watermark());
        }
        self.world.rest();
        steps
    }

    fn count(&self, ad: &str, from: Timestamp, to: Timestamp) -> u64 {
        let range = MinuteRange { from: from.minute(), to: to.minute() };
        self.world.store.counts(&View::STREAM, &[ad], FilterId::ALL, range).unwrap()[0]
    }
}

fn click(ad: &str, seconds: i64, user: &str) -> String {
    let time = at(seconds).to_string().replace('T', " ").replace('Z', "");
    format!("[AdClickEvent] {ad}, {time}, {user}, 10.0.0.1, USA")
}

const YEARS_AGO: i64 = -5 * 365 * 86_400;

#[test]
fn schedule_07_a_file_that_is_copied_in_slowly_is_late_only_out_of_bounds_and_kept_for_repair() {
    let mut watched = Watched::new(definition(2));
    watched.watch("w", 64 << 20);
    // It runs for a while without a file.
    watched.pass(60);
    let old = |n: i64| click("old", YEARS_AGO + n * 60, "u");
    for n in 0..45 {
        // It never stands still for as long as `settle`, and not for longer than `source_timeout` in all.
        watched.append("w/old.log", [old(n)]);
        watched.pass(2);
    }
    watched.world.rest();
    watched.world.assert_nothing_late();
    watched.pass(10);
    watched.read_all();
    assert_eq!(watched.count("old", at(YEARS_AGO), at(YEARS_AGO + 3600)), 45);
    // The rest comes after a stall, and beside live traffic.
    let now = watched.world.seconds();
    watched.append("w/old.log", (45..60).map(old));
    watched.append("w/live.log", (0..20).map(|n| click("live", now - n, &format!("u{n}"))));
    watched.pass(100);
    watched.read_all();
    let model = watched.world.model();
    assert_eq!((watched.world.late().len(), model.late().len(), model.books().counted), (15, 15, 65));
    assert_eq!(watched.count("live", at(now - 60), at(now + 60)), 20, "live traffic does not suffer by it");
    watched.world.compare(&model, "beside the late ones");
    watched.world.flush(1);
    watched.world.compare_files(&model, "each line is there to be counted again");
}

#[test]
fn schedule_17_of_ten_files_of_one_day_only_minutes_are_open() {
    const EVERY: i64 = 6;
    let mut watched = Watched::new(definition(1));
    let per_file = 86_400 / EVERY;
    for file in 0..10 {
        let lines = (0..per_file).map(|n| click("ad", YEARS_AGO + n * EVERY, &format!("user {file}")));
        watched.append(&format!("w/{file}.log"), lines);
    }
    let file_bytes = std::fs::metadata(watched.path("w/0.log")).unwrap().len();
    watched.watch("w", 64 << 20);
    let mut most_open = 0;
    let began = Instant::now();
    while watched.step() || watched.world.watermark() == Watermark::NONE {
        watched.world.clock.advance(Duration::from_millis(50));
        most_open = most_open.max(watched.world.open_bytes());
        assert!(began.elapsed() < Duration::from_secs(120));
    }
    watched.read_all();
    watched.world.assert_nothing_late();
    assert_eq!(watched.count("ad", at(YEARS_AGO), at(YEARS_AGO + 86_400)), 10 * per_file as u64);
    // Each file is read a piece at a time; what lies between the slowest and the fastest of them is open.
    assert!(most_open < 3 * file_bytes, "{most_open} bytes were open at once, of files of {file_bytes} each");
}

#[test]
fn schedule_18_a_year_of_sparse_history_takes_seconds_with_one_watcher_and_with_two() {
    for names in [&["w1"][..], &["w1", "w2"]] {
        let mut watched = Watched::new(definition(2));
        for (i, name) in names.iter().enumerate() {
            let lines = (0..8760).map(|hour| click("ad", YEARS_AGO + hour * 3600 + 7 * i as i64, name));
            watched.append(&format!("{name}/a.log"), lines);
            watched.watch(name, 64 << 10);
        }
        let began = Instant::now();
        let steps = watched.read_all();
        watched.world.assert_nothing_late();
        let counted = watched.count("ad", at(YEARS_AGO), at(YEARS_AGO + 8761 * 3600));
        assert_eq!(counted, 8760 * names.len() as u64, "{names:?}");
        // A step here is 50 ms of time: it may not wait for anybody's timeout again and again.
        assert!(steps < 20 * 120 * 3, "{steps} steps");
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}

/// (That what the mapper must keep open stays bounded meanwhile, the watcher shows.)
#[test]
fn schedule_19_of_two_backlogs_beside_live_traffic_nothing_is_late() {
    let mut watched = Watched::new(definition(1));
    // The same ten hours; one has ten times as much to tell.
    for (name, every) in [("w1", 1), ("w2", 10)] {
        let lines = (0..360_000 / every).map(|n| click(name, YESTERDAY + n * every / 10, &format!("user {n}")));
        watched.append(&format!("{name}/a.log"), lines);
    }
    for name in ["w1", "w2", "live"] {
        watched.watch(name, 1 << 20);
    }
    let mut sent = 0;
    let began = Instant::now();
    while sent < 30 || watched.world.watermark() < Watermark::at(at(0)) {
        if watched.world.seconds() > sent {
            sent = watched.world.seconds();
            watched.append("live/a.log", [click("live", sent, &format!("u{sent}"))]);
        }
        watched.step();
        watched.world.clock.advance(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(120), "{}", watched.world.watermark());
    }
    watched.read_all();
    watched.world.assert_nothing_late();
    let of = |ad: &str| watched.count(ad, at(YESTERDAY), at(YESTERDAY + 36_000));
    assert_eq!((of("w1"), of("w2")), (360_000, 36_000));
}

#[test]
fn schedule_31_a_click_told_again_counts_once_wherever_and_however_it_is_told() {
    let text = |ip: &str, user: &str| format!("[AdClickEvent] ad, 2026-03-01 23:00:10, {user}, {ip}, USA");
    let json = |ip: &str, user: &str| {
        format!(
            r#"{{"country":"USA","ip":"{ip}","user_id":"{user}","click_timestamp":"2026-03-01T23:00:10Z","ad_id":"ad"}}"#
        )
    };
    let mut watched = Watched::new(definition(2));
    watched.watch("w", 64 << 20);
    let count = |watched: &Watched| watched.count("ad", at(0), at(60));
    let model = |watched: &Watched| watched.world.model().books();
    // In one record, as text and as JSON, with an address spelled otherwise; another user's is another click.
    let (short, long) = ("2001:db8::1", "2001:0DB8:0:0:0:0:0:1");
    watched.append("w/a.log", [text(short, "u"), text(short, "u"), json(long, "u"), text(long, "u"), text(short, "v")]);
    watched.pass(2);
    // Across records, and across files.
    watched.append("w/a.log", [text(long, "u")]);
    watched.pass(1);
    watched.append("w/b.log", [json(short, "u")]);
    watched.pass(1);
    assert_eq!((model(&watched).counted, model(&watched).duplicates), (2, 5));
    // Across a restart of everything.
    for kind in KINDS {
        watched.world.kill((kind, 0));
    }
    watched.restart_watchers();
    watched.append("w/b.log", [text(short, "u")]);
    watched.pass(1);
    // Across a rotation: the old file is not told again, the new one tells the click again.
    std::fs::rename(watched.path("w/a.log"), watched.path("w/a.log.1")).unwrap();
    watched.append("w/a.log", [text(short, "u")]);
    watched.pass(2);
    assert_eq!((model(&watched).counted, model(&watched).duplicates), (2, 7));
    // In another minute it is no duplicate.
    watched.append(
        "w/a.log",
        [text(short, "u").replace("23:00:10", "23:01:10"), text(short, "u").replace(":10,", ":11,")],
    );
    watched.pass(2);
    assert_eq!(model(&watched).counted, 4);
    // After its minute closed it is late, and not counted.
    watched.pass(150);
    watched.append("w/a.log", [text(short, "u")]);
    watched.pass(100);
    watched.read_all();
    let books = model(&watched);
    assert_eq!((books.lines, books.counted, books.duplicates, books.late), (12, 4, 7, 1));
    assert_eq!(watched.world.late().len(), 1);
    assert_eq!((count(&watched), watched.count("ad", at(60), at(120))), (3, 1));
    watched.world.compare(&watched.world.model(), "after all of it");
}
