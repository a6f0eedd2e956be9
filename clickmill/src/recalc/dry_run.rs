//! What a recalculation would change.

use std::io::{BufWriter, Write};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clickmill_db_writer::raw::Files;
use clickmill_recalc::{Comparison, Plan, RecalcError, recalculate};
use clickmill_store::{StoreProgress, View};

use super::show::{self, Bar, json_of, json_of_all, text_of, text_of_all, text_of_left_out};
use crate::pipeline::Parts;

/// Recalculates, compares, and tells.
#[allow(clippy::print_stdout)]
pub(super) fn dry_run(
    parts: &Parts,
    files: &Files,
    plan: &Plan,
    (as_json, rate): (bool, Option<u64>),
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let store = parts.store()?;
    let view = View::of_rows(&store.revisions().context("reading the revisions")?);
    let progress = store.progress().context("reading how far the store is complete")?;
    warn_of_deleted(&progress, plan);
    let mut comparison = Comparison::new(&*store, &progress, &view, plan);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let mut bar = Bar::new(rate)?;
    let counted = recalculate::<RecalcError>(
        files,
        plan,
        stop,
        |progress| bar.show(progress, stop),
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
    let summary = counted?;
    let changes = comparison.finish();
    written.context("writing to stdout")?;
    let line =
        if as_json { json_of_all(plan, &summary, &changes).to_string() } else { text_of_all(plan, &summary, &changes) };
    let left_out = text_of_left_out(&summary).filter(|_| !as_json);
    for line in left_out.chain([line]) {
        writeln!(out, "{line}").context("writing to stdout")?;
    }
    out.flush().context("writing to stdout")?;
    if let (Some(first), Some(last)) = (changes.without_raw.first(), changes.without_raw.last()) {
        bail!(
            "the store has clicks in {} minutes of which no raw line is there ({first} to {last}): their lines are gone, and a recalculation would refuse to make them nothing",
            changes.without_raw.len()
        );
    }
    show::end(&summary)
}

pub(super) fn warn_of_deleted(progress: &StoreProgress, plan: &Plan) {
    let deleted = progress.counts_from.max(progress.rankings_from);
    if let Some(before) = deleted.filter(|before| *before > plan.minutes.start) {
        tracing::warn!(%before, "figures of the span may have been deleted, being past their retention: they are told as changes");
    }
}
