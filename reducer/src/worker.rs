//! The loop around the operator: poll, step, commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::records::{CLICK_RESULTS, CandidateRecord, ResultBody, ResultRecord, TOP_CANDIDATES};
use clickmill_model::{Minute, Offset, Partition, Revision, Timestamp};
use clickmill_queue::topology::REDUCER;
use clickmill_queue::{
    Committed, Consumer, InputCommit, Poll, Producer, Progress, Queue, QueueError, Record, Stage, StageError,
    TopicPartition, Transaction,
};

use crate::checkpoint::ReducerCheckpoint;
use crate::reducer::{Published, Reducer};

/// How a reducer worker runs.
#[derive(Debug, Clone)]
pub struct ReducerConfig {
    /// Stable and unique among the reducer workers of a pipeline: what is left of an earlier one of this name is ended.
    pub name: String,
    /// How long records are gathered for one transaction when few come.
    pub linger: Duration,
    /// True where the store knows that this pipeline has run before: a partition without committed offset is then refused.
    pub has_run: bool,
}

impl Default for ReducerConfig {
    fn default() -> Self {
        Self { name: "0".into(), linger: Duration::from_millis(50), has_run: false }
    }
}

/// How many bytes of records are gathered for one transaction at most, about.
const TRANSACTION_BYTES: usize = 8 << 20;

/// How many bytes of rankings one record of `click-results` holds at most, about.
const RECORD_BYTES: usize = 512 << 10;

struct Input {
    reducer: Reducer,
    replay_until: Offset,
    replaying: bool,
    next: Offset,
    told: Option<(Offset, Minute)>,
}

/// A reducer worker: merges the rankings of the partitions that its consumer is given.
pub struct ReducerWorker {
    queue: Arc<dyn Queue>,
    config: ReducerConfig,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    aggregators: u32,
    inputs: BTreeMap<TopicPartition, Input>,
    pending: Option<Transaction>,
    more: bool,
}

impl ReducerWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: ReducerConfig) -> Result<Self, StageError> {
        let Some(aggregators) = queue.partitions(TOP_CANDIDATES)? else {
            return Err(StageError::Unavailable(format!("there is no topic {TOP_CANDIDATES} yet")));
        };
        let producer = queue.producer(&format!("reducer-{}", config.name))?;
        let consumer = queue.consumer(REDUCER, &[TOP_CANDIDATES])?;
        Ok(Self { queue, config, producer, consumer, aggregators, inputs: BTreeMap::new(), pending: None, more: false })
    }

    fn assign(&mut self, partition: TopicPartition, committed: Option<Committed>) -> Result<(), StageError> {
        let input = match committed {
            Some(committed) => {
                let checkpoint = ReducerCheckpoint::decode(&committed.metadata)?;
                if checkpoint.closed_until.len() != self.aggregators as usize {
                    return Err(StageError::Broken(format!(
                        "{TOP_CANDIDATES} has {} partitions now, and had {}: their number is fixed when the topics are made",
                        self.aggregators,
                        checkpoint.closed_until.len()
                    )));
                }
                let replay_from = checkpoint.replay_from.min(committed.offset);
                self.consumer.seek(&partition, replay_from)?;
                Input {
                    reducer: Reducer::restore(&checkpoint),
                    replay_until: committed.offset,
                    replaying: replay_from < committed.offset,
                    next: committed.offset,
                    told: Some((committed.offset, checkpoint.told_until)),
                }
            }
            None => {
                let start = self.queue.range(&partition)?.start;
                if self.config.has_run || start > Offset(0) {
                    return Err(StageError::Broken(format!(
                        "{partition}: the committed offset of group {REDUCER} is gone, though the pipeline has run before; \
                         starting over would lose rankings: restore the offset, or start with a new data folder"
                    )));
                }
                Input {
                    reducer: Reducer::new(self.aggregators),
                    replay_until: start,
                    replaying: false,
                    next: start,
                    told: None,
                }
            }
        };
        self.inputs.insert(partition, input);
        Ok(())
    }

    fn gather(&mut self, wait: Duration) -> Result<Vec<TopicPartition>, StageError> {
        let mut gathered = 0;
        let mut wait = if self.more { Duration::ZERO } else { wait };
        let mut deadline = None;
        loop {
            match self.consumer.poll(wait, TRANSACTION_BYTES)? {
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
                    let Some(input) = self.inputs.get_mut(&from) else { continue };
                    for fetched in &records {
                        gathered += fetched.record.size_bytes();
                        input.reducer.apply(fetched.offset, CandidateRecord::decode(&fetched.record.value)?);
                        input.replaying = fetched.offset.next() < input.replay_until;
                        input.next = input.next.max(fetched.offset.next());
                    }
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
            if gathered >= TRANSACTION_BYTES || left.is_some_and(|left| left.is_zero()) {
                return Ok(Vec::new());
            }
            wait = left.unwrap_or(Duration::ZERO);
        }
    }

    fn transaction(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        self.more = false;
        for (partition, input) in self.inputs.iter_mut().filter(|(_, input)| !input.replaying) {
            if let Some(published) = input.reducer.publish() {
                self.more = true;
                tell(&mut transaction, partition.partition, published);
            }
            let news = Some((input.next, input.reducer.told_until()));
            if news == input.told {
                continue;
            }
            input.told = news;
            let checkpoint = input.reducer.checkpoint(input.next);
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
            Ok(_) => {
                self.pending = None;
                Ok(true)
            }
            Err(QueueError::Full { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn tell(transaction: &mut Transaction, own: Partition, published: Published) {
    let to = TopicPartition::new(CLICK_RESULTS, own.0);
    let Published { rankings, until, oldest_arrival } = published;
    let mut send = |body| {
        let record = ResultRecord { revision: Revision::STREAM, body };
        transaction.send(to.clone(), Record::of(record.encode()));
    };
    let mut part = Vec::new();
    let mut bytes = 0;
    for ranking in rankings {
        bytes += 16 + ranking.ads.iter().map(|(ad, _)| ad.len() + 4).sum::<usize>();
        part.push(ranking);
        if bytes > RECORD_BYTES {
            let rankings = std::mem::take(&mut part);
            send(ResultBody::Rankings { partition: own, oldest_arrival, rankings });
            bytes = 0;
        }
    }
    if !part.is_empty() {
        send(ResultBody::Rankings { partition: own, oldest_arrival, rankings: part });
    }
    send(ResultBody::Ranked { partition: own, until });
}

impl Stage for ReducerWorker {
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
        }
        for (partition, input) in &self.inputs {
            if input.reducer.told_until() > Minute::MIN {
                let delay = now.as_secs_f64() - input.reducer.told_until().start().as_secs_f64();
                metrics::gauge!("clickmill_reducer_told_delay_seconds", "partition" => partition.partition.to_string())
                    .set(delay);
            }
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
