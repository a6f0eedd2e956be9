//! `recalc`: figures are put right, and undone.

use clickmill_tests::process::{LONG, Site};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};

use crate::site::{
    END, FIRST, api, assert_figures, drained, listed, minute, model, recalc, refused, revise, states, store, stored,
};

#[test]
fn recalculating_what_is_right_changes_no_figure() {
    let site = drained();
    let summary = revise(&site, FIRST, END);
    assert_eq!((&summary["counts"], &summary["totals"], &summary["rankings"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!((&summary["stored_clicks"], &summary["recalculated_clicks"]), (&30_000.into(), &30_000.into()));
    assert_eq!(summary["revision"], 1);
    // What is stored under the revision is what the stream stored, block by block; but for rankings that reach behind the span.
    let (of_stream, revised) = (stored(&site, 0), stored(&site, 1));
    let differing = revised.iter().filter(|figure| !of_stream.contains(figure)).map(|(key, _)| key);
    assert_eq!(differing.collect::<Vec<_>>(), Vec::<&String>::new());
    let counts = |stored: &[(String, Vec<u8>)]| stored.iter().filter(|(key, _)| key.starts_with("counts")).count();
    assert_eq!(counts(&revised), counts(&of_stream));
    assert!(counts(&revised) > 100 && revised.len() - counts(&revised) > 40);
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
    let [row] = &listed(&site)[..] else { unreachable!("one revision") };
    assert_eq!(
        (&row["state"], &row["from"], &row["to"]),
        (&"active".into(), &202_101_010_000_u64.into(), &202_101_010_008_u64.into())
    );
    assert!(row["by"].as_str().unwrap().contains('@') && row["changed"]["counts"] == 0, "{row}");
    let status = api(&site).get("/v1/status");
    assert_eq!(
        (&status["revisions"][0]["state"], &status["revisions"][0]["changed"]["clicks_after"]),
        (&"active".into(), &30_000.into())
    );
    // Again, of a part: under the next number.
    let text = recalc(&site, "202101010002", "202101010005", &[]).stdout;
    assert!(text.contains("revision 2 is active") && text.contains("no figure changed"), "{text}");
    assert_figures(&site, &model(&site), &[0, 3]);
}

/// Rows of one minute and filter are gone, those of another are others, rankings are gone and others.
fn plant(site: &Site) {
    let sql = store(site);
    let (a, b) = (minute("202101010003").as_epoch(), minute("202101010004").as_epoch());
    for (statement, at_least) in [
        (format!("DELETE FROM counts WHERE revision = 0 AND kind = 0 AND filter = 2 AND start = {a}"), 1),
        (
            format!(
                "UPDATE counts SET block = (SELECT block FROM counts AS old WHERE old.revision = 0 AND old.kind = 0 AND old.filter = 1
                 AND old.space = counts.space AND old.bucket = counts.bucket AND old.start = {a})
                 WHERE revision = 0 AND kind = 0 AND filter = 1 AND start = {b}"
            ),
            1,
        ),
        ("DELETE FROM rankings WHERE revision = 0 AND window = 5".to_owned(), 4),
        (
            format!(
                "UPDATE rankings SET block = (SELECT block FROM rankings AS old WHERE old.revision = 0 AND old.filter = rankings.filter
                 AND old.window = 1 AND old.minute = {a}) WHERE revision = 0 AND window = 1 AND minute = {b}"
            ),
            4,
        ),
    ] {
        assert!(sql.execute(&statement, ()).unwrap() >= at_least, "{statement}");
    }
}

#[test]
fn what_was_planted_in_the_store_is_put_right_and_undone_again() {
    let site = drained();
    plant(&site);
    let asked = || {
        let api = api(&site);
        let paths = ["ads/popular_ads", "ads/ad001/counts", "ads/ad002/counts"];
        let queries = (0..4).flat_map(|f| paths.map(|path| format!("/v1/{path}?from={FIRST}&to={END}&filter={f}")));
        queries.map(|path| api.get(&path)).collect::<Vec<_>>()
    };
    let wrong = asked();
    // The minutes in which something is wrong, and no more: rankings of ranges over the edges are right at once.
    let summary = revise(&site, "202101010003", "202101010005");
    assert!(summary["counts"].as_u64().unwrap() > 100 && summary["rankings"].as_u64().unwrap() >= 4, "{summary}");
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
    let right = asked();
    assert_ne!(wrong, right);
    site.succeed(&["recalc", "undo", "1"], LONG);
    assert_eq!(asked(), wrong);
    assert_eq!(states(&site), ["undone"]);
    // Again, and around it, and inside of it.
    for (from, to) in [("202101010002", "202101010005"), (FIRST, END), ("202101010003", "202101010004")] {
        revise(&site, from, to);
        assert_figures(&site, &model(&site), &[1, 2]);
    }
    // Without the older one, without the newer one.
    site.succeed(&["recalc", "undo", "2"], LONG);
    assert_eq!(asked(), right);
    site.succeed(&["recalc", "undo", "4"], LONG);
    assert_eq!(asked(), right);
    site.succeed(&["recalc", "undo", "3"], LONG);
    assert_eq!(asked(), wrong);
}

/// Clicks of minutes that are closed.
fn come_late(site: &Site) {
    let late = |n: u64| {
        let country = if n.is_multiple_of(2) { "USA" } else { "Japan" };
        format!("[AdClickEvent] ad{:03}, 2021-01-01 00:0{}:59, late {n}, 9.9.9.9, {country}\n", n % 3 + 1, n % 4 + 2)
    };
    std::fs::write(site.logs().join("late.log"), (0..24).map(late).collect::<String>()).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    assert!(summary.contains("24 lines: 0 clicks, 0 duplicates, 24 late"), "{summary}");
}

#[test]
fn schedule_44_late_clicks_are_counted() {
    let site = drained();
    come_late(&site);
    let summary = revise(&site, FIRST, END);
    assert_eq!((&summary["stored_clicks"], &summary["recalculated_clicks"]), (&30_000.into(), &30_024.into()));
    // The model knows of no lateness.
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
}

#[test]
fn schedule_43_an_input_and_a_filter_that_are_none_any_more_are_counted() {
    let site = drained();
    // Another topic is the input now, and the third filter is none any more; a new one is there.
    let japan = "[[filter]]\nid = 7\nname = \"Japan\"\ncountry = [\"Japan\"]\n";
    let kept = FILTERS.rsplit_once("[[filter]]").unwrap().0;
    let inputs =
        CONFIGURATION.replace("source = \"test\"", "source = \"test\"\ntopic = \"other\"\ntopics = [\"other\"]");
    site.configure(&[&inputs, kept, japan].concat());
    let line = "[AdClickEvent] ad001, 2021-01-01 00:09:30, user 1, 1.2.3.4, USA\n";
    std::fs::write(site.logs().join("more.log"), line).unwrap();
    site.succeed(&["up", "--drain"], LONG);
    plant(&site);
    let summary = revise(&site, FIRST, END);
    assert!(summary["gained"]["7"].as_u64().unwrap() > 0, "{summary}");
    let filters = listed(&site)[0]["filters"].clone();
    assert_eq!(filters, serde_json::json!([0, 1, 2, 3, 7]));
    std::fs::remove_file(site.logs().join("more.log")).unwrap();
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
    // The new one has a history.
    let lines = clickmill_tests::answers::lines_of_logs(&site.logs());
    let of_japan: std::collections::BTreeSet<&Vec<u8>> =
        lines.iter().filter(|line| line.ends_with(b", Japan")).collect();
    assert_eq!(summary["gained"]["7"], of_japan.len());
    let top = api(&site).get(&format!("/v1/ads/popular_ads?from={FIRST}&to={END}&filter=7&n=1000"));
    let sum: u64 = top["counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!((sum, &top["complete"], &top["exact"]), (of_japan.len() as u64, &true.into(), &true.into()));
    let before = api(&site).get(&format!("/v1/ads/popular_ads?from=202012312359&to={END}&filter=7"));
    assert_eq!((&before["complete"], &before["complete_until"]), (&false.into(), &202_012_312_359_u64.into()));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let site = drained();
    refused(site.run(&["recalc"], LONG), 2, "--from");
    refused(site.run(&["recalc", "--from", FIRST], LONG), 2, "--to");
    refused(site.run(&["recalc", "--resume", "1", "--from", FIRST, "--to", END], LONG), 2, "cannot be used with");
    refused(site.run(&["recalc", "undo", "one"], LONG), 2, "invalid value");
    refused(site.run(&["recalc", "undo", "0"], LONG), 2, "the stream's own");
    refused(site.run(&["recalc", "undo", "1"], LONG), 1, "there is no revision 1");
    refused(site.run(&["recalc", "--resume", "1"], LONG), 1, "there is no revision 1");
    refused(recalc(&site, "202012010000", "202012020000", &[]), 1, "there is no raw click");
    assert_eq!(states(&site), Vec::<String>::new());
    revise(&site, FIRST, "202101010002");
    refused(site.run(&["recalc", "--resume", "1"], LONG), 1, "active already");
    site.succeed(&["recalc", "undo", "1"], LONG);
    refused(site.run(&["recalc", "undo", "1"], LONG), 1, "undone already");
    refused(site.run(&["recalc", "--resume", "1"], LONG), 1, "undone, for good");
    // A minute with clicks in the store, of which no line is there: it becomes no bill of nothing.
    let sql = store(&site);
    let other = minute("202101010100").as_epoch();
    let planted = format!(
        "UPDATE counts SET start = {other} WHERE revision = 0 AND kind = 0 AND start = {}",
        minute("202101010007").as_epoch()
    );
    assert!(sql.execute(&planted, ()).unwrap() > 0);
    sql.execute("UPDATE progress SET until = ?1 WHERE revision = 0", [other + 1]).unwrap();
    refused(recalc(&site, FIRST, "202101010101", &[]), 1, "no raw line is there");
    assert_eq!(states(&site), ["undone", "undone"]);
}
