//! The loop around the operator: poll, step, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::records::{CLICK_RESULTS, CandidateRecord, PartialBlock, ResultRecord, TOP_CANDIDATES};
use clickmill_model::{Minute, Offset, Partition, Timestamp};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::topology::AGGREGATOR;
use clickmill_queue::{
    Committed, Consumer, Fetched, InputCommit, Poll, Producer, Progress, Queue, QueueError, Record, Stage, StageError,
    TopicPartition, Transaction,
};

use crate::aggregator::{Aggregator, Closing};
use crate::checkpoint::AggregatorCheckpoint;

/// How an aggregator worker runs.
#[derive(Debug, Clone)]
pub struct AggregatorConfig {
    /// Stable and unique among the aggregator workers of a pipeline: what is left of an earlier one of this name is ended.
    pub name: String,
    /// How long blocks are gathered for one transaction when few come.
    pub linger: Duration,
    /// How many bytes of blocks are gathered for one transaction at most, about.
    pub transaction_bytes: usize,
    /// True where the store knows that this pipeline has run before: a partition without committed offset is then refused.
    pub has_run: bool,
}

impl Default for AggregatorConfig {
    fn default() -> Self {
        Self { name: "0".into(), linger: Duration::from_millis(50), transaction_bytes: 16 << 20, has_run: false }
    }
}

/// How many bytes of rankings one record of `top-candidates` holds at most, about.
const CANDIDATES_BYTES: usize = 512 << 10;

struct Input {
    aggregator: Aggregator,
    /// Blocks before it were committed: only what they say of open minutes is read again.
    replay_until: Offset,
    /// True until all of them were read again: nothing may be closed or committed before.
    replaying: bool,
    next: Offset,
    told: Option<(Offset, Minute)>,
    /// At or before the next record in the own partition of `click-results`.
    results_next: Offset,
}

/// An aggregator worker: aggregates the partitions that its consumer is given.
pub struct AggregatorWorker {
    queue: Arc<dyn Queue>,
    config: AggregatorConfig,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    definitions: Definitions,
    candidates_partitions: u32,
    inputs: BTreeMap<TopicPartition, Input>,
    pending: Option<Transaction>,
    more: bool,
}

impl AggregatorWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: AggregatorConfig) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let Some(newest) = definitions.newest() else {
            return Err(StageError::Unavailable("the pipeline has no definition yet".into()));
        };
        let candidates_partitions = newest.partitions;
        let producer = queue.producer(&format!("aggregator-{}", config.name))?;
        let consumer = queue.consumer(AGGREGATOR, &[clickmill_model::records::CLICK_PARTIALS])?;
        Ok(Self {
            queue,
            config,
            producer,
            consumer,
            definitions,
            candidates_partitions,
            inputs: BTreeMap::new(),
            pending: None,
            more: false,
        })
    }

    fn assign(&mut self, partition: TopicPartition, committed: Option<Committed>) -> Result<(), StageError> {
        let results = TopicPartition::new(CLICK_RESULTS, partition.partition.0);
        let number = partition.partition;
        let range = self.queue.range(&results)?;
        let input = match committed {
            Some(committed) => {
                let checkpoint = AggregatorCheckpoint::decode(&committed.metadata)?;
                let aggregator = self.restore(number, &results, &checkpoint)?;
                let replay_from = checkpoint.replay_from.min(committed.offset);
                self.consumer.seek(&partition, replay_from)?;
                Input {
                    told: Some((committed.offset, aggregator.closed_until())),
                    aggregator,
                    replay_until: committed.offset,
                    replaying: replay_from < committed.offset,
                    next: committed.offset,
                    results_next: range.end,
                }
            }
            None => {
                let start = self.queue.range(&partition)?.start;
                if self.config.has_run || start > Offset(0) {
                    return Err(StageError::Broken(format!(
                        "{partition}: the committed offset of group {AGGREGATOR} is gone, though the pipeline has run before; \
                         starting over would lose counts: restore the offset, or start with a new data folder"
                    )));
                }
                let aggregator = Aggregator::new(number, self.definitions.all());
                Input {
                    aggregator,
                    replay_until: start,
                    replaying: false,
                    next: start,
                    told: None,
                    results_next: range.end,
                }
            }
        };
        self.inputs.insert(partition, input);
        Ok(())
    }

    /// Reads back from its own results what the windows need.
    fn restore(
        &self,
        number: Partition,
        results: &TopicPartition,
        checkpoint: &AggregatorCheckpoint,
    ) -> Result<Aggregator, StageError> {
        let mut aggregator = Aggregator::restore(number, self.definitions.all(), checkpoint);
        if let Some(mut from) = checkpoint.results_from {
            loop {
                let records = self.queue.read(results, from, 8 << 20)?;
                let Some(last) = records.last() else { break };
                from = last.offset.next();
                for fetched in &records {
                    let record = ResultRecord::decode(&fetched.record.value)?;
                    aggregator
                        .restore_result(fetched.offset, &record)
                        .map_err(|error| StageError::Broken(error.to_string()))?;
                }
            }
            aggregator.restored();
        }
        Ok(aggregator)
    }

    fn gather(&mut self, wait: Duration) -> Result<Vec<TopicPartition>, StageError> {
        let mut gathered = 0;
        let mut wait = if self.more { Duration::ZERO } else { wait };
        let mut deadline = None;
        loop {
            match self.consumer.poll(wait, (self.config.transaction_bytes / 2).max(1))? {
                Poll::Assigned(partitions) => {
                    for (partition, committed) in partitions {
                        self.assign(partition, committed)?;
                    }
                }
                Poll::Revoking(partitions) => return Ok(partitions),
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
                        }
                    }
                    if deadline.is_none_or(|at| Instant::now() >= at) {
                        return Ok(Vec::new());
                    }
                }
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if gathered >= self.config.transaction_bytes || left.is_some_and(|left| left.is_zero()) {
                return Ok(Vec::new());
            }
            wait = left.unwrap_or(Duration::ZERO);
        }
    }

    fn take_in(&mut self, from: &TopicPartition, records: &[Fetched]) -> Result<(), StageError> {
        for fetched in records {
            let block = PartialBlock::decode(&fetched.record.value)?;
            let known = self.definitions.newest().map_or(0, |d| d.version);
            if block.definitions.iter().any(|(version, _)| *version > known)
                && self.definitions.refresh(&*self.queue)?
            {
                for definition in self.definitions.all() {
                    for input in self.inputs.values_mut() {
                        input.aggregator.learn(definition);
                    }
                }
            }
            let Some(input) = self.inputs.get_mut(from) else { return Ok(()) };
            if fetched.offset < input.replay_until {
                input
                    .aggregator
                    .replay(fetched.offset, &block)
                    .map_err(|error| StageError::Broken(error.to_string()))?;
                input.replaying = fetched.offset.next() < input.replay_until;
            } else {
                input.replaying = false;
                input
                    .aggregator
                    .apply(fetched.offset, &block)
                    .map_err(|error| StageError::Broken(error.to_string()))?;
                input.next = fetched.offset.next();
            }
        }
        Ok(())
    }

    fn transaction(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        self.more = false;
        for (partition, input) in self.inputs.iter_mut().filter(|(_, input)| !input.replaying) {
            let results = TopicPartition::new(CLICK_RESULTS, partition.partition.0);
            if let Some(closing) = input.aggregator.close(input.results_next) {
                input.aggregator.closing_covers(input.next);
                self.more = true;
                tell(&mut transaction, partition.partition, self.candidates_partitions, &results, closing);
            }
            let news = Some((input.next, input.aggregator.closed_until()));
            if news == input.told {
                continue;
            }
            input.told = news;
            let checkpoint = input.aggregator.checkpoint(input.next);
            if let Some(needed) = checkpoint.results_from {
                transaction.keep.push((results, needed));
            }
            transaction.inputs.push(InputCommit {
                input: partition.clone(),
                keep_from: checkpoint.replay_from,
                committed: Committed { offset: input.next, metadata: checkpoint.encode() },
            });
        }
        transaction
    }

    /// Commits what waits. False where the queue has no room: it is tried again with the next step.
    fn commit(&mut self) -> Result<bool, StageError> {
        let Some(transaction) = &self.pending else { return Ok(true) };
        match self.producer.commit(transaction, Some(&*self.consumer)) {
            Ok(sent) => {
                self.pending = None;
                for (to, first) in sent.iter().filter(|(to, _)| &*to.topic == CLICK_RESULTS) {
                    let inputs = self.inputs.iter_mut().filter(|(own, _)| own.partition == to.partition);
                    for (_, input) in inputs {
                        input.results_next = input.results_next.max(first.next());
                    }
                }
                Ok(true)
            }
            Err(QueueError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self, now: Timestamp) {
        for (partition, input) in &self.inputs {
            let labels = [("partition", partition.partition.to_string())];
            let closed = input.aggregator.closed_until();
            if closed > Minute::MIN {
                metrics::gauge!("clickmill_aggregator_closed_delay_seconds", &labels)
                    .set(now.as_secs_f64() - closed.start().as_secs_f64());
            }
        }
    }
}

/// Puts a closing into the transaction: counts to the own partition of the results, each filter's rankings to the partition of its reducer, and to every reducer how far it goes.
fn tell(transaction: &mut Transaction, own: Partition, reducers: u32, results: &TopicPartition, closing: Closing) {
    let Closing { results: records, candidates, from, until, oldest_arrival } = closing;
    for record in records {
        transaction.send(results.clone(), Record::of(record.encode()));
    }
    let mut of_reducer: Vec<Vec<_>> = (0..reducers.max(1)).map(|_| Vec::new()).collect();
    let count = of_reducer.len();
    for ranking in candidates {
        of_reducer[usize::from(ranking.filter.0) % count].push(ranking);
    }
    for (reducer, rankings) in of_reducer.into_iter().enumerate() {
        let to = TopicPartition::new(TOP_CANDIDATES, reducer as u32);
        let mut record = CandidateRecord { partition: own, closed_until: from, oldest_arrival, rankings: Vec::new() };
        let mut bytes = 0;
        for ranking in rankings {
            if bytes > CANDIDATES_BYTES {
                // More follows in this transaction: only the last record says that all was told.
                transaction.send(to.clone(), Record::of(record.encode()));
                record.rankings.clear();
                bytes = 0;
            }
            bytes += 16 + ranking.ads.iter().map(|(ad, _)| ad.len() + 4).sum::<usize>();
            record.rankings.push(ranking);
        }
        record.closed_until = until;
        transaction.send(to, Record::of(record.encode()));
    }
}

impl Stage for AggregatorWorker {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        if !self.commit()? {
            std::thread::sleep(wait.min(Duration::from_millis(20)));
            return Ok(Progress::Idle);
        }
        let revoked = self.gather(wait)?;
        let transaction = self.transaction();
        let worked = !transaction.is_empty();
        if worked {
            self.pending = Some(transaction);
            self.commit()?;
            self.report(now);
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
