//! The accept loop: so many connections and no more, idle ones make room, and an end in bounded time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::limits::{Limits, PARSER_BYTES};
use super::problem::{Kind, Problem};
use super::stream::{ClientStream, whole_response};
use crate::ApiError;

/// How long to wait after a connection could not be accepted, so that a lack of file descriptors keeps no core busy.
const PAUSE: Duration = Duration::from_millis(20);

/// How many connections make room at once: each look through all of them must be worth it.
const EVICTED_AT_ONCE: usize = 16;

/// File descriptors that stay free for the rest of the process.
const OTHER_FILES: u64 = 256;

/// Accepts connections until `shutdown` is ready, and answers their requests.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ApiError> {
    listener.local_addr()?;
    let server = Arc::new(Server::new(router, limits));
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => server.take(stream, &stopping),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                server.connections.evict();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    stop.send_replace(true);
    // Each connection holds a receiver: when the last one is gone, they all ended.
    drop(stopping);
    if tokio::time::timeout(limits.shutdown, stop.closed()).await.is_err() {
        server.connections.abort_all();
    }
    Ok(())
}

struct Server {
    router: Router,
    limits: Limits,
    http: http1::Builder,
    most: usize,
    connections: Arc<Connections>,
}

impl Server {
    fn new(router: Router, limits: Limits) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(PARSER_BYTES)
            // One write an answer, so that the stream sees whole heads.
            .writev(false);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = usize::try_from(files.saturating_sub(OTHER_FILES).max(files / 2)).unwrap_or(usize::MAX);
        Self { router, limits, http, most: limits.connections.min(room).max(1), connections: Arc::default() }
    }

    /// Serves a new connection, if there is room for it or some can be made.
    fn take(&self, stream: TcpStream, stopping: &watch::Receiver<bool>) {
        if self.connections.len() >= self.most {
            self.connections.evict();
        }
        if self.connections.len() >= self.most {
            metrics::counter!("clickmill_http_connections_refused_total").increment(1);
            // The socket's buffer is empty, so that this goes into it at once or not at all.
            let busy = Problem::saying(Kind::Unavailable, "All connections are taken. Try again in a moment.");
            stream.try_write(&whole_response(&busy)).ok();
            return;
        }
        stream.set_nodelay(true).ok();
        let connection = self.connections.begin();
        let service = Counted {
            router: TowerToHyperService::new(self.router.clone()),
            connection: Arc::clone(&connection.state),
        };
        let io = TokioIo::new(ClientStream::new(stream, self.limits.stalled_write));
        let serving = self.http.serve_connection(io, service);
        let mut stopping = stopping.clone();
        tokio::spawn(async move {
            let mut serving = pin!(serving);
            let mut told = false;
            loop {
                tokio::select! {
                    // How it ended is the client's matter: it went away, or was refused.
                    _ = serving.as_mut() => break,
                    () = connection.state.close.notified() => {
                        if connection.state.must_go() {
                            break;
                        }
                    }
                    _ = stopping.wait_for(|stop| *stop), if !told => {
                        told = true;
                        serving.as_mut().graceful_shutdown();
                    }
                }
            }
            drop(connection);
        });
    }
}

/// Notes when a connection is busy.
struct Counted {
    router: TowerToHyperService<Router>,
    connection: Arc<State>,
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = Arc::clone(&self.connection);
        connection.since.store(BUSY, Ordering::Relaxed);
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await;
            connection.since.store(connection.began.elapsed_micros(), Ordering::Relaxed);
            answer
        })
    }
}

/// A connection whose request is being answered.
const BUSY: u64 = u64::MAX;

/// A connection that shall end even where it is busy.
const DOOMED: u64 = u64::MAX - 1;

/// Counts microseconds from when the server began, so that a point in time fits into an atomic.
#[derive(Debug, Clone, Copy)]
struct Epoch(Instant);

impl Epoch {
    fn elapsed_micros(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(DOOMED - 1)
    }
}

struct State {
    began: Epoch,
    /// Since when it has been idle, in microseconds; [`BUSY`] while it is not.
    since: AtomicU64,
    close: Notify,
}

impl State {
    /// Asked to make room: true unless a request has come since.
    fn must_go(&self) -> bool {
        self.since.load(Ordering::Relaxed) != BUSY
    }
}

/// The connections that are open.
struct Connections {
    began: Epoch,
    open: Mutex<HashMap<u64, Arc<State>>>,
    next: AtomicU64,
}

impl Default for Connections {
    fn default() -> Self {
        Self { began: Epoch(Instant::now()), open: Mutex::default(), next: AtomicU64::new(0) }
    }
}

/// A connection that is open until this is dropped.
struct Connection {
    id: u64,
    state: Arc<State>,
    all: Arc<Connections>,
}

impl Connections {
    fn len(&self) -> usize {
        self.open.lock().len()
    }

    fn begin(self: &Arc<Self>) -> Connection {
        let state = Arc::new(State {
            began: self.began,
            since: AtomicU64::new(self.began.elapsed_micros()),
            close: Notify::new(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, Arc::clone(&state));
        metrics::gauge!("clickmill_http_connections").increment(1);
        Connection { id, state, all: Arc::clone(self) }
    }

    /// Closes connections that are idle, those first that have been so for longest. They count no more from now on.
    fn evict(&self) {
        let mut open = self.open.lock();
        let mut idle: Vec<(u64, u64)> = open
            .iter()
            .map(|(id, state)| (state.since.load(Ordering::Relaxed), *id))
            .filter(|(since, _)| *since < DOOMED)
            .collect();
        let wanted = idle.len().min(EVICTED_AT_ONCE);
        if wanted > 0 && wanted < idle.len() {
            idle.select_nth_unstable(wanted - 1);
        }
        for (_, id) in idle.iter().take(wanted) {
            if let Some(state) = open.remove(id) {
                state.close.notify_one();
            }
        }
        metrics::counter!("clickmill_http_connections_evicted_total").increment(wanted as u64);
    }

    /// Ends every connection, busy or not.
    fn abort_all(&self) {
        for state in self.open.lock().values() {
            state.since.store(DOOMED, Ordering::Relaxed);
            state.close.notify_one();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.id);
        metrics::gauge!("clickmill_http_connections").decrement(1);
    }
}
