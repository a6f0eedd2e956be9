//! All reports of a folder, in short.

use clickmill_model::Minute;
use serde::{Deserialize, Serialize};

use super::{Report, Verdict};

/// How many reports the history holds: the oldest go. (Their files stay.)
const MOST: usize = 2000;

/// A report in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it came to.
    pub verdict: Verdict,
    /// The first minute.
    pub from: Minute,
    /// The first minute behind it.
    pub to: Minute,
    /// When it was made.
    pub made_at: String,
    /// The share of clicks that differs.
    pub rate: Option<f64>,
    /// Clicks by the raw lines.
    pub raw_clicks: u64,
    /// Clicks that the store lacked.
    pub lacks: u64,
    /// Clicks that it had too many.
    pub surplus: u64,
    /// Figures that differed.
    pub differing: u64,
    /// Whether the span was recalculated.
    #[serde(default)]
    pub repaired: bool,
    /// The report's files, without `.json` and `.html`.
    pub name: String,
}

impl Entry {
    pub(super) fn of(report: &Report, name: &str) -> Self {
        Self {
            verdict: report.verdict,
            from: report.from,
            to: report.to,
            made_at: report.made_at.clone(),
            rate: report.rate,
            raw_clicks: report.raw_clicks,
            lacks: report.clicks.lacks,
            surplus: report.clicks.surplus,
            differing: report.differing(),
            repaired: report.repair.is_some(),
            name: name.to_owned(),
        }
    }

    /// The share of clicks that the store was off by: too few (negative) or too many.
    pub fn drift(&self) -> f64 {
        (self.surplus as f64 - self.lacks as f64) / self.raw_clicks.max(1) as f64
    }
}

/// The reports of a folder, oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// In the order in which they were made.
    pub reports: Vec<Entry>,
}

impl History {
    pub(super) fn add(&mut self, entry: Entry) {
        self.reports.push(entry);
        let surplus = self.reports.len().saturating_sub(MOST);
        self.reports.drain(..surplus);
    }

    /// The newest report of each span, by the span: the drift from day to day.
    pub fn trend(&self) -> Vec<&Entry> {
        let mut spans: std::collections::BTreeMap<(Minute, Minute), &Entry> = std::collections::BTreeMap::new();
        for entry in &self.reports {
            spans.insert((entry.from, entry.to), entry);
        }
        spans.into_values().collect()
    }
}
