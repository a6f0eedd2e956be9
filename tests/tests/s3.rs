//! Raw files in an object store, with the real programs.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests unwrap as tests do.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_generator::{Options, generate};
use clickmill_model::Timestamp;
use clickmill_s3::{ACCESS_KEY, BUCKET, Fault, S3, SECRET_KEY};
use clickmill_tests::answers::lines_of_logs;
use clickmill_tests::process::{Finished, LONG, Site, auditor};
use clickmill_tests::raw;
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};

const SPAN: [&str; 4] = ["--from", "202101010000", "--to", "202101010008"];

const CLICKS: u64 = 20_000;

/// Log files of eight minutes, and a configuration whose files go to a bucket.
fn site(s3: &S3) -> Site {
    let files = format!(
        "[files]\nurl = \"s3://{BUCKET}/prod/clicks\"\n[files.s3]\nendpoint = \"{}\"\nallow_http = true\ntimeout = \"2s\"\n",
        s3.endpoint()
    );
    let site = Site::new(&[CONFIGURATION, FILTERS, &files].concat());
    let options =
        Options { clicks: CLICKS, ads: 100, minutes: 8, files: 2, duplicates: 0.03, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    site
}

fn run_as(site: &Site, secret: &str, args: &[&str]) -> Finished {
    let mut command = site.command(args);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_REGION", "us-east-1");
    site.run_command(command, LONG)
}

fn run(site: &Site, args: &[&str]) -> Finished {
    let finished = run_as(site, SECRET_KEY, args);
    assert!(!finished.stderr.contains(SECRET_KEY) && !finished.stdout.contains(SECRET_KEY));
    finished
}

/// A command that must end with this status; what it told on both ways.
fn ends(site: &Site, args: &[&str], status: i32) -> String {
    let finished = run(site, args);
    assert_eq!(finished.status.code(), Some(status), "{args:?}: {}{}", finished.stdout, finished.stderr);
    [finished.stdout, finished.stderr].concat()
}

/// Demands that every line of the logs is in the bucket once.
fn check_raw(site: &Site, folder: &Path) {
    let mut found: Vec<Vec<u8>> = raw::read(folder).into_iter().map(|raw| raw.line).collect();
    found.sort();
    assert!(found == lines_of_logs(&site.logs()), "{} lines in the bucket", found.len());
}

fn with_span<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command][..], &SPAN, more].concat()
}

#[test]
fn all_that_is_done_with_raw_files_is_done_in_an_object_store() {
    auditor();
    let s3 = S3::start().unwrap();
    let site = site(&s3);
    ends(&site, &["up", "--drain"], 0);
    assert!(!site.data().join("files").exists());
    check_raw(&site, &s3.file("prod/clicks/raw"));
    let told = ends(&site, &with_span("recalc", &["--dry-run"]), 0);
    assert!(told.contains("nothing would change"), "{told}");
    ends(&site, &with_span("recalc", &[]), 0);
    let told = ends(&site, &with_span("reconcile", &[]), 0);
    assert!(told.contains("(20000 clicks; "), "{told}");
    // A file that was cut short is named, and nothing is counted without it.
    let [file, ..] = &raw::parquet_files(&s3.file("prod/clicks/raw"))[..] else { panic!("no files") };
    let good = std::fs::read(file).unwrap();
    std::fs::write(file, &good[..good.len() / 2]).unwrap();
    for command in ["recalc", "reconcile"] {
        let told = ends(&site, &with_span(command, &[]), 1);
        assert!(told.contains("s3://clicks/prod/clicks/raw/date=") && told.contains("cannot be read"), "{told}");
    }
}

#[test]
fn an_object_store_that_fails_for_a_while_delays_lines_and_loses_none() {
    for fault in [Fault::Status(503), Fault::LostAnswer, Fault::Slow(Duration::from_secs(3))] {
        let s3 = S3::start().unwrap();
        let site = site(&s3);
        s3.fail("PUT", "/raw/", fault, 0, 12);
        s3.fail("HEAD", "/raw/", Fault::Status(500), 0, 12);
        s3.fail("GET", "/raw/", Fault::CutBody, 0, 3);
        ends(&site, &["up", "--drain"], 0);
        check_raw(&site, &s3.file("prod/clicks/raw"));
    }
}

#[test]
fn an_object_store_that_is_away_is_told_and_nothing_is_begun() {
    auditor();
    let s3 = S3::start().unwrap();
    let site = site(&s3);
    ends(&site, &["up", "--drain"], 0);
    for fault in [Fault::Status(503), Fault::CutBody, Fault::HalfBody, Fault::Slow(Duration::from_secs(3))] {
        for command in ["recalc", "reconcile"] {
            s3.fail("GET", ".parquet", fault, 2, 10_000);
            // Asked to go on without damaged files too: these are none.
            let told = ends(&site, &with_span(command, &[]), 1);
            s3.heal();
            assert!(told.contains("s3://clicks/prod/clicks/raw/date="), "{fault:?}: {told}");
            assert!(!told.contains("cannot be read"), "{fault:?}: {told}");
        }
    }
    assert_eq!(ends(&site, &["recalc", "list", "--json"], 0).lines().filter(|line| line.starts_with('{')).count(), 0);
    ends(&site, &with_span("reconcile", &[]), 0);
}

#[test]
fn who_may_not_is_told_so_with_status_2() {
    auditor();
    let s3 = S3::start().unwrap();
    let site = site(&s3);
    let refused = |args: &[&str]| {
        let Finished { status, stderr, .. } = run_as(&site, "wrong-4712", args);
        assert_eq!(status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains("s3://clicks/prod/clicks") && stderr.contains("files.s3"), "{stderr}");
        assert!(!stderr.contains("4712"), "{stderr}");
    };
    refused(&["up", "--drain"]);
    ends(&site, &["up", "--drain"], 0);
    refused(&with_span("recalc", &[]));
    refused(&with_span("reconcile", &[]));
}
