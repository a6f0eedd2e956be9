//! A recalculation that is stopped anywhere, and goes on.

use std::time::Duration;

use clickmill_tests::dice::{Dice, seeds};
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};
use rustix::process::Signal;

use crate::site::{END, FIRST, assert_figures, drained, listed, model, recalc, refused, revise, states, stored};

/// Starts a recalculation, and waits until it has begun.
fn begun<'a>(site: &'a Site, from: &str, to: &str, more: &[&str]) -> Running<'a> {
    let before = listed(site).len();
    let mut running = site.start(&[&["recalc", "--from", from, "--to", to], more].concat());
    wait_for("it to begin", LONG, || {
        assert!(running.has_not_ended(), "{}", running.stderr());
        (listed(site).len() > before).then_some(())
    });
    running
}

#[test]
fn killed_anywhere_it_goes_on_and_comes_to_the_same() {
    for seed in seeds(6) {
        let mut dice = Dice::new(seed);
        let site = drained();
        revise(&site, FIRST, END);
        let right = stored(&site, 1);
        site.succeed(&["recalc", "undo", "1"], LONG);
        // Slowly, in several slices, some of which are stored and some not.
        let slow = ["--rate", "12000"];
        let mut running = site.start(&[&["recalc", "--from", FIRST, "--to", END], &slow[..]].concat());
        for kills in 1..=4 {
            std::thread::sleep(Duration::from_millis(dice.below(3000)));
            let ended = !running.has_not_ended();
            running.kill();
            let states = states(&site);
            if ended || kills == 4 || states.last().is_some_and(|state| state == "active") {
                break;
            }
            running = if states.len() < 2 {
                site.start(&["recalc", "--from", FIRST, "--to", END])
            } else {
                assert_eq!(states, ["undone", "pending"], "seed {seed}");
                site.start(&["recalc", "--resume", "2", "--rate", "20000"])
            };
        }
        if states(&site).last().is_some_and(|state| state == "pending") {
            site.succeed(&["recalc", "--resume", "2"], LONG);
        } else if states(&site).len() < 2 {
            revise(&site, FIRST, END);
        }
        assert_eq!(states(&site), ["undone", "active"], "seed {seed}");
        let found = stored(&site, 2);
        assert!(found == right, "seed {seed}: what is stored is another");
    }
}

#[test]
fn schedule_42_of_two_that_overlap_one_is_refused_and_neighbours_go_side_by_side() {
    let site = drained();
    let slow = begun(&site, FIRST, "202101010004", &["--rate", "5000"]);
    refused(recalc(&site, "202101010003", END, &[]), 1, "revision 1 is pending and holds minutes of this span");
    refused(recalc(&site, FIRST, END, &[]), 1, "clickmill recalc --resume 1");
    // A neighbour goes on beside it.
    let summary = revise(&site, "202101010004", END);
    assert_eq!((&summary["revision"], &summary["counts"]), (&2.into(), &0.into()));
    slow.kill();
    assert_eq!(states(&site), ["pending", "active"]);
    // Its process is dead, and it still keeps others out, until it is dropped.
    refused(recalc(&site, FIRST, "202101010001", &[]), 1, "revision 1 is pending");
    site.succeed(&["recalc", "undo", "1"], LONG);
    revise(&site, FIRST, "202101010001");
    assert_eq!(states(&site), ["undone", "active", "active"]);
    assert_figures(&site, &model(&site), &[0, 2]);
}

#[test]
fn schedule_42_one_is_undone_while_another_goes_on() {
    let site = drained();
    revise(&site, FIRST, "202101010003");
    revise(&site, "202101010002", "202101010006");
    let mut third = begun(&site, "202101010001", END, &["--rate", "15000"]);
    site.succeed(&["recalc", "undo", "2"], LONG);
    site.succeed(&["recalc", "undo", "1"], LONG);
    assert!(third.wait(LONG).success(), "{}", third.stderr());
    assert_eq!(states(&site), ["undone", "undone", "active"]);
    assert_figures(&site, &model(&site), &[0, 1]);
    // And one that goes on is undone itself: it does not become active.
    let mut fourth = begun(&site, FIRST, END, &["--rate", "15000"]);
    site.succeed(&["recalc", "undo", "4"], LONG);
    assert_eq!(fourth.wait(LONG).code(), Some(1));
    assert!(fourth.stderr().contains("revision 4 was undone meanwhile"), "{}", fourth.stderr());
    assert_eq!(states(&site), ["undone", "undone", "active", "undone"]);
    assert_figures(&site, &model(&site), &[0, 1]);
}

#[test]
fn schedule_42_a_definition_that_changes_between_a_crash_and_going_on_changes_nothing() {
    let site = drained();
    begun(&site, FIRST, END, &["--rate", "5000"]).kill();
    let japan = "[[filter]]\nid = 7\nname = \"Japan\"\ncountry = [\"Japan\"]\n";
    site.configure(&[CONFIGURATION, FILTERS, japan].concat());
    site.succeed(&["define"], LONG);
    // Clicks that came meanwhile are not of it either.
    std::fs::write(site.logs().join("late.log"), "[AdClickEvent] ad001, 2021-01-01 00:02:30, late, 1.2.3.4, USA\n")
        .unwrap();
    site.succeed(&["up", "--drain"], LONG);
    std::fs::remove_file(site.logs().join("late.log")).unwrap();
    site.succeed(&["recalc", "--resume", "1"], LONG);
    let row = listed(&site).remove(0);
    assert_eq!((&row["state"], &row["filters"]), (&"active".into(), &serde_json::json!([0, 1, 2, 3])));
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
    // The next one counts both.
    let summary = revise(&site, FIRST, END);
    assert_eq!(summary["recalculated_clicks"], 30_001);
    assert!(summary["gained"]["7"].as_u64().unwrap() > 0, "{summary}");
}

#[test]
fn told_to_stop_it_says_how_to_go_on() {
    let site = drained();
    let mut running = begun(&site, FIRST, END, &["--rate", "5000"]);
    running.signal(Signal::TERM);
    assert_eq!(running.wait(LONG).code(), Some(1));
    let said = running.stderr();
    assert!(said.contains("revision 1 stays pending") && said.contains("--resume 1"), "{said}");
    site.succeed(&["recalc", "--resume", "1"], LONG);
    assert_figures(&site, &model(&site), &[0]);
}

#[test]
fn raw_lines_that_went_meanwhile_drop_it() {
    let site = drained();
    begun(&site, FIRST, END, &["--rate", "5000"]).kill();
    let raw = site.data().join("files/raw");
    let day = std::fs::read_dir(&raw).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(day).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    refused(site.run(&["recalc", "--resume", "1"], LONG), 1, "revision 1 is dropped");
    assert_eq!(states(&site), ["undone"]);
    assert_figures(&site, &model(&site), &[0]);
}
