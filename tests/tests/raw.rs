//! `clickmill raw`, the real program: small files are merged, and old log files are imported.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use clickmill_generator::{Options, TRUTH_FILE, Truth, generate};
use clickmill_model::{FilterId, Timestamp};
use clickmill_tests::answers::{assert_counts, lines_of_logs};
use clickmill_tests::process::{Finished, LONG, Site, auditor};
use clickmill_tests::raw::{assert_raw, parquet_files};
use clickmill_tests::steps::{Steps, copy_of, some_of};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};

const SPAN: [&str; 4] = ["--from", "202101010000", "--to", "202101010008"];

/// Eight minutes of 2021 in four files.
fn site() -> Site {
    auditor();
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let options = Options { clicks: 20_000, ads: 100, minutes: 8, files: 4, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    site
}

#[test]
fn many_files_become_few_and_every_figure_stays() {
    let site = site();
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

/// Killed before any of its steps, each line stays, and the next try does the rest.
#[test]
fn killed_before_any_step_a_compaction_loses_and_doubles_nothing() {
    let (steps, before) = (Steps::default(), site());
    before.succeed(&["up", "--drain"], LONG);
    for n in 0..2 {
        fs::write(
            before.logs().join(format!("more-{n}.log")),
            "[AdClickEvent] ad001, 2021-01-01 00:07:59, user, 9.9.9.9, USA\n",
        )
        .unwrap();
        before.succeed(&["up", "--drain"], LONG);
    }
    let lines = lines_of_logs(&before.logs());
    let names = |site: &Site| {
        let files = parquet_files(&site.data().join("files/raw"));
        files.iter().map(|path| path.strip_prefix(site.path()).unwrap().to_owned()).collect::<BTreeSet<PathBuf>>()
    };
    // Our own readers take each line once, whatever a foreign one would see; what comes of it is the late lines.
    let recount = |site: &Site| {
        let told = site.succeed(&[&["recalc", "--dry-run"][..], &SPAN].concat(), LONG);
        told.rsplit_once(", ").unwrap().0.to_owned() // How many files were read stands behind.
    };
    let after = copy_of(&before);
    let compaction = steps.count(&after, &["raw", "compact"]);
    assert!(names(&after).len() < names(&before).len());
    let mut killed = 0;
    for step in some_of(compaction, 20) {
        let site = copy_of(&before);
        killed += u32::from(steps.kill_at(step, &site, &["raw", "compact"]));
        assert_eq!(recount(&site), recount(&before), "step {step} of {compaction}");
        site.succeed(&["raw", "compact"], LONG);
        assert_raw(&site.data(), &lines);
        assert_eq!(names(&site), names(&after), "step {step} of {compaction}");
    }
    assert!(killed > 15, "{killed}");
}

#[test]
fn killed_before_any_step_an_import_is_done_by_the_next_try() {
    let (steps, before) = (Steps::default(), site());
    let old = before.path().join("old");
    fs::rename(before.logs(), &old).unwrap();
    fs::create_dir(before.logs()).unwrap();
    fs::write(before.logs().join("a.log"), "[AdClickEvent] ad001, 2021-01-01 00:07:59, user, 9.9.9.9, USA\n").unwrap();
    before.succeed(&["up", "--drain"], LONG);
    let mut lines = [lines_of_logs(&before.logs()), lines_of_logs(&old)].concat();
    lines.sort_unstable();
    let logs: Vec<String> = (0..4).map(|n| format!("old/clicks-{n:02}.log")).collect();
    let import: Vec<&str> = ["raw", "import"].into_iter().chain(logs.iter().map(String::as_str)).collect();
    let after = copy_of(&before);
    let steps_of_import = steps.count(&after, &import);
    assert_raw(&after.data(), &lines);
    let mut killed = 0;
    for step in some_of(steps_of_import, 20) {
        let site = copy_of(&before);
        killed += u32::from(steps.kill_at(step, &site, &import));
        site.succeed(&import, LONG);
        assert_raw(&site.data(), &lines);
        let listed = site.succeed(&["raw", "import", "--list"], LONG);
        assert!(
            listed.lines().count() == 1 && listed.contains("\"done\""),
            "step {step} of {steps_of_import}: {listed}"
        );
    }
    assert!(killed > 15, "{killed}");
}

/// Half of the logs was never followed, and one that was is imported with it.
#[test]
fn old_logs_are_imported_once_and_counted_by_a_recalculation() {
    let site = site();
    let old = site.path().join("old");
    fs::create_dir(&old).unwrap();
    let mut logs: Vec<PathBuf> = fs::read_dir(site.logs()).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    logs.sort();
    let all = lines_of_logs(&site.logs());
    for log in &logs[2..] {
        fs::rename(log, old.join(log.file_name().unwrap())).unwrap();
    }
    site.succeed(&["up", "--drain"], LONG);
    let followed = old.join("followed.log");
    fs::copy(&logs[0], &followed).unwrap();
    let mut given: Vec<PathBuf> = logs[2..].iter().map(|log| old.join(log.file_name().unwrap())).collect();
    assert!(Command::new("gzip").arg(&given[0]).status().unwrap().success());
    given[0].set_extension("log.gz");
    let given: Vec<&str> = given.iter().chain([&followed]).map(|path| path.to_str().unwrap()).collect();
    let import = |more: &[&str]| site.succeed(&[&["raw", "import"], &given[..], more].concat(), LONG);
    let planned = import(&["--dry-run"]);
    assert_eq!(planned.matches("would be imported").count(), 3, "{planned}");
    let told = import(&[]);
    assert!(told.contains("clickmill recalc --from 202101010000 --to 202101010008 counts them"), "{told}");
    let again = import(&[]);
    assert_eq!(again.matches("is in import 1").count(), 3, "{again}");
    let listed = site.succeed(&["raw", "import", "--list"], LONG);
    assert!(listed.lines().count() == 1 && listed.contains("\"done\""), "{listed}");
    // All lines, and those of the followed file a second time.
    let again = fs::read(&followed).unwrap();
    let mut lines: Vec<Vec<u8>> =
        again.split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec()).collect();
    lines.extend(all);
    lines.sort_unstable();
    assert_raw(&site.data(), &lines);
    // Until it is counted, the auditor says what it is: clicks that came late.
    let audit = || site.run(&[&["reconcile", "--json"][..], &SPAN].concat(), LONG);
    let Finished { status, stdout, stderr } = audit();
    assert_eq!(status.code(), Some(3), "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let kinds: Vec<&str> = found["counts"].as_array().unwrap().iter().map(|of| of["kind"].as_str().unwrap()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| ["late", "total"].contains(kind)), "{kinds:?}");
    site.succeed(&[&["recalc"][..], &SPAN].concat(), LONG);
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let truth = Truth::read(&site.logs().join(TRUTH_FILE)).unwrap();
    assert_counts(&api, FilterId::ALL, &truth);
    let Finished { status, stdout, stderr } = audit();
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    // What cannot be is refused, with what to do.
    let Finished { status, stderr, .. } = site.run(&["raw", "import", "none.log"], LONG);
    assert!(status.code() == Some(2) && stderr.contains("none.log"), "{stderr}");
    let Finished { status, stderr, .. } = site.run(&["raw", "import", "--drop", "1"], LONG);
    assert!(status.code() == Some(2) && stderr.contains("import 1 is done"), "{stderr}");
    let Finished { status, stderr, .. } = site.run(&[&["raw", "import"], &given[..], &["--topic", "x"]].concat(), LONG);
    assert!(status.code() == Some(2) && stderr.contains("--topic is one of ad-clicks"), "{stderr}");
}
