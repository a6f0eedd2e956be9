//! `clickmill reconcile`, the real programs, on what was counted before.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clickmill_disk::with_small_disk;
use clickmill_generator::{Options, generate};
use clickmill_model::Timestamp;
use clickmill_tests::process::{Finished, LONG, Site, auditor};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};
use rusqlite::Connection;
use serde_json::{Value, json};

const FIRST: &str = "202101010000";
const END: &str = "202101010008";

/// Eight minutes of 2021, read to their end.
fn drained() -> Site {
    auditor();
    let site =
        Site::new(&[CONFIGURATION, FILTERS, "[reconcile]\nprice_per_click = 0.5\ncurrency = \"CHF\"\n"].concat());
    let options =
        Options { clicks: 20_000, ads: 100, minutes: 8, files: 2, duplicates: 0.03, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    site.succeed(&["up", "--drain"], LONG);
    site
}

fn reconcile(site: &Site, more: &[&str]) -> Finished {
    site.run(&[&["reconcile", "--from", FIRST, "--to", END], more].concat(), LONG)
}

fn code(finished: &Finished) -> i32 {
    finished.status.code().unwrap()
}

/// What is said on stderr must have all of these parts.
fn refused(finished: &Finished, status: i32, parts: &[&str]) {
    assert_eq!(code(finished), status, "{}{}", finished.stdout, finished.stderr);
    for part in parts {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
}

fn store(site: &Site) -> Connection {
    Connection::open(site.data().join("store/store.db")).unwrap()
}

fn raw_files(site: &Site) -> Vec<PathBuf> {
    let days = fs::read_dir(site.data().join("files/raw")).unwrap().map(|day| day.unwrap().path());
    let mut files: Vec<PathBuf> =
        days.flat_map(|day| fs::read_dir(day).unwrap().map(|file| file.unwrap().path())).collect();
    files.sort();
    files
}

#[test]
fn a_day_that_was_counted_right_is_proved_and_one_that_was_not_is_told_with_what_it_costs() {
    let site = drained();
    let reports = site.path().join("reports");
    let report = ["--report", reports.to_str().unwrap()];
    let clean = reconcile(&site, &report);
    assert_eq!(code(&clean), 0, "{}{}", clean.stdout, clean.stderr);
    assert!(clean.stdout.contains("(20000 clicks; "), "{}", clean.stdout);
    // The rankings of five minutes at 00:03 are gone, and so is a whole minute's count of filter 2.
    let db = store(&site);
    let minute = 26_824_320 + 3;
    let rankings = format!("DELETE FROM rankings WHERE window = 5 AND minute = {minute} AND filter = 1");
    assert_eq!(db.execute(&rankings, ()).unwrap(), 1);
    let counts = format!("DELETE FROM counts WHERE kind = 0 AND filter = 2 AND start = {}", minute + 1);
    assert!(db.execute(&counts, ()).unwrap() > 0);
    drop(db);
    let wrong = reconcile(&site, &[&report[..], &["--json", "--lines", "2"]].concat());
    assert_eq!(code(&wrong), 3, "{}", wrong.stderr);
    let found: Value = serde_json::from_str(&wrong.stdout).unwrap();
    assert_eq!(found["verdict"], "differs");
    let counts = found["counts"].as_array().unwrap();
    assert!(!counts.is_empty() && counts.iter().all(|c| c["kind"] == "missing" && c["filter"] == 2), "{counts:?}");
    assert!(counts.iter().all(|c| c["start"] == 202_101_010_004_u64 && c["stored"] == 0));
    // The ranking has no window that was counted wrongly, under its own filter.
    let only: Vec<&Value> =
        found["rankings"].as_array().unwrap().iter().filter(|r| r["kind"] == "ranking_only").collect();
    let expected = json!([[202_101_010_003_u64, 5, 1, null]]);
    assert_eq!(
        json!(only.iter().map(|r| json!([r["minute"], r["window"], r["filter"], r["stored"]])).collect::<Vec<_>>()),
        expected
    );
    let lines = found["lines_behind"].as_array().unwrap();
    assert!(lines.iter().all(|line| line["file"].as_str().unwrap().contains("clicks-0")), "{lines:?}");
    // The books of money go by filter 0, which is right.
    assert_eq!((&found["money"]["not_billed"], &found["money"]["currency"]), (&json!(0.0), &json!("CHF")));
    // Both are in the history, newest first on the page; the API tells the last.
    let history: Value = serde_json::from_slice(&fs::read(reports.join("history.json")).unwrap()).unwrap();
    let verdicts: Vec<&Value> = history["reports"].as_array().unwrap().iter().map(|r| &r["verdict"]).collect();
    assert_eq!(verdicts, ["agrees", "differs"]);
    let page = fs::read_to_string(reports.join("index.html")).unwrap();
    assert!(page.contains("Figures differ") && page.contains("Every figure is right") && !page.contains("<script"));
    let up = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let last = &up.get("/v1/status")["last_reconciliation"];
    assert_eq!((&last["verdict"], &last["from"]), (&json!("differs"), &json!(202_101_010_000_u64)));
    assert!(fs::read_to_string(last["report"].as_str().unwrap()).unwrap().contains("Figures differ"));
    assert!(up.metric("clickmill_reconcile_last_exceeds_threshold") > 0.0);
}

#[test]
fn a_repair_recalculates_what_differs_and_nothing_else_and_proves_it_again() {
    let site = drained();
    let db = store(&site);
    let lost = "DELETE FROM counts WHERE kind = 0 AND filter = 2 AND start IN (26824322, 26824323, 26824326)";
    assert!(db.execute(lost, ()).unwrap() > 0);
    drop(db);
    let repaired = reconcile(&site, &["--repair", "--json"]);
    assert_eq!(code(&repaired), 0, "{}{}", repaired.stdout, repaired.stderr);
    let found: Value = serde_json::from_str(&repaired.stdout).unwrap();
    assert_eq!((&found["verdict"], &found["repair"]["verdict_before"]), (&json!("agrees"), &json!("differs")));
    let spans = json!([[202_101_010_002_u64, 202_101_010_004_u64], [202_101_010_006_u64, 202_101_010_007_u64]]);
    assert_eq!(found["repair"]["spans"], spans);
    assert!(found["repair"]["before"]["missing"]["lacks"].as_u64().unwrap() > 0);
    let list = site.succeed(&["recalc", "list", "--json"], LONG);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert_eq!(code(&reconcile(&site, &[])), 0);
}

#[test]
fn surplus_clicks_are_told_in_money_and_may_be_tolerated() {
    let site = drained();
    // Every count of a minute stands twice: under the minute behind the last too, which has none.
    let db = store(&site);
    let sql = "INSERT INTO counts SELECT revision, kind, filter, space, bucket, start + 1, block FROM counts WHERE kind = 0 AND filter = 0 AND start = 26824327";
    assert!(db.execute(sql, ()).unwrap() > 0);
    let sql = "INSERT OR REPLACE INTO progress SELECT revision, kind, partition, until + 2 FROM progress";
    assert!(db.execute(sql, ()).unwrap() > 0);
    drop(db);
    let span = ["reconcile", "--from", FIRST, "--to", "202101010009"];
    let surplus = site.run(&[&span[..], &["--json"]].concat(), LONG);
    assert_eq!(code(&surplus), 3, "{}", surplus.stderr);
    let found: Value = serde_json::from_str(&surplus.stdout).unwrap();
    let too_many = found["clicks"]["surplus"].as_u64().unwrap();
    assert!(too_many > 1000 && found["clicks"]["lacks"] == 0, "{}", found["clicks"]);
    assert_eq!(found["money"]["billed_too_much"].as_f64().unwrap(), too_many as f64 / 2.0);
    assert!(found["counts"].as_array().unwrap().iter().all(|c| c["kind"] == "surplus"));
}

#[test]
fn wrong_usage_and_spans_that_cannot_be_are_refused_with_the_reason() {
    let site = drained();
    let run = |args: &[&str]| site.run(&[&["reconcile"], args].concat(), LONG);
    refused(&run(&[]), 2, &["--date"]);
    refused(&run(&["--from", END, "--to", FIRST]), 2, &["the first minute must be before the last"]);
    refused(&run(&["--from", "2021", "--to", END]), 2, &["2021", "yyyyMMddHHmm"]);
    refused(&run(&["--date", "2021-02-30"]), 2, &["2021-02-30", "YYYY-MM-DD"]);
    refused(&run(&["--from", "209901010000", "--to", "209901010001"]), 2, &["yet to come"]);
    refused(&run(&["--date", "2021-01-01", "--from", FIRST, "--to", END]), 2, &["cannot be used with"]);
    refused(&run(&["--date", "2021-01-01", "--threshold", "2"]), 2, &["share"]);
    refused(&run(&["--date", "2021-01-01"]), 1, &["202101010008", "still open"]);
    site.configure(&[CONFIGURATION, FILTERS, "[reconcile]\nprice_per_click = -1\n"].concat());
    refused(&reconcile(&site, &[]), 2, &["reconcile.price_per_click"]);
    site.configure(&[CONFIGURATION, FILTERS, "[reconcile]\nprize = 1\n"].concat());
    refused(&reconcile(&site, &[]), 2, &["prize"]);
}

#[test]
fn raw_files_that_are_not_what_they_should_be_are_named_and_left_out_only_as_asked() {
    let site = drained();
    let file = raw_files(&site).remove(0);
    let good = fs::read(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let mut damaged = good.clone();
    // In the columns of clicks; what only says where a line came from is not read.
    damaged.iter_mut().skip(good.len() / 2).take(2000).for_each(|byte| *byte ^= 0x55);
    for (what, bytes) in
        [("empty", Vec::new()), ("", good[..good.len() / 2].to_vec()), ("", b"PAR1 or not".to_vec()), ("", damaged)]
    {
        fs::write(&file, bytes).unwrap();
        refused(&reconcile(&site, &[]), 1, &[&name, what, "--skip-damaged"]);
        let skipped = reconcile(&site, &["--skip-damaged", "--threshold", "1"]);
        assert_eq!(code(&skipped), 4, "{}{}", skipped.stdout, skipped.stderr);
        assert!(skipped.stdout.contains(&name), "{}", skipped.stdout);
    }
    fs::remove_file(&file).unwrap();
    refused(&reconcile(&site, &[]), 1, &["is missing", "the writer of raw lines"]);
    fs::write(&file, &good).unwrap();
    assert_eq!(code(&reconcile(&site, &[])), 0);
    // Of another program.
    let foreign = file.with_file_name("foreign.parquet");
    fs::copy(&file, &foreign).unwrap();
    assert_eq!(code(&reconcile(&site, &[])), 0, "a file whose lines another one holds is passed over");
    let text = String::from_utf8_lossy(&good).into_owned();
    assert!(text.contains("clickmill.format"));
    let strange: Vec<u8> = replace(&good, b"clickmill.format", b"otherprog.format");
    fs::write(&foreign, strange).unwrap();
    refused(&reconcile(&site, &[]), 1, &["foreign.parquet", "none of clickmill's files"]);
    fs::remove_file(&foreign).unwrap();
    for file in raw_files(&site) {
        fs::remove_file(file).unwrap();
    }
    refused(&reconcile(&site, &[]), 1, &["is missing"]);
}

fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[test]
fn a_report_folder_that_cannot_be_written_is_refused_and_a_full_disk_leaves_no_half_report() {
    let folder = tempfile::tempdir().unwrap();
    with_small_disk(folder.path(), 1, |_| {
        let site = drained();
        let file = site.path().join("a file");
        fs::write(&file, "").unwrap();
        refused(&reconcile(&site, &["--report", file.to_str().unwrap()]), 1, &["report folder", "a file"]);
        // Room for the look whether it can be written to, not for a report.
        fs::write(folder.path().join("other"), vec![0; (1 << 20) - (12 << 10)]).unwrap();
        let full = reconcile(&site, &["--report", folder.path().to_str().unwrap()]);
        refused(&full, 1, &["writing the report to", "No space left"]);
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = left.collect();
        left.sort();
        assert_eq!(left, [".lock", "other"]);
        fs::remove_file(folder.path().join("other")).unwrap();
        assert_eq!(code(&reconcile(&site, &["--report", folder.path().to_str().unwrap()])), 0);
    });
}
