//! The last reconciliation, in a table that is made when there is one: who does not know it passes over it.

use rusqlite::{Connection, OptionalExtension};

use super::fault::{Fault, Result};
use crate::Verdict;

pub(super) fn write(conn: &Connection, verdict: &Verdict) -> Result<()> {
    let json = serde_json::to_string(verdict)
        .map_err(|error| Fault::Broken(format!("a verdict cannot be written as JSON: {error}")))?;
    conn.execute_batch("CREATE TABLE IF NOT EXISTS verdicts (what INTEGER PRIMARY KEY, json TEXT NOT NULL)")?;
    conn.prepare_cached("INSERT OR REPLACE INTO verdicts (what, json) VALUES (0, ?1)")?.execute([json])?;
    Ok(())
}

pub(super) fn last(conn: &Connection) -> Result<Option<Verdict>> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'verdicts'";
    if conn.prepare_cached(table)?.query_row((), |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let mut select = conn.prepare_cached("SELECT json FROM verdicts WHERE what = 0")?;
    let json: Option<String> = select.query_row((), |row| row.get(0)).optional()?;
    json.map(|json| serde_json::from_str(&json).map_err(|error| Fault::Broken(format!("table verdicts: {error}"))))
        .transpose()
}
