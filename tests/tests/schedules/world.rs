//! The whole pipeline in one thread: the real workers over a queue, a store and files in memory, stepped, crashed and deceived as a test or a seed says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clickmill_aggregator::AggregatorWorker;
use clickmill_db_writer::late::{LateConfig, LateWriter};
use clickmill_db_writer::raw::{Files, RawConfig, RawWriter, Rolling};
use clickmill_db_writer::{ResultsConfig, ResultsWriter};
use clickmill_mapper::MapperWorker;
use clickmill_model::records::{
    CLICK_PARTIALS, CLICK_RESULTS, MapperCheckpoint, Origin, SourceHeader, SourceMark, TOP_CANDIDATES,
};
use clickmill_model::{Announced, Definition, DefinitionVersion, Minute, Offset, RawPartition, Timestamp, Watermark};
use clickmill_queue::definitions;
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::memory::{CommitFault, MemoryQueue};
use clickmill_queue::{
    Clock, Fetched, ManualClock, Producer, Queue, QueueError, Record, Stage, StageError, TopicPartition, Transaction,
    WorkerConfig, topology,
};
use clickmill_reducer::ReducerWorker;
use clickmill_store::AggregateStore;
use clickmill_store::memory::MemoryStore;
use clickmill_tests::dice::Dice;
use clickmill_tests::model::Model;

use crate::slow_store::SlowStore;

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
    RawWriter,
    LateWriter,
}

pub(crate) const KINDS: [Kind; 6] =
    [Kind::Mapper, Kind::Aggregator, Kind::Reducer, Kind::DbWriter, Kind::RawWriter, Kind::LateWriter];

impl Kind {
    fn group(self) -> &'static str {
        match self {
            Self::Mapper => topology::MAPPER,
            Self::Aggregator => topology::AGGREGATOR,
            Self::Reducer => topology::REDUCER,
            Self::DbWriter => topology::DB_WRITER,
            Self::RawWriter => topology::RAW_WRITER,
            Self::LateWriter => topology::LATE_WRITER,
        }
    }
}

/// A process of a stage, by kind and name.
pub(crate) type Who = (Kind, u32);

/// A process of a stage.
pub(crate) struct Process {
    stage: Box<dyn Stage>,
    kind: Kind,
    /// Its name in its group.
    member: String,
}

/// How a mapper partition came to count by a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Adopted {
    version: DefinitionVersion,
    /// Behind the records before this one.
    at: Offset,
    /// From this minute on, as it says.
    from: Minute,
}

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) queue: MemoryQueue,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) slow_store: Arc<SlowStore>,
    pub(crate) files: Arc<Files>,
    pub(crate) definitions: Vec<Definition>,
    pub(crate) running: BTreeMap<Who, Process>,
    /// Processes that were stopped and will wake up believing that they still own something.
    pub(crate) zombies: Vec<Process>,
    /// While it is set, the writers of files write what they have.
    flush: Arc<AtomicBool>,
    producers: RefCell<BTreeMap<String, Box<dyn Producer>>>,
    /// All that ever was in the raw topic.
    sent: RefCell<BTreeMap<RawPartition, Vec<Fetched>>>,
    adopted: BTreeMap<RawPartition, Vec<Adopted>>,
    mapped: BTreeMap<RawPartition, Offset>,
}

/// Small files, so that schedules have several.
fn rolling() -> Rolling {
    Rolling { rows: 60, age: Duration::from_secs(40), ..Rolling::default() }
}

impl World {
    pub(crate) fn new(definition: Definition) -> Self {
        let clock = Arc::new(ManualClock::new(at(0)));
        let queue = MemoryQueue::new(Arc::clone(&clock) as Arc<dyn Clock>);
        queue.create_topics(&topology::topics(&definition)).unwrap();
        assert!(definitions::append(&queue, &definition).unwrap());
        let slow_store = Arc::new(SlowStore::default());
        Self {
            clock,
            queue,
            store: Arc::clone(&slow_store.store),
            slow_store,
            files: Arc::new(Files::new(Arc::new(object_store::memory::InMemory::new())).unwrap()),
            definitions: vec![definition],
            running: BTreeMap::new(),
            zombies: Vec::new(),
            flush: Arc::default(),
            producers: RefCell::default(),
            sent: RefCell::default(),
            adopted: BTreeMap::new(),
            mapped: BTreeMap::new(),
        }
    }

    /// The raw partitions' number.
    pub(crate) fn partitions(&self) -> u32 {
        self.definitions[0].inputs[0].partitions
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Proposes a definition. False where it says the same as the one in force.
    pub(crate) fn define(&mut self, proposal: &Definition) -> bool {
        let Some(next) = proposal.following(&self.definitions).unwrap() else { return false };
        self.queue.create_topics(&topology::topics(&next)).unwrap();
        assert!(definitions::append(&self.queue, &next).unwrap());
        self.definitions.push(next);
        true
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
        self.look_at_raw(partition);
    }

    /// Notes what came to the raw topic, before it may be deleted.
    fn look_at_raw(&self, partition: u32) {
        let (of, raw) = (TopicPartition::new("ad-clicks", partition), raw(partition));
        let mut sent = self.sent.borrow_mut();
        let known = sent.entry(raw).or_default();
        loop {
            let next = known.last().map_or(Offset(0), |last: &Fetched| last.offset.next());
            let records = self.queue.read(&of, next, 1 << 20).unwrap();
            if records.is_empty() {
                return;
            }
            known.extend(records);
        }
    }

    /// The same for every partition: where others than [`World::send`] sent something.
    pub(crate) fn look_at_all_raw(&self) {
        for partition in 0..self.partitions() {
            self.look_at_raw(partition);
        }
    }

    /// All that ever was in the raw topic, by partition in the order of the offsets.
    pub(crate) fn sent(&self) -> BTreeMap<RawPartition, Vec<Fetched>> {
        self.sent.borrow().clone()
    }

    fn make(&self, (kind, name): Who) -> Result<Process, StageError> {
        let queue: Arc<dyn Queue> = Arc::new(self.queue.clone());
        let (name, linger) = (name.to_string(), Duration::ZERO);
        let config = WorkerConfig { name: name.clone(), linger, longest: linger, ..WorkerConfig::default() };
        let stage: Box<dyn Stage> = match kind {
            Kind::Mapper => Box::new(MapperWorker::start(queue, config)?),
            Kind::Aggregator => Box::new(AggregatorWorker::start(queue, config)?),
            Kind::Reducer => Box::new(ReducerWorker::start(queue, config)?),
            Kind::DbWriter => {
                let keep = Duration::from_secs(400 * 86_400);
                let config = ResultsConfig { name, linger, keep_counts: keep, keep_rankings: keep, minutes: None };
                let store = Arc::clone(&self.slow_store) as Arc<dyn AggregateStore>;
                Box::new(ResultsWriter::start(queue, store, config)?)
            }
            Kind::RawWriter => {
                let (rolling, flush) = (rolling(), Arc::clone(&self.flush));
                let config = RawConfig { name, rolling, flush, ..RawConfig::default() };
                Box::new(RawWriter::start(queue, Arc::clone(&self.files), config)?)
            }
            Kind::LateWriter => {
                let (rolling, flush) = (rolling(), Arc::clone(&self.flush));
                let config = LateConfig { name, rolling, flush, ..LateConfig::default() };
                Box::new(LateWriter::start(queue, Arc::clone(&self.files), config)?)
            }
        };
        let member = self.queue.members(kind.group()).pop().unwrap();
        Ok(Process { stage, kind, member })
    }

    /// One step of a process, which is started where it does not run. A process that fails is gone, as its supervisor would have it.
    ///
    /// # Panics
    /// Where a stage says that a promise is broken.
    pub(crate) fn step(&mut self, who: Who) -> bool {
        let mut process = match self.running.remove(&who) {
            Some(process) => process,
            None => match self.make(who) {
                Ok(process) => process,
                Err(error) => return Self::tolerate(who.0, &error),
            },
        };
        let result = process.stage.step(self.now(), Duration::ZERO);
        self.observe();
        match result {
            Ok(progress) => {
                self.running.insert(who, process);
                progress == clickmill_queue::Progress::Worked
            }
            Err(error) => Self::tolerate(who.0, &error),
        }
    }

    /// Notes which mapper partition came to count by which definition, and where.
    fn observe(&mut self) {
        for (raw, offset, checkpoint) in self.mapper_commits() {
            let at = self.mapped.insert(raw.clone(), offset).unwrap_or_default();
            let adopted = self.adopted.entry(raw).or_default();
            let newest = adopted.last().map_or(0, |adopted| adopted.version);
            let newer = checkpoint.definitions.into_iter().filter(|announced| announced.version > newest);
            adopted.extend(newer.map(|Announced { version, from, .. }| Adopted { version, at, from }));
        }
    }

    /// A step whose error, whatever it is, is for the test to judge.
    pub(crate) fn try_step(&mut self, who: Who) -> Result<(), StageError> {
        let mut process = self.make(who)?;
        for _ in 0..10 {
            process.stage.step(self.now(), Duration::ZERO)?;
        }
        Ok(())
    }

    fn tolerate(kind: Kind, error: &StageError) -> bool {
        let broken = matches!(error, StageError::Broken(_) | StageError::Queue(QueueError::Broken(_)));
        assert!(!broken, "{kind:?}: {error}");
        true
    }

    /// The process is killed: its successor starts with its next step.
    pub(crate) fn kill(&mut self, who: Who) {
        self.running.remove(&who);
    }

    /// The process is told to end, and hands over what it has.
    pub(crate) fn stop(&mut self, who: Who) {
        if let Some(process) = self.running.remove(&who)
            && let Err(error) = process.stage.stop()
        {
            Self::tolerate(who.0, &error);
        }
    }

    /// The process is stopped for longer than its session, and wakes with [`World::wake`].
    pub(crate) fn suspend(&mut self, who: Who) {
        if let Some(process) = self.running.remove(&who) {
            self.queue.expire_member(who.0.group(), &process.member);
            self.zombies.push(process);
        }
    }

    /// The same between reading and committing: it finishes what it was doing before it learns anything.
    pub(crate) fn suspend_at_work(&mut self, who: Who) {
        if let Some(process) = self.running.get(&who) {
            self.queue.deafen(who.0.group(), &process.member);
            self.suspend(who);
        }
    }

    /// A zombie takes a step, and is gone when it has learnt better.
    pub(crate) fn wake(&mut self, place: usize) {
        let now = self.now();
        let Some(zombie) = self.zombies.get_mut(place) else { return };
        let result = zombie.stage.step(now, Duration::ZERO);
        // What it did in its sleep is done: it listens again.
        self.queue.undeafen(zombie.kind.group(), &zombie.member);
        if let Err(error) = result {
            Self::tolerate(zombie.kind, &error);
            drop(self.zombies.remove(place));
        }
        self.observe();
    }

    /// The next commit goes wrong, or, of a writer to the store, the next write.
    pub(crate) fn fault(&self, dice: &mut Dice) {
        self.queue.fail_next_commit(match dice.below(4) {
            0 => CommitFault::NotApplied,
            1 => CommitFault::AppliedButReportedFailed,
            2 => CommitFault::LostBefore,
            _ => CommitFault::Delayed,
        });
        if dice.one_in(2) {
            self.slow_store.hold_next_write();
        }
    }

    pub(crate) fn forget_faults(&self) {
        self.queue.forget_faults();
        self.slow_store.forget_faults();
    }

    /// What is still under way arrives: one write, one commit.
    pub(crate) fn deliver(&mut self) -> bool {
        let (write, commit) = (self.slow_store.deliver(), self.queue.deliver());
        self.observe();
        write || commit.is_some()
    }

    /// Steps every process until nothing more happens.
    ///
    /// # Panics
    /// Where it does not come to rest.
    pub(crate) fn settle(&mut self, processes: u32) {
        self.forget_faults();
        self.zombies.clear();
        let mut quiet = 0;
        for _ in 0..20_000 {
            let mut worked = self.deliver();
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

    /// Has the writers of files write all that is left.
    pub(crate) fn flush(&mut self, processes: u32) {
        self.flush.store(true, Ordering::Relaxed);
        self.settle(processes);
        self.flush.store(false, Ordering::Relaxed);
    }

    fn mapper_commits(&self) -> Vec<(RawPartition, Offset, MapperCheckpoint)> {
        let committed = self.queue.committed(topology::MAPPER, "ad-clicks").unwrap();
        let decode = |metadata: &[u8]| MapperCheckpoint::decode(metadata).unwrap();
        committed.into_iter().map(|(p, c)| (raw(p.0), c.offset, decode(&c.metadata))).collect()
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

    /// The model of everything that was ever in the raw topic, each record met in turn without any empty fetch between. Each partition hears of a definition where its mapper did, and must
    /// then count by it from the minute from which the mapper does.
    pub(crate) fn model(&self) -> Model {
        let mut model = Model::new(&self.definitions[0]);
        let mut adopted: BTreeMap<_, _> = self.adopted.iter().map(|(raw, all)| (raw, all.as_slice())).collect();
        let mut define = |model: &mut Model, raw: &RawPartition, upto: Offset| {
            let Some(left) = adopted.get_mut(raw) else { return };
            while let Some((Adopted { version, from, .. }, later)) = left.split_first().filter(|(a, _)| a.at <= upto) {
                *left = later;
                let definition = self.definitions.iter().find(|d| d.version == *version).unwrap();
                if *version > 1 {
                    assert_eq!(model.define(raw, definition), *from, "definition {version} in {raw}");
                }
            }
        };
        for (raw, fetched) in self.sent().iter().flat_map(|(raw, all)| all.iter().map(move |fetched| (raw, fetched))) {
            define(&mut model, raw, fetched.offset);
            let header = fetched.record.header(SourceHeader::KEY).map(|h| SourceHeader::decode(h).unwrap());
            model.record(raw, fetched.offset, fetched.arrival, header.as_ref(), &fetched.record.value);
        }
        for partition in 0..self.partitions() {
            define(&mut model, &raw(partition), Offset(u64::MAX));
        }
        model
    }

    /// Bytes of the records that a mapper which restarts now must read again: those whose clicks are open.
    pub(crate) fn open_bytes(&self) -> u64 {
        let commits = self.mapper_commits().into_iter();
        let open: BTreeMap<RawPartition, (Offset, Offset)> =
            commits.map(|(raw, offset, checkpoint)| (raw, (checkpoint.replay_from, offset))).collect();
        let sent = self.sent.borrow();
        let is_open =
            |raw: &RawPartition, offset| open.get(raw).is_some_and(|(from, to)| (*from..*to).contains(&offset));
        let of = |(raw, all): (&RawPartition, &Vec<Fetched>)| -> usize {
            all.iter().filter(|f| is_open(raw, f.offset)).map(|f| f.record.value.len()).sum()
        };
        sent.iter().map(of).sum::<usize>() as u64
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

fn raw(partition: u32) -> RawPartition {
    RawPartition::new("ad-clicks", clickmill_model::Partition(partition))
}
