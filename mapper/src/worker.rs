//! What the mapper does with the records of its partitions: the edge between operator and queue.

use std::collections::BTreeSet;
use std::sync::Arc;

use clickmill_model::records::{CLICK_PARTIALS, DEAD_LETTERS, LATE_CLICKS, MapperCheckpoint, SetAsideBatch};
use clickmill_model::{Definition, Minute, Offset, RawPartition, ReadInputs, RejectReason, Timestamp, Watermark};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::topology::MAPPER;
use clickmill_queue::worker::{Checkpoint, Restored, Work, refuse_lost_offset};
use clickmill_queue::{
    Committed, Fetched, Queue, Record, StageError, TopicPartition, Transaction, Worker, WorkerConfig,
};

use crate::combine::Combiner;
use crate::partition::{Mapped, Others, PartitionMapper};

/// How many clicks a transaction counts at most, about: bounds the size of its blocks.
const MOST_CLICKS: usize = 400_000;

/// How many bytes of set-aside lines one record holds at most, about.
const SET_ASIDE_BYTES: usize = 256 << 10;

/// What a mapper does with the raw partitions that it is given.
pub struct MapperWorker {
    queue: Arc<dyn Queue>,
    definitions: Definitions,
    combiner: Combiner,
    topics: BTreeSet<String>,
    read: ReadInputs,
    others: Others,
}

impl MapperWorker {
    /// Joins the group and ends what is left of an earlier worker of this name.
    pub fn start(queue: Arc<dyn Queue>, config: WorkerConfig) -> Result<Worker<Self>, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let Some(newest) = definitions.newest() else {
            return Err(StageError::Unavailable("the pipeline has no definition yet".into()));
        };
        let combiner = Combiner::new(newest.partitions);
        let raw = RawTopics::load(&*queue, definitions.all())?;
        let others = others(&raw);
        let topics = raw.of_mapper();
        let work = Self { queue: Arc::clone(&queue), definitions, combiner, topics, read: raw.read, others };
        let topics = work.topics.clone();
        Worker::start(queue, config, &topics.iter().map(String::as_str).collect::<Vec<_>>(), work)
    }

    fn newest(&self) -> Result<&Definition, StageError> {
        self.definitions.newest().ok_or_else(|| StageError::Broken("the pipeline's definitions are gone".into()))
    }

    /// Tells the operator of the newest definition.
    fn define(&self, partition: &TopicPartition, mapper: &mut PartitionMapper) -> Result<(), StageError> {
        // Where the partition is no input any more, what it holds by now still counts.
        let end = self.queue.range(partition)?.end;
        mapper.define(self.newest()?, end);
        Ok(())
    }
}

/// What the partitions that are read have committed. One that is no input any more has no live source.
fn others(raw: &RawTopics) -> Others {
    let mut others = Others::default();
    for checkpoint in raw.read.partitions.iter().filter_map(|partition| raw.committed.get(partition)) {
        others.last_heard = others.last_heard.max(checkpoint.last_heard);
        if checkpoint.has_live_source {
            let lowest = others.lowest_live.map_or(checkpoint.watermark, |w| w.min(checkpoint.watermark));
            others.lowest_live = Some(lowest);
        }
    }
    others
}

impl Work for MapperWorker {
    type Operator = PartitionMapper;

    const GROUP: &'static str = MAPPER;

    fn begin(&mut self, partition: &TopicPartition, start: Offset) -> Result<PartitionMapper, StageError> {
        refuse_lost_offset(MAPPER, partition, start)?;
        let (raw, newest) = (raw(partition), self.newest()?);
        let first = self.read.first_minutes.get(&raw).copied().unwrap_or(Minute::MIN);
        // One that was retired before anybody read it has lines to count.
        let as_input = self.definitions.all().iter().rev().find(|definition| definition.has_input(&raw));
        let mut mapper = PartitionMapper::joining(raw, as_input.unwrap_or(newest), first, start);
        mapper.note_inputs(self.read.since);
        self.define(partition, &mut mapper)?;
        Ok(mapper)
    }

    fn restore(
        &mut self,
        partition: &TopicPartition,
        committed: &Committed,
    ) -> Result<Restored<PartitionMapper>, StageError> {
        let checkpoint = MapperCheckpoint::decode(&committed.metadata)?;
        let newest = self.newest()?.version;
        if let Some(newer) = checkpoint.definitions.iter().find(|announced| announced.version > newest) {
            // Who had the partition before has looked around later than this worker.
            let version = newer.version;
            return Err(StageError::Outdated(format!(
                "{partition} follows definition {version}, here {newest} is known"
            )));
        }
        let mut operator =
            PartitionMapper::restore(raw(partition), self.definitions.all(), committed.offset, &checkpoint)
                .map_err(|error| StageError::Broken(format!("{partition}: {error}")))?;
        operator.note_inputs(self.read.since);
        self.define(partition, &mut operator)?;
        Ok(Restored { operator, replay_from: checkpoint.replay_from })
    }

    fn replay(&mut self, mapper: &mut PartitionMapper, records: &[Fetched]) -> Result<(), StageError> {
        for record in records {
            mapper.replay(record)?;
        }
        Ok(())
    }

    fn apply(&mut self, mapper: &mut PartitionMapper, records: &[Fetched], _now: Timestamp) -> Result<(), StageError> {
        mapper.apply(records, &mut self.combiner)?;
        Ok(())
    }

    fn at_end(&mut self, mapper: &mut PartitionMapper, now: Timestamp) {
        mapper.tick(now, self.others);
    }

    fn is_full<'a>(&self, mappers: impl Iterator<Item = &'a PartitionMapper>) -> bool {
        mappers.map(PartitionMapper::waiting).sum::<usize>() >= MOST_CLICKS
    }

    fn take(
        &mut self,
        partition: &TopicPartition,
        mapper: &mut PartitionMapper,
        next: Offset,
        transaction: &mut Transaction,
    ) -> Option<Checkpoint> {
        if !mapper.has_news() {
            return None;
        }
        debug_assert!(mapper.books().balance());
        let Mapped { blocks, late, rejected, offset, checkpoint } = mapper.take(&mut self.combiner);
        debug_assert_eq!(offset, next);
        for (k, block) in blocks.iter().enumerate() {
            transaction.send(TopicPartition::new(CLICK_PARTIALS, k as u32), Record::of(block.encode()));
        }
        let aside = partition.partition.0 % self.combiner.partitions().max(1);
        for (topic, batch) in [(LATE_CLICKS, late), (DEAD_LETTERS, rejected)] {
            for part in batch.into_iter().flat_map(split) {
                transaction.send(TopicPartition::new(topic, aside), Record::of(part.encode()));
            }
        }
        Some(Checkpoint { metadata: checkpoint.encode(), keep_from: checkpoint.replay_from })
    }

    fn committed<'a>(
        &mut self,
        _mappers: impl Iterator<Item = (&'a TopicPartition, &'a mut PartitionMapper)>,
        _sent: &[(TopicPartition, Offset)],
    ) {
        self.combiner.trim();
    }

    fn look<'a>(
        &mut self,
        mappers: impl Iterator<Item = (&'a TopicPartition, &'a mut PartitionMapper)>,
        now: Timestamp,
    ) -> Result<(), StageError> {
        let redefined = self.definitions.refresh(&*self.queue)?;
        let raw = RawTopics::load(&*self.queue, self.definitions.all())?;
        if raw.of_mapper() != self.topics {
            return Err(StageError::outdated(&self.topics, &raw.of_mapper()));
        }
        self.others = others(&raw);
        self.read = raw.read;
        for (partition, mapper) in mappers {
            if redefined {
                self.define(partition, mapper)?;
            }
            mapper.note_inputs(self.read.since);
            report(partition, mapper, now);
        }
        Ok(())
    }
}

fn raw(partition: &TopicPartition) -> RawPartition {
    RawPartition { topic: Arc::clone(&partition.topic), partition: partition.partition }
}

fn report(partition: &TopicPartition, mapper: &PartitionMapper, now: Timestamp) {
    let labels = [("partition", partition.to_string())];
    let books = mapper.books();
    let absolute = |name: &'static str, value: u64| metrics::counter!(name, &labels).absolute(value);
    absolute("clickmill_mapper_lines_total", books.lines);
    absolute("clickmill_mapper_clicks_counted_total", books.counted);
    absolute("clickmill_mapper_clicks_duplicate_total", books.duplicates);
    absolute("clickmill_mapper_clicks_late_total", books.late);
    for (reason, count) in RejectReason::ALL.iter().zip(&books.rejected) {
        metrics::counter!(
            "clickmill_mapper_lines_rejected_total",
            "partition" => partition.to_string(), "reason" => reason.as_str()
        )
        .absolute(*count);
    }
    let watermark = mapper.watermark();
    if watermark != Watermark::NONE {
        metrics::gauge!("clickmill_mapper_watermark_delay_seconds", &labels)
            .set(now.as_secs_f64() - watermark.time().as_secs_f64());
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
