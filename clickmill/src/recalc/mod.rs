//! `clickmill recalc`: a span is counted again from raw Parquet, beside the stream's figures, and readers see all of it at once or nothing.

mod dry_run;
mod plan;
mod revise;
mod revisions;
mod show;
mod tell;

use clickmill_model::Revision;

use crate::Misused;
use crate::cli::{Recalc, RecalcAction};
use crate::config::Config;
use crate::pipeline::{Access, Parts};
use crate::up;

use self::plan::Waiting;
use self::revise::Run;

/// With `--rate`, a slice is about so many seconds of it.
const SLICE_SECONDS: u64 = 2;

/// The fewest rows of a slice with `--rate`: each is told and written by itself.
const FEWEST_ROWS: u64 = 20_000;

/// `clickmill recalc`.
pub(crate) fn run(load: impl Fn(&crate::cli::Common) -> anyhow::Result<Config>, args: &Recalc) -> anyhow::Result<()> {
    match &args.action {
        Some(RecalcAction::List { common, json }) => return revisions::list(&load(common)?, *json),
        Some(RecalcAction::Undo { common, revision }) => return revisions::undo(&load(common)?, Revision(*revision)),
        None => {}
    }
    let config = load(&args.common)?;
    let stop = up::signals()?;
    if let Some(revision) = args.resume {
        let parts = Parts::open(&config, Access::Write)?;
        let row = revisions::pending(&parts, Revision(revision))?;
        let mut plan = plan::of_begun(&parts, &row.recalculation)?;
        pace(&mut plan, args.rate);
        plan.skip_damaged = args.skip_damaged;
        return Run { parts: &parts, plan: &plan, json: args.json, rate: args.rate, stop: &stop }.go_on(&row);
    }
    let (Some(from), Some(to)) = (args.from, args.to) else {
        return Err(Misused(anyhow::anyhow!("say which minutes: --from M --to M")).into());
    };
    let span = from..to;
    if span.start >= span.end {
        return Err(Misused(anyhow::anyhow!(
            "--from {} --to {}: the first minute must be before the last, which does not belong to the span",
            span.start,
            span.end
        ))
        .into());
    }
    let parts = Parts::open(&config, if args.dry_run { Access::Read } else { Access::Write })?;
    if span.end.start() > parts.clock.now() {
        return Err(Misused(anyhow::anyhow!(
            "the span ends at {}, which is yet to come: it is {} now",
            span.end,
            parts.clock.now().minute()
        ))
        .into());
    }
    let mut plan = Waiting { parts: &parts, span, wait: args.wait, stop: &stop }.plan()?;
    pace(&mut plan, args.rate);
    plan.skip_damaged = args.skip_damaged;
    if args.dry_run {
        let files = parts.files()?;
        return dry_run::dry_run(&parts, &files, &plan, (args.json, args.rate), &stop);
    }
    Run { parts: &parts, plan: &plan, json: args.json, rate: args.rate, stop: &stop }.begin()
}

/// Small steps, one after the other, where it shall go slowly: then it rests in between.
fn pace(plan: &mut clickmill_recalc::Plan, rate: Option<u64>) {
    if let Some(rate) = rate {
        plan.slice_rows = plan.slice_rows.min((rate * SLICE_SECONDS).max(FEWEST_ROWS));
        plan.threads = 1;
    }
}
