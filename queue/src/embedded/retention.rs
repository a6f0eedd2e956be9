//! Deletes what nobody needs any more, a little at a time.

use clickmill_model::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::commit::delete_one;
use super::shared::Shared;
use super::topics::{self, Log, Topic, record_id};
use super::writer::Stop;
use crate::types::{Result, Retention};

/// How much one transaction deletes at most: a few milliseconds' work.
const DELETE_BYTES: i64 = 8 << 20;
const DELETE_RECORDS: u32 = 256;

/// How long the removal of a key stays in a compacted topic, so that every reader sees it.
const REMOVALS_STAY_MICROS: i64 = 24 * 3600 * 1_000_000;

/// Deletes everything that may go. Stops early when `stop` says so.
pub(super) fn run(shared: &Shared, stop: impl Fn() -> bool) -> Result<()> {
    for name in shared.read("reading", |connection| Ok(topics::names(connection)?))? {
        let topic = shared.topic(&name)?;
        match &topic.retention {
            Retention::Forever => {}
            Retention::Compacted => forget_removals(shared, &topic)?,
            Retention::Consumed { by, at_least_bytes } => {
                for &log in &topic.logs {
                    trim(shared, log, by, *at_least_bytes, &stop)?;
                }
            }
        }
        if stop() {
            break;
        }
    }
    Ok(())
}

fn trim(shared: &Shared, log: i64, by: &[String], at_least_bytes: u64, stop: impl Fn() -> bool) -> Result<()> {
    let at_least = at_least_bytes.min(i64::MAX as u64).cast_signed();
    while !stop() {
        // Looked at without the lock; what may go then, may go for good.
        let until = shared.read("reading", |connection| Ok(deletable_until(connection, log, by, at_least)?))?;
        let Some(until) = until else { break };
        shared.writer.run("deleting from", move |connection| Ok(delete_until(connection, log, until)?))?;
    }
    Ok(())
}

/// The end of what one transaction may delete; `None` where nothing may be.
fn deletable_until(
    connection: &Connection,
    log: i64,
    by: &[String],
    at_least: i64,
) -> Result<Option<i64>, rusqlite::Error> {
    let log = Log::load(connection, log)?;
    let mut floor = log.end;
    for group in by {
        let keep_from: Option<i64> = connection
            .prepare_cached("SELECT keep_from FROM positions WHERE grp = ? AND log = ?")?
            .query_row(params![group, log.id], |row| row.get(0))
            .optional()?;
        floor = floor.min(keep_from.unwrap_or(0));
    }
    if floor <= log.start || log.bytes < at_least {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached(
        "SELECT id, bytes_before + length(body) FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
    )?;
    let mut rows = statement.query(params![record_id(log.id, log.start), record_id(log.id, floor), DELETE_RECORDS])?;
    let first_bytes = log.total_bytes - log.bytes;
    let mut until = None;
    while let Some(row) = rows.next()? {
        let (id, bytes_through): (i64, i64) = (row.get(0)?, row.get(1)?);
        if log.total_bytes - bytes_through < at_least {
            break;
        }
        until = Some(id - record_id(log.id, 0) + 1);
        if bytes_through - first_bytes >= DELETE_BYTES {
            break;
        }
    }
    Ok(until)
}

fn delete_until(connection: &Connection, log: i64, until: i64) -> Result<(), rusqlite::Error> {
    let mut log = Log::load(connection, log)?;
    let range = [record_id(log.id, log.start), record_id(log.id, until)];
    let bytes: i64 = connection
        .prepare_cached("SELECT coalesce(sum(length(body)), 0) FROM records WHERE id >= ? AND id < ?")?
        .query_row(range, |row| row.get(0))?;
    let records = connection.prepare_cached("DELETE FROM records WHERE id >= ? AND id < ?")?.execute(range)?;
    log.start = log.start.max(until);
    log.records -= records as i64;
    log.bytes -= bytes;
    log.store(connection)
}

/// Forgets keys that were removed long ago.
fn forget_removals(shared: &Shared, topic: &Topic) -> Result<()> {
    let before = Timestamp::from_micros(shared.clock.now().as_micros().saturating_sub(REMOVALS_STAY_MICROS));
    for &id in &topic.logs {
        let is_due = shared.read("reading", |connection| {
            Ok(connection
                .prepare_cached("SELECT 1 FROM keys WHERE log = ? AND removed_at < ? LIMIT 1")?
                .exists([id, before.as_micros()])?)
        })?;
        if is_due {
            shared.writer.run("deleting from", move |connection| forget_removed_keys(connection, id, before))?;
        }
    }
    Ok(())
}

fn forget_removed_keys(connection: &Connection, log: i64, before: Timestamp) -> Result<(), Stop> {
    let mut log = Log::load(connection, log)?;
    let due: Vec<(Vec<u8>, i64)> = connection
        .prepare_cached("SELECT key, newest FROM keys WHERE log = ? AND removed_at < ? LIMIT ?")?
        .query_map(params![log.id, before.as_micros(), DELETE_RECORDS], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (key, newest) in due {
        delete_one(connection, &mut log, newest)?;
        connection.prepare_cached("DELETE FROM keys WHERE log = ? AND key = ?")?.execute(params![log.id, key])?;
    }
    log.store(connection)?;
    Ok(())
}
