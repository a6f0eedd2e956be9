//! What the API says, compared with what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use clickmill_generator::{Summary, TRUTH_FILE, Truth};
use clickmill_model::{FilterId, Minute};
use serde_json::Value;

use crate::process::{LONG, Running, Site, wait_for};
use crate::raw::assert_raw;

/// How many lines the mappers have judged. A status that could not be found out in time is asked for again.
///
/// # Panics
/// Where nobody says so for long.
pub fn lines_so_far(api: &Running<'_>) -> u64 {
    let status = wait_for("the status", LONG, || api.try_get("/v1/status").filter(|(status, _)| *status != 503));
    assert_eq!(status.0, 200, "{}", status.1);
    let status: Value = serde_json::from_str(&status.1).unwrap();
    status["books"]["lines"].as_u64().unwrap_or_default()
}

/// Waits until this many more lines went through.
///
/// # Panics
/// Where they take longer than `at_most`.
pub fn wait_for_lines(api: &Running<'_>, more: u64, at_most: Duration) {
    let goal = lines_so_far(api) + more;
    wait_for(&format!("line {goal} to go through"), at_most, || (lines_so_far(api) >= goal).then_some(()));
}

/// Reads the rest of what was written to a site's logs, and demands every figure: the books, each count and ranking, and every line in raw Parquet. Most of it must have gone through
/// before.
///
/// # Panics
/// At the first difference.
pub fn assert_everything(site: &Site, made: &Summary, at_most: Duration) {
    let summary = site.succeed(&["up", "--drain"], at_most);
    let drained: u64 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(drained < made.lines / 2, "most lines went through meanwhile: {summary}");
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], at_most);
    let books = api.get("/v1/status")["books"].clone();
    let number = |name: &str| books[name].as_u64().unwrap_or_else(|| panic!("no {name} in {books}"));
    assert_eq!((number("lines"), number("duplicates"), number("late")), (made.lines, made.duplicates, 0), "{books}");
    assert_eq!((number("counted"), number("rejected")), (made.lines - made.duplicates, 0), "{books}");
    assert_counts(&api, FilterId::ALL, &Truth::read(&site.logs().join(TRUTH_FILE)).unwrap());
    drop(api);
    assert_raw(&site.data(), &lines_of_logs(&site.logs()));
}

/// The lines of the log files in a folder: each line as often as it is there. Files that do not end in `.log` are passed over.
///
/// # Panics
/// Where a file cannot be read.
pub fn lines_of_logs(folder: &Path) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let bytes = std::fs::read(path).unwrap();
            lines.extend(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        }
    }
    lines.sort();
    lines
}

/// Asks for every minute of every ad, and for the ranking of every minute, and compares with what is true of one filter. Everything must be complete.
///
/// # Panics
/// At the first difference.
pub fn assert_counts(api: &Running<'_>, filter: FilterId, truth: &Truth) {
    let minutes: BTreeSet<Minute> = truth.counts.keys().map(|(minute, _)| *minute).collect();
    let (Some(first), Some(last)) = (minutes.first(), minutes.last()) else { return };
    let mut by_ad: BTreeMap<&str, BTreeMap<Minute, u64>> = BTreeMap::new();
    for ((minute, ad), count) in &truth.counts {
        by_ad.entry(ad).or_default().insert(*minute, *count);
    }
    let mut found_total = 0;
    for (ad, counts) in &by_ad {
        let path = format!("/v1/ads/{ad}/counts?from={first}&to={}&filter={filter}&step=minute", last.next());
        let answer = api.get(&path);
        assert_eq!(answer["complete"], true, "{path}");
        let points = answer["counts"].as_array().unwrap_or_else(|| panic!("{path}: no counts"));
        let found: BTreeMap<Minute, u64> = points.iter().map(point).filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, *counts, "{path}");
        found_total += found.values().sum::<u64>();
        let path = format!("/v1/ads/{ad}/aggregated_count?from={first}&to={}&filter={filter}", last.next());
        assert_eq!(api.get(&path)["count"], counts.values().sum::<u64>(), "{path}");
    }
    assert_eq!(found_total, truth.total());
    for minute in &minutes {
        let counts = truth.counts.iter().filter(|((m, _), _)| m == minute).map(|((_, ad), count)| (ad.clone(), *count));
        let mut ranking: Vec<(String, u64)> = counts.collect();
        ranking.sort_by(|(_, a), (_, b)| b.cmp(a));
        assert_top(api, filter, *minute, minute.next(), 100, &ranking);
    }
}

/// Asks for the most clicked ads of a range; `ranking` is the true ranking, or at least its beginning.
///
/// # Panics
/// Where the answer differs, or is not said to be complete and exact.
pub fn assert_top(api: &Running<'_>, filter: FilterId, from: Minute, to: Minute, n: usize, ranking: &[(String, u64)]) {
    let path = format!("/v1/ads/popular_ads?from={from}&to={to}&filter={filter}&n={n}");
    let answer = api.get(&path);
    assert_eq!((&answer["complete"], &answer["exact"]), (&Value::Bool(true), &Value::Bool(true)), "{path}");
    let ads = answer["ad_ids"].as_array().unwrap_or_else(|| panic!("{path}: no ad_ids"));
    let counts = answer["counts"].as_array().unwrap_or_else(|| panic!("{path}: no counts"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found: Vec<(String, u64)> =
        ads.iter().map(text).zip(counts.iter().map(|count| count.as_u64().unwrap_or_default())).collect();
    assert_eq!(found, ranking[..ranking.len().min(n)], "{path}");
}

fn point(value: &Value) -> (Minute, u64) {
    let minute = value["minute"].as_u64().and_then(Minute::from_number);
    (minute.unwrap_or_else(|| panic!("no minute: {value}")), value["count"].as_u64().unwrap_or_default())
}
