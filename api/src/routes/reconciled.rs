//! The last reconciliation: in the status, and as metrics.

use std::sync::Arc;

use clickmill_model::Minute;
use clickmill_store::Verdict;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// What the last reconciliation came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReconciliationAnswer {
    /// `agrees`: no figure differed; `within_threshold`: no more than is tolerated; `differs`: more.
    #[schema(example = "agrees")]
    verdict: &'static str,
    /// The first minute that was reconciled.
    #[schema(value_type = u64, example = 202_101_010_000_u64)]
    from: Minute,
    /// The first minute behind it.
    #[schema(value_type = u64, example = 202_101_020_000_u64)]
    to: Minute,
    /// When, RFC 3339.
    #[schema(example = "2021-01-02T02:00:00Z")]
    made_at: String,
    /// How many figures differed.
    differing: u64,
    /// Clicks by the raw lines.
    raw_clicks: u64,
    /// Clicks that the store lacked.
    lacks: u64,
    /// Clicks that it had too many.
    surplus: u64,
    /// Where its report is, as whoever reconciled knows it; null where none was written.
    report: Option<String>,
}

impl From<Verdict> for ReconciliationAnswer {
    fn from(verdict: Verdict) -> Self {
        let name = match (verdict.agrees, verdict.exceeds) {
            (true, _) => "agrees",
            (false, false) => "within_threshold",
            (false, true) => "differs",
        };
        let Verdict { from, to, made_at, differing, raw_clicks, lacks, surplus, report, .. } = verdict;
        Self { verdict: name, from, to, made_at: made_at.to_string(), differing, raw_clicks, lacks, surplus, report }
    }
}

/// Brings the metrics of the last reconciliation up to date. Where the store does not answer they stay as they are.
pub(super) async fn measure(app: &Arc<App>) {
    let reader = Arc::clone(app);
    let Ok(Some(last)) = app.quick.run(move || Ok(reader.store().last_verdict()?)).await else { return };
    metrics::gauge!("clickmill_reconcile_last_timestamp_seconds").set(last.made_at.as_secs_f64());
    metrics::gauge!("clickmill_reconcile_last_until_timestamp_seconds").set(last.to.start().as_secs_f64());
    metrics::gauge!("clickmill_reconcile_last_exceeds_threshold").set(f64::from(u8::from(last.exceeds)));
    metrics::gauge!("clickmill_reconcile_last_differing_figures").set(last.differing as f64);
    metrics::gauge!("clickmill_reconcile_last_missing_clicks").set(last.lacks as f64);
    metrics::gauge!("clickmill_reconcile_last_surplus_clicks").set(last.surplus as f64);
}

/// What these metrics mean.
pub(crate) fn describe() {
    metrics::describe_gauge!("clickmill_reconcile_last_timestamp_seconds", "When the last reconciliation was made");
    metrics::describe_gauge!("clickmill_reconcile_last_until_timestamp_seconds", "The end of the span that it proved");
    metrics::describe_gauge!("clickmill_reconcile_last_exceeds_threshold", "1 where more differed than was tolerated");
    metrics::describe_gauge!("clickmill_reconcile_last_differing_figures", "Figures that differed from the raw lines");
    metrics::describe_gauge!("clickmill_reconcile_last_missing_clicks", "Clicks of filter 0 that the store lacked");
    metrics::describe_gauge!("clickmill_reconcile_last_surplus_clicks", "Clicks of filter 0 that it had too many");
}
