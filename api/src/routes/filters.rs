//! The filters that there are.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use clickmill_model::records::FilterSpan;
use clickmill_model::{Filter, FilterId, Minute};
use serde::Serialize;
use utoipa::ToSchema;

use super::fresh_json;
use crate::app::App;
use crate::http::problem::{Problem, ProblemBody};
use crate::params::NoParameters;

/// A filter: a predicate over clicks. Its fields are and-ed, the values of one field or-ed; an empty field says nothing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilterAnswer {
    /// Its number, for good.
    #[schema(value_type = u16, example = 1)]
    id: FilterId,
    /// What people call it.
    #[schema(example = "USA")]
    name: String,
    /// The click's country is one of these.
    country: Vec<String>,
    /// The click's country is none of these.
    exclude_country: Vec<String>,
    /// The click's address lies in one of these networks.
    ip: Vec<String>,
    /// The click's user is one of these.
    user_id: Vec<String>,
    /// The first minute in which the stream counted it; null where that is from the beginning, or not yet. Recalculations may have counted it in earlier ones, see `/v1/status`.
    #[schema(value_type = Option<u64>)]
    from: Option<Minute>,
    /// The first minute in which it is no longer counted; null where it still is.
    #[schema(value_type = Option<u64>)]
    until: Option<Minute>,
}

impl FilterAnswer {
    pub(super) fn new(filter: &Filter, spans: &[FilterSpan]) -> Self {
        let span = spans.iter().find(|span| span.filter == filter.id);
        Self {
            id: filter.id,
            name: filter.name.clone(),
            country: filter.country.clone(),
            exclude_country: filter.exclude_country.clone(),
            ip: filter.ip.iter().map(ToString::to_string).collect(),
            user_id: filter.user_id.clone(),
            from: span.map(|span| span.from).filter(|from| *from != Minute::MIN),
            until: span.and_then(|span| span.until),
        }
    }
}

/// The filters.
#[derive(Debug, Serialize, ToSchema)]
struct FiltersAnswer {
    /// Every filter there ever was, by id. Filter 0 matches every click.
    filters: Vec<FilterAnswer>,
}

/// Every filter there ever was.
#[utoipa::path(
    get,
    path = "/v1/filters",
    responses(
        (status = 200, description = "The filters", body = FiltersAnswer),
        (status = 503, description = "The store cannot be read at the moment", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn filters(State(app): State<Arc<App>>, _: NoParameters) -> Result<Response, Problem> {
    let reader = Arc::clone(&app);
    let read = move || {
        let definitions = reader.definitions()?;
        let spans = reader.store().progress()?.filters;
        let filters = definitions.filters.values().map(|filter| FilterAnswer::new(filter, &spans)).collect();
        Ok(FiltersAnswer { filters })
    };
    Ok(fresh_json(&app.quick.run(read).await?))
}
