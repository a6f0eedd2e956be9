//! Errors as clients see them: `application/problem+json` (RFC 9457). A problem names what the client did wrong and how to do it
//! right; it never holds internals.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Characters of a client's own text that a problem repeats.
const MOST_ECHOED_CHARS: usize = 60;

/// Every kind of problem, with its status. The list is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidParameter,
    MalformedRequest,
    UnknownFilter,
    NotFound,
    MethodNotAllowed,
    BodyNotAccepted,
    UriTooLong,
    TooManyRequests,
    HeadersTooLarge,
    Unavailable,
}

impl Kind {
    const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::InvalidParameter => (400, "urn:clickmill:invalid-parameter", "Invalid parameter"),
            Self::MalformedRequest => (400, "urn:clickmill:malformed-request", "Malformed request"),
            Self::UnknownFilter => (404, "urn:clickmill:unknown-filter", "Unknown filter"),
            Self::NotFound => (404, "urn:clickmill:not-found", "Not found"),
            Self::MethodNotAllowed => (405, "urn:clickmill:method-not-allowed", "Method not allowed"),
            Self::BodyNotAccepted => (413, "urn:clickmill:body-not-accepted", "Request body not accepted"),
            Self::UriTooLong => (414, "urn:clickmill:uri-too-long", "URL too long"),
            Self::TooManyRequests => (429, "urn:clickmill:too-many-requests", "Too many requests"),
            Self::HeadersTooLarge => (431, "urn:clickmill:headers-too-large", "Request headers too large"),
            Self::Unavailable => (503, "urn:clickmill:unavailable", "Temporarily unavailable"),
        }
    }

    /// The kind for an error status that the server's own layers gave.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            405 => Self::MethodNotAllowed,
            413 => Self::BodyNotAccepted,
            414 => Self::UriTooLong,
            429 => Self::TooManyRequests,
            431 => Self::HeadersTooLarge,
            500.. => Self::Unavailable,
            _ => Self::MalformedRequest,
        }
    }

    /// What to say where nothing more is known.
    fn usual_detail(self) -> &'static str {
        match self {
            Self::InvalidParameter | Self::UnknownFilter => "See /openapi.json for the parameters.",
            Self::MalformedRequest => "This is not an HTTP/1.1 request that can be understood.",
            Self::NotFound => "There is nothing at this path. See /openapi.json for what is there.",
            Self::MethodNotAllowed => "This path is read with GET.",
            Self::BodyNotAccepted => "Requests to this API have no body.",
            Self::UriTooLong => "The URL may have at most 8 KiB.",
            Self::TooManyRequests => "Too many requests wait already. Try again in a moment.",
            Self::HeadersTooLarge => "The request's headers may have at most 16 KiB and 100 fields.",
            Self::Unavailable => "Try again in a moment.",
        }
    }
}

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    detail: String,
    parameter: Option<String>,
}

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemBody {
    /// Names the kind of error, for programs.
    r#type: &'static str,
    /// The kind of error, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, and what would be right.
    detail: String,
    /// The parameter that is wrong, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameter: Option<String>,
}

impl Problem {
    /// A problem of this kind, with what is usually to be said about it.
    pub(crate) fn of(kind: Kind) -> Self {
        Self::saying(kind, kind.usual_detail())
    }

    /// A problem of this kind.
    pub(crate) fn saying(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), parameter: None }
    }

    /// A parameter whose value cannot be.
    pub(crate) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(clip(name)), ..Self::saying(Kind::InvalidParameter, detail) }
    }

    /// A filter that no definition has.
    pub(crate) fn unknown_filter(id: impl std::fmt::Display) -> Self {
        let detail = format!("There is no filter {id}. See /v1/filters for those that there are.");
        Self { parameter: Some("filter".into()), ..Self::saying(Kind::UnknownFilter, detail) }
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.kind.parts().0
    }

    /// As it goes into a response.
    pub(crate) fn body(&self) -> Vec<u8> {
        let (status, r#type, title) = self.kind.parts();
        let (detail, parameter) = (self.detail.clone(), self.parameter.clone());
        let body = ProblemBody { r#type, title, status, detail, parameter };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// A client's own text, short enough to be repeated to it.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(MOST_ECHOED_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let headers = [(CONTENT_TYPE, PROBLEM_JSON), (CACHE_CONTROL, "no-store")];
        let mut response = (status, headers, self.body()).into_response();
        if matches!(self.kind, Kind::Unavailable | Kind::TooManyRequests) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_is_repeated_in_part_only() {
        assert_eq!(clip("filter"), "filter");
        assert_eq!(clip(&"é".repeat(60)).chars().count(), 60);
        assert_eq!(clip(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
        let problem = Problem::parameter(&"x".repeat(9000), "unknown");
        assert!(problem.body().len() < 300);
    }

    #[test]
    fn every_status_is_of_the_fixed_list() {
        for status in 400..600 {
            let given = Problem::of(Kind::of_status(status)).status();
            assert!([400, 401, 404, 405, 413, 414, 429, 431, 503].contains(&given), "{status} became {given}");
        }
    }
}
