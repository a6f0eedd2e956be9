//! `clickmill recalc list` and `clickmill recalc undo`.

use anyhow::{Context, bail};
use clickmill_model::Revision;
use clickmill_store::{MinuteRange, RevisionRow, RevisionState, Switch};

use super::show;
use crate::Misused;
use crate::config::Config;
use crate::pipeline::{Access, Parts};

/// Prints every recalculation, oldest first.
#[allow(clippy::print_stdout)]
pub(super) fn list(config: &Config, as_json: bool) -> anyhow::Result<()> {
    let parts = Parts::open(config, Access::Read)?;
    for row in parts.store()?.revisions().context("reading the revisions")? {
        if as_json {
            println!("{}", show::json_of_row(&row));
        } else {
            println!("{}", show::text_of_row(&row));
        }
    }
    Ok(())
}

/// Makes a recalculation undone, for good.
#[allow(clippy::print_stdout)]
pub(super) fn undo(config: &Config, revision: Revision) -> anyhow::Result<()> {
    if revision == Revision::STREAM {
        return Err(Misused(anyhow::anyhow!("revision 0 is the stream's own: it cannot be undone")).into());
    }
    let parts = Parts::open(config, Access::Write)?;
    check_any(&parts)?;
    let before = parts.store()?.switch_revision(revision, Switch::Undo).context("undoing the revision")?;
    match before {
        None => Err(unknown(revision)),
        Some(RevisionState::Undone) => bail!("revision {revision} is undone already"),
        Some(RevisionState::Pending) => {
            println!("revision {revision} is dropped: it was pending, and nobody saw its figures");
            Ok(())
        }
        Some(RevisionState::Active) => {
            println!("revision {revision} is undone: readers see what they saw without it");
            Ok(())
        }
    }
}

/// Refuses a store that nobody ever wrote to: looking for a revision makes none.
fn check_any(parts: &Parts) -> anyhow::Result<()> {
    match parts.definitions()? {
        Some(_) => Ok(()),
        None => bail!("the pipeline has no definition yet"),
    }
}

fn unknown(revision: Revision) -> anyhow::Error {
    anyhow::anyhow!("there is no revision {revision}: `clickmill recalc list` names those that there are")
}

/// The recalculation that is to go on.
pub(super) fn pending(parts: &Parts, revision: Revision) -> anyhow::Result<RevisionRow> {
    check_any(parts)?;
    let rows = parts.store()?.revisions().context("reading the revisions")?;
    let Some(row) = rows.into_iter().find(|row| row.revision == revision) else { return Err(unknown(revision)) };
    match row.state {
        RevisionState::Pending => Ok(row),
        RevisionState::Active => bail!("revision {revision} is active already: nothing is left to do"),
        RevisionState::Undone => {
            bail!("revision {revision} is undone, for good: recalculate the span under a new one")
        }
    }
}

/// Why another recalculation cannot begin.
pub(super) fn in_the_way(row: &RevisionRow) -> anyhow::Error {
    let RevisionRow { revision, recalculation, .. } = row;
    let MinuteRange { from, to } = recalculation.holds.range;
    anyhow::anyhow!(
        "revision {revision} is pending and holds minutes of this span: {from} to {to}, begun by {} (process {}) at {}; wait for it, go on with it (`clickmill recalc --resume {revision}`), \
         or drop it (`clickmill recalc undo {revision}`)",
        recalculation.began_by,
        recalculation.process,
        recalculation.began_at
    )
}
