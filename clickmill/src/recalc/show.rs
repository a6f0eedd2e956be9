//! What a recalculation says while it goes on and at its end.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::records::Ranking;
use clickmill_model::{Revision, SpanKind};
use clickmill_recalc::{Change, Changes, LeftOut, Plan, Progress, Summary};
use clickmill_store::{Changed, MinuteRange, RevisionRow};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::DoneWithout;

/// How often a log says how far it has come, where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How long it rests without looking whether it shall stop.
const REST: Duration = Duration::from_millis(100);

/// How far it has come, for who waits.
pub(super) struct Bar {
    rate: Option<u64>,
    bar: ProgressBar,
    on_terminal: bool,
    began: Instant,
    told: Instant,
}

impl Bar {
    /// With at most so many rows a second, where that is given.
    pub(super) fn new(rate: Option<u64>) -> anyhow::Result<Self> {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = if on_terminal {
            ProgressBar::new(0)
                .with_style(ProgressStyle::with_template("{bar:30} {percent}% {per_sec} lines, {eta} left, at {msg}")?)
        } else {
            ProgressBar::hidden()
        };
        let now = Instant::now();
        Ok(Self { rate, bar, on_terminal, began: now, told: now })
    }

    /// Shows it; rests where it was faster than it should be.
    pub(super) fn show(&mut self, Progress { rows, of_rows, until }: Progress, stop: &AtomicBool) {
        self.bar.set_length(of_rows);
        self.bar.set_position(rows);
        self.bar.set_message(until.to_string());
        if !self.on_terminal && self.told.elapsed() >= TELL_EVERY && rows > 0 {
            self.told = Instant::now();
            let left = self.began.elapsed().mul_f64(of_rows.saturating_sub(rows) as f64 / rows as f64);
            tracing::info!(%until, lines = rows, of_lines = of_rows, seconds_left = left.as_secs(), "recalculates");
        }
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(rows as f64 / rate as f64);
            while self.began.elapsed() < due && !stop.load(Ordering::Relaxed) {
                std::thread::sleep((due - self.began.elapsed().min(due)).min(REST));
            }
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

const fn name_of(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Minute => "minute",
        SpanKind::Hour => "hour",
        SpanKind::Day => "day",
    }
}

pub(super) fn text_of(change: &Change) -> String {
    match change {
        Change::Count { span, filter, ad, stored, recalculated } => {
            format!("{} {}, filter {filter}, ad {ad}: {stored} -> {recalculated}", name_of(span.kind), span.start)
        }
        Change::Ranking { minute, window, filter, stored, recalculated } => {
            let first = |ranking: &Option<Ranking>| match ranking {
                None => "none".to_owned(),
                Some(ranking) => {
                    let best =
                        ranking.ads.first().map_or_else(String::new, |(ad, clicks)| format!(", {ad} ({clicks}) first"));
                    format!("{} ads{best}", ranking.ads.len())
                }
            };
            format!(
                "ranking of {window} minutes up to {minute}, filter {filter}: {} -> {}",
                first(stored),
                first(recalculated)
            )
        }
    }
}

pub(super) fn text_of_all(plan: &Plan, summary: &Summary, changes: &Changes) -> String {
    let Changes { counts, totals, rankings, clicks: (stored, recalculated), gained, .. } = changes;
    let gained: String = gained
        .iter()
        .map(|(filter, clicks)| format!("; filter {filter} would get {clicks} clicks where it had no figures"))
        .collect();
    let what = if counts + totals + rankings == 0 {
        "nothing would change".to_owned()
    } else {
        format!("{counts} counts, {totals} totals and {rankings} rankings would change")
    };
    format!(
        "{} to {}: {what}; {stored} clicks stored, {recalculated} recalculated ({} duplicates, {} files){gained}",
        plan.minutes.start, plan.minutes.end, summary.lines.duplicates, summary.files
    )
}

pub(super) fn json_of(change: &Change) -> Value {
    match change {
        Change::Count { span, filter, ad, stored, recalculated } => json!({
            "change": "count", "span": name_of(span.kind), "start": span.start, "filter": filter, "ad_id": ad,
            "stored": stored, "recalculated": recalculated,
        }),
        Change::Ranking { minute, window, filter, stored, recalculated } => {
            let ads = |ranking: &Option<Ranking>| ranking.as_ref().map(|ranking| ranking.ads.clone());
            json!({
                "change": "ranking", "minute": minute, "window": window, "filter": filter,
                "stored": ads(stored), "recalculated": ads(recalculated),
            })
        }
    }
}

pub(super) fn json_of_all(plan: &Plan, summary: &Summary, changes: &Changes) -> Value {
    let gained: serde_json::Map<String, Value> =
        changes.gained.iter().map(|(filter, clicks)| (filter.to_string(), json!(clicks))).collect();
    json!({
        "summary": {
            "from": plan.minutes.start, "to": plan.minutes.end,
            "counts": changes.counts, "totals": changes.totals, "rankings": changes.rankings,
            "stored_clicks": changes.clicks.0, "recalculated_clicks": changes.clicks.1,
            "duplicates": summary.lines.duplicates, "files": summary.files,
            "gained": gained, "without_raw": changes.without_raw,
            "left_out": summary.left_out.iter().map(json_of_left_out).collect::<Vec<_>>(),
        }
    })
}

fn json_of_left_out(left: &LeftOut) -> Value {
    let LeftOut { path, why, raw, first_offset, last_offset, minutes, .. } = left;
    json!({
        "path": path, "why": why,
        "topic": raw.as_ref().map(|raw| &raw.topic), "partition": raw.as_ref().map(|raw| raw.partition),
        "first_offset": first_offset, "last_offset": last_offset,
        "first_arrival": left.first_arrival.map(|at| at.to_string()),
        "last_arrival": left.last_arrival.map(|at| at.to_string()),
        "first_minute": minutes.map(|(first, _)| first), "last_minute": minutes.map(|(_, last)| last),
        "counted_until": left.counted_until,
    })
}

/// What it went on without, one a line.
pub(super) fn text_of_left_out(summary: &Summary) -> impl Iterator<Item = String> {
    summary.left_out.iter().map(|left| format!("left out: {left}"))
}

/// The end of one that came to its end: an error of its own where something was left out.
pub(super) fn end(summary: &Summary) -> anyhow::Result<()> {
    match summary.left_out.len() {
        0 => Ok(()),
        files => Err(DoneWithout(files).into()),
    }
}

/// A recalculation that readers see now.
pub(super) fn text_of_revised(revision: Revision, plan: &Plan, summary: &Summary, changes: &Changes) -> String {
    let Changes { counts, totals, rankings, clicks: (before, after), gained, .. } = changes;
    let gained: String = gained
        .iter()
        .map(|(filter, clicks)| format!("; filter {filter} has {clicks} clicks where it had no figures"))
        .collect();
    let what = if counts + totals + rankings == 0 {
        "no figure changed".to_owned()
    } else {
        format!("{counts} counts, {totals} totals and {rankings} rankings changed")
    };
    format!(
        "revision {revision} is active, {} to {}: {what}; {before} clicks before, {after} now ({} duplicates, {} files){gained}",
        plan.minutes.start, plan.minutes.end, summary.lines.duplicates, summary.files
    )
}

/// The summary of a dry run, and the revision.
pub(super) fn json_of_revised(revision: Revision, plan: &Plan, summary: &Summary, changes: &Changes) -> Value {
    let mut all = json_of_all(plan, summary, changes);
    if let Some(summary) = all.get_mut("summary").and_then(Value::as_object_mut) {
        summary.insert("revision".to_owned(), json!(revision));
    }
    all
}

pub(super) fn text_of_row(row: &RevisionRow) -> String {
    let RevisionRow { revision, state, recalculation, changed } = row;
    let MinuteRange { from, to } = recalculation.holds.range;
    let what = changed.map_or_else(String::new, |changed| {
        let Changed { counts, totals, rankings, clicks_before, clicks_after } = changed;
        format!("; {counts} counts, {totals} totals and {rankings} rankings changed, {clicks_before} -> {clicks_after} clicks")
    });
    format!(
        "revision {revision}, {state}: {from} to {to}, begun by {} (process {}) at {}, by definition {}{what}",
        recalculation.began_by, recalculation.process, recalculation.began_at, recalculation.definition
    )
}

pub(super) fn json_of_row(row: &RevisionRow) -> Value {
    let RevisionRow { revision, state, recalculation, changed } = row;
    json!({
        "revision": revision, "state": state,
        "from": recalculation.holds.range.from, "to": recalculation.holds.range.to,
        "filters": recalculation.holds.filters.keys().collect::<Vec<_>>(),
        "definition": recalculation.definition,
        "by": recalculation.began_by, "process": recalculation.process, "at": recalculation.began_at.to_string(),
        "changed": changed,
    })
}
