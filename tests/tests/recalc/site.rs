//! A small pipeline that ran to its end, and what is true of it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clickmill_generator::{Options, Truth, generate};
use clickmill_model::records::{Origin, SourceHeader, SourceMark};
use clickmill_model::{Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, Timestamp};
use clickmill_tests::answers::{assert_counts, assert_top, lines_of_logs};
use clickmill_tests::model::Model;
use clickmill_tests::process::{Finished, LONG, Running, Site};
use clickmill_tests::traffic::{CONFIGURATION, FILTERS};
use rusqlite::Connection;
use serde_json::Value;

/// Eight minutes of 2021, read to their end.
pub(crate) fn drained() -> Site {
    let site = Site::new(&[CONFIGURATION, FILTERS].concat());
    let options =
        Options { clicks: 30_000, ads: 200, minutes: 8, files: 2, duplicates: 0.03, ..Options::new(site.logs()) };
    generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false)).unwrap();
    site.succeed(&["up", "--drain"], LONG);
    site
}

pub(crate) fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

pub(crate) const FIRST: &str = "202101010000";
pub(crate) const END: &str = "202101010008";

pub(crate) fn recalc(site: &Site, from: &str, to: &str, more: &[&str]) -> Finished {
    site.run(&[&["recalc", "--from", from, "--to", to], more].concat(), LONG)
}

/// The slow model of every line in the logs, of which none is late.
pub(crate) fn model(site: &Site) -> Model {
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    let definition = Definition {
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 1 }],
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
            filter(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8:8::/45"]}"#),
        ],
        ..Definition::default()
    };
    let mut model = Model::new(&definition);
    let lines = lines_of_logs(&site.logs());
    let origin = Origin { runs: vec![("log".into(), vec![0; lines.len()])] };
    let header = SourceHeader { source: "test".into(), mark: SourceMark::Holding, origin };
    let far = Timestamp::from_secs(1 << 40);
    model.record(&RawPartition::new("ad-clicks", Partition(0)), Offset(0), far, Some(&header), &lines.join(&b'\n'));
    model
}

/// Clicks of each ad in a minute.
pub(crate) fn of_minute(model: &Model, filter: u16, minute: Minute) -> BTreeMap<String, u64> {
    model.totals(FilterId(filter), minute, minute.next())
}

pub(crate) fn store(site: &Site) -> Connection {
    let store = Connection::open(site.data().join("store/store.db")).unwrap();
    store.busy_timeout(Duration::from_secs(30)).unwrap();
    store
}

/// Demands that a command is refused with this status and this reason.
pub(crate) fn refused(finished: Finished, status: i32, reason: &str) {
    let Finished { status: found, stderr, stdout } = finished;
    assert_eq!(found.code(), Some(status), "{stderr}");
    assert!(stderr.contains(reason), "{stderr:?} does not say {reason:?}");
    assert_eq!(stdout, "");
}

/// A process that answers queries.
pub(crate) fn api(site: &Site) -> Running<'_> {
    site.serve(&["api", "--listen", "127.0.0.1:0"], LONG)
}

/// Demands every count and the ranking of every range of these minutes, under each of these filters, as the model says.
pub(crate) fn assert_figures(site: &Site, model: &Model, filters: &[u16]) {
    let api = api(site);
    let minutes: Vec<Minute> = (0..=8).map(|n| minute(FIRST).plus(n)).collect();
    for filter in filters.iter().map(|id| FilterId(*id)) {
        let of_filter = model.counts().iter().filter(|((_, of, _), _)| *of == filter);
        let counts = of_filter.map(|((minute, _, ad), count)| ((*minute, ad.clone()), *count)).collect();
        assert_counts(&api, filter, &Truth { counts });
        for from in &minutes {
            for to in minutes.iter().filter(|to| from < *to) {
                assert_top(&api, filter, *from, *to, 20, &model.top(filter, *from, *to));
            }
        }
    }
}

/// Every recalculation, as `recalc list --json` says it.
pub(crate) fn listed(site: &Site) -> Vec<Value> {
    let lines = site.succeed(&["recalc", "list", "--json"], LONG);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The state of each recalculation.
pub(crate) fn states(site: &Site) -> Vec<String> {
    listed(site).iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

/// Recalculates, and returns the summary.
pub(crate) fn revise(site: &Site, from: &str, to: &str) -> Value {
    let Finished { status, stdout, stderr } = recalc(site, from, to, &["--json"]);
    assert!(status.success(), "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    summary["summary"].clone()
}

/// All that the store has of a revision.
pub(crate) fn stored(site: &Site, revision: u32) -> Vec<(String, Vec<u8>)> {
    let store = store(site);
    let mut all = Vec::new();
    for (what, key) in [
        ("counts", "kind || ',' || filter || ',' || space || ',' || bucket || ',' || start"),
        ("rankings", "filter || ',' || window || ',' || minute"),
    ] {
        let sql = format!("SELECT {key}, block FROM {what} WHERE revision = ?1 ORDER BY 1");
        let mut select = store.prepare(&sql).unwrap();
        let rows = select.query_map([revision], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).unwrap();
        all.extend(rows.map(|row| row.map(|(key, block)| (format!("{what} {key}"), block)).unwrap()));
    }
    all
}
