//! How often an ad was clicked.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use clickmill_model::{FilterId, Minute, Span, SpanKind};
use clickmill_store::{MinuteRange, View};
use serde::Serialize;
use utoipa::ToSchema;

use super::fresh_json;
use crate::app::App;
use crate::http::problem::{Problem, ProblemBody};
use crate::params::{AdId, Query};
use crate::range::Complete;
use crate::revised::Revised;

/// The most figures that a series may have.
const MOST_POINTS: i64 = 100_000;

/// A range with so many figures or more is read as a heavy one.
const HEAVY_POINTS: i64 = 3000;

/// Clicks of an ad in a range.
#[derive(Debug, Serialize, ToSchema)]
struct CountAnswer {
    /// The ad.
    #[schema(example = "ad001")]
    ad_id: String,
    /// Its clicks; 0 for an ad that was never heard of.
    #[schema(example = 12)]
    count: u64,
    /// The first minute of the range.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    from: Minute,
    /// The first minute that is no longer in the range.
    #[schema(value_type = u64, example = 202_101_010_002_u64)]
    to: Minute,
    /// Only clicks that match this filter were counted.
    #[schema(value_type = u16, example = 0)]
    filter: FilterId,
    /// True where the figure will change no more, but for late clicks.
    complete: bool,
    /// The first minute of the range that is not complete; its end where all are.
    #[schema(value_type = u64, example = 202_101_010_002_u64)]
    complete_until: Minute,
}

/// Clicks of an ad in a range.
///
/// Where `from` and `to` are not given, the last complete minute is meant.
#[utoipa::path(
    get,
    path = "/v1/ads/{ad_id}/aggregated_count",
    params(
        ("ad_id" = String, Path, description = "The ad, percent-encoded: a `/` in it is `%2F`", example = "ad001"),
        ("from" = Option<u64>, Query, description = "The first minute, `yyyyMMddHHmm` in UTC", example = 202_101_010_000_u64),
        ("to" = Option<u64>, Query, description = "The first minute that is no longer in the range, at most 366 days later", example = 202_101_010_002_u64),
        ("filter" = Option<u16>, Query, description = "Count only clicks that match this filter, see `/v1/filters`; 0 matches all", example = 0),
    ),
    responses(
        (status = 200, description = "The count", body = CountAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such filter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be read at the moment", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn aggregated_count(
    State(app): State<Arc<App>>,
    AdId(ad_id): AdId,
    query: Query,
) -> Result<Response, Problem> {
    let params = query.params(&["from", "to", "filter"])?;
    let (from, to) = params.range()?;
    let filter = params.filter()?;
    let reader = Arc::clone(&app);
    let read = move || {
        let Counted { revised, complete, range } = reader.counted(filter, from, to)?;
        let counts = reader.store().counts(&revised.view, &[&ad_id], filter, range)?;
        let complete_until = complete.still(&reader.complete_counts(&revised.view, filter)?).reaches(range);
        Ok(CountAnswer {
            ad_id,
            count: counts.first().copied().unwrap_or(0),
            from: range.from,
            to: range.to,
            filter,
            complete: complete_until == range.to,
            complete_until,
        })
    };
    Ok(fresh_json(&app.quick.run(read).await?))
}

/// Clicks in a minute, hour or day.
#[derive(Debug, Serialize, ToSchema)]
struct Point {
    /// The first minute of the minute, hour or day, which may lie before `from`.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    minute: Minute,
    /// Clicks in it, those outside of the range left out.
    #[schema(example = 3)]
    count: u64,
}

/// Clicks of an ad over time.
#[derive(Debug, Serialize, ToSchema)]
struct SeriesAnswer {
    /// The ad.
    #[schema(example = "ad001")]
    ad_id: String,
    /// Only clicks that match this filter were counted.
    #[schema(value_type = u16, example = 0)]
    filter: FilterId,
    /// The first minute of the range.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    from: Minute,
    /// The first minute that is no longer in the range.
    #[schema(value_type = u64, example = 202_101_010_100_u64)]
    to: Minute,
    /// `minute`, `hour` or `day`.
    #[schema(example = "minute")]
    step: &'static str,
    /// One figure for each minute, hour or day that the range touches, oldest first, also where nothing was clicked.
    counts: Vec<Point>,
    /// True where the figures will change no more, but for late clicks.
    complete: bool,
    /// The first minute of the range that is not complete; its end where all are.
    #[schema(value_type = u64, example = 202_101_010_100_u64)]
    complete_until: Minute,
}

/// Clicks of an ad for each minute, hour or day of a range.
///
/// Where `from` and `to` are not given, the last complete minute is meant.
#[utoipa::path(
    get,
    path = "/v1/ads/{ad_id}/counts",
    params(
        ("ad_id" = String, Path, description = "The ad, percent-encoded: a `/` in it is `%2F`", example = "ad001"),
        ("from" = Option<u64>, Query, description = "The first minute, `yyyyMMddHHmm` in UTC", example = 202_101_010_000_u64),
        ("to" = Option<u64>, Query, description = "The first minute that is no longer in the range, at most 366 days later", example = 202_101_010_100_u64),
        ("filter" = Option<u16>, Query, description = "Count only clicks that match this filter, see `/v1/filters`; 0 matches all", example = 0),
        ("step" = Option<String>, Query, description = "`minute` (the default), `hour` or `day`; at most 100,000 figures", example = "minute"),
    ),
    responses(
        (status = 200, description = "The counts", body = SeriesAnswer),
        (status = 400, description = "A parameter is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such filter", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests wait", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The store cannot be read at the moment", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn series(State(app): State<Arc<App>>, AdId(ad_id): AdId, query: Query) -> Result<Response, Problem> {
    let params = query.params(&["from", "to", "filter", "step"])?;
    let (from, to) = params.range()?;
    let filter = params.filter()?;
    let step = params.step()?;
    let points = move |from: Minute, to: Minute| (to.minus(from) + step.minutes() - 1) / step.minutes();
    // A range of which only one end is given may be long too; it is checked once both are known.
    let heavy = from.zip(to).is_none_or(|(from, to)| points(from, to) >= HEAVY_POINTS);
    let reader = Arc::clone(&app);
    let read = move || {
        let Counted { revised, complete, range } = reader.counted(filter, from, to)?;
        if points(range.from, range.to) > MOST_POINTS {
            let detail =
                format!("That would be more than {MOST_POINTS} figures. Take a longer step or a shorter range.");
            return Err(Problem::parameter("step", detail));
        }
        let found = reader.store().series(&revised.view, &ad_id, filter, range, step)?;
        let complete_until = complete.still(&reader.complete_counts(&revised.view, filter)?).reaches(range);
        let answer = SeriesAnswer {
            ad_id,
            filter,
            from: range.from,
            to: range.to,
            step: match step {
                SpanKind::Minute => "minute",
                SpanKind::Hour => "hour",
                SpanKind::Day => "day",
            },
            counts: with_zeros(&found, range, step),
            complete: complete_until == range.to,
            complete_until,
        };
        Ok(fresh_json(&answer))
    };
    let gate = if heavy { &app.heavy } else { &app.quick };
    gate.run(read).await
}

/// A figure for each span that the range touches.
fn with_zeros(found: &[(Minute, u64)], range: MinuteRange, step: SpanKind) -> Vec<Point> {
    let mut by_start: HashMap<i64, u64> = HashMap::with_capacity(found.len());
    for (minute, count) in found {
        *by_start.entry(Span::holding(step, *minute).start.as_epoch()).or_default() += count;
    }
    let first = Span::holding(step, range.from).start;
    let starts = (0..).map(|i| first.plus(i * step.minutes())).take_while(|start| *start < range.to);
    let count = |start: Minute| by_start.get(&start.as_epoch()).copied().unwrap_or(0);
    starts.map(|minute| Point { minute, count: count(minute) }).collect()
}

/// What is known before counts are read.
struct Counted {
    /// By which they are read.
    revised: Arc<Revised>,
    /// How far those of the filter are complete.
    complete: Complete,
    /// The range that is meant.
    range: MinuteRange,
}

impl App {
    fn counted(&self, filter: FilterId, from: Option<Minute>, to: Option<Minute>) -> Result<Counted, Problem> {
        if !self.definitions()?.filters.contains_key(&filter) {
            return Err(Problem::unknown_filter(filter));
        }
        let revised = self.revised()?;
        let complete = self.complete_counts(&revised.view, filter)?;
        let range = complete.range(from, to, self.now())?;
        Ok(Counted { revised, complete, range })
    }

    fn complete_counts(&self, view: &View, filter: FilterId) -> Result<Complete, Problem> {
        Ok(Complete::counts(&self.store().progress()?, view, filter, self.definitions()?.partitions()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_has_a_figure_for_every_step() {
        let minute = |text: &str| Minute::parse(text).unwrap();
        let check = |from: &str, to: &str, step, found: &[(&str, u64)], expected: &[(&str, u64)]| {
            let found: Vec<(Minute, u64)> = found.iter().map(|(m, c)| (minute(m), *c)).collect();
            let points = with_zeros(&found, MinuteRange { from: minute(from), to: minute(to) }, step);
            let points: Vec<(String, u64)> = points.iter().map(|p| (p.minute.to_string(), p.count)).collect();
            let expected: Vec<(String, u64)> = expected.iter().map(|(m, c)| ((*m).to_owned(), *c)).collect();
            assert_eq!(points, expected, "{from} {to}");
        };
        let minutes = [("202101010001", 5)];
        let expected = [("202101010000", 0), ("202101010001", 5), ("202101010002", 0)];
        check("202101010000", "202101010003", SpanKind::Minute, &minutes, &expected);
        let hours = [("202101010100", 7)];
        check("202101010030", "202101010101", SpanKind::Hour, &hours, &[("202101010000", 0), ("202101010100", 7)]);
        check("196912312359", "197001010001", SpanKind::Day, &[], &[("196912310000", 0), ("197001010000", 0)]);
    }
}
