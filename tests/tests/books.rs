//! The books balance: lines = counted + duplicates + late + rejected, by the metrics, by the status and by the summary of a drain, and every line that was not counted is found where it stood.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::collections::BTreeMap;
use std::fs;

use clickmill_model::RejectReason;
use clickmill_tests::answers::lines_so_far;
use clickmill_tests::process::{LONG, Running, Site, wait_for};
use serde_json::Value;

const CONFIGURATION: &str = r#"
[input]
logs = ["logs/*.log"]
source = "web-7"
"#;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Counted,
    Duplicate,
    Rejected(RejectReason),
}

fn good(ad: &str, time: &str) -> String {
    format!("[AdClickEvent] {ad}, {time}, user 1, 207.148.22.22, USA")
}

fn json(members: &str) -> String {
    format!(r#"{{"ad_id":"ad1","click_timestamp":"2021-01-01T00:00:01Z","user_id":"u",{members}}}"#)
}

/// At least one line of every reason, good lines between them.
fn lines() -> Vec<(Vec<u8>, Fate)> {
    use Fate::{Counted, Duplicate, Rejected};
    use RejectReason::{
        BadIp, BadTimestamp, BrokenJson, ControlCharacter, Empty, ExtraField, FieldTooLong, MissingField, NotUtf8,
        TooLong, UnknownPrefix, WrongClock, WrongJsonType,
    };
    let time = "2021-01-01 00:00:01";
    let text = |line: &str| line.as_bytes().to_vec();
    let mut lines = vec![
        (text(""), Rejected(Empty)),
        (text("   \t "), Rejected(Empty)),
        (text(&good("first", time)), Counted),
        (vec![b'x'; 70_000], Rejected(TooLong)),
        ([good("ad", time).as_bytes(), b"\xff\xfe"].concat(), Rejected(NotUtf8)),
        (text(&good("a\0d", time)), Rejected(ControlCharacter)),
        (text(&good("first", time)), Duplicate),
        (text("[Something] ad, 2021-01-01 00:00:01, u, 1.1.1.1, USA"), Rejected(UnknownPrefix)),
        (text("[AdClickEvent] ad, 2021-01-01 00:00:01, u, 1.1.1.1"), Rejected(MissingField)),
        (text(&json(r#""ip":"1.1.1.1""#)), Rejected(MissingField)),
        (text(&(good("ad", time) + ", more")), Rejected(ExtraField)),
        (text(&good("ad", "2021-02-30 00:00:01")), Rejected(BadTimestamp)),
        (text(&good("ad", "2021-01-01 25:00:01")), Rejected(BadTimestamp)),
        (text(&good("second", "2021-01-01 00:01:01")), Counted),
        (text(&good("ad", time).replace("207.148.22.22", "207.148.22.256")), Rejected(BadIp)),
        (text(&good(&"a".repeat(257), time)), Rejected(FieldTooLong)),
        (text(r#"{"ad_id":"ad1","#), Rejected(BrokenJson)),
        (text(&json(r#""ip":7,"country":"USA""#)), Rejected(WrongJsonType)),
        (text(&good("ad", "2099-01-01 00:00:00")), Rejected(WrongClock)),
        (text(&good("third", "2021-01-01 00:02:01")), Counted),
    ];
    // Some more of one reason than of the others.
    lines.extend((0..20).map(|n| (format!("garbage {n}").into_bytes(), Rejected(UnknownPrefix))));
    lines
}

/// Where each line begins, if they stand one behind the other.
fn offsets(lines: &[(Vec<u8>, Fate)]) -> Vec<u64> {
    let mut at = 0;
    let begin = lines.iter().map(|(line, _)| {
        let begin = at;
        at += line.len() as u64 + 1;
        begin
    });
    begin.collect()
}

fn file_of(lines: &[(Vec<u8>, Fate)]) -> Vec<u8> {
    lines.iter().flat_map(|(line, _)| [line.as_slice(), b"\n"].concat()).collect()
}

/// The sum of the series of a metric, and of those with a label's value.
fn metric(process: &Running<'_>, name: &str, label: &str) -> u64 {
    let (_, text) = process.try_get("/metrics").unwrap();
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let is_it = series.split('{').next()? == name && series.contains(label);
        is_it.then(|| value.parse::<f64>().unwrap() as u64)
    };
    text.lines().filter_map(of).sum()
}

#[test]
fn every_line_is_in_the_books_once_and_every_rejected_one_is_found() {
    let site = Site::new(CONFIGURATION);
    let lines = lines();
    let reasons: Vec<RejectReason> = lines.iter().filter_map(|(_, fate)| reason(*fate)).collect();
    for known in RejectReason::ALL {
        assert!(reasons.contains(known), "there is a line for {known}");
    }
    fs::write(site.logs().join("a.log"), file_of(&lines)).unwrap();
    let up = site.serve(&["up", "--listen", "127.0.0.1:0"], LONG);
    wait_for("every line to be judged", LONG, || (lines_so_far(&up) == lines.len() as u64).then_some(()));
    // All minutes of 2021 close, and a line of them is late.
    wait_for("the minutes to close", LONG, || {
        let answer = up.get("/v1/ads/third/aggregated_count?from=202101010002&to=202101010003");
        (answer["complete"] == true).then_some(())
    });
    fs::write(site.logs().join("late.log"), good("late", "2021-01-01 00:00:30") + "\n").unwrap();
    let of = |fate| lines.iter().filter(|(_, f)| *f == fate).count() as u64;
    let expected = (lines.len() as u64 + 1, of(Fate::Counted), of(Fate::Duplicate), 1, reasons.len() as u64);
    let by_metrics = || {
        let sum = |name: &str| metric(&up, &format!("clickmill_mapper_{name}_total"), "");
        (sum("lines"), sum("clicks_counted"), sum("clicks_duplicate"), sum("clicks_late"), sum("lines_rejected"))
    };
    wait_for("the late line", LONG, || (by_metrics().0 == expected.0).then_some(()));
    assert_eq!(by_metrics(), expected);
    assert_eq!(expected.0, expected.1 + expected.2 + expected.3 + expected.4);
    let status = up.get("/v1/status");
    let of_status = |name: &str| status["books"][name].as_u64().unwrap();
    let by_status =
        (of_status("lines"), of_status("counted"), of_status("duplicates"), of_status("late"), of_status("rejected"));
    assert_eq!(by_status, expected);
    for known in RejectReason::ALL {
        let count = reasons.iter().filter(|reason| *reason == known).count() as u64;
        let label = format!("reason=\"{known}\"");
        assert_eq!(metric(&up, "clickmill_mapper_lines_rejected_total", &label), count, "{known}");
        assert_eq!(status["books"]["rejected_by_reason"][known.as_str()], count, "{known}");
    }

    // Each is found, by file, place and reason.
    let path = site.logs().join("a.log").canonicalize().unwrap();
    let expected: BTreeMap<u64, (RejectReason, &[u8])> = offsets(&lines)
        .into_iter()
        .zip(&lines)
        .filter_map(|(at, (line, fate))| Some((at, (reason(*fate)?, line.as_slice()))))
        .collect();
    let answer = up.get("/v1/rejected?limit=200");
    let found = answer["lines"].as_array().unwrap();
    assert_eq!(found.len(), expected.len());
    for line in found {
        let at = line["byte_offset"].as_u64().unwrap();
        let (reason, bytes) = expected.get(&at).unwrap_or_else(|| panic!("no rejected line begins at {at}: {line}"));
        assert_eq!((&line["reason"], &line["file"]), (&reason.as_str().into(), &path.to_str().unwrap().into()));
        assert_eq!(line["source"], "web-7");
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
        assert_eq!(line["line"], shown, "{at}");
    }
    let late = up.get("/v1/late");
    assert_eq!(late["lines"].as_array().unwrap().len(), 1);
    assert_eq!((&late["lines"][0]["byte_offset"], &late["lines"][0]["reason"]), (&0.into(), &Value::Null));
    assert_documented(&up.try_get("/metrics").unwrap().1);
    assert!(up.terminate(LONG).success());

    // A drain has books of its own, of what it read.
    let more: Vec<_> = lines
        .iter()
        .map(|(line, fate)| {
            (String::from_utf8_lossy(line).replace("2021-01-01 00:0", "2021-01-01 01:0").into_bytes(), *fate)
        })
        .filter(|(_, fate)| *fate != Fate::Rejected(RejectReason::NotUtf8))
        .collect();
    fs::write(site.logs().join("b.log"), file_of(&more)).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    // Those minutes are long closed.
    let rejected = more.iter().filter(|(_, fate)| reason(*fate).is_some()).count();
    let late = more.len() - rejected;
    let expected = format!("{} lines: 0 clicks, 0 duplicates, {late} late, {rejected} rejected;", more.len());
    assert!(summary.starts_with(&expected), "{summary:?} does not begin with {expected:?}");
}

/// Demands that `docs/metrics.md` has every metric that is shown, and every one that an alert looks at.
fn assert_documented(metrics: &str) {
    let read = |file: &str| fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (documented, alerts) = (read("docs/metrics.md"), read("deploy/alerts.yaml"));
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let is_there = |name: &str| {
        let ends = [format!("`{name}`"), format!("`{name}{{")];
        ends.iter().any(|end| documented.contains(end.as_str()))
    };
    let shown = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let looked_at = alerts.split(|c| !is_name(c)).filter(|word| word.starts_with("clickmill_"));
    for name in shown.chain(looked_at) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(is_there(name) || is_there(base), "docs/metrics.md does not have {name}");
    }
}

#[test]
fn the_summary_of_a_first_drain_balances() {
    let site = Site::new(CONFIGURATION);
    let lines = lines();
    fs::write(site.logs().join("a.log"), file_of(&lines)).unwrap();
    let summary = site.succeed(&["up", "--drain"], LONG);
    let of = |wanted: fn(&Fate) -> bool| lines.iter().filter(|(_, fate)| wanted(fate)).count();
    let (counted, duplicates) = (of(|f| *f == Fate::Counted), of(|f| *f == Fate::Duplicate));
    let rejected = of(|f| matches!(f, Fate::Rejected(_)));
    let expected = format!(
        "{} lines: {counted} clicks, {duplicates} duplicates, 0 late, {rejected} rejected; 3 minutes;",
        lines.len()
    );
    assert!(summary.starts_with(&expected), "{summary:?} does not begin with {expected:?}");
    assert_eq!(lines.len(), counted + duplicates + rejected);
}

fn reason(fate: Fate) -> Option<RejectReason> {
    match fate {
        Fate::Rejected(reason) => Some(reason),
        Fate::Counted | Fate::Duplicate => None,
    }
}
