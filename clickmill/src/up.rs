//! `clickmill up`: every stage in one process.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clickmill_api::{ApiError, Limits, Sources};
use tokio::net::TcpListener;

use crate::Misused;
use crate::config::Config;
use crate::define::{Proposed, propose};
use crate::drain::{self, Drained};
use crate::pipeline::{self, Access, Parts, Running};

/// Set by `SIGINT` and `SIGTERM`.
pub(crate) fn signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("listening for signals")?;
    }
    Ok(stop)
}

/// Holds the data folder: a second `up` on it is refused.
pub(crate) struct DataDir {
    _lock: File,
}

impl DataDir {
    pub(crate) fn hold(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making the data folder {}", dir.display()))?;
        let path = dir.join("up.lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).ok();
                return Err(Misused(anyhow::anyhow!(
                    "another `clickmill up` (process {}) runs on the data folder {}: stop it first, or give this one another --data-dir",
                    holder.trim(),
                    dir.display()
                ))
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { _lock: lock })
    }
}

/// Serves HTTP in threads of its own until dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Server {
    pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("api")
            .enable_all()
            .build()
            .context("starting the threads of the HTTP server")
    }

    pub(crate) fn api(parts: &Parts) -> anyhow::Result<Self> {
        let metrics = clickmill_api::install_metrics()?;
        let sources = Sources {
            store: parts.store()?,
            queue: Some(Arc::clone(&parts.queue)),
            clock: Arc::clone(&parts.clock),
            metrics,
            stages: Arc::clone(&parts.board),
        };
        Self::start(parts, |listener, stopped| clickmill_api::serve(listener, Limits::default(), sources, stopped))
    }

    pub(crate) fn ops(parts: &Parts) -> anyhow::Result<Self> {
        let metrics = clickmill_api::install_metrics()?;
        let board = Arc::clone(&parts.board);
        Self::start(parts, |listener, stopped| clickmill_api::serve_ops(listener, metrics, board, stopped))
    }

    /// Listens where the configuration says, and serves there in the background. `serve` gets what ends it.
    fn start<S>(
        parts: &Parts,
        serve: impl FnOnce(TcpListener, Pin<Box<dyn Future<Output = ()> + Send>>) -> S,
    ) -> anyhow::Result<Self>
    where
        S: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        let runtime = Self::runtime()?;
        let listen = parts.config.api.listen;
        let listener = runtime
            .block_on(TcpListener::bind(listen))
            .with_context(|| format!("listening on {listen} (choose another address with --listen or api.listen)"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = serve(
            listener,
            Box::pin(async {
                stopped.await.ok();
            }),
        );
        runtime.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTP server ended");
            }
        });
        Ok(Self { address, runtime: Some(runtime), stop: Some(stop) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// Opens the parts and makes the configuration's definition the pipeline's.
pub(crate) fn prepare(config: &Config) -> anyhow::Result<Parts> {
    pipeline::check_files(config)?;
    let parts = Parts::open(config, Access::Write)?;
    parts.check_history(true)?;
    if let Proposed::New(definition) = propose(&*parts.queue, &config.definition(), false)?
        && definition.version > 1
    {
        tracing::info!(version = definition.version, "the configuration is the new definition");
    }
    Ok(parts)
}

/// `clickmill up`.
pub(crate) fn run(config: &Config, drain: bool) -> anyhow::Result<()> {
    if config.input.logs.is_empty() && drain {
        return Err(Misused(anyhow::anyhow!("nothing to drain: give --logs PATTERN, or set input.logs")).into());
    }
    let _held = DataDir::hold(&config.data_dir)?;
    let stop = signals()?;
    let mut parts = prepare(config)?;
    if drain {
        parts.minutes = Some(Arc::default());
        run_drain(&parts, &stop)
    } else {
        run_live(&parts, &stop, |_| ())
    }
}

/// Runs until told to stop. `started` gets the server's address.
#[allow(clippy::print_stdout)]
pub(crate) fn run_live(parts: &Parts, stop: &AtomicBool, started: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let server = Server::api(parts)?;
    if parts.config.input.logs.is_empty() {
        tracing::warn!("no log files to follow: give --logs PATTERN, or set input.logs");
    }
    let mut running = Running::new(parts);
    running.writers()?;
    running.reducer()?;
    running.aggregator()?;
    running.mapper()?;
    running.watcher(false)?;
    println!("listening on http://{}", server.address);
    started(server.address);
    while !stop.load(Ordering::Relaxed) && !running.has_ended() {
        std::thread::sleep(Duration::from_millis(20));
    }
    tracing::info!("stopping");
    running.stop()
}

#[allow(clippy::print_stdout)]
fn run_drain(parts: &Parts, stop: &AtomicBool) -> anyhow::Result<()> {
    let before = drain::Before::read(parts)?;
    let mut running = Running::new(parts);
    running.writers()?;
    running.reducer()?;
    running.aggregator()?;
    running.mapper()?;
    let live = running.watcher(true)?;
    let drained = drain::wait(parts, &live, stop, || running.has_ended());
    running.stop()?;
    match drained? {
        Drained::All => {
            println!("{}", before.summary(parts, &live)?);
            match live.get().files_unreadable {
                0 => Ok(()),
                files => bail!("{files} files could not be read: the log names them; what they hold is not counted"),
            }
        }
        Drained::Stopped => bail!("stopped before everything was drained; run it again to go on"),
    }
}
