//! The loop: look, read, say how far time has come, commit. The only file that knows the queue.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::Timestamp;
use clickmill_model::records::{LOG_POSITIONS, SourceMark};
use clickmill_queue::{Producer, Progress, Queue, QueueError, Stage, StageError, TopicPartition, Transaction};

use crate::ahead::Ahead;
use crate::config::Config;
use crate::file::{Rules, Trouble};
use crate::files::Files;
use crate::mark::{FileTime, HoldLimits, Listed, Mark};
use crate::pack::{Packer, heartbeat};
use crate::patterns::Patterns;
use crate::position::{Positions, SourceRow, owner_record, place, source_record};
use crate::report::Report;

/// How much goes into a transaction: enough that its cost does not show.
const TRANSACTION_BYTES: usize = 4 << 20;

/// How often a partition hears of the watcher at least.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a step waits at most when there is nothing to read: how late a new line is noticed.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the patterns are listed while there is more to read, by time and by steps.
const LIST_WHILE_BUSY: (Duration, u32) = (Duration::from_secs(1), 64);

/// Files whose listing may cost as much as a step without anything to do: with more of them the patterns are listed at fewer steps.
const FILES_A_STEP: u64 = 128;

/// The most steps between two listings while there is nothing to read.
const MOST_STEPS: u32 = 20;

/// How soon after it took over a rival has said so in `log-positions`.
const RIVAL_SAYS_SO: Duration = Duration::from_secs(1);

/// How often the other watchers' rows are read while catching up.
const LOOK_AT_OTHERS: Duration = Duration::from_millis(200);

/// A transaction with what follows from its commit.
struct Outgoing {
    transaction: Transaction,
    mark: SourceMark,
    /// The partitions that it speaks to.
    partitions: Vec<usize>,
    lines: u64,
    line_bytes: u64,
    source: SourceRow,
    /// It tells that a drain is over.
    finishes: bool,
}

/// What a step read.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    lines: u64,
    bytes: u64,
    lowest: Option<Timestamp>,
}

/// Follows files into the queue.
pub struct Watcher {
    queue: Arc<dyn Queue>,
    producer: Box<dyn Producer>,
    config: Config,
    targets: Vec<TopicPartition>,
    patterns: Patterns,
    files: Files,
    packer: Packer,
    mark: Mark,
    ahead: Ahead,
    positions: Positions,
    /// Who runs this watcher, for people.
    me: String,
    highest: Option<Timestamp>,
    /// What its row says.
    told: SourceRow,
    /// The watermark that was committed last.
    committed_mark: SourceMark,
    last_sent: Vec<Option<Timestamp>>,
    last_list: Option<Timestamp>,
    steps_since_list: u32,
    found_any: bool,
    list_trouble: Option<Trouble>,
    unmatched: BTreeSet<String>,
    last_look_at_others: Option<Timestamp>,
    /// A transaction that the queue had no room for.
    pending: Option<Outgoing>,
    pending_told: bool,
    lines: u64,
    line_bytes: u64,
    finished: bool,
}

impl Watcher {
    /// Takes over from every earlier watcher of this name, says "here, holding", and reads back where that one was.
    pub fn start(queue: Arc<dyn Queue>, config: Config, now: Timestamp) -> Result<Self, StageError> {
        let patterns = Patterns::new(&config.patterns).map_err(StageError::Broken)?;
        check_topics(&*queue, &config)?;
        let mut producer = queue.producer(&format!("log-watcher-{}", config.source))?;
        let me = format!("process {} on {}, started {now}", std::process::id(), host());
        let topic: Arc<str> = config.topic.as_str().into();
        let targets: Vec<_> = (0..config.partitions).map(|p| TopicPartition::new(topic.clone(), p)).collect();
        let mut transaction = Transaction::default();
        transaction.send(place(), owner_record(&config.source, &me));
        let mut greeting = transaction.clone();
        for target in &targets {
            greeting.send(target.clone(), heartbeat(&config.source, SourceMark::Holding));
        }
        let mut last_sent = vec![Some(now); targets.len()];
        match producer.commit(&greeting, None) {
            Ok(_) => {}
            Err(QueueError::Full { .. }) => {
                producer.commit(&transaction, None)?;
                last_sent.fill(None);
            }
            Err(error) => return Err(error.into()),
        }
        let mut positions = Positions::new(config.source.clone());
        positions.refresh(&*queue)?;
        let limits = HoldLimits {
            max_disorder: config.time.max_disorder,
            settle: config.settle,
            source_timeout: config.time.source_timeout,
        };
        let rules = Rules { limits, drain: config.drain };
        let files = Files::new(std::mem::take(&mut positions.files), rules, config.time.max_clock_skew, now);
        Ok(Self {
            packer: Packer::new(config.source.clone(), config.partition_by, config.partitions),
            mark: Mark::new(config.time, config.drain),
            ahead: Ahead::default(),
            me,
            highest: positions.own.highest,
            told: positions.own,
            committed_mark: SourceMark::Holding,
            last_sent,
            last_list: None,
            steps_since_list: 0,
            found_any: false,
            list_trouble: None,
            unmatched: BTreeSet::new(),
            last_look_at_others: None,
            pending: None,
            pending_told: false,
            lines: 0,
            line_bytes: 0,
            finished: false,
            queue,
            producer,
            targets,
            patterns,
            files,
            positions,
            config,
        })
    }

    /// How far it has come.
    pub fn report(&self) -> Report {
        let mut report = Report {
            lines: self.lines,
            line_bytes: self.line_bytes,
            highest: self.highest,
            finished: self.finished,
            ..Report::default()
        };
        match self.committed_mark {
            SourceMark::Holding => {}
            SourceMark::At(time) => report.watermark = Some(time),
            SourceMark::Drained(time) => (report.watermark, report.drained) = (Some(time), Some(time)),
        }
        self.files.report(&mut report);
        report
    }

    fn list_is_due(&self, now: Timestamp, files: u64) -> bool {
        let Some(last) = self.last_list else { return true };
        let (time, steps) = LIST_WHILE_BUSY;
        if self.files.must_list || now < last {
            true
        } else if self.files.has_ready() {
            now.since(last) >= time || self.steps_since_list >= steps
        } else {
            self.steps_since_list >= MOST_STEPS.min((files / FILES_A_STEP) as u32)
        }
    }

    /// Looks what there is. True where the patterns were listed.
    fn look(&mut self, now: Timestamp) -> Result<bool, StageError> {
        if !self.list_is_due(now, self.files.len()) {
            if !self.files.has_ready() || self.steps_since_list.is_multiple_of(16) {
                self.files.look(now);
            }
            self.steps_since_list += 1;
            return Ok(false);
        }
        self.steps_since_list = 0;
        self.last_list = Some(now);
        let listing = self.patterns.list();
        self.tell_unmatched(&listing.unmatched)?;
        self.list_trouble =
            listing.errors.first().map(|(path, error)| Trouble::after(self.list_trouble.as_ref(), path, error, now));
        self.found_any |= !listing.files.is_empty();
        self.files.list(listing, now);
        Ok(true)
    }

    fn tell_unmatched(&mut self, unmatched: &[String]) -> Result<(), StageError> {
        if let Some(pattern) = unmatched.first()
            && self.config.drain
            && !self.found_any
        {
            return Err(StageError::Broken(format!(
                "input.logs: {pattern:?} matches no file: there is nothing to drain"
            )));
        }
        for pattern in unmatched {
            if !self.unmatched.contains(pattern) {
                tracing::warn!(%pattern, "input.logs: this pattern matches no file; waiting for one");
            }
        }
        self.unmatched = unmatched.iter().cloned().collect();
        Ok(())
    }

    /// True where it must wait for another watcher that catches up and is behind.
    fn is_too_far_ahead(&mut self, now: Timestamp) -> Result<bool, StageError> {
        let SourceMark::At(mark) = self.mark.said() else { return Ok(false) };
        if !self.files.is_catching_up() {
            return Ok(false);
        }
        if self.last_look_at_others.is_none_or(|last| now < last || now.since(last) >= LOOK_AT_OTHERS) {
            self.last_look_at_others = Some(now);
            match self.positions.refresh(&*self.queue) {
                // What they said last holds until they can be heard again.
                Ok(()) | Err(StageError::Queue(QueueError::Unavailable { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let slowest = self.positions.slowest_other(self.config.time.source_timeout);
        // Of two that are equally far neither waits.
        Ok(slowest
            .is_some_and(|slowest| mark > slowest && self.ahead.beyond_bytes(slowest) > self.config.max_ahead_bytes))
    }

    /// Reads the lines of a transaction.
    fn read(&mut self, now: Timestamp) -> Read {
        let mut read = Read::default();
        while (read.bytes as usize) < TRANSACTION_BYTES
            && !self.files.must_list
            && let Some(taken) = self.files.read_next(&mut self.packer, now)
        {
            read.lines += taken.lines;
            read.bytes += taken.bytes as u64;
            read.lowest = match (read.lowest, taken.lowest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            self.highest = self.highest.max(taken.highest);
        }
        read
    }

    fn advance_mark(&mut self, all_read: bool, now: Timestamp) -> SourceMark {
        // A file whose content turned out to be another one is not among those that speak here.
        if self.files.must_list {
            return self.mark.said();
        }
        let as_of = self.last_list.filter(|_| self.found_any);
        let unlistable =
            self.list_trouble.iter().map(|trouble| FileTime::Unreadable { since: trouble.since, at: None });
        let listed = Listed { as_of, highest: self.highest, all_read };
        self.mark.advance(self.files.times(now).chain(unlistable), listed, now)
    }

    /// Puts together what is to be said, if anything.
    fn outgoing(&mut self, read: Read, before: SourceMark, all_read: bool, now: Timestamp) -> Option<Outgoing> {
        let mark = self.advance_mark(all_read, now);
        let turned = std::mem::discriminant(&mark) != std::mem::discriminant(&self.committed_mark);
        let mut transaction = Transaction::default();
        let mut speaks = vec![false; self.targets.len()];
        let earlier = mark_before_lines(before, mark, read.lowest);
        for (partition, record) in self.packer.finish(earlier, mark) {
            let partition = partition.0 as usize;
            if let (Some(target), Some(speaks)) = (self.targets.get(partition), speaks.get_mut(partition)) {
                *speaks = true;
                transaction.send(target.clone(), record);
            }
        }
        for ((target, speaks), last) in self.targets.iter().zip(&mut speaks).zip(&self.last_sent) {
            let is_due = turned || last.is_none_or(|last| now < last || now.since(last) >= HEARTBEAT);
            if is_due && !*speaks {
                *speaks = true;
                transaction.send(target.clone(), heartbeat(&self.config.source, mark));
            }
        }
        if transaction.is_empty() {
            return None;
        }
        let mark_time = match mark {
            SourceMark::Holding => None,
            SourceMark::At(time) | SourceMark::Drained(time) => Some(time),
        };
        let catching_up = self.files.is_catching_up();
        let source = SourceRow { highest: self.highest, mark: mark_time, catching_up };
        let is_news = (source.highest, source.catching_up) != (self.told.highest, self.told.catching_up);
        if is_news || catching_up {
            transaction.send(place(), source_record(&self.config.source, &source));
        }
        for record in self.files.take_changed(&self.config.source) {
            transaction.send(place(), record);
        }
        let partitions = speaks.iter().enumerate().filter(|(_, speaks)| **speaks).map(|(p, _)| p).collect();
        let finishes = all_read && (matches!(mark, SourceMark::Drained(_)) || self.highest.is_none());
        Some(Outgoing { transaction, mark, partitions, lines: read.lines, line_bytes: read.bytes, source, finishes })
    }

    /// Commits, or keeps it for later where the queue has no room or is away.
    fn commit(&mut self, outgoing: Outgoing, now: Timestamp) -> Result<(), StageError> {
        match self.producer.commit(&outgoing.transaction, None) {
            Ok(_) => {}
            Err(error @ (QueueError::Full { .. } | QueueError::Unavailable { .. })) => {
                if !self.pending_told {
                    self.pending_told = true;
                    tracing::info!(%error, "waiting for the queue");
                }
                self.pending = Some(outgoing);
                return Ok(());
            }
            Err(error) => return Err(self.explained(error)),
        }
        self.pending_told = false;
        for partition in outgoing.partitions {
            if let Some(last) = self.last_sent.get_mut(partition) {
                *last = Some(now);
            }
        }
        self.committed_mark = outgoing.mark;
        self.told = outgoing.source;
        self.ahead.sent(outgoing.line_bytes, outgoing.source.mark);
        self.lines += outgoing.lines;
        self.line_bytes += outgoing.line_bytes;
        self.finished |= outgoing.finishes;
        metrics::counter!("clickmill_watcher_lines_total").increment(outgoing.lines);
        metrics::counter!("clickmill_watcher_bytes_total").increment(outgoing.line_bytes);
        Ok(())
    }

    /// A watcher that was fenced says by whom. One that nobody took over from goes on: its transaction had taken so long that the queue ended it.
    fn explained(&mut self, error: QueueError) -> StageError {
        let QueueError::Fenced(why) = &error else { return error.into() };
        let source = &self.config.source;
        let deadline = Instant::now() + RIVAL_SAYS_SO;
        let is_known = loop {
            let is_read = self.positions.refresh(&*self.queue).is_ok();
            let is_mine = self.positions.owner.as_ref() == Some(&self.me);
            if !is_read || !is_mine || Instant::now() >= deadline {
                break is_read;
            }
            std::thread::sleep(PAUSE);
        };
        match self.positions.owner.as_ref().filter(|_| is_known) {
            Some(owner) if *owner == self.me => StageError::Queue(QueueError::Unknown(why.clone())),
            Some(rival) => StageError::Queue(QueueError::Fenced(format!(
                "another log watcher took over as {source:?}: {rival} ({why}); give each watcher an input.source of its own",
                source = &*source.0,
            ))),
            None => error.into(),
        }
    }

    /// While a transaction waits for room, the partitions that have some still hear of the watcher.
    fn say_to_others(&mut self, now: Timestamp) -> Result<(), StageError> {
        for (partition, target) in self.targets.iter().enumerate() {
            let last = self.last_sent.get(partition).copied().flatten();
            if last.is_some_and(|last| now >= last && now.since(last) < HEARTBEAT) {
                continue;
            }
            let mut transaction = Transaction::default();
            transaction.send(target.clone(), heartbeat(&self.config.source, self.committed_mark));
            match self.producer.commit(&transaction, None) {
                Ok(_) => {
                    if let Some(last) = self.last_sent.get_mut(partition) {
                        *last = Some(now);
                    }
                }
                Err(QueueError::Full { .. } | QueueError::Unavailable { .. }) => {}
                Err(error) => return Err(self.explained(error)),
            }
        }
        Ok(())
    }

    fn publish(&self) {
        let report = self.report();
        let at_end = report.files_at_end.min(report.files);
        let reading = report.files.saturating_sub(at_end + report.files_unreadable);
        for (state, files) in [("reading", reading), ("at_end", at_end), ("unreadable", report.files_unreadable)] {
            metrics::gauge!("clickmill_watcher_files", "state" => state).set(files as f64);
        }
        let behind = report.known_bytes.saturating_sub(report.read_bytes);
        metrics::gauge!("clickmill_watcher_behind_bytes").set(behind as f64);
        if let Some(watermark) = report.watermark {
            metrics::gauge!("clickmill_watcher_watermark_seconds").set(watermark.as_secs_f64());
        }
        self.config.live.set(report);
    }
}

impl Stage for Watcher {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        if let Some(outgoing) = self.pending.take() {
            self.commit(outgoing, now)?;
            if self.pending.is_some() {
                self.say_to_others(now)?;
                std::thread::sleep(wait.min(PAUSE));
                return Ok(Progress::Idle);
            }
            self.publish();
            return Ok(Progress::Worked);
        }
        // What comes after a drain is for a later run.
        let is_over = self.finished || matches!(self.mark.said(), SourceMark::Drained(_));
        let listed = !is_over && self.look(now)?;
        let must_wait = is_over || self.is_too_far_ahead(now)?;
        let before = self.mark.said();
        let read = if must_wait { Read::default() } else { self.read(now) };
        let nothing_left = self.config.drain
            && !is_over
            && !self.files.has_ready()
            && self.files.is_drained(now)
            && self.list_trouble.as_ref().is_none_or(|t| now.since(t.since) > self.config.time.source_timeout);
        // Only after a listing that found nothing new.
        let all_read = nothing_left && listed && read.lines == 0;
        if all_read {
            self.files.book(now, true);
        }
        if let Some(outgoing) = self.outgoing(read, before, all_read, now) {
            self.commit(outgoing, now)?;
            self.publish();
        } else if all_read && self.highest.is_none() {
            self.finished = true;
            self.publish();
        }
        let has_more = self.files.has_ready() || self.files.must_list || nothing_left && !self.finished;
        if !has_more || must_wait || self.pending.is_some() {
            std::thread::sleep(wait.min(PAUSE));
        }
        Ok(if read.lines > 0 { Progress::Worked } else { Progress::Idle })
    }

    fn stop(self: Box<Self>) -> Result<(), StageError> {
        // What was read and not committed is read again by the next one.
        Ok(())
    }
}

/// The mark of records that lines of the same transaction still follow.
fn mark_before_lines(before: SourceMark, mark: SourceMark, lowest: Option<Timestamp>) -> SourceMark {
    match (before, mark, lowest) {
        (_, _, None) => mark,
        (SourceMark::At(before), SourceMark::At(time) | SourceMark::Drained(time), Some(lowest)) => {
            SourceMark::At(before.max(time.min(lowest)))
        }
        (before, _, Some(_)) => before,
    }
}

fn check_topics(queue: &dyn Queue, config: &Config) -> Result<(), StageError> {
    for (topic, expected) in [(config.topic.as_str(), Some(config.partitions)), (LOG_POSITIONS, None)] {
        match (queue.partitions(topic)?, expected) {
            (None, _) => {
                return Err(StageError::Queue(QueueError::Unavailable {
                    what: format!("opening the topic {topic}"),
                    why: "it is not there yet".into(),
                }));
            }
            (Some(found), Some(expected)) if found != expected => {
                return Err(StageError::Broken(format!(
                    "topic {topic} has {found} partitions, the pipeline's definition says {expected}"
                )));
            }
            (Some(_), _) => {}
        }
    }
    Ok(())
}

fn host() -> String {
    let names = ["/proc/sys/kernel/hostname", "/etc/hostname"].map(PathBuf::from);
    let name = names.iter().find_map(|path| std::fs::read_to_string(path).ok());
    name.map_or_else(|| "an unknown host".to_owned(), |name| name.trim().to_owned())
}
