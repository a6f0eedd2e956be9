//! The loop around the operator: poll, step, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::records::{CLICK_PARTIALS, DEAD_LETTERS, LATE_CLICKS, MapperCheckpoint, SetAsideBatch};
use clickmill_model::{Offset, RawPartition, RejectReason, Timestamp, Watermark};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::topology::MAPPER;
use clickmill_queue::{
    Committed, Consumer, InputCommit, Poll, Producer, Progress, Queue, QueueError, Record, Stage, StageError,
    TopicPartition, Transaction,
};

use crate::combine::Combiner;
use crate::partition::{Mapped, Others, PartitionMapper};

/// How a mapper worker runs.
#[derive(Debug, Clone)]
pub struct MapperConfig {
    /// Stable and unique among the mapper workers of a pipeline: what is left of an earlier one of this name is ended.
    pub name: String,
    /// How long records are gathered for one transaction when few come.
    pub linger: Duration,
    /// How many bytes of records are gathered for one transaction at most, about.
    pub transaction_bytes: usize,
    /// True where the store knows that this pipeline has run before: a partition without committed offset is then refused.
    pub has_run: bool,
}

impl Default for MapperConfig {
    fn default() -> Self {
        Self { name: "0".into(), linger: Duration::from_millis(50), transaction_bytes: 16 << 20, has_run: false }
    }
}

/// How many clicks a transaction counts at most, about: bounds the size of its blocks.
const MOST_CLICKS: usize = 400_000;

/// How often definitions and the other partitions' watermarks are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many bytes of set-aside lines one record holds at most, about.
const SET_ASIDE_BYTES: usize = 256 << 10;

struct Input {
    mapper: PartitionMapper,
    /// Records before it were committed: they are read again for what they say of open minutes, and not counted.
    replay_until: Offset,
    /// True until all of them were read again: nothing may be committed before.
    replaying: bool,
}

/// A mapper worker: maps the raw partitions that its consumer is given.
pub struct MapperWorker {
    queue: Arc<dyn Queue>,
    config: MapperConfig,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    definitions: Definitions,
    combiner: Combiner,
    inputs: BTreeMap<TopicPartition, Input>,
    others: Others,
    looked: Option<Timestamp>,
    pending: Option<Transaction>,
}

impl MapperWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: MapperConfig) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let Some(newest) = definitions.newest() else {
            return Err(StageError::Unavailable("the pipeline has no definition yet".into()));
        };
        let topics: Vec<&str> = newest.inputs.iter().map(|input| input.topic.as_str()).collect();
        let producer = queue.producer(&format!("mapper-{}", config.name))?;
        let consumer = queue.consumer(MAPPER, &topics)?;
        let combiner = Combiner::new(newest.partitions);
        Ok(Self {
            queue,
            config,
            producer,
            consumer,
            definitions,
            combiner,
            inputs: BTreeMap::new(),
            others: Others::default(),
            looked: None,
            pending: None,
        })
    }

    fn assign(&mut self, partition: TopicPartition, committed: Option<Committed>) -> Result<(), StageError> {
        let raw = RawPartition { topic: Arc::clone(&partition.topic), partition: partition.partition };
        let input = match committed {
            Some(committed) => {
                let checkpoint = MapperCheckpoint::decode(&committed.metadata)?;
                let mapper = PartitionMapper::restore(raw, self.definitions.all(), committed.offset, &checkpoint)
                    .map_err(|error| StageError::Broken(format!("{partition}: {error}")))?;
                let replay_from = checkpoint.replay_from.min(committed.offset);
                self.consumer.seek(&partition, replay_from)?;
                Input { mapper, replay_until: committed.offset, replaying: replay_from < committed.offset }
            }
            None => {
                let start = self.queue.range(&partition)?.start;
                if self.config.has_run || start > Offset(0) {
                    return Err(StageError::Broken(format!(
                        "{partition}: the committed offset of group {MAPPER} is gone, though the pipeline has run before; \
                         starting over would count clicks twice or lose them: restore the offset, or start with a new data folder"
                    )));
                }
                let Some(newest) = self.definitions.newest() else {
                    return Err(StageError::Broken("the pipeline's definitions are gone".into()));
                };
                Input { mapper: PartitionMapper::new(raw, newest, start), replay_until: start, replaying: false }
            }
        };
        self.inputs.insert(partition, input);
        Ok(())
    }

    /// Polls until the transaction is full, the linger is over, or nothing more is there.
    fn gather(&mut self, now: Timestamp, wait: Duration) -> Result<Vec<TopicPartition>, StageError> {
        let mut revoked = Vec::new();
        let mut gathered = 0;
        let mut wait = wait;
        let mut deadline = None;
        loop {
            match self.consumer.poll(wait, (self.config.transaction_bytes / 2).max(1))? {
                Poll::Assigned(partitions) => {
                    for (partition, committed) in partitions {
                        self.assign(partition, committed)?;
                    }
                }
                Poll::Revoking(partitions) => {
                    revoked = partitions;
                    break;
                }
                Poll::Lost(partitions) => {
                    for partition in partitions {
                        self.inputs.remove(&partition);
                    }
                }
                Poll::Records { from, records, .. } => {
                    gathered += records.iter().map(|r| r.record.size_bytes()).sum::<usize>();
                    self.take_in(&from, &records)?;
                    deadline.get_or_insert_with(|| Instant::now() + self.config.linger);
                }
                Poll::Idle { at_end } => {
                    for partition in at_end {
                        if let Some(input) = self.inputs.get_mut(&partition) {
                            input.replaying = false;
                            input.mapper.tick(now, self.others);
                        }
                    }
                    if deadline.is_none_or(|at| Instant::now() >= at) {
                        break;
                    }
                }
            }
            let waiting: usize = self.inputs.values().map(|input| input.mapper.waiting()).sum();
            if gathered >= self.config.transaction_bytes || waiting >= MOST_CLICKS {
                break;
            }
            match deadline {
                Some(at) => wait = at.saturating_duration_since(Instant::now()),
                None => wait = Duration::ZERO,
            }
            if deadline.is_some() && wait.is_zero() {
                break;
            }
        }
        Ok(revoked)
    }

    fn take_in(&mut self, from: &TopicPartition, records: &[clickmill_queue::Fetched]) -> Result<(), StageError> {
        let Some(input) = self.inputs.get_mut(from) else { return Ok(()) };
        let read_again = records.iter().take_while(|r| r.offset < input.replay_until).count();
        let (old, new) = records.split_at(read_again);
        for record in old {
            input.mapper.replay(record)?;
        }
        if let Some(last) = records.last() {
            input.replaying = last.offset.next() < input.replay_until;
        }
        input.mapper.apply(new, &mut self.combiner)?;
        Ok(())
    }

    /// The transaction that commits all that was gathered.
    fn transaction(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        for (partition, input) in
            self.inputs.iter_mut().filter(|(_, input)| !input.replaying && input.mapper.has_news())
        {
            debug_assert!(input.mapper.books().balance());
            let Mapped { blocks, late, rejected, offset, checkpoint } = input.mapper.take(&mut self.combiner);
            for (k, block) in blocks.iter().enumerate() {
                transaction.send(TopicPartition::new(CLICK_PARTIALS, k as u32), Record::of(block.encode()));
            }
            let aside = partition.partition.0 % self.combiner.partitions().max(1);
            for (topic, batch) in [(LATE_CLICKS, late), (DEAD_LETTERS, rejected)] {
                for part in batch.into_iter().flat_map(split) {
                    transaction.send(TopicPartition::new(topic, aside), Record::of(part.encode()));
                }
            }
            let keep_from = checkpoint.replay_from;
            let committed = Committed { offset, metadata: checkpoint.encode() };
            transaction.inputs.push(InputCommit { input: partition.clone(), committed, keep_from });
        }
        self.combiner.trim();
        transaction
    }

    fn look_around(&mut self, now: Timestamp) -> Result<(), StageError> {
        if self.looked.is_some_and(|at| now.since(at) < LOOK_EVERY && now >= at) {
            return Ok(());
        }
        self.looked = Some(now);
        if self.definitions.refresh(&*self.queue)?
            && let Some(newest) = self.definitions.newest()
        {
            for input in self.inputs.values_mut() {
                input.mapper.define(newest);
            }
        }
        self.others = Others::default();
        let topics: Vec<String> = self
            .definitions
            .newest()
            .map(|d| d.inputs.iter().map(|input| input.topic.clone()).collect())
            .unwrap_or_default();
        for topic in topics {
            for (_, committed) in self.queue.committed(MAPPER, &topic)? {
                let checkpoint = MapperCheckpoint::decode(&committed.metadata)?;
                self.others.last_heard = self.others.last_heard.max(checkpoint.last_heard);
                if checkpoint.has_live_source {
                    let lowest = self.others.lowest_live.map_or(checkpoint.watermark, |w| w.min(checkpoint.watermark));
                    self.others.lowest_live = Some(lowest);
                }
            }
        }
        self.report(now);
        Ok(())
    }

    fn report(&self, now: Timestamp) {
        for (partition, input) in &self.inputs {
            let labels = [("partition", partition.to_string())];
            let books = input.mapper.books();
            let absolute = |name: &'static str, value: u64| metrics::counter!(name, &labels).absolute(value);
            absolute("clickmill_mapper_lines_total", books.lines);
            absolute("clickmill_mapper_clicks_counted_total", books.counted);
            absolute("clickmill_mapper_clicks_duplicate_total", books.duplicates);
            absolute("clickmill_mapper_clicks_late_total", books.late);
            for (reason, count) in RejectReason::ALL.iter().zip(books.rejected) {
                metrics::counter!(
                    "clickmill_mapper_lines_rejected_total",
                    "partition" => partition.to_string(), "reason" => reason.as_str()
                )
                .absolute(count);
            }
            let watermark = input.mapper.watermark();
            if watermark != Watermark::NONE {
                metrics::gauge!("clickmill_mapper_watermark_delay_seconds", &labels)
                    .set(now.as_secs_f64() - watermark.time().as_secs_f64());
            }
        }
    }

    /// Commits what waits. False where the queue has no room: it is tried again with the next step.
    fn commit(&mut self) -> Result<bool, StageError> {
        let Some(transaction) = &self.pending else { return Ok(true) };
        match self.producer.commit(transaction, Some(&*self.consumer)) {
            Ok(_) => {
                self.pending = None;
                Ok(true)
            }
            Err(QueueError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Stage for MapperWorker {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        if !self.commit()? {
            std::thread::sleep(wait.min(Duration::from_millis(20)));
            return Ok(Progress::Idle);
        }
        self.look_around(now)?;
        let revoked = self.gather(now, wait)?;
        let transaction = self.transaction();
        let worked = !transaction.is_empty();
        if worked {
            self.pending = Some(transaction);
            self.commit()?;
        }
        for partition in revoked {
            // A partition is handed over with everything committed.
            while !self.commit()? {
                std::thread::sleep(Duration::from_millis(20));
            }
            self.inputs.remove(&partition);
            self.consumer.release(&partition)?;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }

    fn stop(mut self: Box<Self>) -> Result<(), StageError> {
        let held: Vec<_> = self.inputs.keys().cloned().collect();
        for partition in held {
            self.consumer.release(&partition)?;
        }
        Ok(())
    }
}

/// Cuts a batch into records of a bearable size.
fn split(batch: SetAsideBatch) -> Vec<SetAsideBatch> {
    let SetAsideBatch { raw, lines } = batch;
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for line in lines {
        bytes += line.line.len() + 64;
        part.push(line);
        if bytes >= SET_ASIDE_BYTES {
            parts.push(SetAsideBatch { raw: raw.clone(), lines: std::mem::take(&mut part) });
            bytes = 0;
        }
    }
    if !part.is_empty() {
        parts.push(SetAsideBatch { raw, lines: part });
    }
    parts
}
