//! The paths that are served, and the OpenAPI document that is made from them.

mod counts;
mod examples;
mod filters;
mod ops;
mod ranking;
pub(crate) mod reconciled;
mod revision;
pub(crate) mod status;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::{App, Sources};
use crate::board::StageBoard;
use crate::http::guard::guard;
use crate::http::limits::Limits;
use crate::http::problem::{Kind, Problem, ProblemBody};
use crate::page::PAGE;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "clickmill",
        description = "Counts of ad clicks by minute, and the most clicked ads of any range. Minutes are written `yyyyMMddHHmm` in UTC; a range is `[from, to)`. Errors are `application/problem+json` (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemBody))
)]
struct Document;

/// Everything: the API, the dashboard, health and metrics.
pub(crate) fn api(sources: Sources, limits: Limits) -> Router {
    let app = Arc::new(App::new(sources, limits));
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(counts::aggregated_count))
        .routes(routes!(counts::series))
        .routes(routes!(ranking::popular_ads))
        .routes(routes!(filters::filters))
        .routes(routes!(status::status))
        .routes(routes!(examples::rejected))
        .routes(routes!(examples::late))
        .routes(routes!(ops::healthz))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
        .split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    // Made once: a document that cannot be written is a bug that every test would see.
    let document: Arc<str> = document.to_pretty_json().unwrap_or_default().into();
    let openapi = move || {
        let document = Arc::clone(&document);
        async move { ([(CONTENT_TYPE, "application/json")], document.to_string()) }
    };
    let page = || async { ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache")], PAGE) };
    guarded(
        router.with_state(app).route("/openapi.json", axum::routing::get(openapi)).route("/", axum::routing::get(page)),
    )
}

/// Health and metrics only.
pub(crate) fn ops_only(metrics: PrometheusHandle, stages: Arc<StageBoard>) -> Router {
    guarded(ops::router(metrics, stages))
}

fn guarded(router: Router) -> Router {
    router.fallback(|| async { Problem::of(Kind::NotFound) }).layer(axum::middleware::from_fn(guard))
}

/// A JSON answer that nobody shall keep: figures change.
fn fresh_json<T: Serialize>(answer: &T) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Problem::of(Kind::Unavailable).into_response()
        }
    }
}
