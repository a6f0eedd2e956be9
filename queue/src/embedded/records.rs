//! Reads records out of their table.

use rusqlite::{Connection, params};

use super::body;
use super::topics::{Log, offset_of, record_id};
use super::writer::Stop;
use crate::types::{Fetched, QueueError, TopicPartition};

use clickmill_model::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

/// The records of a log from an offset on, about `max_bytes` of them and at least one if there is one.
pub(super) fn read(
    connection: &Connection,
    of: &TopicPartition,
    log: &Log,
    from: i64,
    max_bytes: usize,
) -> Result<Vec<Fetched>, Stop> {
    let mut statement = connection.prepare_cached(
        "SELECT id, arrival, bytes_before, checksum, body FROM records WHERE id >= ? AND id < ? ORDER BY id",
    )?;
    let mut rows = statement.query(params![record_id(log.id, from), record_id(log.id, log.end)])?;
    let mut records = Vec::new();
    let mut bytes = 0_usize;
    while let Some(row) = rows.next()? {
        let (id, arrival, bytes_before, checksum): (i64, i64, i64, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let stored = row.get_ref(4)?.as_blob().map_err(|error| broken(of, id, &error.to_string()))?;
        bytes = bytes.saturating_add(body::content_bytes(stored));
        if bytes > max_bytes && !records.is_empty() {
            break;
        }
        if body::checksum(xxh3_64(stored), id, arrival, bytes_before) != checksum {
            return Err(broken(of, id, "its checksum does not fit").into());
        }
        let record = body::decode(stored).map_err(|error| broken(of, id, &error))?;
        records.push(Fetched { offset: offset_of(id), arrival: Timestamp::from_micros(arrival), record });
        if bytes >= max_bytes {
            break;
        }
    }
    Ok(records)
}

fn broken(of: &TopicPartition, id: i64, why: &str) -> QueueError {
    QueueError::Broken(format!(
        "the record {of}@{} is damaged: {why}. Restore the queue's folder, or start with a new one and recalculate from the raw files",
        offset_of(id)
    ))
}
