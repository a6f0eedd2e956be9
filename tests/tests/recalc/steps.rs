//! Recalculations and their undoing, killed before each step that they take.

use clickmill_tests::process::{LONG, Site};
use clickmill_tests::steps::{Steps, copy_of, every_step};
use serde_json::Value;

use crate::readers::{queries, take_two_minutes};
use crate::site::{END, FIRST, api, drained, states, stored};

const RECALC: [&str; 5] = ["recalc", "--from", FIRST, "--to", END];
const UNDO: [&str; 3] = ["recalc", "undo", "1"];

/// What readers are told.
fn answers(site: &Site) -> Vec<Value> {
    let api = api(site);
    queries().iter().map(|path| api.get(path)).collect()
}

#[test]
fn killed_before_any_step_readers_see_all_of_it_or_nothing_and_the_next_try_ends_it() {
    let steps = Steps::default();
    let before = drained();
    take_two_minutes(&before);
    let old = answers(&before);

    let after = copy_of(&before);
    let recalculation = steps.count(&after, &RECALC);
    let (new, right) = (answers(&after), stored(&after, 1));
    assert!(new != old && !right.is_empty());
    let check = |site: &Site, state: &str, what: &str| {
        assert_eq!(states(site), [state], "{what}");
        let expected = if state == "active" { &new } else { &old };
        assert!(answers(site) == *expected, "{what}: readers of a revision that is {state} are told something else");
    };

    // Whether it was active.
    let try_at = |step: u64| {
        let site = copy_of(&before);
        let what = format!("step {step} of {recalculation} of a recalculation");
        let was_killed = steps.kill_at(step, &site, &RECALC);
        let state = states(&site).first().cloned();
        assert!(was_killed || state.as_deref() == Some("active"), "{what}: {state:?}");
        match state.as_deref() {
            None => drop(site.succeed(&RECALC, LONG)),
            Some("pending") => {
                check(&site, "pending", &what);
                site.succeed(&["recalc", "--resume", "1"], LONG);
            }
            Some(_) => {}
        }
        check(&site, "active", &what);
        assert!(stored(&site, 1) == right, "{what}: what is stored is another");
        state.as_deref() == Some("active")
    };
    // Half of what is left each time, down to the step that makes it active, and the one before it.
    let (mut pending, mut active) = (0, recalculation + 1);
    while active - pending > 1 {
        let step = pending + (active - pending) / 2;
        *(if try_at(step) { &mut active } else { &mut pending }) = step;
    }
    assert!(0 < pending && active <= recalculation, "nothing was killed on one side of the switch: {active}");
    if every_step() {
        for step in 1..=recalculation {
            try_at(step);
        }
    }

    let undone = copy_of(&after);
    for step in 1..=steps.count(&undone, &UNDO) {
        let site = copy_of(&after);
        let what = format!("step {step} of undoing");
        assert!(steps.kill_at(step, &site, &UNDO), "{what}");
        if states(&site) == ["active"] {
            check(&site, "active", &what);
            site.succeed(&UNDO, LONG);
        }
        check(&site, "undone", &what);
    }
}
