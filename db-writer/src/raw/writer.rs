//! The loop: poll, fill the files, publish them, commit. The only file here that knows the queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_model::{LineParser, Offset, Timestamp};
use clickmill_queue::{
    Committed, Consumer, Fetched, InputCommit, Poll, Producer, Progress, Queue, StageError, TopicPartition,
    Transaction, topology,
};

use super::build::{FileBuilder, Outcome};
use super::files::{Files, Published};
use super::read;
use super::records::Lines;
use super::retention;
use super::span::{Before, spans};

/// When a file is complete.
#[derive(Debug, Clone)]
pub struct Rolling {
    /// At so many lines.
    pub rows: u64,
    /// At so many bytes, about.
    pub file_bytes: usize,
    /// At so many bytes of records read for it. They wait in the queue until the file is durable: this must stay well below what the queue lets wait, or its senders would be held back.
    pub input_bytes: usize,
    /// When its first line arrived so long ago.
    pub age: Duration,
    /// The largest one, when all files of the worker together take so much memory.
    pub memory_bytes: usize,
}

/// [`Rolling::input_bytes`], unless asked otherwise.
const INPUT_BYTES: usize = 160 << 20;

// Half as much again is on its way while a file is written.
const _: () = assert!((INPUT_BYTES + INPUT_BYTES / 2) as u64 <= topology::BACKLOG_BYTES);

impl Default for Rolling {
    fn default() -> Self {
        Self {
            rows: 8_000_000,
            file_bytes: 64 << 20,
            input_bytes: INPUT_BYTES,
            age: Duration::from_secs(300),
            memory_bytes: 256 << 20,
        }
    }
}

/// How many bytes of records are read at once, about.
const POLL_BYTES: usize = 4 << 20;

/// How long the offsets of records without lines (heartbeats) wait to be committed: there is one a second and partition.
const HEARTBEATS_WAIT: Duration = Duration::from_secs(5);

/// How often metrics are brought up to date.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often old files are deleted.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

struct Input {
    /// The next record to read.
    next: Offset,
    file: Option<FileBuilder>,
    /// Bytes of the records that the file holds.
    input_bytes: usize,
    /// The arrival of the first record that is not committed.
    waiting_since: Option<Timestamp>,
    /// When the file was begun.
    begun: Timestamp,
    at_end: bool,
    /// Where files that are there already begin, while the group's offset does not say which lines are written, and of each such place the one that reaches furthest.
    adopts: BTreeMap<(Offset, Timestamp), String>,
    /// The last file.
    before: Before,
}

impl Input {
    fn new(next: Offset, before: Before, now: Timestamp) -> Self {
        let adopts = BTreeMap::new();
        Self { next, file: None, input_bytes: 0, waiting_since: None, begun: now, at_end: false, adopts, before }
    }

    fn is_due(&self, rolling: &Rolling, flush: bool, now: Timestamp) -> bool {
        let Some(since) = self.waiting_since else { return false };
        let Some(file) = &self.file else { return flush || now.since(since) >= HEARTBEATS_WAIT };
        // Who catches up reads lines that are old already: they would make a file of each poll.
        let old = self.at_end && now.since(since) >= rolling.age || now.since(self.begun) >= rolling.age;
        old || flush && self.at_end
            || file.span().rows >= rolling.rows
            || self.input_bytes >= rolling.input_bytes
            || file.file_bytes() >= rolling.file_bytes
    }
}

/// Writes the lines of the partitions that its consumer is given.
pub(crate) struct LinesWriter {
    pub(super) lines: Lines,
    queue: Arc<dyn Queue>,
    files: Arc<Files>,
    rolling: Rolling,
    flush: Arc<AtomicBool>,
    /// How long lines are kept, from their arrival.
    keep: Duration,
    group: &'static str,
    topics: Vec<String>,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    parser: LineParser,
    inputs: BTreeMap<TopicPartition, Input>,
    reported: Option<Timestamp>,
    expired: Option<Timestamp>,
}

/// Where a file's lines are now.
struct Settled {
    input: TopicPartition,
    next: Offset,
    /// Reading goes on there: another writer's file was adopted.
    seek: bool,
    /// The last file.
    before: Before,
}

impl LinesWriter {
    pub(crate) fn start(
        lines: Lines,
        queue: Arc<dyn Queue>,
        files: Arc<Files>,
        rolling: Rolling,
        flush: Arc<AtomicBool>,
        keep: Duration,
        (group, topics, name): (&'static str, &[&str], &str),
    ) -> Result<Self, StageError> {
        let producer = queue.producer(&format!("{group}-{name}"))?;
        let consumer = queue.consumer(group, topics)?;
        Ok(Self {
            lines,
            queue,
            files,
            rolling,
            flush,
            keep,
            group,
            topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
            producer,
            consumer,
            parser: LineParser::new(),
            inputs: BTreeMap::new(),
            reported: None,
            expired: None,
        })
    }

    fn assign(
        &mut self,
        input: TopicPartition,
        committed: Option<Committed>,
        now: Timestamp,
    ) -> Result<(), StageError> {
        if let Some(committed) = committed {
            let before = Before::committed(&committed.metadata);
            self.inputs.insert(input, Input::new(committed.offset, before, now));
            return Ok(());
        }
        let start = self.queue.range(&input)?.start;
        let there = self.files_of(&input)?;
        // From the log's first record on, files that are there already are adopted one by one, wherever they begin: the oldest may be past their retention. From anywhere else
        // that would not be sure.
        if start > Offset(0) && !there.is_empty() {
            return Err(StageError::Broken(format!(
                "{input}: the committed offset of group {} is gone and its log begins at {start}, though files in {} hold lines of it; \
                 going on could lose lines or write them twice: restore the offset, or move these files away",
                self.group,
                self.lines.folder(),
            )));
        }
        // Of files that are there already the oldest may be gone, as may lines of a log that begins later.
        let before = if there.is_empty() && start == Offset(0) { Before::Nothing } else { Before::Unknown };
        self.inputs.insert(input, Input { adopts: there, ..Input::new(start, before, now) });
        Ok(())
    }

    /// Where the files begin that hold lines of this partition.
    fn files_of(&self, input: &TopicPartition) -> Result<BTreeMap<(Offset, Timestamp), String>, StageError> {
        let mut all = spans(&self.files, self.lines.folder())?;
        all.retain(|(_, span)| {
            span.import().is_none() && span.from.topic == input.topic && span.from.partition == input.partition
        });
        all.sort_by_key(|(_, span)| span.last_offset);
        Ok(all.into_iter().map(|(file, span)| ((span.first_offset, span.first_arrival), file.path)).collect())
    }

    /// Takes records into the partition's file, up to where a file begins that is there already. True where that cut it short.
    fn take_in(
        &mut self,
        from: &TopicPartition,
        records: &[Fetched],
        end: Offset,
        now: Timestamp,
    ) -> Result<bool, StageError> {
        let Some(input) = self.inputs.get_mut(from) else { return Ok(false) };
        let mut count = 0;
        let mut cut = false;
        for fetched in records {
            if input.file.is_some() && input.adopts.contains_key(&(fetched.offset, fetched.arrival)) {
                cut = true;
                break;
            }
            let had_file = input.file.is_some();
            count += self.lines.append(fetched, from, &mut self.parser, &self.files, &mut input.file)?;
            if let Some(file) = input.file.as_mut().filter(|_| !had_file) {
                file.follows(input.before);
                input.begun = now;
                // The age of a file is that of its first line, not of a heartbeat before it.
                input.waiting_since = None;
            }
            input.input_bytes += fetched.record.size_bytes();
            input.waiting_since.get_or_insert(fetched.arrival);
            input.next = fetched.offset.next();
        }
        input.at_end = input.next >= end;
        metrics::counter!("clickmill_files_lines_total", "folder" => self.lines.folder()).increment(count);
        Ok(cut)
    }

    /// Completes a file at the record before which it was cut, and reads on from there.
    fn settle_cut(&mut self, partition: &TopicPartition) -> Result<(), StageError> {
        let Some(input) = self.inputs.get_mut(partition) else { return Ok(()) };
        let settled = settle_one(&self.files, self.lines, partition, input)?;
        self.commit(vec![Settled { seek: true, ..settled }]).map(|_| ())
    }

    /// Completes and commits the files that are due, and those of `revoked` partitions. True where that were any.
    fn settle(&mut self, now: Timestamp, revoked: &[TopicPartition]) -> Result<bool, StageError> {
        let flush = self.flush.load(Ordering::Relaxed);
        let mut settled = Vec::new();
        for (partition, input) in &mut self.inputs {
            if input.waiting_since.is_some() && (revoked.contains(partition) || input.is_due(&self.rolling, flush, now))
            {
                settled.push(settle_one(&self.files, self.lines, partition, input)?);
            }
        }
        while let Some(partition) = self.over_budget() {
            if let Some(input) = self.inputs.get_mut(&partition) {
                settled.push(settle_one(&self.files, self.lines, &partition, input)?);
            }
        }
        self.commit(settled)
    }

    /// The partition with the largest file, where all together take too much memory.
    fn over_budget(&self) -> Option<TopicPartition> {
        let memory = |input: &Input| input.file.as_ref().map_or(0, FileBuilder::memory_bytes);
        let all: usize = self.inputs.values().map(memory).sum();
        if all <= self.rolling.memory_bytes {
            return None;
        }
        let largest = self.inputs.iter().max_by_key(|(_, input)| memory(input));
        largest.map(|(partition, _)| partition.clone())
    }

    fn commit(&mut self, settled: Vec<Settled>) -> Result<bool, StageError> {
        let mut transaction = Transaction::default();
        for Settled { input, next, before, .. } in &settled {
            let committed = Committed { offset: *next, metadata: before.encode() };
            transaction.inputs.push(InputCommit { input: input.clone(), committed, keep_from: *next });
        }
        if transaction.is_empty() {
            return Ok(false);
        }
        self.producer.commit(&transaction, Some(&*self.consumer))?;
        for Settled { input: partition, next, seek, .. } in settled {
            if seek {
                self.consumer.seek(&partition, next)?;
            }
            if let Some(input) = self.inputs.get_mut(&partition) {
                input.next = next;
            }
        }
        Ok(true)
    }

    /// Deletes what is past its retention. A fault is tried again the next time: it stops nobody from writing.
    fn expire(&mut self, now: Timestamp) {
        if self.expired.is_some_and(|at| now >= at && now.since(at) < EXPIRE_EVERY) {
            return;
        }
        self.expired = Some(now);
        let folder = self.lines.folder();
        let of = (self.group, self.topics.as_slice(), folder);
        match retention::expire(&*self.queue, &self.files, of, now.before(self.keep)) {
            Ok(0) => {}
            Ok(deleted) => {
                metrics::counter!("clickmill_files_expired_total", "folder" => folder).increment(deleted);
                tracing::info!(folder, deleted, "deleted files that are past their retention");
            }
            Err(error) => tracing::warn!(folder, %error, "files past their retention could not be deleted"),
        }
    }

    fn report(&mut self, now: Timestamp) {
        if self.reported.is_some_and(|at| now >= at && now.since(at) < REPORT_EVERY) {
            return;
        }
        self.reported = Some(now);
        for (partition, input) in &self.inputs {
            let waits = input.file.as_ref().map_or(0.0, |file| now.since(file.span().first_arrival).as_secs_f64());
            metrics::gauge!(
                "clickmill_files_delay_seconds", "folder" => self.lines.folder(), "partition" => partition.to_string()
            )
            .set(waits);
        }
    }

    pub(crate) fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        let mut worked = true;
        let mut revoked = Vec::new();
        match self.consumer.poll(wait, POLL_BYTES)? {
            Poll::Assigned(partitions) => {
                for (partition, committed) in partitions {
                    self.assign(partition, committed, now)?;
                }
            }
            Poll::Revoking(partitions) => revoked = partitions,
            Poll::Lost(partitions) => {
                for partition in partitions {
                    self.inputs.remove(&partition);
                }
            }
            Poll::Records { from, records, end } => {
                if self.take_in(&from, &records, end, now)? {
                    self.settle_cut(&from)?;
                }
            }
            Poll::Idle { at_end } => {
                worked = false;
                for partition in at_end {
                    if let Some(input) = self.inputs.get_mut(&partition) {
                        input.at_end = true;
                    }
                }
            }
        }
        self.report(now);
        self.expire(now);
        worked |= self.settle(now, &revoked)?;
        for partition in revoked {
            self.inputs.remove(&partition);
            self.consumer.release(&partition)?;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }

    /// Lines that are in no file yet are still in the queue.
    pub(crate) fn stop(&mut self) -> Result<(), StageError> {
        for (partition, _) in std::mem::take(&mut self.inputs) {
            self.consumer.release(&partition)?;
        }
        Ok(())
    }
}

/// Makes what was read of a partition durable. Nothing is committed yet.
fn settle_one(
    files: &Files,
    lines: Lines,
    partition: &TopicPartition,
    input: &mut Input,
) -> Result<Settled, StageError> {
    let mut settled = Settled { input: partition.clone(), next: input.next, seek: false, before: input.before };
    input.waiting_since = None;
    input.input_bytes = 0;
    let Some(file) = input.file.take() else { return Ok(settled) };
    let folder = lines.folder();
    let begins = (file.span().first_offset, file.span().first_arrival);
    let Outcome { published, span, path } = match input.adopts.get(&begins) {
        // A merged one has another name.
        Some(path) => Outcome { published: Published::Taken, span: file.span().clone(), path: path.clone() },
        None => file.publish(files)?,
    };
    let (mut last_offset, mut last_arrival) = (span.last_offset, span.last_arrival);
    match published {
        Published::Created => {
            metrics::counter!("clickmill_files_written_total", "folder" => folder).increment(1);
            tracing::debug!(path, rows = span.rows, "wrote a file");
        }
        Published::Taken => {
            let other = read::verify(files, &path)?;
            if (&other.from, other.first_offset, other.first_arrival)
                != (&span.from, span.first_offset, span.first_arrival)
            {
                return Err(StageError::Broken(format!(
                    "{} begins with offset {} of {}, not as its name says: move it away",
                    files.shown(&path),
                    other.first_offset,
                    other.from
                )));
            }
            metrics::counter!("clickmill_files_adopted_total", "folder" => folder).increment(1);
            tracing::info!(path, last_offset = %other.last_offset, "another writer had written this file: going on behind it");
            settled.next = other.last_offset.next();
            settled.seek = true;
            (last_offset, last_arrival) = (other.last_offset, other.last_arrival);
        }
    }
    input.before = Before::File { last_offset, last_arrival };
    settled.before = input.before;
    Ok(settled)
}
