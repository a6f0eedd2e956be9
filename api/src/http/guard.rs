//! What every request and every answer passes: the limits on requests, the metrics, and the promise that every error is a problem.

use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::limits::{MOST_HEADER_BYTES, MOST_URL_BYTES};
use super::problem::{Kind, PROBLEM_JSON, Problem};
use crate::metrics::count_request;

/// Lets a request through that keeps the limits, counts it, and makes a problem of every error that is none yet.
pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match refusal(&request) {
        Some(problem) => problem.into_response(),
        None => as_problem(next.run(request).await),
    };
    count_request(route.as_ref().map_or("unmatched", MatchedPath::as_str), response.status().as_u16(), began);
    with_headers(response)
}

/// Why the request is refused whatever it asks for.
fn refusal(request: &Request<Body>) -> Option<Problem> {
    let url = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    if url > MOST_URL_BYTES {
        return Some(Problem::of(Kind::UriTooLong));
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > MOST_HEADER_BYTES {
        return Some(Problem::of(Kind::HeadersTooLarge));
    }
    // Other methods are answered by 405, which says more.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    (reads && !request.body().is_end_stream()).then(|| Problem::of(Kind::BodyNotAccepted))
}

/// An error of the router's own, in the form that every error has.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_problem = |r: &Response| r.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if !(status.is_client_error() || status.is_server_error()) || is_problem(&response) {
        return response;
    }
    let mut problem = Problem::of(Kind::of_status(status.as_u16())).into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        problem.headers_mut().insert(ALLOW, allow.clone());
    }
    problem
}

fn with_headers(mut response: Response) -> Response {
    let nosniff = (X_CONTENT_TYPE_OPTIONS, "nosniff");
    // The page's other rules stand in itself; this one only works as a header.
    let unframed = (HeaderName::from_static("content-security-policy"), "frame-ancestors 'none'");
    for (name, value) in [nosniff, unframed] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
