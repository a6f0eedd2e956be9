//! `recalc --dry-run`: what would change.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::partition::of_key;
use clickmill_model::{Definition, FilterId, Partition, Window};
use clickmill_tests::answers::lines_of_logs;
use clickmill_tests::model::Model;
use clickmill_tests::process::{Finished, LONG, Site, wait_for};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};
use serde_json::Value;

use crate::site::{END, FIRST, drained, minute, model, of_minute, recalc, refused, store};

/// What a dry run tells as JSON: the changes, and the summary.
fn changes(site: &Site, from: &str, to: &str) -> (Vec<Value>, Value) {
    let Finished { status, stdout, stderr } = recalc(site, from, to, &["--dry-run", "--json"]);
    assert!(status.success(), "{stderr}");
    let mut lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = lines.pop().unwrap()["summary"].clone();
    (lines, summary)
}

/// Minute, filter, ad; stored, recalculated.
type Count = (u64, u64, String, u64, u64);

fn counts_of(changes: &[Value]) -> BTreeSet<Count> {
    let number = |value: &Value| value.as_u64().unwrap();
    let counts = changes.iter().filter(|change| change["change"] == "count" && change["span"] == "minute");
    counts
        .map(|c| {
            let ad = c["ad_id"].as_str().unwrap().to_owned();
            (number(&c["start"]), number(&c["filter"]), ad, number(&c["stored"]), number(&c["recalculated"]))
        })
        .collect()
}

/// Last minute, window, filter.
fn rankings_of(changes: &[Value]) -> BTreeSet<(u64, u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap();
    let rankings = changes.iter().filter(|change| change["change"] == "ranking");
    rankings.map(|r| (number(&r["minute"]), number(&r["window"]), number(&r["filter"]))).collect()
}

#[test]
fn recalculating_what_is_right_changes_nothing() {
    let site = drained();
    let (found, summary) = changes(&site, FIRST, END);
    assert_eq!(found, Vec::<Value>::new());
    assert_eq!((&summary["stored_clicks"], &summary["recalculated_clicks"]), (&30_000.into(), &30_000.into()));
    assert_eq!(summary["duplicates"], 900);
    let text = recalc(&site, "202101010002", "202101010005", &["--dry-run"]).stdout;
    assert!(text.contains("nothing would change"), "{text}");
}

#[test]
fn what_was_planted_in_the_store_is_named_and_nothing_else() {
    let site = drained();
    let model = model(&site);
    let (a, b) = (minute("202101010003"), minute("202101010004"));
    let sql = store(&site);
    // Rows are gone.
    let gone = "DELETE FROM counts WHERE revision = 0 AND kind = 0 AND filter = 2 AND start = ?1";
    assert!(sql.execute(gone, [a.as_epoch()]).unwrap() > 0);
    // Rows are others: one partition has the figures of the minute before.
    let other = "UPDATE counts SET block = (SELECT block FROM counts AS old WHERE old.revision = 0 AND old.kind = 0 AND old.filter = 1
                 AND old.space = 0 AND old.bucket = 0 AND old.start = ?1)
                 WHERE revision = 0 AND kind = 0 AND filter = 1 AND space = 0 AND bucket = 0 AND start = ?2";
    assert_eq!(sql.execute(other, [a.as_epoch(), b.as_epoch()]).unwrap(), 1);
    // A ranking is gone, and one is another's.
    let gone = "DELETE FROM rankings WHERE revision = 0 AND filter = 3 AND window = 5 AND minute = ?1";
    assert_eq!(sql.execute(gone, [minute("202101010005").as_epoch()]).unwrap(), 1);
    let other = "UPDATE rankings SET block = (SELECT block FROM rankings AS old WHERE old.revision = 0 AND old.filter = 0
                 AND old.window = 1 AND old.minute = ?1) WHERE revision = 0 AND filter = 0 AND window = 1 AND minute = ?2";
    assert_eq!(sql.execute(other, [a.as_epoch(), b.as_epoch()]).unwrap(), 1);

    let mut expected: BTreeSet<Count> = BTreeSet::new();
    for (ad, count) in of_minute(&model, 2, a) {
        expected.insert((a.as_number(), 2, ad, 0, count));
    }
    let (before, right) = (of_minute(&model, 1, a), of_minute(&model, 1, b));
    for ad in before.keys().chain(right.keys()).filter(|ad| of_key(ad.as_bytes(), 4) == Partition(0)) {
        let of = |counts: &BTreeMap<String, u64>| counts.get(ad).copied().unwrap_or(0);
        if of(&before) != of(&right) {
            expected.insert((b.as_number(), 1, ad.clone(), of(&before), of(&right)));
        }
    }
    let (found, summary) = changes(&site, FIRST, END);
    assert_eq!(counts_of(&found), expected);
    assert_eq!(summary["counts"], expected.len());
    assert_eq!(rankings_of(&found), BTreeSet::from([(202101010005, 5, 3), (202101010004, 1, 0)]));
    // A span beside them knows nothing of it.
    assert_eq!(changes(&site, FIRST, "202101010003").0, Vec::<Value>::new());
    // Text says the same.
    let text = recalc(&site, "202101010003", "202101010004", &["--dry-run"]).stdout;
    let of_first_ad = of_minute(&model, 2, a)["ad001"];
    assert!(text.contains(&format!("minute 202101010003, filter 2, ad ad001: 0 -> {of_first_ad}")), "{text}");
}

#[test]
fn schedule_44_late_clicks_are_what_would_change() {
    let site = drained();
    let before = model(&site);
    // Their minutes are closed.
    let late = |n: u64| {
        let country = if n.is_multiple_of(2) { "USA" } else { "Japan" };
        format!("[AdClickEvent] ad{:03}, 2021-01-01 00:0{}:59, late {n}, 9.9.9.9, {country}\n", n % 3 + 1, n % 4 + 2)
    };
    let lines: String = (0..24).map(late).collect();
    std::fs::write(site.logs().join("late.log"), &lines).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("24 lines: 0 clicks, 0 duplicates, 24 late"), "{summary}");
    let after = model(&site);
    let mut expected: BTreeSet<Count> = BTreeSet::new();
    let mut rankings = BTreeSet::new();
    for filter in 0..4 {
        for minute in (0..8).map(|n| minute(FIRST).plus(n)) {
            let (old, new) = (of_minute(&before, filter, minute), of_minute(&after, filter, minute));
            for (ad, count) in new.iter().filter(|(ad, count)| old.get(*ad) != Some(*count)) {
                let stored = old.get(ad).copied().unwrap_or(0);
                expected.insert((minute.as_number(), filter.into(), ad.clone(), stored, *count));
            }
            for window in
                [Window(1), Window(5)].into_iter().filter(|window| window.first(minute) >= self::minute(FIRST))
            {
                let filter = FilterId(filter);
                let depth = Definition::default().depth();
                let best = |model: &Model| {
                    let mut ads = model.ranking(filter, window, minute);
                    ads.truncate(depth);
                    ads
                };
                if best(&before) != best(&after) {
                    rankings.insert((minute.as_number(), u64::from(window.0), u64::from(filter.0)));
                }
            }
        }
    }
    assert!(expected.len() >= 24 && rankings.len() > 4);
    let (found, summary) = changes(&site, FIRST, END);
    assert_eq!(counts_of(&found), expected);
    assert_eq!(rankings_of(&found), rankings);
    assert_eq!((&summary["stored_clicks"], &summary["recalculated_clicks"]), (&30_000.into(), &30_024.into()));
}

#[test]
fn a_filter_that_is_new_would_get_a_history() {
    let site = drained();
    let japan = "[[filter]]\nid = 7\nname = \"Japan\"\ncountry = [\"Japan\"]\n";
    // Filter 3 is removed.
    let kept = FILTERS.rsplit_once("[[filter]]").unwrap().0;
    site.configure(&[CONFIGURATION, kept, japan].concat());
    site.succeed(&["define"], LONG);
    let (found, summary) = changes(&site, FIRST, END);
    assert_eq!(found, Vec::<Value>::new(), "filter 3 is still what it was then");
    let lines = lines_of_logs(&site.logs());
    assert!(summary["gained"]["7"].as_u64().unwrap() > 0, "{summary} {}", lines.len());
    assert_eq!(summary["gained"].as_object().unwrap().len(), 1);
}

#[test]
fn a_span_that_cannot_be_is_refused() {
    let site = drained();
    let dry = &["--dry-run"];
    refused(recalc(&site, "202113010000", END, dry), 2, "is no minute yyyyMMddHHmm");
    refused(recalc(&site, END, FIRST, dry), 2, "must be before the last");
    refused(recalc(&site, FIRST, FIRST, dry), 2, "must be before the last");
    refused(recalc(&site, FIRST, "209901010000", dry), 2, "is yet to come");
    // The drain ended with the last minute that has a click.
    refused(recalc(&site, FIRST, "202101010009", dry), 1, "the minutes from 202101010008 on are still open");
    refused(
        recalc(&site, "202012010000", "202012020000", dry),
        1,
        "there is no raw click of the minutes 202012010000 to 202012020000",
    );
    let nothing = Site::new(CONFIGURATION);
    refused(recalc(&nothing, FIRST, END, dry), 1, "no definition yet");
}

#[test]
fn schedule_40_lines_that_are_not_in_parquet_yet_are_waited_for_or_refused() {
    let site = drained();
    // A line that the mapper has read, while the writer of raw lines still gathers others for its file.
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let line = "[AdClickEvent] ad001, 2021-01-01 00:02:30, late, 1.2.3.4, USA\n";
    std::fs::write(site.logs().join("late.log"), line).unwrap();
    wait_for("the line to be judged", LONG, || (up.get("/v1/status")["books"]["late"] == 1).then_some(()));
    refused(recalc(&site, FIRST, END, &["--dry-run"]), 1, "not all raw lines are in Parquet yet: ad-clicks/");
    let mut waiting = site.start(&["recalc", "--from", FIRST, "--to", END, "--dry-run", "--wait"]);
    wait_for("it to wait", LONG, || waiting.stderr().contains("waits for writing the raw lines").then_some(()));
    assert!(waiting.has_not_ended());
    up.terminate(LONG);
    site.succeed(&["up", "--drain"], LONG);
    assert!(waiting.wait(LONG).success(), "{}", waiting.stderr());
}

#[test]
fn raw_lines_that_are_lost_or_damaged_lower_no_bill() {
    let site = drained();
    let raw = site.data().join("files/raw");
    let day = std::fs::read_dir(&raw).unwrap().next().unwrap().unwrap().path();
    let files: Vec<_> = std::fs::read_dir(day).unwrap().map(|entry| entry.unwrap().path()).collect();
    let good = std::fs::read(&files[0]).unwrap();
    std::fs::write(&files[0], &good[..good.len() / 2]).unwrap();
    let name = files[0].file_name().unwrap().to_str().unwrap();
    refused(recalc(&site, FIRST, END, &["--dry-run"]), 1, name);
    std::fs::write(&files[0], good).unwrap();
    recalc(&site, FIRST, END, &["--dry-run"]);
    for file in &files {
        std::fs::remove_file(file).unwrap();
        refused(recalc(&site, FIRST, END, &["--dry-run"]), 1, "is gone: the writer of raw lines says");
    }
}
