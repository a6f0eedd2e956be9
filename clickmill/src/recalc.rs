//! `clickmill recalc`: a span is counted again from raw Parquet. So far it only says what that would change.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, IsTerminal, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clickmill_db_writer::raw::{Before, Files};
use clickmill_model::records::Ranking;
use clickmill_model::{Definition, Minute, Offset, RawPartition, SpanKind, TimeSettings};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{TopicPartition, topology};
use clickmill_recalc::{Change, Changes, Comparison, Plan, Progress, RecalcError, Summary, recalculate};
use clickmill_store::StoreProgress;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::Misused;
use crate::cli::Recalc;
use crate::config::Config;
use crate::drain;
use crate::pipeline::{Access, Parts};
use crate::up;

/// How often it looks whether the span can be recalculated now.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a log says how far it has come, where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// `clickmill recalc`.
pub(crate) fn run(config: &Config, args: &Recalc) -> anyhow::Result<()> {
    let span = args.from..args.to;
    if span.start >= span.end {
        return Err(Misused(anyhow::anyhow!(
            "--from {} --to {}: the first minute must be before the last, which does not belong to the span",
            span.start,
            span.end
        ))
        .into());
    }
    if !args.dry_run {
        return Err(Misused(anyhow::anyhow!(
            "this clickmill says what a recalculation would change, but does not make it so yet: give --dry-run"
        ))
        .into());
    }
    let stop = up::signals()?;
    let parts = Parts::open(config, Access::Read)?;
    if span.end.start() > parts.clock.now() {
        return Err(Misused(anyhow::anyhow!(
            "the span ends at {}, which is yet to come: it is {} now",
            span.end,
            parts.clock.now().minute()
        ))
        .into());
    }
    let plan = Waiting { parts: &parts, span, wait: args.wait, stop: &stop }.plan()?;
    let files = parts.files()?;
    dry_run(&parts, &files, &plan, args.json, &stop)
}

/// What must be so before a span is recalculated.
struct Waiting<'a> {
    parts: &'a Parts,
    span: Range<Minute>,
    wait: bool,
    stop: &'a AtomicBool,
}

impl Waiting<'_> {
    /// Refuses, or waits, while minutes of the span are open or lines that the mappers have counted are not in Parquet. Then says what is to be counted.
    fn plan(&self) -> anyhow::Result<Plan> {
        let Some(definitions) = self.parts.definitions()? else { bail!("the pipeline has no definition yet") };
        let all = definitions.all().to_vec();
        let Some(newest) = definitions.newest() else { bail!("the pipeline has no definition yet") };
        self.until_closed(newest)?;
        // What was mapped by now holds every click that was counted in the span, since it is closed.
        let raw = RawTopics::load(&*self.parts.queue, &all)?;
        self.until_written(raw.mapped())?;
        let progress = self.parts.store()?.progress().context("reading how far the store is complete")?;
        let (published, pins, ends) = (progress.filters, self.pins(&raw)?, self.ends(&raw)?);
        Ok(Plan { published, pins, ends, ..Plan::new(self.span.clone(), &all) })
    }

    fn until_closed(&self, newest: &Definition) -> anyhow::Result<()> {
        self.until("closing the span's last minute", || {
            let store = self.parts.store()?;
            let progress = store.progress().context("reading how far the store is complete")?;
            let counts = progress.counts_until(newest.partitions);
            let Some(complete) = counts.min(progress.rankings_until(newest.partitions)) else {
                return Ok(Some("no minute is closed yet: the pipeline has not counted anything".to_owned()));
            };
            if complete >= self.span.end {
                return Ok(None);
            }
            let TimeSettings { max_disorder, source_timeout, .. } = newest.time;
            Ok(Some(format!(
                "the minutes from {complete} on are still open: the last one of the span closes when every source has passed its end by {max_disorder:?}, \
                 at {} at the earliest ({source_timeout:?} later where a source is silent)",
                self.span.end.start().after(max_disorder)
            )))
        })
    }

    /// Waits until the writer of raw lines has passed what the mappers have.
    fn until_written(&self, mapped: &BTreeMap<RawPartition, Offset>) -> anyhow::Result<()> {
        self.until("writing the raw lines", || {
            for (raw, end) in mapped {
                let of = TopicPartition { topic: raw.topic.clone(), partition: raw.partition };
                if self.parts.queue.partitions(&raw.topic)?.is_some()
                    && !drain::has_read(&*self.parts.queue, topology::RAW_WRITER, &of, *end)?
                {
                    let written = self.parts.queue.committed(topology::RAW_WRITER, &raw.topic)?;
                    let at = written.into_iter().find(|(partition, _)| *partition == raw.partition);
                    let at = at.map_or(Offset(0), |(_, committed)| committed.offset);
                    return Ok(Some(format!(
                        "not all raw lines are in Parquet yet: {raw} is counted up to offset {end}, and written up to {at}"
                    )));
                }
            }
            Ok(None)
        })
    }

    /// Lines from these records on are not counted: what the raw writer has committed by now, and of inputs that are none any more, what the mappers had read.
    fn pins(&self, raw: &RawTopics) -> anyhow::Result<BTreeMap<RawPartition, Offset>> {
        let mut pins = raw.mapped().clone();
        for topic in raw.of_mapper() {
            for (partition, committed) in self.parts.queue.committed(topology::RAW_WRITER, &topic)? {
                pins.insert(RawPartition::new(&topic, partition), committed.offset);
            }
        }
        Ok(pins)
    }

    /// Where the last file of each raw partition ended.
    fn ends(&self, raw: &RawTopics) -> anyhow::Result<BTreeMap<RawPartition, Before>> {
        let mut ends = BTreeMap::new();
        let topics: BTreeSet<&str> = raw.mapped().keys().map(|raw| &*raw.topic).collect();
        for topic in topics {
            for (partition, committed) in self.parts.queue.committed(topology::RAW_WRITER, topic)? {
                ends.insert(RawPartition::new(topic, partition), Before::committed(&committed.metadata));
            }
        }
        Ok(ends)
    }

    /// Looks until nothing is in the way any more, or says what is.
    fn until(&self, what: &str, mut in_the_way: impl FnMut() -> anyhow::Result<Option<String>>) -> anyhow::Result<()> {
        let mut told = false;
        while let Some(why) = in_the_way()? {
            if !self.wait {
                bail!("{why}; give --wait to wait for it");
            }
            if self.stop.load(Ordering::Relaxed) {
                bail!("stopped while waiting: {why}");
            }
            if !told {
                tracing::info!(why, "waits for {what}");
                told = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Recalculates, compares, and tells.
#[allow(clippy::print_stdout)]
fn dry_run(parts: &Parts, files: &Files, plan: &Plan, as_json: bool, stop: &AtomicBool) -> anyhow::Result<()> {
    let store = parts.store()?;
    let progress = store.progress().context("reading how far the store is complete")?;
    warn_of_deleted(&progress, plan);
    let mut comparison = Comparison::new(&*store, &progress, plan);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let mut bar = Bar::new()?;
    let end = recalculate::<RecalcError>(
        files,
        plan,
        stop,
        |progress| bar.show(progress),
        |told| {
            comparison.take_in(told, &mut |change| {
                if written.is_ok() {
                    written = if as_json {
                        writeln!(out, "{}", json_of(change))
                    } else {
                        writeln!(out, "{}", text_of(change))
                    };
                }
            })?;
            Ok(())
        },
    );
    bar.finish();
    let summary = end?;
    let changes = comparison.finish();
    written.context("writing to stdout")?;
    let line =
        if as_json { json_of_all(plan, &summary, &changes).to_string() } else { text_of_all(plan, &summary, &changes) };
    writeln!(out, "{line}").and_then(|()| out.flush()).context("writing to stdout")?;
    if let (Some(first), Some(last)) = (changes.without_raw.first(), changes.without_raw.last()) {
        bail!(
            "the store has clicks in {} minutes of which no raw line is there ({first} to {last}): their lines are gone, and a recalculation would refuse to make them nothing",
            changes.without_raw.len()
        );
    }
    Ok(())
}

fn warn_of_deleted(progress: &StoreProgress, plan: &Plan) {
    let deleted = progress.counts_from.max(progress.rankings_from);
    if let Some(before) = deleted.filter(|before| *before > plan.minutes.start) {
        tracing::warn!(%before, "figures of the span may have been deleted, being past their retention: they are told as changes");
    }
}

/// How far it has come, for who waits.
struct Bar {
    bar: ProgressBar,
    on_terminal: bool,
    began: Instant,
    told: Instant,
}

impl Bar {
    fn new() -> anyhow::Result<Self> {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = if on_terminal {
            ProgressBar::new(0)
                .with_style(ProgressStyle::with_template("{bar:30} {percent}% {per_sec} lines, {eta} left, at {msg}")?)
        } else {
            ProgressBar::hidden()
        };
        let now = Instant::now();
        Ok(Self { bar, on_terminal, began: now, told: now })
    }

    fn show(&mut self, Progress { rows, of_rows, until }: Progress) {
        self.bar.set_length(of_rows);
        self.bar.set_position(rows);
        self.bar.set_message(until.to_string());
        if !self.on_terminal && self.told.elapsed() >= TELL_EVERY && rows > 0 {
            self.told = Instant::now();
            let left = self.began.elapsed().mul_f64(of_rows.saturating_sub(rows) as f64 / rows as f64);
            tracing::info!(%until, lines = rows, of_lines = of_rows, seconds_left = left.as_secs(), "recalculates");
        }
    }

    fn finish(&self) {
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

fn text_of(change: &Change) -> String {
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

fn text_of_all(plan: &Plan, summary: &Summary, changes: &Changes) -> String {
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

fn json_of(change: &Change) -> Value {
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

fn json_of_all(plan: &Plan, summary: &Summary, changes: &Changes) -> Value {
    let gained: serde_json::Map<String, Value> =
        changes.gained.iter().map(|(filter, clicks)| (filter.to_string(), json!(clicks))).collect();
    json!({
        "summary": {
            "from": plan.minutes.start, "to": plan.minutes.end,
            "counts": changes.counts, "totals": changes.totals, "rankings": changes.rankings,
            "stored_clicks": changes.clicks.0, "recalculated_clicks": changes.clicks.1,
            "duplicates": summary.lines.duplicates, "files": summary.files,
            "gained": gained, "without_raw": changes.without_raw,
        }
    })
}
