//! What a commit does to the tables. Runs inside the writer's transaction: first everything is checked, then everything is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_model::Offset;
use rusqlite::{Connection, OptionalExtension, params};

use super::body::{Body, Encoder, MAX_CONTENT_BYTES, checksum};
use super::topics::{self, Log, Topic, column, record_id};
use super::writer::Stop;
use crate::check;
use crate::clock::Clock;
use crate::types::{Committed, ConsumerIdentity, QueueError, Record, Result, Retention, TopicPartition, Transaction};

/// The most records that a partition can ever have.
const MAX_OFFSET: i64 = (1 << super::database::OFFSET_BITS) - 1;

/// A transaction, prepared as far as it can be without the lock on the database.
pub(super) struct Prepared {
    producer: String,
    epoch: i64,
    who: Option<ConsumerIdentity>,
    appends: Vec<Append>,
    inputs: Vec<Input>,
    keeps: Vec<(i64, Offset)>,
}

/// The records for one partition.
struct Append {
    to: TopicPartition,
    topic: Arc<Topic>,
    log: i64,
    records: Vec<(Body, Option<Key>)>,
}

/// The key of a record for a compacted topic.
struct Key {
    bytes: Vec<u8>,
    removes: bool,
}

struct Input {
    of: TopicPartition,
    log: i64,
    committed: Committed,
    keep_from: Offset,
}

impl Prepared {
    /// Looks up the topics, and packs and compresses the records.
    pub(super) fn new(
        (producer, epoch): (&str, i64),
        transaction: &Transaction,
        who: Option<ConsumerIdentity>,
        topic: impl Fn(&str) -> Result<Arc<Topic>>,
        encoder: &mut Encoder,
    ) -> Result<Self> {
        let mut appends: Vec<Append> = Vec::new();
        let mut at: BTreeMap<&TopicPartition, usize> = BTreeMap::new();
        for (to, record) in &transaction.records {
            let index = match at.get(to) {
                Some(index) => *index,
                None => {
                    let topic = topic(&to.topic)?;
                    appends.push(Append { to: to.clone(), log: topic.log(to)?, topic, records: Vec::new() });
                    at.insert(to, appends.len() - 1);
                    appends.len() - 1
                }
            };
            let Some(append) = appends.get_mut(index) else { continue };
            let key = key(&append.topic, to, record)?;
            append.records.push((encoder.encode(record), key));
        }
        let inputs = transaction.inputs.iter().map(|input| {
            Ok(Input {
                of: input.input.clone(),
                log: topic(&input.input.topic)?.log(&input.input)?,
                committed: input.committed.clone(),
                keep_from: input.keep_from,
            })
        });
        let keeps = transaction.keep.iter().map(|(of, from)| Ok((topic(&of.topic)?.log(of)?, *from)));
        Ok(Self {
            producer: producer.to_owned(),
            epoch,
            who,
            inputs: inputs.collect::<Result<_>>()?,
            keeps: keeps.collect::<Result<_>>()?,
            appends,
        })
    }

    /// Bytes that it adds.
    pub(super) fn bytes(&self) -> u64 {
        self.appends.iter().flat_map(|append| &append.records).map(|(body, _)| body.bytes.len() as u64).sum()
    }

    /// Performs it.
    pub(super) fn perform(
        &self,
        connection: &Connection,
        clock: &dyn Clock,
    ) -> Result<Vec<(TopicPartition, Offset)>, Stop> {
        self.permit(connection)?;
        let now = clock.now();
        let mut first = Vec::new();
        for append in &self.appends {
            let mut log = Log::load(connection, append.log)?;
            log.last_arrival = log.last_arrival.max(now);
            first.push((append.to.clone(), topics::offset(log.end)));
            for (body, key) in &append.records {
                insert(connection, &mut log, body, key.as_ref())?;
            }
            log.store(connection)?;
        }
        if let Some(who) = &self.who {
            for input in &self.inputs {
                connection.prepare_cached("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)")?.execute(
                    params![
                        who.group,
                        input.log,
                        column(input.committed.offset),
                        input.committed.metadata,
                        column(input.keep_from)
                    ],
                )?;
            }
            for (log, keep_from) in &self.keeps {
                connection
                    .prepare_cached(
                        "INSERT INTO positions VALUES (?, ?, NULL, NULL, ?)
                         ON CONFLICT DO UPDATE SET keep_from = excluded.keep_from",
                    )?
                    .execute(params![who.group, log, column(*keep_from)])?;
            }
        }
        Ok(first)
    }

    /// Refuses what must not be committed.
    fn permit(&self, connection: &Connection) -> Result<(), Stop> {
        let epoch: Option<i64> = connection
            .prepare_cached("SELECT epoch FROM producers WHERE id = ?")?
            .query_row([&self.producer], |row| row.get(0))
            .optional()?;
        if epoch != Some(self.epoch) {
            return Err(check::replaced_producer(&self.producer).into());
        }
        if let Some(who) = &self.who {
            if !self.keeps.is_empty() && !is_member(connection, who)? {
                return Err(check::no_member(&who.group, &who.member).into());
            }
            for input in &self.inputs {
                let owner: Option<Option<String>> = connection
                    .prepare_cached("SELECT owner FROM shares WHERE grp = ? AND log = ?")?
                    .query_row(params![who.group, input.log], |row| row.get(0))
                    .optional()?;
                if owner.flatten().as_ref() != Some(&who.member) {
                    return Err(check::not_owner(&who.group, &who.member, &input.of).into());
                }
                let range = Log::load(connection, input.log)?.range();
                if input.committed.offset > range.end {
                    check::within(&input.of, input.committed.offset, range)?;
                }
            }
        }
        for append in &self.appends {
            let log = Log::load(connection, append.log)?;
            if log.end.saturating_add(append.records.len() as i64) > MAX_OFFSET {
                return Err(QueueError::Broken(format!("{} is full for good: it had 2^40 records", append.to)).into());
            }
            if let Some(backlog_bytes) = too_much_waits(connection, &append.topic, &log)? {
                return Err(QueueError::Full { topic: append.to.clone(), backlog_bytes }.into());
            }
        }
        Ok(())
    }
}

fn key(topic: &Topic, to: &TopicPartition, record: &Record) -> Result<Option<Key>> {
    if record.size_bytes() > MAX_CONTENT_BYTES / 2 {
        return Err(QueueError::Broken(format!(
            "a record of {} bytes for {to} is too large: at most {} are allowed",
            record.size_bytes(),
            MAX_CONTENT_BYTES / 2
        )));
    }
    match (&topic.retention, &record.key) {
        (Retention::Compacted, None) => Err(check::no_key(to)),
        (Retention::Compacted, Some(key)) => Ok(Some(Key { bytes: key.clone(), removes: record.value.is_empty() })),
        (Retention::Consumed { .. } | Retention::Forever, _) => Ok(None),
    }
}

fn is_member(connection: &Connection, who: &ConsumerIdentity) -> Result<bool, rusqlite::Error> {
    connection.prepare_cached("SELECT 1 FROM members WHERE grp = ? AND member = ?")?.exists([&who.group, &who.member])
}

/// How much waits in the log for the slowest of its groups, where that is no less than allowed.
pub(super) fn too_much_waits(
    connection: &Connection,
    topic: &Topic,
    log: &Log,
) -> Result<Option<u64>, rusqlite::Error> {
    let Retention::Consumed { by, .. } = &topic.retention else { return Ok(None) };
    let stored = log.bytes.max(0).cast_unsigned();
    if topic.max_backlog_bytes == 0 || stored < topic.max_backlog_bytes {
        return Ok(None);
    }
    let mut backlog = 0;
    for group in by {
        let position: Option<Option<i64>> = connection
            .prepare_cached("SELECT committed FROM positions WHERE grp = ? AND log = ?")?
            .query_row(params![group, log.id], |row| row.get(0))
            .optional()?;
        let waiting = match position {
            None => stored,
            // It keeps records of its own, but waits for none.
            Some(None) => 0,
            Some(Some(committed)) => match log.bytes_before(connection, committed)? {
                Some(before) => (log.total_bytes - before).max(0).cast_unsigned(),
                None => 0,
            },
        };
        backlog = waiting.max(backlog);
    }
    Ok((backlog >= topic.max_backlog_bytes).then_some(backlog))
}

fn insert(connection: &Connection, log: &mut Log, body: &Body, key: Option<&Key>) -> Result<(), rusqlite::Error> {
    let offset = log.end;
    let id = record_id(log.id, offset);
    let arrival = log.last_arrival.as_micros();
    let bytes = body.bytes.len() as i64;
    connection.prepare_cached("INSERT INTO records VALUES (?, ?, ?, ?, ?)")?.execute(params![
        id,
        arrival,
        log.total_bytes,
        checksum(body.hash, id, arrival, log.total_bytes),
        body.bytes
    ])?;
    log.end += 1;
    log.total_bytes += bytes;
    log.records += 1;
    log.bytes += bytes;
    let Some(key) = key else { return Ok(()) };
    // Compaction at once: the key's earlier record goes.
    let earlier: Option<i64> = connection
        .prepare_cached("SELECT newest FROM keys WHERE log = ? AND key = ?")?
        .query_row(params![log.id, key.bytes], |row| row.get(0))
        .optional()?;
    if let Some(earlier) = earlier {
        delete_one(connection, log, earlier)?;
    }
    connection.prepare_cached("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)")?.execute(params![
        log.id,
        key.bytes,
        offset,
        key.removes.then_some(arrival)
    ])?;
    Ok(())
}

/// Deletes one record of a compacted log.
pub(super) fn delete_one(connection: &Connection, log: &mut Log, offset: i64) -> Result<(), rusqlite::Error> {
    let id = record_id(log.id, offset);
    let bytes: Option<i64> = connection
        .prepare_cached("SELECT length(body) FROM records WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    if let Some(bytes) = bytes {
        connection.prepare_cached("DELETE FROM records WHERE id = ?")?.execute([id])?;
        log.records -= 1;
        log.bytes -= bytes;
    }
    Ok(())
}
