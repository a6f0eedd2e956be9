//! Groups in the tables: who is a member, who has which partition, who shall have it. Runs inside the writer's transaction.
//!
//! A member takes a partition itself, with its own poll, and only when nobody has it; others only take from a member that is gone. So a member that has lost a
//! partition always notices before it can have it again.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::Offset;
use rusqlite::{Connection, OptionalExtension, params};

use super::client::steady_millis;
use super::topics::{self, Log};
use super::writer::Stop;
use crate::assign;
use crate::types::{Committed, ConsumerIdentity, OffsetRange, QueueError, TopicPartition};

/// A member's row.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) who: ConsumerIdentity,
    pub(super) client: String,
    pub(super) topics: Vec<String>,
}

/// Joins, and shares the partitions anew.
pub(super) fn join(connection: &Connection, seat: &Seat) -> Result<(), Stop> {
    let topics = serde_json::to_string(&seat.topics).map_err(|error| QueueError::Broken(error.to_string()))?;
    connection.prepare_cached("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, 0)")?.execute([
        &seat.who.group,
        &seat.who.member,
        &seat.client,
        &topics,
    ])?;
    rebalance(connection, &seat.who.group)
}

/// Takes members out of their groups, and shares their partitions among the others. Returns the groups that had any of them.
pub(super) fn remove(connection: &Connection, members: &[ConsumerIdentity]) -> Result<BTreeSet<String>, Stop> {
    let mut groups = BTreeSet::new();
    for who in members {
        let was_there = connection
            .prepare_cached("DELETE FROM members WHERE grp = ? AND member = ?")?
            .execute([&who.group, &who.member])?;
        connection
            .prepare_cached("UPDATE shares SET owner = NULL, asked_at = NULL WHERE grp = ? AND owner = ?")?
            .execute([&who.group, &who.member])?;
        if was_there > 0 {
            groups.insert(who.group.clone());
        }
    }
    for group in &groups {
        rebalance(connection, group)?;
    }
    Ok(groups)
}

/// Every member, by its client.
pub(super) fn by_client(connection: &Connection) -> Result<BTreeMap<String, Vec<ConsumerIdentity>>, rusqlite::Error> {
    let mut clients: BTreeMap<String, Vec<ConsumerIdentity>> = BTreeMap::new();
    let mut statement = connection.prepare_cached("SELECT client, grp, member FROM members")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        let who = ConsumerIdentity { group: row.get(1)?, member: row.get(2)? };
        clients.entry(row.get(0)?).or_default().push(who);
    }
    Ok(clients)
}

/// What a member took over.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) log: i64,
    pub(super) of: TopicPartition,
    pub(super) committed: Option<Committed>,
    pub(super) range: OffsetRange,
}

/// Takes those of the logs that nobody else has and that shall be this member's.
pub(super) fn claim(connection: &Connection, who: &ConsumerIdentity, logs: &[i64]) -> Result<Vec<Claimed>, Stop> {
    let mut claimed = Vec::new();
    for &log in logs {
        let taken = connection
            .prepare_cached(
                "UPDATE shares SET owner = ?2, epoch = epoch + 1, asked_at = NULL
                 WHERE grp = ?1 AND log = ?3 AND target = ?2 AND (owner IS NULL OR owner = ?2)",
            )?
            .execute(params![who.group, who.member, log])?;
        if taken == 0 {
            continue;
        }
        claimed.push(Claimed {
            log,
            of: topics::partition_of(connection, log)?,
            committed: committed(connection, &who.group, log)?,
            range: Log::load(connection, log)?.range(),
        });
    }
    Ok(claimed)
}

/// What the group has committed for a log.
pub(super) fn committed(connection: &Connection, group: &str, log: i64) -> Result<Option<Committed>, rusqlite::Error> {
    let position = connection
        .prepare_cached(
            "SELECT committed, metadata FROM positions WHERE grp = ? AND log = ? AND committed IS NOT NULL",
        )?
        .query_row(params![group, log], |row| {
            let metadata: Option<Vec<u8>> = row.get(1)?;
            let offset: Offset = topics::offset(row.get(0)?);
            Ok(Committed { offset, metadata: metadata.unwrap_or_default() })
        })
        .optional()?;
    Ok(position)
}

/// Gives a log up. Where it was not asked to, the member is about to leave and gets nothing more.
pub(super) fn release(connection: &Connection, who: &ConsumerIdentity, log: i64, was_asked: bool) -> Result<(), Stop> {
    if !was_asked {
        connection
            .prepare_cached("UPDATE members SET leaving = 1 WHERE grp = ? AND member = ?")?
            .execute([&who.group, &who.member])?;
    }
    connection
        .prepare_cached("UPDATE shares SET owner = NULL, asked_at = NULL WHERE grp = ? AND log = ? AND owner = ?")?
        .execute(params![who.group, log, who.member])?;
    rebalance(connection, &who.group)
}

/// Takes away what was asked for at or before this time and not given up. Returns the groups where that was so.
pub(super) fn take_from_deaf(connection: &Connection, asked_until: i64) -> Result<BTreeSet<String>, Stop> {
    let groups: BTreeSet<String> = connection
        .prepare_cached("SELECT grp FROM shares WHERE asked_at <= ?")?
        .query_map([asked_until], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    connection
        .prepare_cached("UPDATE shares SET owner = NULL, asked_at = NULL WHERE asked_at <= ?")?
        .execute([asked_until])?;
    for group in &groups {
        rebalance(connection, group)?;
    }
    Ok(groups)
}

/// Says anew who shall have what, and makes every member look.
fn rebalance(connection: &Connection, group: &str) -> Result<(), Stop> {
    let mut members = BTreeMap::new();
    let mut topics = BTreeSet::new();
    let mut statement = connection.prepare_cached("SELECT member, topics, leaving FROM members WHERE grp = ?")?;
    let mut rows = statement.query([group])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(1)?;
        let reads: Vec<String> = serde_json::from_str(&text).map_err(|error| {
            QueueError::Broken(format!("the topics of a member of {group} cannot be read: {error}"))
        })?;
        topics.extend(reads.iter().cloned());
        let is_leaving: bool = row.get(2)?;
        members.insert(row.get::<_, String>(0)?, if is_leaving { Vec::new() } else { reads });
    }
    for topic in topics {
        connection
            .prepare_cached(
                "INSERT INTO shares SELECT ?1, id, NULL, NULL, 0, NULL FROM logs WHERE topic = ?2 ON CONFLICT DO NOTHING",
            )?
            .execute([group, &topic])?;
    }
    let mut held = BTreeMap::new();
    let mut logs = BTreeMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT log, topic, partition, owner, target FROM shares JOIN logs ON logs.id = log WHERE grp = ?",
    )?;
    let mut rows = statement.query([group])?;
    while let Some(row) = rows.next()? {
        let of = TopicPartition::new(row.get::<_, String>(1)?, row.get(2)?);
        let (owner, target): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        logs.insert(of.clone(), (row.get::<_, i64>(0)?, owner.clone(), target.clone()));
        held.insert(of, target.or(owner));
    }
    let now = steady_millis();
    for (of, target) in assign::targets(&members, &held) {
        let Some((log, owner, was)) = logs.get(&of) else { continue };
        if *was == target {
            continue;
        }
        // An owner that shall keep it is not asked; one that was asked before is not asked anew.
        let asked_at = (owner.is_some() && *owner != target).then_some(now);
        connection
            .prepare_cached(
                "UPDATE shares SET target = ?3,
                     asked_at = CASE WHEN ?4 IS NULL THEN NULL ELSE coalesce(asked_at, ?4) END
                 WHERE grp = ?1 AND log = ?2",
            )?
            .execute(params![group, log, target, asked_at])?;
    }
    connection
        .prepare_cached("INSERT INTO groups VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1")?
        .execute([group])?;
    Ok(())
}

/// A member's view of its group.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) version: i64,
    pub(super) is_member: bool,
    /// Logs that it has.
    pub(super) owned: BTreeSet<i64>,
    /// Logs that it shall have.
    pub(super) target: BTreeSet<i64>,
    /// Logs that nobody has.
    pub(super) free: BTreeSet<i64>,
}

/// The version of a group's shares.
pub(super) fn version(connection: &Connection, group: &str) -> Result<i64, rusqlite::Error> {
    let version = connection
        .prepare_cached("SELECT version FROM groups WHERE grp = ?")?
        .query_row([group], |row| row.get(0))
        .optional()?;
    Ok(version.unwrap_or(0))
}

/// What the member sees.
pub(super) fn view(connection: &Connection, who: &ConsumerIdentity) -> Result<View, rusqlite::Error> {
    let mut view = View { version: version(connection, &who.group)?, ..View::default() };
    view.is_member = connection
        .prepare_cached("SELECT 1 FROM members WHERE grp = ? AND member = ?")?
        .exists([&who.group, &who.member])?;
    let mut statement = connection.prepare_cached("SELECT log, owner, target FROM shares WHERE grp = ?")?;
    let mut rows = statement.query([&who.group])?;
    while let Some(row) = rows.next()? {
        let log = row.get(0)?;
        let (owner, target): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
        match owner {
            Some(owner) if owner == who.member => view.owned.insert(log),
            Some(_) => false,
            None => view.free.insert(log),
        };
        if target.as_ref() == Some(&who.member) {
            view.target.insert(log);
        }
    }
    Ok(view)
}
