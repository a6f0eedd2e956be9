//! The parts of a pipeline, opened and put together as the configuration says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use clickmill_aggregator::AggregatorWorker;
use clickmill_api::{RunState, StageBoard};
use clickmill_config::Place;
use clickmill_db_writer::late::{LateConfig, LateWriter};
use clickmill_db_writer::raw::{Files, FilesError, RawConfig, RawWriter};
use clickmill_db_writer::{ResultsConfig, ResultsWriter};
use clickmill_log_watcher::LiveReport;
use clickmill_mapper::MapperWorker;
use clickmill_model::Minute;
use clickmill_model::records::{CLICK_RESULTS, PIPELINE};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::embedded::EmbeddedQueue;
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::kafka::KafkaQueue;
use clickmill_queue::{Clock, Queue, QueueError, Stage, StageError, WhenFenced, WorkerConfig, stage, topology};
use clickmill_reducer::ReducerWorker;
use clickmill_store::embedded::EmbeddedStore;
use clickmill_store::{AggregateStore, CassandraStore};
use parking_lot::Mutex;

use crate::Misused;
use crate::config::{Config, QueueKind, StoreKind};
use crate::names::WorkerName;
use crate::schema;
use crate::watching::Watching;

/// What a process does with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Everything that the stages share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) queue: Arc<dyn Queue>,
    store: Arc<LazyStore>,
    pub(crate) board: Arc<StageBoard>,
    /// Set while files shall be finished as soon as possible: the end of a drain.
    pub(crate) flush: Arc<AtomicBool>,
    /// The minutes with clicks that were written: kept in a drain only.
    pub(crate) minutes: Option<Arc<Mutex<BTreeSet<Minute>>>>,
}

/// Opens the queue of the configuration, making it where there is none.
pub(crate) fn open_queue(config: &Config) -> anyhow::Result<Arc<dyn Queue>> {
    open_queue_with(config, clickmill_queue::SystemClock::shared())
}

fn open_queue_with(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Queue>> {
    match config.queue.kind {
        QueueKind::Embedded => {
            let dir = config.data_dir.join("queue");
            std::fs::create_dir_all(&dir).with_context(|| format!("making the folder {}", dir.display()))?;
            let queue = EmbeddedQueue::open(&dir, clock, clickmill_queue::embedded::Options::default())
                .with_context(|| format!("opening the queue in {}", dir.display()))?;
            Ok(Arc::new(queue))
        }
        QueueKind::Kafka => {
            let queue = KafkaQueue::open(config.kafka()?).context("opening the queue")?;
            Ok(Arc::new(queue))
        }
    }
}

/// Refuses a place for files that only this machine sees, where there may be others.
pub(crate) fn check_files(config: &Config) -> anyhow::Result<()> {
    if config.queue.kind == QueueKind::Kafka && config.files.is_local() && !config.files.shared {
        return Err(Misused(anyhow::anyhow!(
            "raw clicks would go to a local folder, which other machines do not see: set files.shared = true where all writers share it, or files.url to an object store"
        ))
        .into());
    }
    Ok(())
}

/// Opens the store of the configuration. The embedded one is made where there is none.
fn open_store(config: &Config, access: Access) -> anyhow::Result<Arc<dyn AggregateStore>> {
    match config.store.kind {
        StoreKind::Embedded => {
            let dir = config.data_dir.join("store");
            std::fs::create_dir_all(&dir).with_context(|| format!("making the folder {}", dir.display()))?;
            let options = clickmill_store::embedded::Options::default();
            let store = match access {
                Access::Write => EmbeddedStore::open(&dir, options),
                Access::Read => EmbeddedStore::open_read_only(&dir, options),
            };
            Ok(Arc::new(store.with_context(|| format!("opening the store in {}", dir.display()))?))
        }
        StoreKind::Cassandra => {
            let options = config.store.cassandra(&config.retention)?;
            Ok(Arc::new(CassandraStore::open(&options).map_err(schema::explain)?))
        }
    }
}

/// A store that is opened when it is needed first: most stages go on without it.
struct LazyStore {
    access: Access,
    opened: Mutex<Option<Arc<dyn AggregateStore>>>,
}

impl Parts {
    /// Opens the queue, and later the store: to read figures only, or to write them too.
    pub(crate) fn open(config: &Config, access: Access) -> anyhow::Result<Self> {
        let clock = clickmill_queue::SystemClock::shared();
        let queue = open_queue_with(config, Arc::clone(&clock))?;
        let store = Arc::new(LazyStore { access, opened: Mutex::default() });
        Ok(Self {
            config: config.clone(),
            clock,
            queue,
            store,
            board: Arc::new(StageBoard::default()),
            flush: Arc::new(AtomicBool::new(false)),
            minutes: None,
        })
    }

    /// The store, opened if it is not.
    pub(crate) fn store(&self) -> anyhow::Result<Arc<dyn AggregateStore>> {
        let mut opened = self.store.opened.lock();
        if let Some(store) = &*opened {
            return Ok(Arc::clone(store));
        }
        let store = open_store(&self.config, self.store.access)?;
        *opened = Some(Arc::clone(&store));
        Ok(store)
    }

    pub(crate) fn files(&self) -> anyhow::Result<Arc<Files>> {
        let place =
            self.config.files.place(&self.config.data_dir).map_err(|error| anyhow::Error::new(Misused(error)))?;
        match place {
            Place::Folder(dir) => {
                std::fs::create_dir_all(&dir).with_context(|| format!("making the folder {}", dir.display()))?;
                Ok(Arc::new(Files::local(&dir).with_context(|| format!("opening the files in {}", dir.display()))?))
            }
            Place::Store { store, root } => {
                let files = Files::named(store, &root)?;
                match files.check() {
                    Ok(()) => {}
                    Err(error @ FilesError::Refused { .. }) => {
                        return Err(Misused(anyhow::Error::from(error).context("files.url, files.s3")).into());
                    }
                    // Whoever writes or reads there tries again.
                    Err(error) => tracing::warn!(%error, "the object store does not answer"),
                }
                Ok(Arc::new(files))
            }
        }
    }

    /// The definitions that there are. `None` where the pipeline never had one.
    pub(crate) fn definitions(&self) -> anyhow::Result<Option<Definitions>> {
        if self.queue.partitions(PIPELINE)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Definitions::load(&*self.queue).context("reading the pipeline's definitions")?))
    }

    /// Refuses to go on where what is committed and what is stored contradict each other: figures would be wrong in silence. Who does not write figures needs no store for it once something was counted.
    pub(crate) fn check_history(&self, writes_figures: bool) -> anyhow::Result<()> {
        let has_counted = match self.definitions()? {
            Some(definitions) => !RawTopics::load(&*self.queue, definitions.all())?.committed.is_empty(),
            None => false,
        };
        if has_counted && !writes_figures {
            return Ok(());
        }
        let has_figures = !self.store()?.progress()?.counts.is_empty();
        let has_written = !self.queue.committed(topology::DB_WRITER, CLICK_RESULTS)?.is_empty();
        if has_figures && !has_counted {
            return Err(Misused(anyhow::anyhow!(
                "the store has figures, but the queue has no committed offsets: counting would start over and double them. \
                 Restore the queue, or start with a new data folder"
            ))
            .into());
        }
        if !has_figures && has_written {
            return Err(Misused(anyhow::anyhow!(
                "the queue says that results were written, but the store has none: they would be missing for good. \
                 Restore the store's folder, or start with a new data folder"
            ))
            .into());
        }
        Ok(())
    }

    fn watcher_config(&self, drain: bool, live: &LiveReport) -> clickmill_log_watcher::Config {
        let Config { input, time, .. } = &self.config;
        clickmill_log_watcher::Config {
            patterns: input.logs.clone(),
            source: input.source.as_str().into(),
            topic: input.topic.clone(),
            partitions: self.config.queue.partitions,
            partition_by: input.partition_by,
            time: clickmill_model::TimeSettings {
                max_disorder: time.max_disorder,
                max_clock_skew: time.max_clock_skew,
                source_timeout: time.source_timeout,
            },
            settle: input.settle,
            max_ahead_bytes: input.max_ahead.as_u64(),
            drain,
            live: live.clone(),
        }
    }
}

/// The running stages of a process.
pub(crate) struct Running {
    parts: Parts,
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, JoinHandle<Result<(), StageError>>)>,
}

/// How long stages have to finish what they are doing.
const STOP_WITHIN: Duration = Duration::from_secs(4);

impl Running {
    pub(crate) fn new(parts: &Parts) -> Self {
        Self { parts: parts.clone(), stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() }
    }

    fn spawn(
        &mut self,
        name: &'static str,
        when_fenced: WhenFenced,
        make: impl FnMut() -> Result<Box<dyn Stage>, StageError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (clock, stop) = (Arc::clone(&self.parts.clock), Arc::clone(&self.stop));
        let (board, told_at) = (Arc::clone(&self.parts.board), Arc::clone(&self.parts.clock));
        board.set(name, RunState::Starting, "", told_at.now());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let noticed = |error: Option<&StageError>| match error {
                None => board.set(name, RunState::Running, "", told_at.now()),
                Some(error) => board.set(name, RunState::Waiting, &error.to_string(), told_at.now()),
            };
            let end = stage::run(name, &*clock, &stop, when_fenced, noticed, make);
            match &end {
                Ok(()) => board.set(name, RunState::Stopped, "", told_at.now()),
                Err(error) => board.set(name, RunState::Failed, &error.to_string(), told_at.now()),
            }
            end
        });
        self.threads.push((name, thread.with_context(|| format!("starting the thread of {name}"))?));
        Ok(())
    }

    fn name(&self, stage: &str) -> anyhow::Result<WorkerName> {
        WorkerName::take(&self.parts.config.data_dir, stage, &self.parts.config.input.source)
    }

    /// The log watcher; returns what it reports as it goes.
    pub(crate) fn watcher(&mut self, drain: bool) -> anyhow::Result<LiveReport> {
        let live = LiveReport::default();
        let (parts, report) = (self.parts.clone(), live.clone());
        self.spawn("log-watcher", WhenFenced::End, move || {
            let config = parts.watcher_config(drain, &report);
            let watcher = Watching::start(Arc::clone(&parts.queue), config, parts.clock.now())?;
            Ok(Box::new(watcher) as Box<dyn Stage>)
        })?;
        Ok(live)
    }

    pub(crate) fn mapper(&mut self) -> anyhow::Result<()> {
        let (parts, name) = (self.parts.clone(), self.name("mapper")?);
        self.spawn("mapper", WhenFenced::JoinAgain, move || {
            Ok(Box::new(MapperWorker::start(Arc::clone(&parts.queue), worker_config(&name))?) as Box<dyn Stage>)
        })
    }

    pub(crate) fn aggregator(&mut self) -> anyhow::Result<()> {
        let (parts, name) = (self.parts.clone(), self.name("aggregator")?);
        self.spawn("aggregator", WhenFenced::JoinAgain, move || {
            Ok(Box::new(AggregatorWorker::start(Arc::clone(&parts.queue), worker_config(&name))?) as Box<dyn Stage>)
        })
    }

    pub(crate) fn reducer(&mut self) -> anyhow::Result<()> {
        let (parts, name) = (self.parts.clone(), self.name("reducer")?);
        self.spawn("reducer", WhenFenced::JoinAgain, move || {
            Ok(Box::new(ReducerWorker::start(Arc::clone(&parts.queue), worker_config(&name))?) as Box<dyn Stage>)
        })
    }

    /// The writer of results to the store.
    pub(crate) fn results_writer(&mut self) -> anyhow::Result<()> {
        let store = self.parts.store()?;
        let (parts, name) = (self.parts.clone(), self.name("db-writer")?);
        self.spawn("db-writer", WhenFenced::JoinAgain, move || {
            let config = ResultsConfig {
                name: name.as_str().to_owned(),
                linger: Duration::from_millis(50),
                keep_counts: parts.config.retention.counts,
                keep_rankings: parts.config.retention.rankings,
                minutes: parts.minutes.clone(),
            };
            let writer = ResultsWriter::start(Arc::clone(&parts.queue), Arc::clone(&store), config)?;
            Ok(Box::new(writer) as Box<dyn Stage>)
        })
    }

    /// The writers: results, raw lines, late clicks.
    pub(crate) fn writers(&mut self) -> anyhow::Result<()> {
        self.results_writer()?;
        let files = self.parts.files()?;
        let (parts, raw_files, name) = (self.parts.clone(), Arc::clone(&files), self.name("raw-writer")?);
        self.spawn("raw-writer", WhenFenced::JoinAgain, move || {
            let config = RawConfig {
                name: name.as_str().to_owned(),
                flush: Arc::clone(&parts.flush),
                keep: parts.config.retention.raw,
                ..RawConfig::default()
            };
            let writer = RawWriter::start(Arc::clone(&parts.queue), Arc::clone(&raw_files), config)?;
            Ok(Box::new(writer) as Box<dyn Stage>)
        })?;
        let (parts, name) = (self.parts.clone(), self.name("late-writer")?);
        self.spawn("late-writer", WhenFenced::JoinAgain, move || {
            let config = LateConfig {
                name: name.as_str().to_owned(),
                flush: Arc::clone(&parts.flush),
                keep: parts.config.retention.raw,
                ..LateConfig::default()
            };
            let writer = LateWriter::start(Arc::clone(&parts.queue), Arc::clone(&files), config)?;
            Ok(Box::new(writer) as Box<dyn Stage>)
        })
    }

    /// True once a stage has ended although nobody told it to.
    pub(crate) fn has_ended(&self) -> bool {
        self.threads.iter().any(|(_, thread)| thread.is_finished())
    }

    /// Stops every stage, and returns the error of one that had ended with it.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + STOP_WITHIN;
        let mut first = Ok(());
        for (name, thread) in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                // What it was doing is not committed, and will be done again.
                tracing::warn!(stage = name, "did not stop in time");
                continue;
            }
            let end = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error @ StageError::Queue(QueueError::Fenced(_)))) => {
                    // Starting again would only fence the rival in turn: no supervisor should.
                    Err(Misused(anyhow::Error::new(error).context(format!("{name} stopped"))).into())
                }
                Ok(Err(error)) => Err(anyhow::Error::new(error).context(format!("{name} stopped"))),
                Err(_) => Err(anyhow::anyhow!("{name} panicked: this is a bug in clickmill")),
            };
            if first.is_ok() {
                first = end;
            }
        }
        first
    }
}

fn worker_config(name: &WorkerName) -> WorkerConfig {
    WorkerConfig { name: name.as_str().to_owned(), ..WorkerConfig::default() }
}
