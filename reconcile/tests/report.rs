//! What reports say of what was found.

#![allow(clippy::unwrap_used)]

mod common;

use clickmill_config::Reconcile;
use clickmill_model::Timestamp;
use clickmill_reconcile::report::{Report, ReportFolder, Verdict};
use clickmill_reconcile::{Audit, Kind};
use serde_json::{Value, json};

use common::{Fault, World, definition, minute};

const FROM: &str = "202101010000";
const TO: &str = "202101010100";

/// A thousand clicks of an ad whose name is markup, one of which came late.
fn world() -> World {
    let mut world = World::new(&definition());
    world.clock.advance(std::time::Duration::from_secs(3600));
    let line =
        |n: u32| format!("[AdClickEvent] <b>ad</b>, 2021-01-01 00:{:02}:{:02}, user {n}, 1.1.1.1, USA", n / 60, n % 60);
    let lines: Vec<String> = (0..999).map(line).collect();
    world.send_all(lines.iter().map(String::as_bytes), 50);
    world.send_late(0, &[line(999).as_bytes()]);
    world.write(10_000);
    world
}

fn found(fault: Fault) -> Audit {
    let world = world();
    world.audit(&world.store(fault, minute(TO)), FROM, TO).unwrap()
}

fn report(audit: Audit, threshold: f64) -> Report {
    let settings = Reconcile { price_per_click: Some(0.25), currency: "EUR".into() };
    Report::new(audit, threshold, &settings, Timestamp::from_secs(1_609_552_800))
}

#[test]
fn what_is_tolerated_is_a_share_of_clicks() {
    let audit = found(Fault::Nothing);
    let check = |threshold: f64, verdict: Verdict| {
        let report = report(audit.clone(), threshold);
        assert_eq!(report.verdict, verdict, "{threshold}: {:?}", report.rate);
    };
    check(0.0, Verdict::Differs);
    check(0.0009, Verdict::Differs);
    // One of a thousand, under filter 0 and under that of its country.
    check(0.001, Verdict::WithinThreshold);
    let wrong_rankings = found(Fault::LongWindows);
    assert_eq!(
        report(wrong_rankings, 1.0).verdict,
        Verdict::Differs,
        "a ranking that contradicts the counts is no share"
    );
}

#[test]
fn a_report_is_all_of_it_for_programs_and_a_page_without_scripts_for_people() {
    let report = report(found(Fault::Nothing), 0.0);
    let folder = tempfile::tempdir().unwrap();
    let reports = ReportFolder::open(folder.path()).unwrap();
    let page = reports.add(&report).unwrap();
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("&lt;b&gt;ad&lt;/b&gt;") && !html.contains("<b>ad") && !html.contains("<script"));
    let verdict = html.find("Figures differ").unwrap();
    assert!(verdict < html.find("0.25 EUR</b> not billed").unwrap(), "the verdict comes first");
    let json: Value = serde_json::from_slice(&std::fs::read(page.with_extension("json")).unwrap()).unwrap();
    assert_eq!((&json["format"], &json["verdict"], &json["raw_clicks"]), (&json!(1), &json!("differs"), &json!(1000)));
    assert_eq!(json["clicks"], json!({ "figures": 1, "lacks": 1, "surplus": 0 }));
    assert_eq!(json["money"]["not_billed"], 0.25);
    assert_eq!(json["by_kind"]["late"]["figures"], 2);
    let late = &json["counts"][0];
    assert_eq!(
        (&late["kind"], &late["ad_id"], &late["start"]),
        (&json!("late"), &json!("<b>ad</b>"), &json!(202_101_010_016_u64))
    );
    assert_eq!(json["differing_spans"], json!([[202_101_010_016_u64, 202_101_010_017_u64]]));
}

#[test]
fn the_history_has_every_report_and_the_trend_the_newest_of_each_span() {
    let folder = tempfile::tempdir().unwrap();
    let reports = ReportFolder::open(folder.path()).unwrap();
    let first = report(found(Fault::Nothing), 0.0);
    let second = Report { made_at: "2021-01-02T03:00:00Z".into(), ..report(found(Fault::Nothing), 0.01) };
    for report in [&first, &second] {
        reports.add(report).unwrap();
    }
    let history = reports.history().unwrap();
    assert_eq!(
        history.reports.iter().map(|r| r.verdict).collect::<Vec<_>>(),
        [Verdict::Differs, Verdict::WithinThreshold]
    );
    let trend = history.trend();
    assert_eq!((trend.len(), trend[0].verdict, trend[0].drift()), (1, Verdict::WithinThreshold, -0.001));
    // What cannot be read is never taken for nothing.
    std::fs::write(folder.path().join("history.json"), "{").unwrap();
    assert!(format!("{:#}", reports.add(&first).unwrap_err()).contains("is no history of reports"));
}

#[test]
fn figures_that_are_not_listed_are_counted() {
    let mut audit = found(Fault::Nothing);
    audit.findings.counts.clear();
    let report = report(audit, 0.0);
    assert_eq!(
        report.left_out.counts,
        report.by_kind.iter().filter(|(k, _)| **k < Kind::Ranking).map(|(_, s)| s.figures).sum::<u64>()
    );
}
