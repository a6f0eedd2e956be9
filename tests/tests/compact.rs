//! `clickmill raw compact`, the real program.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::fs;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, generate};
use clickmill_model::Timestamp;
use clickmill_tests::answers::lines_of_logs;
use clickmill_tests::process::{LONG, Site, auditor};
use clickmill_tests::raw::{assert_raw, parquet_files};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};

const SPAN: [&str; 4] = ["--from", "202101010000", "--to", "202101010008"];

#[test]
fn many_files_become_few_and_every_figure_stays() {
    auditor();
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let options = Options { clicks: 20_000, ads: 100, minutes: 8, files: 4, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    // The first three files in one drain, each further line in a drain of its own: each makes files.
    site.succeed(&["up", "--drain"], LONG);
    for n in 0..4 {
        let line = format!("[AdClickEvent] ad001, 2021-01-01 00:0{}:59, late {n}, 9.9.9.9, USA\n", n + 2);
        fs::write(site.logs().join(format!("late-{n}.log")), line).unwrap();
        site.succeed(&["up", "--drain"], LONG);
    }
    let [raw, late] = ["raw", "late"].map(|folder| site.data().join("files").join(folder));
    let before = parquet_files(&raw).len();
    assert_eq!(parquet_files(&late).len(), 4);
    let planned = site.succeed(&["raw", "compact", "--dry-run"], LONG);
    assert!(planned.contains("raw: ") && planned.contains(" files would become "), "{planned}");
    assert_eq!(parquet_files(&raw).len(), before);
    let done = site.succeed(&["raw", "compact"], LONG);
    let partitions = 4;
    let after = parquet_files(&raw).len();
    assert!(before > partitions && after <= partitions, "{before} files became {after}: {done}");
    // Some of the four late lines are of one partition.
    assert!(parquet_files(&late).len() < 4, "{done}");
    assert_raw(&site.data(), &lines_of_logs(&site.logs()));
    let again = site.succeed(&["raw", "compact"], LONG);
    assert!(again.contains("raw: 0 files written, 0 deleted"), "{again}");
    // The late clicks are what a recalculation brings, and an audit finds nothing after it.
    let told = site.succeed(&[&["recalc"][..], &SPAN].concat(), LONG);
    assert!(told.contains("20000 clicks before, 20004 now"), "{told}");
    let told = site.succeed(&[&["reconcile"][..], &SPAN].concat(), LONG);
    assert!(told.contains("(20004 clicks; "), "{told}");
}
