//! The whole pipeline in one thread: the real workers over a queue and a store in memory, stepped, crashed and deceived as a seed says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clickmill_aggregator::AggregatorWorker;
use clickmill_db_writer::{ResultsConfig, ResultsWriter};
use clickmill_mapper::MapperWorker;
use clickmill_model::records::{
    CLICK_PARTIALS, CLICK_RESULTS, DEAD_LETTERS, LATE_CLICKS, MapperCheckpoint, Origin, SetAsideBatch, SourceHeader,
    SourceMark, TOP_CANDIDATES,
};
use clickmill_model::{Definition, FilterId, Minute, Offset, Partition, RawPartition, Timestamp, Watermark, Window};
use clickmill_queue::definitions;
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::memory::{CommitFault, MemoryQueue};
use clickmill_queue::{
    Clock, ManualClock, Producer, Queue, QueueError, Record, Stage, StageError, TopicPartition, Transaction,
    WorkerConfig, topology,
};
use clickmill_reducer::ReducerWorker;
use clickmill_store::memory::MemoryStore;
use clickmill_store::{AggregateStore, MinuteRange};
use clickmill_tests::model::Model;

/// 2026-03-01 23:00:00: days and hours end within the runs.
pub(crate) const START: i64 = 1_772_406_000;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(START + seconds)
}

/// The stages that a world runs, by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Mapper,
    Aggregator,
    Reducer,
    DbWriter,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Mapper, Kind::Aggregator, Kind::Reducer, Kind::DbWriter];

/// A process of a stage, by kind and name.
pub(crate) type Who = (Kind, u32);

/// Random numbers that a seed decides (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) queue: MemoryQueue,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) definitions: Vec<Definition>,
    pub(crate) running: BTreeMap<Who, Box<dyn Stage>>,
    /// Processes that were stopped and will wake up believing that they still own something.
    pub(crate) zombies: Vec<Box<dyn Stage>>,
    producers: RefCell<BTreeMap<String, Box<dyn Producer>>>,
}

impl World {
    pub(crate) fn new(definition: Definition) -> Self {
        let clock = Arc::new(ManualClock::new(at(0)));
        let queue = MemoryQueue::new(Arc::clone(&clock) as Arc<dyn Clock>);
        queue.create_topics(&topology::topics(&definition)).unwrap();
        definitions::append(&queue, &definition).unwrap();
        Self {
            clock,
            queue,
            store: Arc::new(MemoryStore::default()),
            definitions: vec![definition],
            running: BTreeMap::new(),
            zombies: Vec::new(),
            producers: RefCell::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn define(&mut self, proposal: &Definition) {
        let next = proposal.following(&self.definitions).unwrap().unwrap();
        self.queue.create_topics(&topology::topics(&next)).unwrap();
        definitions::append(&self.queue, &next).unwrap();
        self.definitions.push(next);
    }

    /// A watcher's or a foreign producer's record.
    pub(crate) fn send(&self, partition: u32, source: Option<(&str, SourceMark)>, lines: &[String]) {
        let headers = source.map(|(name, mark)| {
            let runs = if lines.is_empty() { vec![] } else { vec![("log".to_owned(), vec![0; lines.len()])] };
            let header = SourceHeader { source: name.into(), mark, origin: Origin { runs } };
            (SourceHeader::KEY.to_owned(), header.encode())
        });
        let record = Record { key: None, headers: headers.into_iter().collect(), value: lines.join("\n").into_bytes() };
        let mut transaction = Transaction::default();
        transaction.send(TopicPartition::new("ad-clicks", partition), record);
        let id = source.map_or("foreign", |(name, _)| name).to_owned();
        let mut producers = self.producers.borrow_mut();
        let producer = producers.entry(id.clone()).or_insert_with(|| self.queue.producer(&id).unwrap());
        producer.commit(&transaction, None).unwrap();
    }

    fn make(&self, (kind, name): Who) -> Result<Box<dyn Stage>, StageError> {
        let queue: Arc<dyn Queue> = Arc::new(self.queue.clone());
        let (name, linger) = (name.to_string(), Duration::ZERO);
        let config = WorkerConfig { name: name.clone(), linger, ..WorkerConfig::default() };
        Ok(match kind {
            Kind::Mapper => Box::new(MapperWorker::start(queue, config)?),
            Kind::Aggregator => Box::new(AggregatorWorker::start(queue, config)?),
            Kind::Reducer => Box::new(ReducerWorker::start(queue, config)?),
            Kind::DbWriter => {
                let keep = Duration::from_secs(400 * 86_400);
                let config = ResultsConfig { name, linger, keep_counts: keep, keep_rankings: keep, minutes: None };
                Box::new(ResultsWriter::start(queue, Arc::clone(&self.store) as Arc<dyn AggregateStore>, config)?)
            }
        })
    }

    /// One step of a process, which is started where it does not run. A process that fails is gone, as its supervisor would have it.
    ///
    /// # Panics
    /// Where a stage says that a promise is broken.
    pub(crate) fn step(&mut self, who: Who) -> bool {
        let mut stage = match self.running.remove(&who) {
            Some(stage) => stage,
            None => match self.make(who) {
                Ok(stage) => stage,
                Err(error) => return Self::tolerate(who, &error),
            },
        };
        match stage.step(self.now(), Duration::ZERO) {
            Ok(progress) => {
                self.running.insert(who, stage);
                progress == clickmill_queue::Progress::Worked
            }
            Err(error) => Self::tolerate(who, &error),
        }
    }

    /// A step whose error, whatever it is, is for the test to judge.
    pub(crate) fn try_step(&mut self, who: Who) -> Result<(), StageError> {
        let mut stage = self.make(who)?;
        for _ in 0..10 {
            stage.step(self.now(), Duration::ZERO)?;
        }
        Ok(())
    }

    fn tolerate(who: Who, error: &StageError) -> bool {
        let broken = matches!(error, StageError::Broken(_) | StageError::Queue(QueueError::Broken(_)));
        assert!(!broken, "{who:?}: {error}");
        true
    }

    /// The process is killed: its successor starts with its next step.
    pub(crate) fn kill(&mut self, who: Who) {
        self.running.remove(&who);
    }

    /// The process is stopped for longer than its session, and wakes with [`World::wake`].
    pub(crate) fn suspend(&mut self, who: Who) {
        if let Some(stage) = self.running.remove(&who) {
            let group = match who.0 {
                Kind::Mapper => topology::MAPPER,
                Kind::Aggregator => topology::AGGREGATOR,
                Kind::Reducer => topology::REDUCER,
                Kind::DbWriter => topology::DB_WRITER,
            };
            for member in self.queue.members(group) {
                self.queue.expire_member(group, &member);
            }
            self.zombies.push(stage);
        }
    }

    /// A zombie takes a step, and is gone when it has learnt better.
    pub(crate) fn wake(&mut self, place: usize) {
        let now = self.now();
        if let Some(stage) = self.zombies.get_mut(place)
            && let Err(error) = stage.step(now, Duration::ZERO)
        {
            Self::tolerate((Kind::Mapper, 99), &error);
            drop(self.zombies.remove(place));
        }
    }

    pub(crate) fn fault(&self, random: &mut Random) {
        self.queue.fail_next_commit(match random.below(3) {
            0 => CommitFault::NotApplied,
            1 => CommitFault::AppliedButReportedFailed,
            _ => CommitFault::LostBefore,
        });
    }

    /// Steps every process until nothing more happens.
    ///
    /// # Panics
    /// Where it does not come to rest.
    pub(crate) fn settle(&mut self, processes: u32) {
        self.queue.forget_faults();
        self.zombies.clear();
        let mut quiet = 0;
        for _ in 0..20_000 {
            let mut worked = false;
            for kind in KINDS {
                for name in 0..processes {
                    worked |= self.step((kind, name));
                }
            }
            quiet = if worked { 0 } else { quiet + 1 };
            if quiet > 4 {
                return;
            }
        }
        panic!("the pipeline does not come to rest");
    }

    /// The raw topics, as far as the mappers have followed the definitions.
    pub(crate) fn raw_topics(&self) -> RawTopics {
        RawTopics::load(&self.queue, &self.definitions).unwrap()
    }

    pub(crate) fn checkpoints(&self) -> Vec<(RawPartition, MapperCheckpoint)> {
        self.raw_topics().committed.into_iter().collect()
    }

    pub(crate) fn watermark(&self) -> Watermark {
        let topics = self.raw_topics();
        let of = |raw| topics.committed.get(raw).map_or(Watermark::NONE, |checkpoint| checkpoint.watermark);
        topics.read.partitions.iter().map(of).min().unwrap_or(Watermark::NONE)
    }

    /// What a topic holds of lines set aside, by raw partition, offset and place.
    pub(crate) fn set_aside(&self, topic: &str) -> Vec<(RawPartition, Offset, usize)> {
        let mut lines = Vec::new();
        for p in 0..self.queue.partitions(topic).unwrap().unwrap() {
            let of = TopicPartition::new(topic, p);
            let range = self.queue.range(&of).unwrap();
            let mut from = range.start;
            loop {
                let records = self.queue.read(&of, from, 1 << 20).unwrap();
                let Some(last) = records.last() else { break };
                from = last.offset.next();
                for fetched in &records {
                    let batch = SetAsideBatch::decode(&fetched.record.value).unwrap();
                    lines.extend(batch.lines.iter().map(|l| (batch.raw.clone(), l.offset, l.line_number as usize)));
                }
            }
        }
        lines.sort();
        lines
    }

    pub(crate) fn late(&self) -> Vec<(RawPartition, Offset, usize)> {
        self.set_aside(LATE_CLICKS)
    }

    pub(crate) fn rejected(&self) -> Vec<(RawPartition, Offset, usize)> {
        self.set_aside(DEAD_LETTERS)
    }

    /// Every figure of the store against the model, for the minutes that are complete.
    ///
    /// # Panics
    /// Where one differs, with what differs.
    pub(crate) fn compare(&self, model: &Model, context: &str) {
        let definition = self.definitions.last().unwrap();
        let progress = self.store.progress().unwrap();
        let partitions = definition.partitions;
        let Some(until) = progress.counts_until(partitions) else {
            assert!(model.counts().is_empty() || self.watermark() == Watermark::NONE, "{context}: nothing is complete");
            return;
        };
        assert_eq!(until, self.watermark().open_from(), "{context}: counts are complete as far as time has come");
        assert_eq!(progress.rankings_until(partitions), Some(until), "{context}: rankings too");
        let mut minutes: Vec<Minute> = model.counts().keys().map(|(minute, ..)| *minute).collect();
        minutes.dedup();
        let ads: std::collections::BTreeSet<&str> = model.counts().keys().map(|(.., ad)| ad.as_str()).collect();
        let ads: Vec<&str> = ads.into_iter().collect();
        for filter in definition.filters.iter().map(|f| f.id) {
            for minute in minutes.iter().filter(|m| **m < until) {
                let range = MinuteRange { from: *minute, to: minute.next() };
                let stored = self.store.counts(&ads, filter, range).unwrap();
                let expected = model.totals(filter, range.from, range.to);
                for (ad, count) in ads.iter().zip(stored) {
                    let right = expected.get(*ad).copied().unwrap_or(0);
                    assert_eq!(count, right, "{context}: {ad} in {minute} under filter {filter}");
                }
            }
            self.compare_rankings(model, definition, filter, &minutes, until, context);
        }
    }

    fn compare_rankings(
        &self,
        model: &Model,
        definition: &Definition,
        filter: FilterId,
        minutes: &[Minute],
        until: Minute,
        context: &str,
    ) {
        let Some(first) = minutes.first() else { return };
        let last = minutes.last().unwrap().plus(61).min(until.previous());
        let configured = |window| window == Window::MINUTE || definition.windows.contains(&window);
        let mut windows = definition.windows.clone();
        windows.extend([Window::MINUTE, Window::HOUR, Window::DAY]);
        windows.sort();
        windows.dedup();
        for window in windows {
            for minute in (first.as_epoch()..=last.as_epoch()).map(Minute::from_epoch) {
                if !configured(window) && !window.is_aligned_at(minute) {
                    continue;
                }
                let stored = self.store.rankings(filter, &[(window, minute)]).unwrap().remove(0);
                let mut expected = model.ranking(filter, window, minute);
                let whole = expected.len() <= definition.depth();
                expected.truncate(definition.depth());
                match stored {
                    None => assert!(expected.is_empty(), "{context}: no ranking of {window} at {minute}: {expected:?}"),
                    Some(ranking) => {
                        assert_eq!(ranking.ads, expected, "{context}: ranking of {window} at {minute} for {filter}");
                        assert_eq!(ranking.whole, whole, "{context}: {window} at {minute}");
                        assert!(ranking.complete, "{context}: {window} at {minute}");
                    }
                }
            }
        }
    }

    /// The model of everything that the raw topic holds, each record met in turn without any empty fetch between.
    pub(crate) fn model(&self) -> Model {
        let mut model = Model::new(self.definitions.last().unwrap().clone());
        for p in 0..self.definitions[0].inputs[0].partitions {
            let of = TopicPartition::new("ad-clicks", p);
            let raw = RawPartition::new("ad-clicks", Partition(p));
            let mut from = self.queue.range(&of).unwrap().start;
            assert_eq!(from, Offset(0), "the raw topic is whole");
            loop {
                let records = self.queue.read(&of, from, 1 << 20).unwrap();
                let Some(last) = records.last() else { break };
                from = last.offset.next();
                for fetched in &records {
                    let header = fetched.record.header(SourceHeader::KEY).map(|h| SourceHeader::decode(h).unwrap());
                    model.record(&raw, fetched.offset, fetched.arrival, header.as_ref(), &fetched.record.value);
                }
            }
        }
        model
    }

    /// Nothing of the internal topics is kept that nobody needs.
    pub(crate) fn kept_records(&self) -> u64 {
        [CLICK_PARTIALS, TOP_CANDIDATES, CLICK_RESULTS]
            .iter()
            .flat_map(|topic| (0..self.definitions[0].partitions).map(|p| TopicPartition::new(*topic, p)))
            .map(|of| self.queue.range(&of).map_or(0, |range| range.end.0 - range.start.0))
            .sum()
    }
}
