//! Health and metrics: what every process serves.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use utoipa::ToSchema;

use super::fresh_json;
use crate::app::App;
use crate::board::StageBoard;
use crate::http::problem::{Kind, Problem, ProblemBody};
use crate::metrics::render;
use crate::params::NoParameters;

/// Prometheus' text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// That all is well.
#[derive(Debug, Serialize, ToSchema)]
struct HealthAnswer {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

const OK: HealthAnswer = HealthAnswer { status: "ok" };

/// Whether this process is alive.
#[utoipa::path(
    get,
    path = "/healthz",
    responses((status = 200, description = "It is", body = HealthAnswer))
)]
pub(super) async fn healthz(_: NoParameters) -> Response {
    fresh_json(&OK)
}

/// Whether this process can answer requests: whether it can read the store.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "It can", body = HealthAnswer),
        (status = 503, description = "It cannot at the moment", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn readyz(State(app): State<Arc<App>>, _: NoParameters) -> Result<Response, Problem> {
    let reader = Arc::clone(&app);
    app.quick.run(move || Ok(reader.store().progress().map(|_| ())?)).await?;
    Ok(fresh_json(&OK))
}

/// The metrics of this process, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<Arc<App>>, _: NoParameters) -> Response {
    super::reconciled::measure(&app).await;
    text(&app.sources.metrics)
}

fn text(handle: &PrometheusHandle) -> Response {
    ([(CONTENT_TYPE, TEXT_FORMAT), (CACHE_CONTROL, "no-store")], render(handle)).into_response()
}

/// The same three for a process that has no store: it is ready when its stages are.
pub(super) fn router(handle: PrometheusHandle, stages: Arc<StageBoard>) -> Router {
    let readyz = move |_: NoParameters| {
        let stages = Arc::clone(&stages);
        async move {
            match stages.not_ready() {
                None => Ok(fresh_json(&OK)),
                Some(name) => Err(Problem::saying(Kind::Unavailable, format!("{name} is not ready."))),
            }
        }
    };
    let metrics = move |_: NoParameters| {
        let handle = handle.clone();
        async move { text(&handle) }
    };
    Router::new()
        .route("/healthz", axum::routing::get(healthz))
        .route("/readyz", axum::routing::get(readyz))
        .route("/metrics", axum::routing::get(metrics))
}
