//! Topics and their logs: what is in the tables, and a copy of what never changes.

use clickmill_model::{Offset, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::TopicSize;
use super::writer::Stop;
use crate::check;
use crate::types::{OffsetRange, QueueError, Result, Retention, TopicPartition, TopicSpec};

/// What is known of a topic.
#[derive(Debug)]
pub(super) struct Topic {
    /// The logs of its partitions.
    pub(super) logs: Vec<i64>,
    pub(super) retention: Retention,
    pub(super) max_backlog_bytes: u64,
}

impl Topic {
    /// The log of a partition.
    pub(super) fn log(&self, of: &TopicPartition) -> Result<i64> {
        let log = self.logs.get(of.partition.0 as usize).copied();
        log.ok_or_else(|| check::no_partition(of, self.logs.len() as u32))
    }
}

/// Makes the topics that are not there, and brings the retention of the others up to date.
pub(super) fn create(connection: &Connection, specs: &[TopicSpec]) -> Result<(), Stop> {
    for spec in specs {
        let has: Option<u32> = connection
            .prepare_cached("SELECT partitions FROM topics WHERE name = ?")?
            .query_row([&spec.name], |row| row.get(0))
            .optional()?;
        if let Some(has) = has.filter(|has| *has != spec.partitions) {
            return Err(check::other_partitions(&spec.name, has, spec.partitions).into());
        }
    }
    for spec in specs {
        let is_new = connection.execute(
            "INSERT INTO topics VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![
                spec.name,
                spec.partitions,
                retention_json(&spec.retention),
                spec.max_backlog_bytes.min(i64::MAX as u64).cast_signed()
            ],
        )?;
        if is_new == 0 {
            connection.execute(
                "UPDATE topics SET retention = ?2, max_backlog_bytes = ?3 WHERE name = ?1",
                params![
                    spec.name,
                    retention_json(&spec.retention),
                    spec.max_backlog_bytes.min(i64::MAX as u64).cast_signed()
                ],
            )?;
            continue;
        }
        for partition in 0..spec.partitions {
            connection.execute(
                "INSERT INTO logs (topic, partition, start_offset, end_offset, total_bytes, last_arrival, records, bytes)
                 VALUES (?, ?, 0, 0, 0, ?, 0, 0)",
                params![spec.name, partition, i64::MIN],
            )?;
        }
    }
    Ok(())
}

/// Looks a topic up.
pub(super) fn load(connection: &Connection, name: &str) -> Result<Option<Topic>, Stop> {
    let found = connection
        .prepare_cached("SELECT retention, max_backlog_bytes FROM topics WHERE name = ?")?
        .query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((retention, max_backlog_bytes)) = found else { return Ok(None) };
    let retention = parse_retention(&retention)
        .ok_or_else(|| QueueError::Broken(format!("the retention of topic {name} cannot be read: {retention}")))?;
    let logs = connection
        .prepare_cached("SELECT id FROM logs WHERE topic = ? ORDER BY partition")?
        .query_map([name], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(Some(Topic { logs, retention, max_backlog_bytes: max_backlog_bytes.max(0).cast_unsigned() }))
}

/// The names of all topics.
pub(super) fn names(connection: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    connection.prepare_cached("SELECT name FROM topics ORDER BY name")?.query_map((), |row| row.get(0))?.collect()
}

/// What each topic holds, by name.
pub(super) fn sizes(connection: &Connection) -> Result<Vec<TopicSize>, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached("SELECT topic, sum(records), sum(bytes) FROM logs GROUP BY topic ORDER BY topic")?;
    let sizes = statement.query_map((), |row| {
        let count = |column| row.get::<_, i64>(column).map(|n| n.max(0).cast_unsigned());
        Ok(TopicSize { topic: row.get(0)?, records: count(1)?, bytes: count(2)? })
    })?;
    sizes.collect()
}

fn retention_json(retention: &Retention) -> String {
    match retention {
        Retention::Consumed { by, at_least_bytes } => {
            json!({"kind": "consumed", "by": by, "at_least_bytes": at_least_bytes})
        }
        Retention::Compacted => json!({"kind": "compacted"}),
        Retention::Forever => json!({"kind": "forever"}),
    }
    .to_string()
}

fn parse_retention(text: &str) -> Option<Retention> {
    let json: Value = serde_json::from_str(text).ok()?;
    match json.get("kind")?.as_str()? {
        "consumed" => {
            let by = json.get("by")?.as_array()?.iter().map(|group| Some(group.as_str()?.to_owned()));
            Some(Retention::Consumed {
                by: by.collect::<Option<_>>()?,
                at_least_bytes: json.get("at_least_bytes")?.as_u64()?,
            })
        }
        "compacted" => Some(Retention::Compacted),
        "forever" => Some(Retention::Forever),
        _ => None,
    }
}

/// The row of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    pub(super) id: i64,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) total_bytes: i64,
    pub(super) last_arrival: Timestamp,
    pub(super) records: i64,
    pub(super) bytes: i64,
}

impl Log {
    pub(super) fn load(connection: &Connection, id: i64) -> Result<Self, rusqlite::Error> {
        connection
            .prepare_cached(
                "SELECT start_offset, end_offset, total_bytes, last_arrival, records, bytes FROM logs WHERE id = ?",
            )?
            .query_row([id], |row| {
                Ok(Self {
                    id,
                    start: row.get(0)?,
                    end: row.get(1)?,
                    total_bytes: row.get(2)?,
                    last_arrival: Timestamp::from_micros(row.get(3)?),
                    records: row.get(4)?,
                    bytes: row.get(5)?,
                })
            })
    }

    pub(super) fn store(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        connection
            .prepare_cached(
                "UPDATE logs SET start_offset = ?2, end_offset = ?3, total_bytes = ?4, last_arrival = ?5, records = ?6,
                     bytes = ?7 WHERE id = ?1",
            )?
            .execute(params![
                self.id,
                self.start,
                self.end,
                self.total_bytes,
                self.last_arrival.as_micros(),
                self.records,
                self.bytes
            ])
            .map(|_| ())
    }

    pub(super) fn range(&self) -> OffsetRange {
        OffsetRange { start: offset(self.start), end: offset(self.end) }
    }

    /// Bytes appended before this offset. `None` where nothing lies at or behind it.
    pub(super) fn bytes_before(&self, connection: &Connection, offset: i64) -> Result<Option<i64>, rusqlite::Error> {
        connection
            .prepare_cached("SELECT bytes_before FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT 1")?
            .query_row([record_id(self.id, offset), record_id(self.id, self.end)], |row| row.get(0))
            .optional()
    }
}

/// The id of a record.
pub(super) fn record_id(log: i64, offset: i64) -> i64 {
    (log << super::database::OFFSET_BITS) | offset
}

/// The offset in the id of a record.
pub(super) fn offset_of(id: i64) -> Offset {
    offset(id & ((1 << super::database::OFFSET_BITS) - 1))
}

/// An offset as it stands in a column. Columns hold none below 0.
pub(super) fn offset(column: i64) -> Offset {
    Offset(column.max(0).cast_unsigned())
}

/// An offset as it goes into a column.
pub(super) fn column(offset: Offset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

/// The topic's partition that a log holds.
pub(super) fn partition_of(connection: &Connection, log: i64) -> Result<TopicPartition, rusqlite::Error> {
    connection
        .prepare_cached("SELECT topic, partition FROM logs WHERE id = ?")?
        .query_row([log], |row| Ok(TopicPartition::new(row.get::<_, String>(0)?, row.get(1)?)))
}
