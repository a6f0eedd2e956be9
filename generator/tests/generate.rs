//! What is promised of the lines and their truth, checked by a reader that shares no code with the generator.
// Helpers of tests unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_generator::{GenerateError, Options, Start, Summary, TRUTH_FILE, Truth, generate, lines, lines_by_file};
use clickmill_model::{AdTable, Minute, Timestamp};

/// What a line says: ad, time as `yyyy-mm-dd hh:mm:ss`, user, address, country.
type Fields = (String, String, String, IpAddr, String);

fn read_line(line: &str) -> Fields {
    let fields: Vec<String> = match line.strip_prefix("[AdClickEvent] ") {
        Some(rest) => rest.split(", ").map(str::to_owned).collect(),
        None => {
            let inner = line.strip_prefix("{\"").unwrap().strip_suffix("\"}").unwrap();
            let (names, values): (Vec<&str>, Vec<&str>) =
                inner.split("\",\"").map(|member| member.split_once("\":\"").unwrap()).unzip();
            assert_eq!(names, ["ad_id", "click_timestamp", "user_id", "ip", "country"]);
            let mut values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            values[1] = values[1].replace('T', " ").replace('Z', "");
            values
        }
    };
    let [ad, time, user, ip, country] = fields.try_into().unwrap();
    (ad, time, user, ip.parse().unwrap(), country)
}

/// Seconds within a run that stays within one day.
fn second_of_day(time: &str) -> i64 {
    let [h, m, s] = time[11..].split(':').map(|n| n.parse::<i64>().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    h * 3600 + m * 60 + s
}

/// Rows of a truth by the lines alone, as they stand in `truth.csv`.
fn slow_truth<'a>(files: impl IntoIterator<Item = &'a str>) -> (BTreeMap<(String, String), u64>, u64, u64) {
    let mut seen = HashSet::new();
    let mut counts = BTreeMap::new();
    let (mut duplicates, mut json) = (0, 0);
    for line in files.into_iter().flat_map(str::lines) {
        let fields = read_line(line);
        json += u64::from(line.starts_with('{'));
        let minute: String = fields.1.chars().take(16).filter(char::is_ascii_digit).collect();
        let key = (minute, fields.0.clone());
        if seen.insert(fields) {
            *counts.entry(key).or_insert(0) += 1;
        } else {
            duplicates += 1;
        }
    }
    (counts, duplicates, json)
}

fn truth_rows(path: &Path) -> Vec<((String, String), u64)> {
    let text = fs::read_to_string(path).unwrap();
    let mut rows = text.lines();
    assert_eq!(rows.next(), Some("minute,ad_id,count"));
    rows.map(|row| {
        let [minute, ad, count] = row.split(',').collect::<Vec<_>>().try_into().unwrap();
        ((minute.to_owned(), ad.to_owned()), count.parse().unwrap())
    })
    .collect()
}

fn make(options: &Options) -> Summary {
    generate(options, no_clock, |_| (), &AtomicBool::new(false)).unwrap()
}

fn no_clock() -> Timestamp {
    Timestamp::EPOCH
}

/// The log files of a folder, by name.
fn logs(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

fn small(out: impl Into<PathBuf>) -> Options {
    Options {
        clicks: 40_000,
        ads: 500,
        minutes: 3,
        files: 3,
        duplicates: 0.05,
        disorder: Duration::from_secs(7),
        ..Options::new(out)
    }
}

#[test]
fn the_truth_is_what_a_slow_reader_counts() {
    let cases = [
        small(""),
        Options { minutes: 1, ..small("") },
        Options { duplicates: 1.0, ..small("") },
        Options { duplicates: 0.0, disorder: Duration::ZERO, files: 1, ..small("") },
        Options { disorder: Duration::ZERO, ..small("") },
        Options { disorder: Duration::from_secs(200), ..small("") },
        Options { ads: 1, ..small("") },
        Options { ads: 3_000_000, clicks: 5000, ..small("") },
        Options { clicks: 0, ..small("") },
        Options { clicks: 1, ..small("") },
        Options { clicks: 7, minutes: 1000, ..small("") },
        Options { seed: u64::MAX, ..small("") },
    ];
    for options in cases {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { out: folder.path().to_owned(), ..options };
        let summary = make(&options);
        let logs = logs(folder.path());
        let (counts, duplicates, json) = slow_truth(logs.values().map(String::as_str));
        assert_eq!(truth_rows(&folder.path().join(TRUTH_FILE)), counts.into_iter().collect::<Vec<_>>(), "{options:?}");
        assert_eq!(summary.clicks, options.clicks);
        assert_eq!(summary.duplicates, duplicates, "no two clicks are alike by accident");
        assert_eq!(summary.lines, options.clicks + duplicates);
        assert_eq!(summary.bytes, logs.values().map(|log| log.len() as u64).sum::<u64>());
        let expected = options.clicks as f64 * options.duplicates;
        assert!((duplicates as f64 - expected).abs() <= 5.0 * expected.sqrt(), "{duplicates}, not {expected}");
        assert!(duplicates < 100 || (duplicates / 5..duplicates / 3).contains(&json), "{json} of {duplicates}");
        assert_eq!(logs.len(), options.files as usize);
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_for_good() {
    let (bytes, truth) = lines(&small("")).unwrap();
    // Written down when it was made first: whoever changes it changes what every seed that was ever noted means.
    assert_eq!((bytes.len(), AdTable::hash(&bytes)), SMALL);
    assert_eq!(lines(&small("")).unwrap(), (bytes.clone(), truth));
    assert_ne!(lines(&Options { seed: 2, ..small("") }).unwrap().0, bytes);
}

const SMALL: (usize, u64) = (3_231_001, 15_314_223_763_703_361_917);

#[test]
fn memory_and_disk_hold_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    make(&options);
    let (files, truth) = lines_by_file(&options).unwrap();
    let on_disk: Vec<Vec<u8>> = logs(folder.path()).into_values().map(String::into_bytes).collect();
    assert!(files == on_disk);
    assert_eq!(truth, Truth::read(&folder.path().join(TRUTH_FILE)).unwrap());
    assert_eq!(truth.total(), options.clicks);
}

#[test]
fn lines_are_out_of_order_but_never_further_than_asked() {
    for seconds in [0, 1, 7, 45] {
        let options = Options { disorder: Duration::from_secs(seconds), duplicates: 0.2, ..small("") };
        let mut worst = 0;
        for file in lines_by_file(&options).unwrap().0 {
            let mut highest = i64::MIN;
            for line in std::str::from_utf8(&file).unwrap().lines() {
                let second = second_of_day(&read_line(line).1);
                highest = highest.max(second);
                worst = worst.max(highest - second);
            }
        }
        assert!(worst <= seconds as i64, "{worst} of {seconds}");
        assert!(worst + 1 >= seconds as i64, "only {worst} of {seconds}");
    }
}

#[test]
fn hot_ads_are_clicked_by_zipfs_law() {
    let options = Options { clicks: 300_000, ads: 1000, ..small("") };
    let mut by_ad = BTreeMap::new();
    for ((_, ad), count) in lines(&options).unwrap().1.counts {
        *by_ad.entry(ad).or_insert(0) += count;
    }
    // The harmonic number of 1000 is 7.4855.
    for (ad, rank) in [("ad0001", 1.0), ("ad0002", 2.0), ("ad0010", 10.0), ("ad0100", 100.0)] {
        let expected = 300_000.0 / 7.4855 / rank;
        let count = by_ad[ad] as f64;
        assert!((count - expected).abs() < 5.0 * expected.sqrt(), "{ad}: {count}, not {expected}");
    }
}

#[test]
fn pace_and_rotation_change_where_files_are_cut_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        clicks: 20_000,
        rate: Some(200_000),
        rotate_lines: Some(1500),
        disorder: Duration::from_secs(40),
        ..small(folder.path())
    };
    let began = Instant::now();
    make(&options);
    assert!(began.elapsed() >= Duration::from_millis(80), "20,000 lines at 200,000 a second");
    let logs = logs(folder.path());
    let (files, truth) = lines_by_file(&options).unwrap();
    assert!(logs.len() >= 12, "{:?}", logs.keys());
    for (number, file) in files.iter().enumerate() {
        // `clicks-00.000001.log` and its followers come in order; `clicks-00.log` is the newest and sorts behind them.
        let parts: Vec<&String> = logs
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("clicks-{number:02}.")))
            .map(|(_, log)| log)
            .collect();
        let (newest, rotated) = parts.split_last().unwrap();
        assert!(rotated.iter().all(|log| log.lines().count() == 1500));
        assert!(newest.lines().count() < 1500);
        assert!(parts.into_iter().map(String::as_str).collect::<String>().as_bytes() == file, "file {number}");
    }
    assert_eq!(truth, Truth::read(&folder.path().join(TRUTH_FILE)).unwrap());
}

#[test]
fn old_files_go_where_few_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    make(&Options { files: 1, rotate_lines: Some(10_000), keep_rotated: Some(2), ..small(folder.path()) });
    let names: Vec<String> = logs(folder.path()).into_keys().collect();
    assert_eq!(names, ["clicks-00.000003.log", "clicks-00.000004.log", "clicks-00.log"]);
}

struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The log files of a folder in which files are being renamed: as they were between two renames.
fn steady_logs(folder: &Path, deadline: Instant) -> BTreeMap<String, String> {
    let names = || {
        let mut names: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|e| e == "log"));
        names.sort();
        names
    };
    loop {
        assert!(Instant::now() < deadline, "files are renamed all the time");
        let before = names();
        let read =
            before.iter().map(|path| Some((path.file_name()?.to_str()?.to_owned(), fs::read_to_string(path).ok()?)));
        if let Some(logs) = read.collect::<Option<_>>()
            && names() == before
        {
            return logs;
        }
    }
}

#[test]
fn live_clicks_happen_now_and_stop_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        clicks: u64::MAX,
        start: Start::Now { history: Duration::from_secs(600) },
        rate: Some(200),
        rotate_lines: Some(5000),
        ..small(folder.path())
    };
    // A clock that runs sixty times too fast, so that minutes pass.
    let began = Instant::now();
    let first = Timestamp::from_secs(1_700_000_000);
    let now = || first.after(began.elapsed() * 60);
    let stop = AtomicBool::new(false);
    let early = first.before(Duration::from_secs(600));
    let truth_file = folder.path().join(TRUTH_FILE);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| generate(&options, now, |_| (), &stop).unwrap());
        let stops = StopsWhenDropped(&stop);
        let deadline = Instant::now() + Duration::from_secs(30);
        let rows = loop {
            if fs::metadata(&truth_file).is_ok_and(|file| file.len() > 1000) {
                break truth_rows(&truth_file);
            }
            assert!(Instant::now() < deadline && !run.is_finished(), "no truth while it runs");
            std::thread::sleep(Duration::from_millis(10));
        };
        // A kill at this very moment must leave a truth that is right for the minutes in it.
        let at_kill = steady_logs(folder.path(), deadline);
        let whole_lines = at_kill.values().map(|log| &log[..log.rfind('\n').map_or(0, |end| end + 1)]);
        let last = rows.last().unwrap().0.0.clone();
        let (counts, ..) = slow_truth(whole_lines);
        let known: Vec<_> = counts.into_iter().filter(|((minute, _), _)| *minute <= last).collect();
        assert!(rows == known, "the truth of a killed run");
        drop(stops);
        let summary = run.join().unwrap();
        assert!(summary.clicks > 100_000, "{summary:?}");
    });
    let logs = logs(folder.path());
    let (counts, ..) = slow_truth(logs.values().map(String::as_str));
    assert!(truth_rows(&truth_file).into_iter().eq(counts.clone()));
    let first_minute = counts.keys().next().unwrap().0.clone();
    assert_eq!(first_minute, early.minute().to_string());
    let last_minute = Minute::parse(&counts.keys().next_back().unwrap().0).unwrap();
    assert!(last_minute.start() <= now() && last_minute > early.minute().plus(10));
}

#[test]
fn what_is_there_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    make(&small(folder.path()));
    let before = logs(folder.path());
    let error = generate(&small(folder.path()), no_clock, |_| (), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, GenerateError::File { .. }), "{error}");
    assert!(error.to_string().contains("clicks-00.log"), "{error}");
    assert!(before == logs(folder.path()));
}

#[test]
fn options_that_cannot_be_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |options: Options, name: &str| {
        let error = generate(&options, no_clock, |_| (), &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, GenerateError::BadOption { option, .. } if option.contains(name)), "{error}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    };
    let base = || small(folder.path());
    check(Options { ads: 0, ..base() }, "ads");
    check(Options { ads: 10_000_001, ..base() }, "ads");
    check(Options { files: 0, ..base() }, "files");
    check(Options { duplicates: -0.1, ..base() }, "duplicates");
    check(Options { duplicates: f64::NAN, ..base() }, "duplicates");
    check(Options { rate: Some(0), ..base() }, "rate");
    check(Options { minutes: 0, ..base() }, "minutes");
    check(Options { clicks: u64::MAX, ..base() }, "clicks");
    check(Options { clicks: 1 << 40, minutes: 1, ..base() }, "clicks");
    check(Options { start: Start::Now { history: Duration::ZERO }, ..base() }, "start");
}
