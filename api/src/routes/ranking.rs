//! The most clicked ads.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use clickmill_model::{FilterId, Minute};
use serde::Serialize;
use utoipa::ToSchema;

use super::fresh_json;
use crate::app::App;
use crate::http::problem::{Problem, ProblemBody};
use crate::params::{MOST_ADS, Query};
use crate::range::Complete;
use crate::top::{Known, top};

/// How many ads are meant where no definition says so.
const USUAL_ADS: usize = 100;

/// The most clicked ads of a range.
#[derive(Debug, Serialize, ToSchema)]
struct RankingAnswer {
    /// The ads, most clicked first, ties by `ad_id` (bytewise).
    #[schema(example = json!(["ad001", "ad002"]))]
    ad_ids: Vec<String>,
    /// Their clicks, in the same order.
    #[schema(example = json!([12, 7]))]
    counts: Vec<u64>,
    /// The first minute of the range.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    from: Minute,
    /// The first minute that is no longer in the range.
    #[schema(value_type = u64, example = 202_101_010_001_u64)]
    to: Minute,
    /// Only clicks that match this filter were counted.
    #[schema(value_type = u16, example = 0)]
    filter: FilterId,
    /// How many ads were asked for.
    #[schema(example = 100)]
    n: usize,
    /// True where these are the most clicked ads for certain. False where the store cannot tell for a range so long.
    exact: bool,
    /// Where `exact` is false: the most clicks that an ad may have that is not listed, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    bound: Option<u64>,
    /// True where the figures will change no more, but for late clicks.
    complete: bool,
    /// The first minute of the range that is not complete; its end where all are.
    #[schema(value_type = u64, example = 202_101_010_001_u64)]
    complete_until: Minute,
}

/// The most clicked ads of a range.
///
/// Where `from` and `to` are not given, the last complete minute is meant. Answers are exact for any range, or say that they are not.
#[utoipa::path(
    get,
    path = "/v1/ads/popular_ads",
    params(
        ("from" = Option<u64>, Query, description = "The first minute, `yyyyMMddHHmm` in UTC", example = 202_101_010_000_u64),
        ("to" = Option<u64>, Query, description = "The first minute that is no longer in the range, at most 366 days later", example = 202_101_010_001_u64),
        ("filter" = Option<u16>, Query, description = "Count only clicks that match this filter, see `/v1/filters`; 0 matches all", example = 0),
        ("n" = Option<u32>, Query, description = "How many ads, 1 to 1000; as configured (100) where it is not given", example = 100),
    ),
    responses(
        (status = 200, description = "The ranking", body = RankingAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such filter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be read at the moment", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn popular_ads(State(app): State<Arc<App>>, query: Query) -> Result<Response, Problem> {
    let params = query.params(&["from", "to", "filter", "n"])?;
    let (from, to) = params.range()?;
    let filter = params.filter()?;
    let asked = params.number("n", MOST_ADS)?;
    let reader = Arc::clone(&app);
    let read = move || {
        let definitions = reader.definitions()?;
        if !definitions.filters.contains_key(&filter) {
            return Err(Problem::unknown_filter(filter));
        }
        let n = asked.unwrap_or_else(|| definitions.newest().map_or(USUAL_ADS, |d| d.n as usize));
        let revised = reader.revised()?;
        let view = &revised.view;
        let progress = reader.store().progress()?;
        let partitions = definitions.partitions();
        let rankings = Complete::rankings(&progress, view, filter, partitions);
        let range = rankings.range(from, to, reader.now())?;
        let known = Known { definitions: &definitions.all, progress: &progress, view };
        let top = top(reader.store(), known, filter, range, n)?;
        let after = reader.store().progress()?;
        let rankings = rankings.still(&Complete::rankings(&after, view, filter, partitions));
        let counts = Complete::counts(&progress, view, filter, partitions)
            .still(&Complete::counts(&after, view, filter, partitions));
        let complete = if top.by_counts { rankings.and(&counts) } else { rankings };
        let complete_until = if top.lacking { range.from } else { complete.reaches(range) };
        let (ad_ids, counts) = top.ads.into_iter().unzip();
        Ok(RankingAnswer {
            ad_ids,
            counts,
            from: range.from,
            to: range.to,
            filter,
            n,
            exact: top.exact,
            bound: top.bound,
            complete: complete_until == range.to,
            complete_until,
        })
    };
    Ok(fresh_json(&app.heavy.run(read).await?))
}
