//! The table of recalculations.

use clickmill_model::Revision;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{Fault, Result};
use super::schema;
use crate::revisions::next;
use crate::{Began, Recalculation, RevisionRow, RevisionState, Switch};

/// Every recalculation, oldest first. Where the file is of a version that has no such table, there are none.
pub(super) fn all(conn: &Connection) -> Result<Vec<RevisionRow>> {
    if !schema::has_revisions(conn)? {
        return Ok(Vec::new());
    }
    let mut select = conn.prepare_cached("SELECT revision, state, what, changed FROM revisions ORDER BY revision")?;
    let mut rows = select.query(())?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

fn read(row: &Row<'_>) -> Result<RevisionRow> {
    let revision = Revision(row.get(0)?);
    let broken = |why: String| Fault::Broken(format!("table revisions, revision {revision}: {why}"));
    let (state, what, changed): (String, String, Option<String>) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let state = RevisionState::parse(&state).ok_or_else(|| broken(format!("its state is {state:?}")))?;
    let recalculation = serde_json::from_str(&what).map_err(|error| broken(error.to_string()))?;
    let changed = changed.map(|changed| serde_json::from_str(&changed)).transpose();
    Ok(RevisionRow { revision, state, recalculation, changed: changed.map_err(|error| broken(error.to_string()))? })
}

/// Gives a recalculation the next number. `conn` is in a write transaction.
pub(super) fn begin(conn: &Connection, new: &Recalculation) -> Result<Began> {
    let revision = match next(&all(conn)?, new) {
        Ok(revision) => revision,
        Err(other) => return Ok(Began::Overlaps(other)),
    };
    let range = new.holds.range;
    conn.prepare_cached(
        "INSERT INTO revisions (revision, state, \"from\", until, what, changed) VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
    )?
    .execute(params![
        revision.0,
        RevisionState::Pending.as_str(),
        range.from.as_epoch(),
        range.to.as_epoch(),
        json(new)?
    ])?;
    Ok(Began::Begun(revision))
}

/// Changes a state. `conn` is in a write transaction.
pub(super) fn switch(conn: &Connection, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
    let mut select = conn.prepare_cached("SELECT revision, state, what, changed FROM revisions WHERE revision = ?1")?;
    let Some(row) = select.query_row([revision.0], |row| Ok(read(row))).optional()? else { return Ok(None) };
    let mut row = row?;
    let before = row.state;
    switch.apply(&mut row);
    if row.state != before {
        let changed = row.changed.as_ref().map(json).transpose()?;
        conn.prepare_cached("UPDATE revisions SET state = ?2, changed = ?3 WHERE revision = ?1")?.execute(params![
            revision.0,
            row.state.as_str(),
            changed
        ])?;
    }
    Ok(Some(before))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Fault::Broken(format!("it cannot be written as JSON: {error}")))
}
