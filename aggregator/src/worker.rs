//! What the aggregator does with the blocks of its partitions: the edge between operator and queue.

use std::sync::Arc;

use clickmill_model::records::{
    CLICK_PARTIALS, CLICK_RESULTS, CandidateRecord, PartialBlock, ResultBody, ResultRecord, TOP_CANDIDATES,
};
use clickmill_model::{DefinitionVersion, Minute, Offset, Partition, Revision, Timestamp};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::topology::AGGREGATOR;
use clickmill_queue::worker::{Checkpoint, Restored, Work, refuse_forgotten, refuse_lost_offset};
use clickmill_queue::{
    Committed, Fetched, Queue, Record, StageError, TopicPartition, Transaction, Worker, WorkerConfig,
};

use crate::aggregator::{Aggregator, Closing};
use crate::checkpoint::AggregatorCheckpoint;
use crate::error::AggregateError;

/// How many bytes of rankings one record of `top-candidates` holds at most, about.
const CANDIDATES_BYTES: usize = 512 << 10;

/// The aggregator of one partition, as its worker sees it.
pub struct PartitionAggregator {
    aggregator: Aggregator,
    /// The newest definition that it was told of.
    knows: DefinitionVersion,
    told: Option<(Offset, Minute)>,
    /// At or before the next record in the own partition of `click-results`.
    results_next: Offset,
}

/// What an aggregator does with the partitions that it is given.
pub struct AggregatorWorker {
    queue: Arc<dyn Queue>,
    definitions: Definitions,
    candidates_partitions: u32,
    more: bool,
}

impl AggregatorWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: WorkerConfig) -> Result<Worker<Self>, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let Some(newest) = definitions.newest() else {
            return Err(StageError::Unavailable("the pipeline has no definition yet".into()));
        };
        let candidates_partitions = newest.partitions;
        let work = Self { queue: Arc::clone(&queue), definitions, candidates_partitions, more: false };
        Worker::start(queue, config, &[CLICK_PARTIALS], work)
    }

    fn newest(&self) -> DefinitionVersion {
        self.definitions.newest().map_or(0, |definition| definition.version)
    }

    /// Reads back from its own results what the windows need.
    fn read_results(
        &self,
        aggregator: &mut Aggregator,
        results: &TopicPartition,
        mut from: Offset,
    ) -> Result<(), StageError> {
        loop {
            let records = self.queue.read(results, from, 8 << 20)?;
            let Some(last) = records.last() else { break };
            from = last.offset.next();
            for fetched in &records {
                let record = ResultRecord::decode(&fetched.record.value)?;
                aggregator.restore_result(fetched.offset, &record).map_err(broken)?;
            }
        }
        aggregator.restored().map_err(|error| StageError::Broken(format!("{results}: {error}")))
    }

    /// A block may be of a definition that is newer than what was known when this process looked last.
    fn learn(&mut self, operator: &mut PartitionAggregator, block: &PartialBlock) -> Result<(), StageError> {
        if block.definitions.iter().all(|announced| announced.version <= operator.knows) {
            return Ok(());
        }
        self.definitions.refresh(&*self.queue)?;
        for definition in self.definitions.all() {
            operator.aggregator.learn(definition);
        }
        operator.knows = self.newest();
        Ok(())
    }
}

fn broken(error: AggregateError) -> StageError {
    StageError::Broken(error.to_string())
}

fn results_of(partition: &TopicPartition) -> TopicPartition {
    TopicPartition::new(CLICK_RESULTS, partition.partition.0)
}

impl Work for AggregatorWorker {
    type Operator = PartitionAggregator;

    const GROUP: &'static str = AGGREGATOR;

    fn begin(&mut self, partition: &TopicPartition, start: Offset) -> Result<PartitionAggregator, StageError> {
        refuse_lost_offset(AGGREGATOR, partition, start)?;
        let own = partition.partition;
        let is_own = |value: &[u8]| {
            let record = ResultRecord::decode(value)?;
            let is_closed = matches!(record.body, ResultBody::Closed { partition, .. } if partition == own);
            Ok(is_closed && record.revision == Revision::STREAM)
        };
        refuse_forgotten(&*self.queue, AGGREGATOR, partition, &results_of(partition), is_own)?;
        Ok(PartitionAggregator {
            aggregator: Aggregator::new(partition.partition, self.definitions.all()),
            knows: self.newest(),
            told: None,
            results_next: self.queue.range(&results_of(partition))?.end,
        })
    }

    fn restore(
        &mut self,
        partition: &TopicPartition,
        committed: &Committed,
    ) -> Result<Restored<PartitionAggregator>, StageError> {
        let results = results_of(partition);
        let results_next = self.queue.range(&results)?.end;
        let checkpoint = AggregatorCheckpoint::decode(&committed.metadata)?;
        let mut aggregator = Aggregator::restore(partition.partition, self.definitions.all(), &checkpoint);
        if let Some(from) = checkpoint.results_from {
            self.read_results(&mut aggregator, &results, from)?;
        }
        let told = Some((committed.offset, aggregator.closed_until()));
        let operator = PartitionAggregator { aggregator, knows: self.newest(), told, results_next };
        Ok(Restored { operator, replay_from: checkpoint.replay_from })
    }

    fn replay(&mut self, operator: &mut PartitionAggregator, records: &[Fetched]) -> Result<(), StageError> {
        for fetched in records {
            let block = PartialBlock::decode(&fetched.record.value)?;
            self.learn(operator, &block)?;
            operator.aggregator.replay(fetched.offset, &block).map_err(broken)?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        operator: &mut PartitionAggregator,
        records: &[Fetched],
        _now: Timestamp,
    ) -> Result<(), StageError> {
        for fetched in records {
            let block = PartialBlock::decode(&fetched.record.value)?;
            self.learn(operator, &block)?;
            operator.aggregator.apply(fetched.offset, &block).map_err(broken)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        partition: &TopicPartition,
        operator: &mut PartitionAggregator,
        next: Offset,
        transaction: &mut Transaction,
    ) -> Option<Checkpoint> {
        let results = results_of(partition);
        let PartitionAggregator { aggregator, told, results_next, .. } = operator;
        if let Some(closing) = aggregator.close(*results_next) {
            aggregator.closing_covers(next);
            self.more = true;
            tell(transaction, partition.partition, self.candidates_partitions, &results, closing);
        }
        let news = Some((next, aggregator.closed_until()));
        if news == *told {
            return None;
        }
        *told = news;
        let checkpoint = aggregator.checkpoint(next);
        if let Some(needed) = checkpoint.results_from {
            transaction.keep.push((results, needed));
        }
        Some(Checkpoint { metadata: checkpoint.encode(), keep_from: checkpoint.replay_from })
    }

    fn has_more(&mut self) -> bool {
        std::mem::take(&mut self.more)
    }

    fn committed<'a>(
        &mut self,
        operators: impl Iterator<Item = (&'a TopicPartition, &'a mut PartitionAggregator)>,
        sent: &[(TopicPartition, Offset)],
    ) {
        for (partition, operator) in operators {
            let results = results_of(partition);
            for (_, first) in sent.iter().filter(|(to, _)| *to == results) {
                operator.results_next = operator.results_next.max(first.next());
            }
        }
    }

    fn look<'a>(
        &mut self,
        operators: impl Iterator<Item = (&'a TopicPartition, &'a mut PartitionAggregator)>,
        now: Timestamp,
    ) -> Result<(), StageError> {
        for (partition, operator) in operators {
            let closed = operator.aggregator.closed_until();
            if closed > Minute::MIN {
                metrics::gauge!("clickmill_aggregator_closed_delay_seconds", "partition" => partition.partition.to_string())
                    .set(now.as_secs_f64() - closed.start().as_secs_f64());
            }
        }
        Ok(())
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
