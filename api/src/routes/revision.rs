//! Recalculations, as the status tells of them.

use clickmill_model::{FilterId, Minute, Revision};
use clickmill_store::RevisionRow;
use serde::Serialize;
use utoipa::ToSchema;

/// How many the status names: those that people look for are the newest.
const MOST: usize = 100;

/// A recalculation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RevisionAnswer {
    /// Its number, from 1.
    #[schema(value_type = u32, example = 1)]
    revision: Revision,
    /// `pending`: its figures are being written; `active`: they are those that are seen; `undone`: they are not, or were not ever.
    #[schema(example = "active")]
    state: &'static str,
    /// The first minute that it holds.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    from: Minute,
    /// The first minute behind them.
    #[schema(value_type = u64, example = 202_101_020_000_u64)]
    to: Minute,
    /// The filters that it holds.
    #[schema(value_type = Vec<u16>)]
    filters: Vec<FilterId>,
    /// The version of the definition that it was counted by.
    definition: u32,
    /// Who began it: user and host.
    by: String,
    /// When it began, RFC 3339.
    #[schema(example = "2021-01-02T00:00:00Z")]
    at: String,
    /// The figures that it changed; null before it was active.
    changed: Option<ChangedAnswer>,
}

/// How the figures of a recalculation differ from those that were seen before.
#[derive(Debug, Serialize, ToSchema)]
struct ChangedAnswer {
    /// Clicks of an ad in a minute, under any filter.
    counts: u64,
    /// Totals of hours and days.
    totals: u64,
    /// Rankings.
    rankings: u64,
    /// Clicks in its minutes that were seen before.
    clicks_before: u64,
    /// Clicks in its minutes that are seen with it.
    clicks_after: u64,
}

/// The newest recalculations, oldest first.
pub(super) fn revisions(rows: &[RevisionRow]) -> Vec<RevisionAnswer> {
    rows.iter().skip(rows.len().saturating_sub(MOST)).map(RevisionAnswer::new).collect()
}

impl RevisionAnswer {
    fn new(row: &RevisionRow) -> Self {
        let RevisionRow { revision, state, recalculation, changed } = row;
        Self {
            revision: *revision,
            state: state.as_str(),
            from: recalculation.holds.range.from,
            to: recalculation.holds.range.to,
            filters: recalculation.holds.filters.keys().copied().collect(),
            definition: recalculation.definition,
            by: recalculation.began_by.clone(),
            at: recalculation.began_at.to_string(),
            changed: changed.map(|changed| ChangedAnswer {
                counts: changed.counts,
                totals: changed.totals,
                rankings: changed.rankings,
                clicks_before: changed.clicks_before,
                clicks_after: changed.clicks_after,
            }),
        }
    }
}
