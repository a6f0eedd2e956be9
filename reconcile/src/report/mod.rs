//! What a reconciliation found, for people and for programs.

mod files;
mod history;
mod html;

use std::collections::BTreeMap;

use clickmill_config::Reconcile;
use clickmill_model::{FilterId, Minute, Timestamp};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::clicks::Disagreements;
use crate::compare::{Compared, CountDifference, Kind, RankingDifference, Sum};
use crate::count::Books;
use crate::files::Skipped;
use crate::lines::LineBehind;

pub use files::ReportFolder;
pub use history::{Entry, History};

/// The version of the reports' JSON.
const FORMAT: u32 = 1;

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every figure is what the raw lines say.
    Agrees,
    /// Some are not, but no more than is tolerated.
    WithinThreshold,
    /// More than that.
    Differs,
}

/// A filter's clicks, by the raw lines and by the store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfFilter {
    /// The filter.
    pub filter: FilterId,
    /// What people call it.
    pub name: String,
    /// Clicks by the raw lines.
    pub raw: u64,
    /// Clicks by the store.
    pub stored: u64,
    /// What differs, minute by minute.
    #[serde(flatten)]
    pub sum: Sum,
}

/// What differs of an hour (its first minute) or of an ad, under filter 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Of<K> {
    /// Which one.
    pub of: K,
    /// What differs.
    #[serde(flatten)]
    pub sum: Sum,
}

/// Differences in money.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Money {
    /// What a click costs.
    pub price_per_click: f64,
    /// In which currency.
    pub currency: String,
    /// The clicks that the store lacks: not billed.
    pub not_billed: f64,
    /// The clicks that it has too many: billed although nobody clicked.
    pub billed_too_much: f64,
}

/// What was recalculated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Repair {
    /// The spans `[from, to)` that differed.
    pub spans: Vec<(Minute, Minute)>,
    /// What it came to before.
    pub verdict_before: Verdict,
    /// How many figures differed before, by kind.
    pub before: BTreeMap<Kind, Sum>,
}

/// How many figures are not told one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LeftOut {
    /// Counts and totals.
    pub counts: u64,
    /// Rankings.
    pub rankings: u64,
}

/// How many raw files were read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FilesRead {
    /// Read.
    pub read: u64,
    /// Passed over, since others hold their lines.
    pub covered: u64,
    /// Left out as asked, since they cannot be read or are not there.
    pub skipped: Vec<Skipped>,
}

/// A report. As JSON it holds all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this form.
    pub format: u32,
    /// What it comes to.
    pub verdict: Verdict,
    /// The first minute.
    pub from: Minute,
    /// The first minute behind it.
    pub to: Minute,
    /// When it was made.
    pub made_at: String,
    /// The version of the definition that it was counted by.
    pub definition: u32,
    /// The share of clicks that may differ.
    pub threshold: f64,
    /// The share of clicks that differs: of all filters the highest. Nothing where only totals or rankings differ, which contradict the counts beside them.
    pub rate: Option<f64>,
    /// Clicks under filter 0 by the raw lines.
    pub raw_clicks: u64,
    /// The same by the store.
    pub stored_clicks: u64,
    /// What differs of them, minute by minute.
    pub clicks: Sum,
    /// The same in money, where a price is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// How many figures were compared.
    pub compared: Compared,
    /// How many differ, by kind.
    pub by_kind: BTreeMap<Kind, Sum>,
    /// By filter.
    pub by_filter: Vec<OfFilter>,
    /// By hour.
    pub by_hour: Vec<Of<Minute>>,
    /// By ad, most first.
    pub by_ad: Vec<Of<String>>,
    /// The spans `[from, to)` in which something differs: what a repair recalculates.
    pub differing_spans: Vec<(Minute, Minute)>,
    /// Counts that differ.
    pub counts: Vec<CountDifference>,
    /// Rankings that differ.
    pub rankings: Vec<RankingDifference>,
    /// How many differing figures are in neither list.
    pub left_out: LeftOut,
    /// What was read.
    pub lines: Books,
    /// From which files.
    pub files: FilesRead,
    /// The lines behind differing counts, as asked.
    pub lines_behind: Vec<LineBehind>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// What was repaired, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

impl Report {
    /// Judges what was found, by the share of clicks that may differ.
    pub fn new(audit: Audit, threshold: f64, settings: &Reconcile, made_at: Timestamp) -> Self {
        let findings = audit.findings;
        let rate = findings.rate();
        let verdict = match rate {
            Some(_) if findings.is_clean() => Verdict::Agrees,
            Some(rate) if rate <= threshold && threshold > 0.0 => Verdict::WithinThreshold,
            _ => Verdict::Differs,
        };
        let of_kinds =
            |kinds: &[Kind]| kinds.iter().filter_map(|kind| findings.by_kind.get(kind)).map(|sum| sum.figures).sum();
        let counts: u64 = of_kinds(&[Kind::Late, Kind::Missing, Kind::Surplus, Kind::Total]);
        let rankings: u64 = of_kinds(&[Kind::Ranking, Kind::RankingOnly]);
        let left_out = LeftOut {
            counts: counts - findings.counts.len() as u64,
            rankings: rankings - findings.rankings.len() as u64,
        };
        let clicks = findings.by_filter.get(&FilterId::ALL).copied().unwrap_or_default();
        let differing_spans = findings.joined_spans();
        let (raw_clicks, stored_clicks) = findings.clicks.get(&FilterId::ALL).copied().unwrap_or_default();
        let by_filter = audit.filters.into_iter().map(|(filter, name)| {
            let (raw, stored) = findings.clicks.get(&filter).copied().unwrap_or_default();
            OfFilter { filter, name, raw, stored, sum: findings.by_filter.get(&filter).copied().unwrap_or_default() }
        });
        let mut by_ad: Vec<_> = findings.by_ad.into_iter().map(|(of, sum)| Of { of, sum }).collect();
        by_ad.sort_by_key(|ad| std::cmp::Reverse(ad.sum.clicks()));
        let money = settings.price_per_click.map(|price| Money {
            price_per_click: price,
            currency: settings.currency.clone(),
            not_billed: clicks.lacks as f64 * price,
            billed_too_much: clicks.surplus as f64 * price,
        });
        Self {
            format: FORMAT,
            verdict,
            from: audit.span.0,
            to: audit.span.1,
            made_at: made_at.to_string(),
            definition: audit.definition.version,
            threshold,
            rate,
            raw_clicks,
            stored_clicks,
            clicks,
            money,
            compared: findings.compared,
            by_kind: findings.by_kind,
            by_filter: by_filter.collect(),
            by_hour: findings.by_hour.into_iter().map(|(of, sum)| Of { of, sum }).collect(),
            by_ad,
            differing_spans,
            counts: findings.counts,
            rankings: findings.rankings,
            left_out,
            lines: audit.books,
            files: FilesRead { read: audit.files.0, covered: audit.files.1, skipped: audit.skipped },
            lines_behind: audit.lines,
            notes: audit.notes,
            repair: None,
        }
    }

    /// How many figures differ.
    pub fn differing(&self) -> u64 {
        self.by_kind.values().map(|sum| sum.figures).sum()
    }

    /// What it comes to, in a sentence.
    pub fn sentence(&self) -> String {
        let span = format!("{} to {}", self.from, self.to);
        let Compared { counts, totals, rankings } = self.compared;
        match self.verdict {
            Verdict::Agrees => format!(
                "{span}: all {} figures are what the raw lines say ({} clicks; {counts} counts, {totals} totals, {rankings} rankings)",
                counts + totals + rankings,
                self.raw_clicks
            ),
            Verdict::WithinThreshold | Verdict::Differs => {
                let kinds: Vec<String> =
                    self.by_kind.iter().map(|(kind, sum)| format!("{} {}", sum.figures, kind.name())).collect();
                let within = if self.verdict == Verdict::Differs { "more than" } else { "no more than" };
                format!(
                    "{span}: {} of {} figures differ ({}), {within} the threshold allows: the store lacks {} of {} clicks and has {} too many",
                    self.differing(),
                    counts + totals + rankings,
                    kinds.join(", "),
                    self.clicks.lacks,
                    self.raw_clicks,
                    self.clicks.surplus
                )
            }
        }
    }

    /// Whether the stream's reading of lines is in question.
    pub fn disagreements(&self) -> &Disagreements {
        &self.lines.disagreements
    }
}
