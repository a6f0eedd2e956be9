//! The consumer: a member of a group that takes and gives up partitions as the group decides, one thing at a time, and reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::fetch::Fetching;
use super::group::{Decision, GroupContext, give_back};
use super::member::Member;
use super::native::{self, Bell, Membership};
use super::offsets;
use super::shared::{Shared, client_name, configured, connect, list, place};
use crate::check;
use crate::tell;
use crate::types::{Committed, Consumer, ConsumerIdentity, Poll, QueueError, Result, TopicPartition};

/// How long one question of a consumer may take: what it waits for meanwhile is not served.
const QUESTION: Duration = Duration::from_millis(500);

/// How often the broker is asked at most where logs end.
const ENDS_EVERY: Duration = Duration::from_millis(200);

/// How long the broker may take to begin elsewhere.
const SEEK_WITHIN: Duration = Duration::from_secs(10);

/// How often a consumer says that it is not told what its group has committed. A transaction may last for a while.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// A consumer that waits looks around so often.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

pub(super) struct KafkaConsumer {
    shared: Arc<Shared>,
    /// What is read. It ends before the client.
    fetching: BTreeMap<TopicPartition, Fetching>,
    consumer: Arc<BaseConsumer<GroupContext>>,
    member: Arc<Member>,
    bell: Arc<Bell>,
    /// The group's decision that waits for its answer.
    open: Open,
    /// Since when nobody says what the group has committed, or when that was last complained of.
    unsure: Option<Instant>,
    /// When the broker was last asked where the logs end.
    asked_ends: Option<Instant>,
    /// The partition that was served last.
    turn: Option<TopicPartition>,
    /// It gave up a partition that nobody asked for: it is about to go, and gets nothing more.
    leaves: bool,
}

/// A decision of the group that is being carried out. The next one comes only after it was answered.
enum Open {
    None,
    /// These come; what the group has committed is not known yet.
    Taking(Vec<TopicPartition>),
    /// These are this consumer's, to be read from these offsets on; fetching begins with the next poll.
    Starting(BTreeMap<TopicPartition, Offset>),
    /// All of these shall go; `left` are still being worked on.
    Revoking {
        all: Vec<TopicPartition>,
        left: BTreeSet<TopicPartition>,
    },
}

impl KafkaConsumer {
    pub(super) fn new(shared: &Arc<Shared>, group: &str, topics: &[&str]) -> Result<Self> {
        for topic in topics {
            if shared.ask_partitions(topic)?.is_none() {
                return Err(check::no_topic(topic));
            }
        }
        let member = client_name(group);
        let mut consumer: BaseConsumer<GroupContext> = shared
            .options
            .member(&member, group)
            .create_with_context(GroupContext::new(&shared.trouble))
            .map_err(|error| configured(&shared.options, &error))?;
        let bell = Arc::new(Bell::default());
        let rings = Arc::clone(&bell);
        consumer.set_nonempty_callback(move || rings.ring());
        let consumer = Arc::new(consumer);
        // Who does not answer now is waited for by librdkafka itself.
        let _ = connect(consumer.client());
        let failed = |error| shared.trouble.unavailable(format!("joining the group {group}"), &error);
        consumer.subscribe(topics).map_err(failed)?;
        let who = ConsumerIdentity { group: group.to_owned(), member };
        Ok(Self {
            shared: Arc::clone(shared),
            fetching: BTreeMap::new(),
            member: Member::new(who, &consumer),
            consumer,
            bell,
            open: Open::None,
            unsure: None,
            asked_ends: None,
            turn: None,
            leaves: false,
        })
    }

    fn group(&self) -> &str {
        &self.member.who.group
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> QueueError {
        self.shared.trouble.unavailable(format!("{doing} the group {}", self.group()), error)
    }

    /// Begins to fetch what was taken over, now that it is known from where.
    fn start(&mut self) -> Result<()> {
        let Open::Starting(starting) = &mut self.open else { return Ok(()) };
        let starting = std::mem::take(starting);
        self.open = Open::None;
        let before: Vec<TopicPartition> = self.fetching.keys().cloned().collect();
        for (of, from) in &starting {
            self.fetching.insert(of.clone(), Fetching::new(&self.consumer, of, *from, &self.bell)?);
        }
        let places = list(starting.iter().map(|(of, from)| (of, place(*from))));
        let started = places.and_then(|places| self.consumer.incremental_assign(&places));
        started.map_err(|error| self.failed("taking partitions in", &error))?;
        self.reposition(&before);
        Ok(())
    }

    /// Answers the group that nothing more is read of these partitions.
    fn give_back(&self, partitions: &[TopicPartition], doing: &str) -> Result<()> {
        give_back(&self.consumer, partitions).map_err(|error| self.failed(doing, &error))?;
        self.reposition(&self.fetching.keys().cloned().collect::<Vec<_>>());
        Ok(())
    }

    /// librdkafka pauses every partition while the group shares them anew, and resumes at what it takes for the next record: behind the end that it told of, where something may stand by then,
    /// or before what was taken a moment ago. It is told better, before anything is taken from it again.
    fn reposition(&self, partitions: &[TopicPartition]) {
        let places = partitions.iter().filter_map(|of| Some((of, place(self.fetching.get(of)?.position()))));
        let Ok(places) = list(places) else { return };
        // One that was not begun yet begins where it was told to.
        if places.count() > 0
            && let Err(error) = self.consumer.seek_partitions(places, Duration::ZERO)
        {
            tracing::debug!(%error, group = self.group(), "kafka");
        }
    }

    /// Lets librdkafka do its work, and looks at what it has to say.
    fn serve(&self) -> Result<()> {
        while let Some(said) = self.consumer.poll(Duration::ZERO) {
            let Err(error) = said else { continue };
            let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::FencedInstanceId) => {
                    return Err(QueueError::Fenced(format!(
                        "another process joined the group {} as group.instance.id {:?}",
                        self.group(),
                        self.shared.options.properties.get("group.instance.id").unwrap_or_default()
                    )));
                }
                Some(
                    code @ (RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed),
                ) => {
                    return Err(self.shared.trouble.failed(format!("reading as a member of {}", self.group()), code));
                }
                _ if is_fatal => return Err(self.failed("reading as a member of", &error)),
                // librdkafka tries again by itself.
                _ => tracing::debug!(%error, group = self.group(), "kafka"),
            }
        }
        Ok(())
    }

    /// What became of this member's partitions, if anything.
    fn news(&mut self) -> Result<Option<Poll>> {
        loop {
            match &mut self.open {
                Open::Taking(taking) => {
                    let taking = std::mem::take(taking);
                    return self.take_over(taking);
                }
                Open::Starting(_) => {
                    self.start()?;
                    continue;
                }
                Open::Revoking { left, .. } if !left.is_empty() => return Ok(self.lost_meanwhile()),
                Open::Revoking { all, .. } => {
                    let all = std::mem::take(all);
                    self.open = Open::None;
                    self.give_back(&all, "handing partitions over in")?;
                    continue;
                }
                Open::None => {}
            }
            match self.consumer.context().next() {
                None => return Ok(None),
                Some(Decision::Assign(partitions)) if partitions.is_empty() || self.leaves => {
                    self.consumer
                        .incremental_assign(&TopicPartitionList::new())
                        .map_err(|error| self.failed("answering", &error))?;
                    self.reposition(&self.fetching.keys().cloned().collect::<Vec<_>>());
                }
                Some(Decision::Assign(partitions)) => self.open = Open::Taking(partitions),
                Some(Decision::Revoke(all)) => {
                    let left: BTreeSet<_> = all.iter().filter(|of| self.fetching.contains_key(of)).cloned().collect();
                    let told = left.iter().cloned().collect::<Vec<_>>();
                    self.open = Open::Revoking { all, left };
                    if !told.is_empty() {
                        return Ok(Some(Poll::Revoking(told)));
                    }
                }
                Some(Decision::Lost(partitions)) => {
                    if let Some(lost) = self.lose(&partitions)? {
                        return Ok(Some(lost));
                    }
                }
            }
        }
    }

    /// While partitions are being handed over nothing else is decided, but they may be lost.
    fn lost_meanwhile(&mut self) -> Option<Poll> {
        if !self.consumer.assignment_lost() {
            return None;
        }
        let Open::Revoking { all, left } = std::mem::replace(&mut self.open, Open::None) else { return None };
        for of in &left {
            self.forget(of);
        }
        self.open = Open::Revoking { all, left: BTreeSet::new() };
        Some(Poll::Lost(left.into_iter().collect()))
    }

    fn lose(&mut self, partitions: &[TopicPartition]) -> Result<Option<Poll>> {
        let lost: Vec<_> = partitions.iter().filter(|of| self.fetching.contains_key(of)).cloned().collect();
        for of in &lost {
            self.forget(of);
        }
        self.give_back(partitions, "leaving")?;
        Ok((!lost.is_empty()).then_some(Poll::Lost(lost)))
    }

    fn forget(&mut self, of: &TopicPartition) {
        self.fetching.remove(of);
        self.member.gave_up(of);
    }

    /// Asks what the group has committed, and takes the partitions over when it is known: not before the transactions that would change it have ended.
    fn take_over(&mut self, taking: Vec<TopicPartition>) -> Result<Option<Poll>> {
        let membership = Membership::of(&self.consumer);
        let committed = match offsets::ask(&*self.consumer, &taking, QUESTION) {
            Ok(committed) => committed?,
            Err(error) if error.rdkafka_error_code().is_some_and(offsets::may_pass) => {
                self.complain(&taking, &error);
                self.open = Open::Taking(taking);
                return Ok(None);
            }
            Err(error) => return Err(self.failed("asking what is committed in", &error)),
        };
        self.unsure = None;
        let mut starting = BTreeMap::new();
        let mut assigned: Vec<(TopicPartition, Option<Committed>)> = Vec::new();
        for (of, committed) in taking.into_iter().zip(committed) {
            let range = self.shared.range(&of)?;
            let from = committed.as_ref().map_or(range.start, |committed| committed.offset);
            if committed.is_some() {
                check::within(&of, from, range)?;
            }
            starting.insert(of.clone(), from);
            assigned.push((of, committed));
        }
        let id = membership.map(|membership| membership.member_id()).unwrap_or_default();
        self.member.gained(&starting.keys().cloned().collect::<Vec<_>>(), &id);
        self.open = Open::Starting(starting);
        assigned.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Some(Poll::Assigned(assigned)))
    }

    /// Says from time to time that it waits: a transaction that its coordinator has forgotten never ends by itself.
    fn complain(&mut self, taking: &[TopicPartition], error: &KafkaError) {
        let since = *self.unsure.get_or_insert_with(Instant::now);
        if since.elapsed() >= COMPLAIN_EVERY {
            self.unsure = Some(Instant::now());
            let partitions = tell::list(taking);
            tracing::warn!(
                %error,
                group = self.group(),
                partitions,
                "waiting to be told what the group has committed: a transaction that would change it does not end, or the group's coordinator does not answer"
            );
        }
    }

    fn is_asked(&self, of: &TopicPartition) -> bool {
        matches!(&self.open, Open::Revoking { all, .. } if all.contains(of))
    }

    /// Records of the next partition that has any.
    fn fetch(&mut self, max_bytes: usize) -> Result<Option<Poll>> {
        let asked: BTreeSet<TopicPartition> = match &self.open {
            Open::Revoking { all, .. } => all.iter().cloned().collect(),
            Open::None | Open::Taking(_) | Open::Starting(_) => BTreeSet::new(),
        };
        let turn = self.turn.take();
        let is_later = |of: &TopicPartition| turn.as_ref().is_none_or(|turn| of > turn);
        let keys: Vec<TopicPartition> = self.fetching.keys().filter(|of| !asked.contains(of)).cloned().collect();
        let order = keys.iter().filter(|of| is_later(of)).chain(keys.iter().filter(|of| !is_later(of)));
        for of in order {
            let Some(fetching) = self.fetching.get_mut(of) else { continue };
            fetching.fill(&self.shared, max_bytes)?;
            if fetching.is_ready() {
                let records = fetching.give();
                let known = native::known_end(&self.consumer, &of.topic, of.partition.0);
                let end = fetching.position().max(known.unwrap_or_default());
                self.turn = Some(of.clone());
                return Ok(Some(Poll::Records { from: of.clone(), records, end }));
            }
        }
        self.turn = turn;
        Ok(None)
    }

    /// The partitions of which the broker says now that there is nothing behind what was read. None where it was asked only just now.
    fn at_end(&mut self) -> Vec<TopicPartition> {
        let read: Vec<TopicPartition> = self.fetching.keys().filter(|of| !self.is_asked(of)).cloned().collect();
        if read.is_empty() || self.asked_ends.is_some_and(|at| at.elapsed() < ENDS_EVERY) {
            return Vec::new();
        }
        self.asked_ends = Some(Instant::now());
        let ends = self.shared.ends(&read, QUESTION).unwrap_or_else(|error| {
            tracing::debug!(%error, group = self.group(), "kafka");
            Vec::new()
        });
        let is_at = |of: &TopicPartition, end: Offset| self.fetching.get(of).is_some_and(|it| it.position() >= end);
        read.into_iter().zip(ends).filter(|(of, end)| is_at(of, *end)).map(|(of, _)| of).collect()
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Poll> {
        let until = Instant::now() + timeout;
        loop {
            self.start()?;
            self.serve()?;
            if let Some(news) = self.news()? {
                tell::news(self.group(), &news);
                return Ok(news);
            }
            if let Some(records) = self.fetch(max_bytes)? {
                return Ok(records);
            }
            let now = Instant::now();
            if now >= until {
                return Ok(Poll::Idle { at_end: self.at_end() });
            }
            self.bell.wait((until - now).min(LONGEST_WAIT));
        }
    }

    fn seek(&mut self, of: &TopicPartition, offset: Offset) -> Result<()> {
        let is_starting = matches!(&self.open, Open::Starting(starting) if starting.contains_key(of));
        if !is_starting && !self.fetching.contains_key(of) {
            return Err(check::not_owner(self.group(), &self.member.who.member, of));
        }
        check::within(of, offset, self.shared.range(of)?)?;
        if let Open::Starting(starting) = &mut self.open
            && let Some(from) = starting.get_mut(of)
        {
            *from = offset;
            return Ok(());
        }
        let deadline = Instant::now() + SEEK_WITHIN;
        loop {
            let sought = list([(of, place(offset))])
                .and_then(|places| self.consumer.seek_partitions(places, SEEK_WITHIN))
                .and_then(|places| super::shared::find(&places, of).map_or(Ok(()), |element| element.error()));
            match sought {
                Ok(()) => break,
                // It is only just being taken over, or its leader moves.
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(self.shared.trouble.unavailable(format!("seeking in {of}"), &error)),
            }
        }
        if let Some(fetching) = self.fetching.get_mut(of) {
            fetching.moved_to(offset);
        }
        Ok(())
    }

    fn release(&mut self, of: &TopicPartition) -> Result<()> {
        self.start()?;
        if !self.fetching.contains_key(of) {
            return Ok(());
        }
        let was_asked = self.is_asked(of);
        self.forget(of);
        if let Open::Revoking { left, .. } = &mut self.open {
            left.remove(of);
        }
        if !was_asked {
            self.leaves = true;
        }
        if self.leaves && self.fetching.is_empty() {
            self.consumer.unsubscribe();
        }
        // Answers the group where this was the last one that it waits for.
        if matches!(&self.open, Open::Revoking { left, .. } if left.is_empty()) {
            let Open::Revoking { all, .. } = std::mem::replace(&mut self.open, Open::None) else { return Ok(()) };
            self.give_back(&all, "handing partitions over in")?;
        }
        Ok(())
    }

    fn identity(&self) -> ConsumerIdentity {
        self.member.who.clone()
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.fetching.clear();
        // The client leaves its group when it is dropped, which a decision that was not answered would hold up.
        self.consumer.context().leave();
        let answer = |answered: Result<(), KafkaError>| {
            if let Err(error) = answered {
                tracing::debug!(%error, "kafka: a member that leaves could not answer its group");
            }
        };
        let nothing = TopicPartitionList::new();
        match std::mem::replace(&mut self.open, Open::None) {
            Open::None => {}
            Open::Taking(_) | Open::Starting(_) => answer(self.consumer.incremental_assign(&nothing)),
            Open::Revoking { all, .. } => answer(give_back(&self.consumer, &all)),
        }
        while let Some(decision) = self.consumer.context().next() {
            match decision {
                Decision::Assign(_) => answer(self.consumer.incremental_assign(&nothing)),
                Decision::Revoke(partitions) | Decision::Lost(partitions) => {
                    answer(give_back(&self.consumer, &partitions));
                }
            }
        }
    }
}
