//! What the reducer does with the rankings of its partitions: the edge between operator and queue.

use std::sync::Arc;

use clickmill_model::records::{CLICK_RESULTS, CandidateRecord, ResultBody, ResultRecord, TOP_CANDIDATES};
use clickmill_model::{Minute, Offset, Partition, Revision, Timestamp};
use clickmill_queue::topology::REDUCER;
use clickmill_queue::worker::{Checkpoint, Restored, Work, refuse_forgotten, refuse_lost_offset};
use clickmill_queue::{
    Committed, Fetched, Queue, Record, StageError, TopicPartition, Transaction, Worker, WorkerConfig,
};

use crate::checkpoint::ReducerCheckpoint;
use crate::reducer::{Published, Reducer};

/// How many bytes of rankings one record of `click-results` holds at most, about.
const RECORD_BYTES: usize = 512 << 10;

/// The reducer of one partition, as its worker sees it.
pub struct PartitionReducer {
    reducer: Reducer,
    told: Option<(Offset, Minute)>,
}

/// What a reducer does with the partitions that it is given.
pub struct ReducerWorker {
    queue: Arc<dyn Queue>,
    aggregators: u32,
    more: bool,
}

impl ReducerWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: WorkerConfig) -> Result<Worker<Self>, StageError> {
        let Some(aggregators) = queue.partitions(TOP_CANDIDATES)? else {
            return Err(StageError::Unavailable(format!("there is no topic {TOP_CANDIDATES} yet")));
        };
        let work = Self { queue: Arc::clone(&queue), aggregators, more: false };
        Worker::start(queue, config, &[TOP_CANDIDATES], work)
    }
}

impl Work for ReducerWorker {
    type Operator = PartitionReducer;

    const GROUP: &'static str = REDUCER;

    fn begin(&mut self, partition: &TopicPartition, start: Offset) -> Result<PartitionReducer, StageError> {
        refuse_lost_offset(REDUCER, partition, start)?;
        let own = partition.partition;
        let is_own = |value: &[u8]| {
            let record = ResultRecord::decode(value)?;
            let is_ranked = matches!(record.body, ResultBody::Ranked { partition, .. } if partition == own);
            Ok(is_ranked && record.revision == Revision::STREAM)
        };
        refuse_forgotten(&*self.queue, REDUCER, partition, &TopicPartition::new(CLICK_RESULTS, own.0), is_own)?;
        Ok(PartitionReducer { reducer: Reducer::new(self.aggregators), told: None })
    }

    fn restore(
        &mut self,
        _partition: &TopicPartition,
        committed: &Committed,
    ) -> Result<Restored<PartitionReducer>, StageError> {
        let checkpoint = ReducerCheckpoint::decode(&committed.metadata)?;
        if checkpoint.closed_until.len() != self.aggregators as usize {
            return Err(StageError::Broken(format!(
                "{TOP_CANDIDATES} has {} partitions now, and had {}: their number is fixed when the topics are made",
                self.aggregators,
                checkpoint.closed_until.len()
            )));
        }
        let told = Some((committed.offset, checkpoint.told_until));
        let operator = PartitionReducer { reducer: Reducer::restore(&checkpoint), told };
        Ok(Restored { operator, replay_from: checkpoint.replay_from })
    }

    fn replay(&mut self, operator: &mut PartitionReducer, records: &[Fetched]) -> Result<(), StageError> {
        for fetched in records {
            operator.reducer.apply(fetched.offset, CandidateRecord::decode(&fetched.record.value)?);
        }
        Ok(())
    }

    fn apply(
        &mut self,
        operator: &mut PartitionReducer,
        records: &[Fetched],
        _now: Timestamp,
    ) -> Result<(), StageError> {
        // What it has told already it passes over by itself.
        self.replay(operator, records)
    }

    fn take(
        &mut self,
        partition: &TopicPartition,
        operator: &mut PartitionReducer,
        next: Offset,
        transaction: &mut Transaction,
    ) -> Option<Checkpoint> {
        let PartitionReducer { reducer, told } = operator;
        if let Some(published) = reducer.publish() {
            self.more = true;
            tell(transaction, partition.partition, published);
        }
        let news = Some((next, reducer.told_until()));
        if news == *told {
            return None;
        }
        *told = news;
        let checkpoint = reducer.checkpoint(next);
        Some(Checkpoint { metadata: checkpoint.encode(), keep_from: checkpoint.replay_from })
    }

    fn has_more(&mut self) -> bool {
        std::mem::take(&mut self.more)
    }

    fn look<'a>(
        &mut self,
        operators: impl Iterator<Item = (&'a TopicPartition, &'a mut PartitionReducer)>,
        now: Timestamp,
    ) -> Result<(), StageError> {
        for (partition, operator) in operators {
            let told = operator.reducer.told_until();
            if told > Minute::MIN {
                metrics::gauge!("clickmill_reducer_told_delay_seconds", "partition" => partition.partition.to_string())
                    .set(now.as_secs_f64() - told.start().as_secs_f64());
            }
        }
        Ok(())
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
