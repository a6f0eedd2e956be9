//! The loop around the operators of a stage: poll, step, commit, hand over. What a stage does with its records is its [`Work`]; everything else is the same for all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::{CodecError, Offset, Timestamp};

use crate::stage::{Progress, Stage, StageError};
use crate::types::{
    Committed, Consumer, Fetched, InputCommit, Poll, Producer, Queue, QueueError, TopicPartition, Transaction,
};

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Stable and unique among the workers of its stage: what is left of an earlier one of this name is ended.
    pub name: String,
    /// How long records are gathered for one transaction when few come.
    pub linger: Duration,
    /// How long they are gathered at most when many wait, as after a pause: a transaction has a price of its own.
    pub longest: Duration,
    /// How many bytes of records are gathered for one transaction at most, about.
    pub transaction_bytes: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: "0".into(),
            linger: Duration::from_millis(50),
            longest: Duration::from_millis(500),
            transaction_bytes: 64 << 20,
        }
    }
}

/// Where a partition's operator stands when it is made.
#[derive(Debug)]
pub struct Restored<O> {
    /// The operator.
    pub operator: O,
    /// The first record to read: those from there to the committed offset are given to [`Work::replay`].
    pub replay_from: Offset,
}

/// What is committed beside an input's offset.
#[derive(Debug)]
pub struct Checkpoint {
    /// What a restart needs: [`Committed::metadata`].
    pub metadata: Vec<u8>,
    /// The first record of the input that a restart needs.
    pub keep_from: Offset,
}

/// What a stage does with the records of the partitions that it is given.
pub trait Work: Send {
    /// One partition's state.
    type Operator: Send;

    /// The group whose members share the partitions, which is the stage's name too.
    const GROUP: &'static str;

    /// The operator of a partition of which nothing was ever committed and whose log begins at `start`.
    fn begin(&mut self, partition: &TopicPartition, start: Offset) -> Result<Self::Operator, StageError>;

    /// The operator as it was committed.
    fn restore(
        &mut self,
        partition: &TopicPartition,
        committed: &Committed,
    ) -> Result<Restored<Self::Operator>, StageError>;

    /// Reads records again that were committed before.
    fn replay(&mut self, operator: &mut Self::Operator, records: &[Fetched]) -> Result<(), StageError>;

    /// Takes records in, in order.
    fn apply(&mut self, operator: &mut Self::Operator, records: &[Fetched], now: Timestamp) -> Result<(), StageError>;

    /// The partition was read to its end at `now`.
    fn at_end(&mut self, _operator: &mut Self::Operator, _now: Timestamp) {}

    /// True where an operator holds so much that it should be committed now.
    fn is_full<'a>(&self, _operators: impl Iterator<Item = &'a Self::Operator>) -> bool
    where
        Self: 'a,
    {
        false
    }

    /// Adds to the transaction what the operator has to tell, after every record before `next`. `None` where there is nothing to commit.
    fn take(
        &mut self,
        partition: &TopicPartition,
        operator: &mut Self::Operator,
        next: Offset,
        transaction: &mut Transaction,
    ) -> Option<Checkpoint>;

    /// True where operators may have more to tell at once, without another record: what was told last was not all.
    fn has_more(&mut self) -> bool {
        false
    }

    /// A transaction was committed: `sent` has the offset of the first record that went to each partition.
    fn committed<'a>(
        &mut self,
        _operators: impl Iterator<Item = (&'a TopicPartition, &'a mut Self::Operator)>,
        _sent: &[(TopicPartition, Offset)],
    ) where
        Self: 'a,
    {
    }

    /// Called about once a second: looks around, and reports metrics.
    fn look<'a>(
        &mut self,
        operators: impl Iterator<Item = (&'a TopicPartition, &'a mut Self::Operator)>,
        now: Timestamp,
    ) -> Result<(), StageError>
    where
        Self: 'a;
}

/// How often [`Work::look`] is called.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many bytes of one partition are polled at once, about.
const POLL_BYTES: usize = 8 << 20;

/// How long a worker waits before it tries again to commit into a full queue.
const FULL_PAUSE: Duration = Duration::from_millis(20);

struct Input<O> {
    operator: O,
    /// Records before it were committed, and are read again.
    replay_until: Offset,
    /// True until all of them were: nothing may be committed before.
    replaying: bool,
    /// Every record before it was taken in.
    next: Offset,
}

/// A member of a group that does [`Work`].
pub struct Worker<W: Work> {
    queue: Arc<dyn Queue>,
    config: WorkerConfig,
    work: W,
    producer: Box<dyn Producer>,
    consumer: Box<dyn Consumer>,
    inputs: BTreeMap<TopicPartition, Input<W::Operator>>,
    looked: Option<Timestamp>,
    pending: Option<Transaction>,
    /// Asked for by others, and given to them when what is pending is committed.
    handing_over: Vec<TopicPartition>,
}

impl<W: Work> Worker<W> {
    /// Ends what is left of an earlier worker of this name, and joins the group that shares the partitions of `topics`.
    pub fn start(queue: Arc<dyn Queue>, config: WorkerConfig, topics: &[&str], work: W) -> Result<Self, StageError> {
        let producer = queue.producer(&format!("{}-{}", W::GROUP, config.name))?;
        let consumer = queue.consumer(W::GROUP, topics)?;
        Ok(Self {
            queue,
            config,
            work,
            producer,
            consumer,
            inputs: BTreeMap::new(),
            looked: None,
            pending: None,
            handing_over: Vec::new(),
        })
    }

    fn assign(&mut self, partition: TopicPartition, committed: Option<Committed>) -> Result<(), StageError> {
        let input = match committed {
            Some(committed) => {
                let Restored { operator, replay_from } = self.work.restore(&partition, &committed)?;
                let replay_from = replay_from.min(committed.offset);
                self.consumer.seek(&partition, replay_from)?;
                let (next, replaying) = (committed.offset, replay_from < committed.offset);
                Input { operator, replay_until: next, replaying, next }
            }
            None => {
                let start = self.queue.range(&partition)?.start;
                let operator = self.work.begin(&partition, start)?;
                Input { operator, replay_until: start, replaying: false, next: start }
            }
        };
        self.inputs.insert(partition, input);
        Ok(())
    }

    /// Polls until the transaction is full, the linger is over and nothing more is there, it took as long as it may, or partitions are asked for, which it returns.
    fn gather(&mut self, now: Timestamp, wait: Duration) -> Result<Vec<TopicPartition>, StageError> {
        let mut gathered = 0;
        let mut wait = if self.work.has_more() { Duration::ZERO } else { wait };
        // When the first records came.
        let mut first: Option<Instant> = None;
        loop {
            match self.consumer.poll(wait, POLL_BYTES)? {
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
                    self.take_in(&from, &records, now)?;
                    first.get_or_insert_with(Instant::now);
                }
                Poll::Idle { at_end } => {
                    for partition in at_end {
                        if let Some(input) = self.inputs.get_mut(&partition) {
                            input.replaying = false;
                            self.work.at_end(&mut input.operator, now);
                        }
                    }
                    if first.is_none_or(|at| at.elapsed() >= self.config.linger) {
                        return Ok(Vec::new());
                    }
                }
            }
            if gathered >= self.config.transaction_bytes
                || first.is_some_and(|at| at.elapsed() >= self.config.longest)
                || self.work.is_full(self.inputs.values().map(|input| &input.operator))
            {
                return Ok(Vec::new());
            }
            wait = first.map_or(Duration::ZERO, |at| self.config.linger.saturating_sub(at.elapsed()));
        }
    }

    fn take_in(&mut self, from: &TopicPartition, records: &[Fetched], now: Timestamp) -> Result<(), StageError> {
        let Some(input) = self.inputs.get_mut(from) else { return Ok(()) };
        let Some(last) = records.last() else { return Ok(()) };
        let (old, new) = records.split_at(records.partition_point(|r| r.offset < input.replay_until));
        let in_record = |error| match error {
            StageError::Broken(why) => {
                StageError::Broken(format!("{from}, at or before offset {}: {why}", last.offset))
            }
            other => other,
        };
        if !old.is_empty() {
            self.work.replay(&mut input.operator, old).map_err(in_record)?;
        }
        input.replaying = last.offset.next() < input.replay_until;
        if !new.is_empty() {
            self.work.apply(&mut input.operator, new, now).map_err(in_record)?;
            input.next = last.offset.next();
        }
        Ok(())
    }

    /// The transaction that commits all that was gathered.
    fn transaction(&mut self) -> Transaction {
        let mut transaction = Transaction::default();
        for (partition, input) in self.inputs.iter_mut().filter(|(_, input)| !input.replaying) {
            if let Some(checkpoint) = self.work.take(partition, &mut input.operator, input.next, &mut transaction) {
                let Checkpoint { metadata, keep_from } = checkpoint;
                let committed = Committed { offset: input.next, metadata };
                transaction.inputs.push(InputCommit { input: partition.clone(), committed, keep_from });
            }
        }
        transaction
    }

    /// Commits what waits, and gives away the partitions that others wait for. False where the queue has no room: it is tried again with the next step.
    fn commit(&mut self) -> Result<bool, StageError> {
        if let Some(transaction) = &self.pending {
            match self.producer.commit(transaction, Some(&*self.consumer)) {
                Ok(sent) => {
                    let operators = self.inputs.iter_mut().map(|(partition, input)| (partition, &mut input.operator));
                    self.work.committed(operators, &sent);
                    self.pending = None;
                }
                Err(QueueError::Full { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        for partition in self.handing_over.drain(..) {
            self.inputs.remove(&partition);
            self.consumer.release(&partition)?;
        }
        Ok(true)
    }

    fn look(&mut self, now: Timestamp) -> Result<(), StageError> {
        if self.looked.is_some_and(|at| now.since(at) < LOOK_EVERY && now >= at) {
            return Ok(());
        }
        self.looked = Some(now);
        let operators = self.inputs.iter_mut().map(|(partition, input)| (partition, &mut input.operator));
        self.work.look(operators, now)
    }
}

impl<W: Work> Stage for Worker<W> {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        if !self.commit()? {
            std::thread::sleep(wait.min(FULL_PAUSE));
            return Ok(Progress::Idle);
        }
        self.look(now)?;
        self.handing_over = self.gather(now, wait)?;
        let transaction = self.transaction();
        let worked = !transaction.is_empty();
        if worked {
            self.pending = Some(transaction);
        }
        self.commit()?;
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

/// The refusal of a partition whose group has committed nothing although the log does not begin at its first record: records were deleted that were read before, so that the committed offset was lost.
pub fn refuse_lost_offset(group: &str, partition: &TopicPartition, start: Offset) -> Result<(), StageError> {
    if start > Offset(0) {
        return Err(StageError::Broken(format!(
            "{partition}: group {group} has no committed offset, but the log begins at offset {start}: what was read before is gone, and starting over would lose or double clicks. \
             Restore the committed offset, or start with a new data folder"
        )));
    }
    Ok(())
}

/// The refusal of a partition whose group has committed nothing although results of it are there (`is_own` recognises them by their value): it has read the topic before, which was made anew since, or lost the committed
/// offset. What nobody had read of it is gone, and what was read would be told twice.
pub fn refuse_forgotten(
    queue: &dyn Queue,
    group: &str,
    partition: &TopicPartition,
    results: &TopicPartition,
    mut is_own: impl FnMut(&[u8]) -> Result<bool, CodecError>,
) -> Result<(), StageError> {
    let mut from = queue.range(results)?.start;
    loop {
        let records = queue.read(results, from, FORGOTTEN_BYTES)?;
        let Some(last) = records.last() else { return Ok(()) };
        from = last.offset.next();
        for fetched in &records {
            if is_own(&fetched.record.value)? {
                return Err(StageError::Broken(format!(
                    "{partition}: group {group} has no committed offset, but offset {} of {results} is a result of it: the topic was made anew, or the committed offset was lost. \
                     Going on would lose or double clicks: restore it, or start with a new data folder and recalculate from the raw files",
                    fetched.offset
                )));
            }
        }
    }
}

/// How much is read at once while looking for results.
const FORGOTTEN_BYTES: usize = 8 << 20;
