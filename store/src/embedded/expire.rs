//! Retention: deletes figures by their arrival, a little at a time.

use clickmill_model::{Minute, SpanKind, Timestamp};
use rusqlite::Connection;

use super::fault::Result;
use super::write::{delete_span, kind_number};

/// Deletes some of what arrived before a time, and notes from when on nothing of its kind is missing. Returns how much went; 0 when there is no more.
pub(super) type Step = fn(&Connection, Timestamp) -> Result<u64>;

/// Spans deleted in one transaction. One of two million ads and four filters has 2,000 blocks.
const SPANS: u32 = 16;
/// Rankings deleted in one transaction.
const RANKINGS: u32 = 1000;

/// What [`super::schema`]'s `deleted_before` speaks of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kept {
    Counts,
    Rankings,
}

/// Deletes counts.
pub(super) fn counts(conn: &Connection, before: Timestamp) -> Result<u64> {
    let mut select = conn.prepare_cached(
        "SELECT revision, space, kind, start FROM spans WHERE arrival < ?1 ORDER BY arrival LIMIT ?2",
    )?;
    let rows = select.query_map((before.as_micros(), SPANS), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
    })?;
    let spans: Vec<_> = rows.collect::<Result<_, _>>()?;
    for span in &spans {
        delete_span(conn, *span)?;
    }
    // An hour or a day that went is still told by its minutes.
    let minutes = spans.iter().filter(|(_, _, kind, _)| *kind == kind_number(SpanKind::Minute));
    note(conn, Kept::Counts, minutes.map(|(_, _, _, start)| *start).max())?;
    Ok(spans.len() as u64)
}

/// Deletes rankings.
pub(super) fn rankings(conn: &Connection, before: Timestamp) -> Result<u64> {
    let mut select = conn.prepare_cached(
        "SELECT revision, filter, window, minute FROM rankings WHERE arrival < ?1 ORDER BY arrival LIMIT ?2",
    )?;
    let rows = select.query_map((before.as_micros(), RANKINGS), |row| {
        Ok((row.get::<_, u32>(0)?, row.get::<_, u16>(1)?, row.get::<_, u32>(2)?, row.get::<_, i64>(3)?))
    })?;
    let rankings: Vec<_> = rows.collect::<Result<_, _>>()?;
    let mut delete = conn
        .prepare_cached("DELETE FROM rankings WHERE revision = ?1 AND filter = ?2 AND window = ?3 AND minute = ?4")?;
    for ranking in &rankings {
        delete.execute(*ranking)?;
    }
    note(conn, Kept::Rankings, rankings.iter().map(|(.., minute)| *minute).max())?;
    Ok(rankings.len() as u64)
}

/// Notes the last minute that went.
fn note(conn: &Connection, what: Kept, last: Option<i64>) -> Result<()> {
    if let Some(last) = last {
        let from = Minute::from_epoch(last).next();
        conn.prepare_cached(
            "INSERT INTO deleted_before (what, minute) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET minute = max(minute, excluded.minute)",
        )?
        .execute((what as i64, from.as_epoch()))?;
    }
    Ok(())
}
