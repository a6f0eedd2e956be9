//! `recalc --skip-damaged`.

use std::fs;
use std::path::PathBuf;

use clickmill_tests::process::Site;
use clickmill_tests::raw::parquet_files;
use serde_json::Value;

use crate::site::{END, FIRST, drained, listed, recalc, refused, states};

/// The raw files of the site, each with the number of lines in it, the largest last.
fn files(site: &Site) -> Vec<PathBuf> {
    let mut files = parquet_files(&site.data().join("files/raw"));
    files.sort_by_key(|path| fs::metadata(path).unwrap().len());
    files
}

#[test]
fn what_is_damaged_is_refused_or_passed_over_with_status_4_and_a_list() {
    let site = drained();
    let all = files(&site);
    assert!(all.len() > 1, "the others must have lines of every minute: {all:?}");
    let damaged = all[0].canonicalize().unwrap();
    let good = fs::read(&damaged).unwrap();
    fs::write(&damaged, &good[..good.len() / 2]).unwrap();
    refused(recalc(&site, FIRST, END, &[]), 1, damaged.to_str().unwrap());
    assert_eq!(listed(&site), Vec::<Value>::new());

    let dry = recalc(&site, FIRST, END, &["--dry-run", "--skip-damaged", "--json"]);
    assert_eq!(dry.status.code(), Some(4), "{}", dry.stderr);
    let summary: Value = serde_json::from_str(dry.stdout.lines().last().unwrap()).unwrap();
    let [left] = &summary["summary"]["left_out"].as_array().unwrap()[..] else { panic!("{summary}") };
    assert_eq!(left["path"], damaged.to_str().unwrap());
    assert!(left["topic"] == "ad-clicks" && left["partition"].is_u64(), "{left}");
    assert!(left["first_offset"].is_u64() && left["last_offset"].is_u64(), "{left}");
    assert_eq!(listed(&site), Vec::<Value>::new());

    let done = recalc(&site, FIRST, END, &["--skip-damaged"]);
    assert_eq!(done.status.code(), Some(4), "{}", done.stderr);
    let line = done.stdout.lines().next().unwrap();
    assert!(line.starts_with(&format!("left out: {}: ", damaged.display())), "{line}");
    assert!(line.contains("it may hold ad-clicks/") && line.contains(" offsets "), "{line}");
    assert!(done.stdout.lines().last().unwrap().starts_with("revision 1 is active"), "{}", done.stdout);
    assert!(done.stderr.contains("done without damaged or missing files of raw lines, as asked: 1"), "{}", done.stderr);
    assert_eq!(states(&site), ["active"]);

    fs::write(&damaged, good).unwrap();
    let whole = recalc(&site, FIRST, END, &["--skip-damaged"]);
    assert_eq!(whole.status.code(), Some(0), "{}", whole.stderr);
    assert!(!whole.stdout.contains("left out"), "{}", whole.stdout);
}
