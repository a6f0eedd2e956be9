//! The consumer: takes and gives up partitions as its group wishes, and reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use rusqlite::Connection;

use super::Handle;
use super::groups::{self, Seat, View};
use super::records;
use super::shared::Member;
use super::topics::{self, Log};
use super::writer::data_version;
use crate::check;
use crate::tell;
use crate::types::{Consumer, ConsumerIdentity, OffsetRange, Poll, Result, TopicPartition};

/// A consumer that waits shows itself so often, so that it is not taken for one that nobody uses.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

static JOINED: AtomicU64 = AtomicU64::new(0);

pub(super) struct EmbeddedConsumer {
    handle: Arc<Handle>,
    connection: Connection,
    member: Arc<Member>,
    owned: BTreeMap<i64, Owned>,
    /// The version of the group's shares that was acted upon.
    seen: Option<i64>,
    /// The state of the database in which nothing was left to do or to read.
    at_rest: Option<i64>,
    /// The log that was served last.
    turn: i64,
}

struct Owned {
    of: TopicPartition,
    next: Offset,
    range: OffsetRange,
    /// True once the consumer was asked to give it up.
    asked: bool,
}

impl EmbeddedConsumer {
    pub(super) fn new(handle: Arc<Handle>, group: &str, topics: &[&str]) -> Result<Self> {
        let shared = &handle.shared;
        for topic in topics {
            shared.topic(topic)?;
        }
        let member = format!("{}-{:06}", shared.client.name, JOINED.fetch_add(1, Ordering::Relaxed));
        let who = ConsumerIdentity { group: group.to_owned(), member };
        let member = Arc::new(Member::new(who, topics.iter().map(|&topic| topic.to_owned()).collect()));
        let connection = shared.database.reader()?;
        shared.register(&member);
        let consumer = Self { handle, connection, member, owned: BTreeMap::new(), seen: None, at_rest: None, turn: 0 };
        consumer.join()?;
        Ok(consumer)
    }

    fn join(&self) -> Result<()> {
        let shared = &self.handle.shared;
        let seat = Seat {
            who: self.member.who.clone(),
            client: shared.client.name.clone(),
            topics: self.member.topics.clone(),
        };
        shared.writer.run("joining a group in", move |connection| groups::join(connection, &seat))?;
        shared.wake_group(&self.member.who.group);
        Ok(())
    }

    /// What became of this member's partitions, if anything.
    fn news(&mut self) -> Result<Option<Poll>> {
        let shared = &self.handle.shared;
        let who = &self.member.who;
        loop {
            let seen = self.seen;
            let view = shared.snapshot("reading", &self.connection, |connection| {
                if seen == Some(groups::version(connection, &who.group)?) {
                    return Ok(None);
                }
                Ok(Some(groups::view(connection, who)?))
            })?;
            let Some(view) = view else { return Ok(None) };
            let lost: Vec<i64> = self.owned.keys().filter(|log| !view.owned.contains(log)).copied().collect();
            if !lost.is_empty() {
                let lost = lost.into_iter().filter_map(|log| self.owned.remove(&log)).map(|owned| owned.of);
                return Ok(Some(Poll::Lost(lost.collect())));
            }
            if !view.is_member {
                self.join()?;
                continue;
            }
            let mut revoking = Vec::new();
            for (log, owned) in self.owned.iter_mut().filter(|(log, _)| !view.target.contains(log)) {
                debug_assert!(view.owned.contains(log));
                if !std::mem::replace(&mut owned.asked, true) {
                    revoking.push(owned.of.clone());
                }
            }
            if !revoking.is_empty() {
                return Ok(Some(Poll::Revoking(revoking)));
            }
            self.settle(&view)?;
            let claimed = self.claim(&view)?;
            if !claimed.is_empty() {
                return Ok(Some(Poll::Assigned(claimed)));
            }
            self.seen = Some(view.version);
            return Ok(None);
        }
    }

    /// Gives back what a commit of unknown outcome had taken and what is no longer meant for this member.
    fn settle(&self, view: &View) -> Result<()> {
        for &log in view.owned.iter().filter(|log| !self.owned.contains_key(log) && !view.target.contains(log)) {
            self.give_up(log, true)?;
        }
        Ok(())
    }

    fn claim(&mut self, view: &View) -> Result<Vec<(TopicPartition, Option<crate::types::Committed>)>> {
        let may_be_had = |log: &&i64| view.free.contains(log) || view.owned.contains(log);
        let logs: Vec<i64> =
            view.target.iter().filter(|log| !self.owned.contains_key(log)).filter(may_be_had).copied().collect();
        if logs.is_empty() {
            return Ok(Vec::new());
        }
        let who = self.member.who.clone();
        let claimed = self
            .handle
            .shared
            .writer
            .run("taking partitions in", move |connection| groups::claim(connection, &who, &logs))?;
        let mut assigned = Vec::new();
        for claimed in claimed {
            let next = claimed.committed.as_ref().map_or(claimed.range.start, |committed| committed.offset);
            let owned = Owned { of: claimed.of.clone(), next, range: claimed.range, asked: false };
            self.owned.insert(claimed.log, owned);
            assigned.push((claimed.of, claimed.committed));
        }
        Ok(assigned)
    }

    fn give_up(&self, log: i64, was_asked: bool) -> Result<()> {
        let who = self.member.who.clone();
        let shared = &self.handle.shared;
        shared
            .writer
            .run("releasing a partition in", move |connection| groups::release(connection, &who, log, was_asked))?;
        shared.wake_group(&self.member.who.group);
        Ok(())
    }

    /// Records of the next partition that has any.
    fn fetch(&mut self, max_bytes: usize) -> Result<Option<Poll>> {
        let turn = self.turn;
        let order: Vec<i64> =
            self.owned.range(turn + 1..).chain(self.owned.range(..=turn)).map(|(log, _)| *log).collect();
        for log in order {
            let Some(owned) = self.owned.get_mut(&log).filter(|owned| !owned.asked) else { continue };
            let found = self.handle.shared.snapshot("reading", &self.connection, |connection| {
                let log = Log::load(connection, log)?;
                let range = log.range();
                check::within(&owned.of, owned.next, range)?;
                if owned.next == range.end {
                    return Ok((range, Vec::new()));
                }
                let records = records::read(connection, &owned.of, &log, topics::column(owned.next), max_bytes)?;
                Ok((range, records))
            });
            let (range, records) = found?;
            owned.range = range;
            match records.last() {
                Some(last) => {
                    owned.next = last.offset.next();
                    self.turn = log;
                    return Ok(Some(Poll::Records { from: owned.of.clone(), records, end: range.end }));
                }
                None => owned.next = range.end,
            }
        }
        Ok(None)
    }

    fn at_end(&self) -> Poll {
        let mut at_end: Vec<_> =
            self.owned.values().filter(|owned| !owned.asked).map(|owned| owned.of.clone()).collect();
        at_end.sort();
        Poll::Idle { at_end }
    }
}

impl Consumer for EmbeddedConsumer {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Poll> {
        let until = Instant::now() + timeout;
        loop {
            self.member.touch();
            self.member.forget_news();
            let state =
                data_version(&self.connection).map_err(|error| self.handle.shared.database.error("reading", &error))?;
            if self.at_rest != Some(state) {
                self.at_rest = None;
                if let Some(news) = self.news()? {
                    tell::news(&self.member.who.group, &news);
                    return Ok(news);
                }
                if let Some(records) = self.fetch(max_bytes)? {
                    return Ok(records);
                }
                self.at_rest = Some(state);
            }
            // Only right after a look: this process may have been stopped while it waited.
            let now = Instant::now();
            if now >= until {
                return Ok(self.at_end());
            }
            self.member.wait_for_news(until.min(now + LONGEST_WAIT));
        }
    }

    fn seek(&mut self, of: &TopicPartition, offset: Offset) -> Result<()> {
        let log = self.handle.shared.log(of)?;
        let Some(owned) = self.owned.get_mut(&log) else {
            return Err(check::not_owner(&self.member.who.group, &self.member.who.member, of));
        };
        let range = self.handle.shared.read("reading", |connection| Ok(Log::load(connection, log)?.range()))?;
        check::within(of, offset, range)?;
        owned.next = offset;
        self.at_rest = None;
        Ok(())
    }

    fn release(&mut self, of: &TopicPartition) -> Result<()> {
        let log = self.handle.shared.log(of)?;
        let Some(owned) = self.owned.remove(&log) else { return Ok(()) };
        let result = self.give_up(log, owned.asked);
        if result.is_err() {
            // Nothing was given up: it can be tried again.
            self.owned.insert(log, owned);
        }
        result
    }

    fn identity(&self) -> ConsumerIdentity {
        self.member.who.clone()
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        let who = self.member.who.clone();
        match shared.writer.run("leaving a group in", move |connection| groups::remove(connection, &[who])) {
            Ok(_) => shared.wake_group(&self.member.who.group),
            // The background thread finds a member without a consumer and removes it.
            Err(error) => tracing::warn!(%error, "a consumer could not leave its group yet"),
        }
    }
}
