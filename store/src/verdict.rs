//! What the last reconciliation came to, where the API finds it.

use clickmill_model::{Minute, Timestamp};
use serde::{Deserialize, Serialize};

/// What a reconciliation came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// True where no figure differed.
    pub agrees: bool,
    /// True where more differed than was tolerated.
    pub exceeds: bool,
    /// The first minute that was reconciled.
    pub from: Minute,
    /// The first minute behind it.
    pub to: Minute,
    /// When.
    pub made_at: Timestamp,
    /// How many figures differed.
    pub differing: u64,
    /// Clicks by the raw lines.
    pub raw_clicks: u64,
    /// Clicks that the store lacked, minute by minute and ad by ad.
    pub lacks: u64,
    /// Clicks that it had too many.
    pub surplus: u64,
    /// Where its report is, as whoever reconciled knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}
