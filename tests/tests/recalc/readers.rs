//! Those who read while figures are switched.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::{FilterId, Minute};
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use serde_json::Value;

use crate::site::{END, FIRST, api, assert_figures, drained, minute, model, recalc, store};

/// What is asked again and again: counts and rankings, inside the span that is recalculated, and over its edges.
pub(crate) fn queries() -> Vec<String> {
    let mut queries = Vec::new();
    for (from, to) in
        [("0000", "0008"), ("0002", "0003"), ("0003", "0004"), ("0001", "0006"), ("0003", "0008"), ("0002", "0005")]
    {
        let range = format!("from=20210101{from}&to=20210101{to}");
        for filter in [0, 2] {
            queries.push(format!("/v1/ads/ad001/aggregated_count?{range}&filter={filter}"));
            queries.push(format!("/v1/ads/ad001/counts?{range}&filter={filter}"));
            queries.push(format!("/v1/ads/popular_ads?{range}&filter={filter}&n=50"));
        }
    }
    queries
}

/// The stream counted nothing of one filter in two minutes, and something else of all in the rankings.
pub(crate) fn take_two_minutes(site: &Site) {
    let sql = store(site);
    let (a, b) = (minute("202101010003").as_epoch(), minute("202101010004").as_epoch());
    let gone = "DELETE FROM counts WHERE revision = 0 AND kind = 0 AND start IN (?1, ?2) AND space = 0";
    assert!(sql.execute(gone, [a, b]).unwrap() > 0);
    let gone = "DELETE FROM rankings WHERE revision = 0 AND minute IN (?1, ?2)";
    assert!(sql.execute(gone, [a, b]).unwrap() > 0);
}

/// Asks until `stop` is set. Each answer is the old or the new one, and once it is the new one it stays so.
fn hammer(address: &str, old: &[Value], new: &[Value], stop: &AtomicBool, asked: &AtomicU64) {
    let queries = queries();
    // One connection a reader: one for each query would use up the ports.
    let reader = ureq::Agent::new_with_defaults();
    let get = |path: &str| -> Value {
        let mut answer = reader.get(format!("{address}{path}")).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    };
    let mut switched = vec![false; queries.len()];
    let mut last_round = false;
    loop {
        for (place, path) in queries.iter().enumerate() {
            let (old, new) = (&old[place], &new[place]);
            let answer = get(path);
            asked.fetch_add(1, Ordering::Relaxed);
            if answer == *new {
                switched[place] = true;
            } else {
                assert_eq!(answer, *old, "{path}: neither the old answer nor the new one");
                assert!(!switched[place], "{path}: the old answer after the new one");
            }
        }
        if last_round {
            assert!(switched.iter().all(|switched| *switched), "everything is new at the end");
            return;
        }
        last_round = stop.load(Ordering::Relaxed);
    }
}

#[test]
fn schedule_41_readers_see_the_old_figures_or_the_new_ones_while_the_stream_runs() {
    let site = drained();
    take_two_minutes(&site);
    let ask = |api: &Running<'_>| queries().iter().map(|path| api.get(path)).collect::<Vec<Value>>();
    // What is to come is known from a run before it, which is undone.
    let old = ask(&api(&site));
    assert!(recalc(&site, "202101010003", "202101010005", &[]).status.success());
    let new = ask(&api(&site));
    let differing = old.iter().zip(&new).filter(|(old, new)| old != new).count();
    assert!(differing > 10, "{differing}");
    site.succeed(&["recalc", "undo", "1"], LONG);

    // The stream runs, and writes what is told.
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = up.address();
    std::thread::scope(|scope| {
        let began = Instant::now();
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| hammer(address, &old, &new, &stop, &asked))).collect();
        wait_for("some answers", LONG, || (asked.load(Ordering::Relaxed) > 100).then_some(()));
        let finished = recalc(&site, "202101010003", "202101010005", &["--wait"]);
        // A second later everybody sees it.
        std::thread::sleep(Duration::from_millis(1100));
        stop.store(true, Ordering::Relaxed);
        assert!(finished.status.success(), "{}", finished.stderr);
        for reader in readers {
            reader.join().unwrap();
        }
        let rate = asked.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("{rate:.0} queries a second around the switch");
    });
    assert!(up.terminate(LONG).success());
    assert_figures(&site, &model(&site), &[0, 1, 2, 3]);
}

#[test]
fn a_new_filter_is_complete_where_it_has_a_history() {
    let site = drained();
    let japan = "[[filter]]\nid = 7\nname = \"Japan\"\ncountry = [\"Japan\"]\n";
    let configuration = [clickmill_tests::traffic::CONFIGURATION, clickmill_tests::traffic::FILTERS, japan].concat();
    site.configure(&configuration);
    site.succeed(&["define"], LONG);
    // The stream learns of it.
    let line = "[AdClickEvent] ad001, 2021-01-01 00:10:30, user 1, 1.2.3.4, Japan\n";
    std::fs::write(site.logs().join("more.log"), line).unwrap();
    site.succeed(&["up", "--drain"], LONG);
    std::fs::remove_file(site.logs().join("more.log")).unwrap();
    assert!(recalc(&site, "202101010002", END, &[]).status.success());
    let api = api(&site);
    let until = |from: &str, to: &str| {
        let answer = api.get(&format!("/v1/ads/ad001/aggregated_count?from={from}&to={to}&filter=7"));
        Minute::from_number(answer["complete_until"].as_u64().unwrap()).unwrap()
    };
    for (from, to, expected) in [
        (FIRST, END, FIRST),
        ("202101010002", END, END),
        ("202101010004", "202101010006", "202101010006"),
        // The stream counts it from the minute on in which it had counted nothing, which is the one behind.
        ("202101010002", "202101010011", "202101010011"),
    ] {
        assert_eq!(until(from, to), minute(expected), "{from} {to}");
    }
    let of = |filter: FilterId| {
        let answer = api.get(&format!("/v1/ads/popular_ads?from=202101010002&to={END}&filter={filter}"));
        assert_eq!((&answer["complete"], &answer["exact"]), (&true.into(), &true.into()), "{answer}");
        answer["ad_ids"].as_array().unwrap().iter().map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    assert!(of(FilterId(7)).len() > 50 && of(FilterId(0)).len() > 50);
}
