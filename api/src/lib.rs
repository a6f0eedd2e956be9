//! The query API and the dashboard, and the small server that every other stage has for its health and metrics.
//!
//! In: HTTP requests ([`serve`]), and the store and queue that answers are read from ([`Sources`]). Out: JSON as the OpenAPI document at
//! `/openapi.json` describes it (it is made from the handlers), the page at `/`, metrics.
//!
//! What it promises:
//! - **Exact, or it says so**: rankings of any range are those of a full merge, or marked `"exact": false` with a bound.
//! - **Complete, or it says so**: how far figures are complete is read before the figures.
//! - **One moment**: all figures of an answer come from the recalculations that were active at one moment, which is a second ago at most.
//! - **Strict**: a parameter that is unknown, repeated or malformed is refused with its name; every error is `application/problem+json` (RFC 9457).
//! - **Bounded**: connections, header sizes, waiting times, and readers of the store at once. Slow and idle clients make room for others.
//!
//! It knows nothing of how figures come about: it has the words of `model`, and the traits of `queue` and `store`.

mod app;
mod board;
mod catalog;
mod gate;
mod http;
mod metrics;
mod page;
mod params;
mod range;
mod revised;
mod routes;
mod top;

use std::future::Future;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;

pub use app::Sources;
pub use board::{RunState, StageBoard, StageState};
pub use http::limits::Limits;
pub use metrics::install_metrics;
pub use page::PAGE;

/// Why the API could not be served.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The recorder of metrics could not be made.
    #[error("the recorder of metrics could not be made: {0}")]
    Metrics(String),
    /// The listener is of no use.
    #[error("connections cannot be accepted: {0}")]
    Listener(#[from] std::io::Error),
}

/// Serves API, dashboard, health and metrics until `shutdown` is ready; then finishes what is being answered, for two seconds at most.
///
/// # Errors
/// [`ApiError::Listener`] where the listener is of no use. That single connections cannot be accepted is no error.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    sources: Sources,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ApiError> {
    let metrics = sources.metrics.clone();
    let router = routes::api(sources, limits);
    tokio::select! {
        served = http::server::serve(listener, router, limits, shutdown) => served,
        () = metrics::upkeep(metrics) => Ok(()),
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` only: for each stage that is a process of its own. It is ready when no stage on the board is starting
/// or failed.
///
/// # Errors
/// As [`serve`].
pub async fn serve_ops(
    listener: TcpListener,
    metrics: PrometheusHandle,
    stages: Arc<StageBoard>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ApiError> {
    let limits = Limits::default();
    let router = routes::ops_only(metrics.clone(), stages);
    tokio::select! {
        served = http::server::serve(listener, router, limits, shutdown) => served,
        () = metrics::upkeep(metrics) => Ok(()),
    }
}
