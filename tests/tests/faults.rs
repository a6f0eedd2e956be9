//! What a running `clickmill up` does when the machine fails it: a full disk, a read-only one, files that are newer or damaged. It says so by the file's name, keeps what was acknowledged, and
//! goes on when the cause is gone.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::fs;
use std::path::{Path, PathBuf};

use clickmill_disk::with_small_disk;
use clickmill_generator::{Options, Summary, generate};
use clickmill_model::Timestamp;
use clickmill_tests::answers::{assert_everything, lines_so_far, wait_for_lines};
use clickmill_tests::process::{Finished, LONG, Running, Site, wait_for};
use clickmill_tests::traffic::{CONFIGURATION, Traffic, live};
use serde_json::Value;

/// The data folder, as the program knows it.
const DATA: &str = "clickmill-data";

const UP: [&str; 3] = ["up", "--listen", "127.0.0.1:0"];

/// Waits until a stage says that it waits, and why: each of `parts` in it.
fn wait_for_trouble(up: &Running<'_>, parts: &[&str], trouble: impl Fn()) {
    wait_for(&format!("a stage to say {parts:?}"), LONG, || {
        trouble();
        let status = up.get("/v1/status");
        let waits = |stage: &Value| {
            let detail = stage["detail"].as_str().unwrap_or_default();
            stage["state"] == "waiting" && parts.iter().all(|part| detail.contains(part))
        };
        status["stages"].as_array().unwrap().iter().any(waits).then_some(())
    });
}

/// What it ends with where another start may succeed.
const FAILED: i32 = 1;

/// What it ends with where another start would find the same.
const REFUSED: i32 = 2;

/// It ended so, with an error that has each of `parts`, and did not panic.
fn assert_ended(finished: &Finished, status: i32, parts: &[&str]) {
    assert_eq!(finished.status.code(), Some(status), "{}", finished.stderr);
    let last = finished.stderr.lines().rev().find(|line| line.starts_with("clickmill: ")).unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{last:?} does not say {part:?}");
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

#[test]
fn a_full_disk_is_named_and_when_there_is_room_again_nothing_is_missing() {
    let site = Site::new(CONFIGURATION);
    fs::create_dir(site.data()).unwrap();
    with_small_disk(&site.data(), 64, |disk| {
        let traffic = Traffic::start(live(&site.logs(), 2000));
        let up = site.serve(&UP, LONG);
        wait_for_lines(&up, 3000, LONG);
        // Again and again: what is deleted meanwhile would make room.
        wait_for_trouble(&up, &["queue.db", "full"], || disk.fill());
        // What was answered before still is.
        let before = lines_so_far(&up);
        assert!(before >= 3000 && up.try_get("/v1/ads/popular_ads").unwrap().0 == 200);
        disk.make_room();
        wait_for_lines(&up, 5000, LONG);
        let made = traffic.stop();
        wait_for("every line to be read", LONG, || (lines_so_far(&up) == made.lines).then_some(()));
        assert!(up.terminate(LONG).success());
        assert_everything(&site, &made, LONG);
    });
}

#[test]
fn a_disk_that_is_full_when_it_starts_is_named_and_later_it_starts() {
    let site = Site::new(CONFIGURATION);
    fs::create_dir(site.data()).unwrap();
    with_small_disk(&site.data(), 64, |disk| {
        let made = some_clicks(&site);
        disk.fill();
        assert_ended(&site.run(&["up", "--drain"], LONG), FAILED, &[DATA, "No space"]);
        disk.make_room();
        let summary = site.succeed(&["up", "--drain"], LONG);
        assert!(summary.starts_with(&format!("{} lines", made.lines)), "{summary}");
    });
}

#[test]
fn a_read_only_folder_is_named_and_when_it_can_be_written_the_run_goes_on() {
    let site = Site::new(CONFIGURATION);
    fs::create_dir(site.data()).unwrap();
    with_small_disk(&site.data(), 64, |disk| {
        let traffic = Traffic::start(live(&site.logs(), 2000));
        let up = site.serve(&UP, LONG);
        wait_for_lines(&up, 5000, LONG);
        assert!(up.terminate(LONG).success());
        disk.read_only(true);
        assert_ended(&site.run(&UP, LONG), FAILED, &[DATA, "Read-only"]);
        disk.read_only(false);
        let up = site.serve(&UP, LONG);
        wait_for_lines(&up, 3000, LONG);
        let made = traffic.stop();
        wait_for("every line to be read", LONG, || (lines_so_far(&up) == made.lines).then_some(()));
        assert!(up.terminate(LONG).success());
        assert_everything(&site, &made, LONG);
    });
}

/// Ten thousand clicks of two minutes in a file, the same each time.
fn some_clicks(site: &Site) -> Summary {
    let options = Options { clicks: 10_000, ads: 50, minutes: 2, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &std::sync::atomic::AtomicBool::new(false)).unwrap()
}

/// Runs a site under traffic, ends it, has `spoil` do something to a file of it, demands that `up` refuses with each of `parts`, undoes what was done, and demands every figure.
fn check_refused(file: &str, spoil: impl Fn(&Path), parts: &[&str]) {
    let site = Site::new(CONFIGURATION);
    let traffic = Traffic::start(live(&site.logs(), 2000));
    let up = site.serve(&UP, LONG);
    wait_for_lines(&up, 3000, LONG);
    assert!(up.terminate(LONG).success());
    let path = site.data().join(file);
    let good = fs::read(&path).unwrap();
    spoil(&path);
    let spoilt = fs::read(&path).unwrap();
    assert_ended(&site.run(&UP, LONG), REFUSED, &[&[format!("{DATA}/{file}").as_str()], parts].concat());
    assert!(fs::read(&path).unwrap() == spoilt, "a file that is refused is left alone");
    fs::write(&path, good).unwrap();
    let up = site.serve(&UP, LONG);
    wait_for_lines(&up, 3000, LONG);
    let made = traffic.stop();
    wait_for("every line to be read", LONG, || (lines_so_far(&up) == made.lines).then_some(()));
    assert!(up.terminate(LONG).success());
    assert_everything(&site, &made, LONG);
}

fn write_version(database: &Path) {
    rusqlite::Connection::open(database).unwrap().pragma_update(None, "user_version", 99).unwrap();
}

/// Everything behind the first page is not what SQLite expects.
fn overwrite_pages(database: &Path) {
    let mut bytes = fs::read(database).unwrap();
    let page = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    assert!(bytes.len() > 3 * page, "{} is too small to be damaged like this", database.display());
    for (i, byte) in bytes.iter_mut().enumerate().skip(page) {
        *byte = (i * 31 % 251) as u8;
    }
    fs::write(database, bytes).unwrap();
}

#[test]
fn a_queue_of_a_newer_version_is_refused_by_name() {
    check_refused("queue/queue.db", write_version, &["newer clickmill"]);
}

#[test]
fn a_store_of_a_newer_version_is_refused_by_name() {
    check_refused("store/store.db", write_version, &["newer clickmill"]);
}

#[test]
fn a_damaged_queue_is_refused_by_name() {
    check_refused("queue/queue.db", overwrite_pages, &[]);
}

#[test]
fn a_damaged_store_is_refused_by_name() {
    check_refused("store/store.db", overwrite_pages, &[]);
}

fn raw_files(site: &Site) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for day in fs::read_dir(site.data().join("files/raw")).into_iter().flatten() {
        files.extend(fs::read_dir(day.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.sort();
    files
}

/// Kills drains between the moment when a file of raw lines appears and the one when its offsets are committed, until that has come to pass: the next run must rely on the file.
#[test]
fn a_raw_file_that_is_damaged_or_newer_stops_the_run_that_needs_it_and_is_named() {
    let site = Site::new(CONFIGURATION);
    let mut lines = 0;
    for attempt in 0..50 {
        let text: String = (0..2000)
            .map(|n| {
                format!("[AdClickEvent] ad{n}, 2021-01-01 0{}:00:01, user {attempt}, 1.2.3.4, USA\n", attempt % 10)
            })
            .collect();
        fs::write(site.logs().join(format!("{attempt}.log")), text).unwrap();
        lines += 2000;
        let before = raw_files(&site);
        let mut drain = site.start(&["up", "--drain"]);
        let appeared = loop {
            let after = raw_files(&site);
            if after.len() > before.len() {
                break after.into_iter().find(|file| !before.contains(file)).unwrap();
            }
            assert!(drain.has_not_ended(), "no file appeared: {}", drain.stderr());
        };
        drain.kill();
        let good = fs::read(&appeared).unwrap();
        let cut = &good[..good.len() / 2];
        fs::write(&appeared, cut).unwrap();
        let finished = site.run(&["up", "--drain"], LONG);
        if finished.status.success() {
            // It was killed too late.
            fs::write(&appeared, good).unwrap();
            continue;
        }
        assert_ended(&finished, REFUSED, &[appeared.to_str().unwrap()]);
        assert_eq!(fs::read(&appeared).unwrap(), cut, "it is left alone");
        let mut newer = good.clone();
        let key = b"clickmill.format";
        let at = newer.windows(key.len()).position(|window| window == key).unwrap();
        let digit = at + newer[at..].iter().position(|byte| *byte == b'1').unwrap();
        newer[digit] = b'9';
        fs::write(&appeared, &newer).unwrap();
        assert_ended(&site.run(&["up", "--drain"], LONG), REFUSED, &[appeared.to_str().unwrap(), "newer"]);
        fs::write(&appeared, good).unwrap();
        site.succeed(&["up", "--drain"], LONG);
        let raw = clickmill_tests::raw::read(&site.data().join("files/raw"));
        assert_eq!(raw.len(), lines, "each line once, and those of the file that was damaged too");
        let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
        assert_eq!(lines_so_far(&api), lines as u64);
        return;
    }
    panic!("no kill came between the file and the commit");
}

/// Where files belong, something else is in the way: a fault of the raw writer alone.
#[test]
fn a_folder_of_files_that_cannot_be_written_holds_up_no_figure_and_loses_no_line() {
    let site = Site::new(CONFIGURATION);
    let made = some_clicks(&site);
    fs::create_dir_all(site.data().join("files")).unwrap();
    let in_the_way = site.data().join("files/raw");
    fs::write(&in_the_way, "in the way").unwrap();
    let drain = site.start(&["up", "--drain"]);
    let named = in_the_way.to_str().unwrap();
    wait_for("the log to name the folder", LONG, || drain.stderr().contains(named).then_some(()));
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for("every line to be counted", LONG, || (lines_so_far(&api) == made.lines).then_some(()));
    fs::remove_file(&in_the_way).unwrap();
    let mut drain = drain;
    assert!(drain.wait(LONG).success(), "{}", drain.stderr());
    drop(api);
    clickmill_tests::raw::assert_raw(&site.data(), &clickmill_tests::answers::lines_of_logs(&site.logs()));
}
