//! Recalculations: a row for each says what it holds, who began it, and whether readers see it.
//!
//! A row is made once, `pending`, and its state changes by one conditional write each: pending → active, pending → undone, active → undone. Undone is for good. The numbers are consecutive, and the next one is taken
//! by a conditional insert: who succeeds has seen every row before it, so that two that overlap cannot both be pending.

use std::collections::BTreeMap;
use std::fmt;

use clickmill_model::{DefinitionVersion, Offset, Partition, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Holds, View};

/// What a recalculation is: fixed when it begins, so that one that goes on after a crash computes the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalculation {
    /// What it holds.
    pub holds: Holds,
    /// The definition that it counts by.
    pub definition: DefinitionVersion,
    /// How many aggregator partitions tell its counts.
    pub partitions: u32,
    /// The raw offsets that it counts up to, by topic and partition; partitions that are not named are left out.
    pub pins: BTreeMap<String, BTreeMap<Partition, Offset>>,
    /// Who began it: user and host.
    pub began_by: String,
    /// In which process of that host.
    pub process: u32,
    /// When, in microseconds since 1970.
    pub began_at: Timestamp,
}

/// Whether readers see a recalculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevisionState {
    /// Its figures are being written; nobody reads them.
    Pending,
    /// Readers see its figures.
    Active,
    /// Nobody reads its figures any more, or ever did.
    Undone,
}

impl RevisionState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Active, Self::Undone];

    /// What it is called, everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Undone => "undone",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for RevisionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the figures of a recalculation differ from those that readers saw before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changed {
    /// Clicks of an ad in a minute, under any filter.
    pub counts: u64,
    /// Totals of hours and days.
    pub totals: u64,
    /// Rankings.
    pub rankings: u64,
    /// Clicks in the span that readers saw before.
    pub clicks_before: u64,
    /// Clicks in the span that it found.
    pub clicks_after: u64,
}

/// A row of the table of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRow {
    /// Its number, from 1 on.
    pub revision: Revision,
    /// Whether readers see it.
    pub state: RevisionState,
    /// What it is.
    pub recalculation: Recalculation,
    /// What it changed; `None` before it was active.
    pub changed: Option<Changed>,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Pending → active.
    Activate(Changed),
    /// Pending or active → undone.
    Undo,
}

impl Switch {
    /// The states that it leads on from.
    pub const fn from(self) -> &'static [RevisionState] {
        match self {
            Self::Activate(_) => &[RevisionState::Pending],
            Self::Undo => &[RevisionState::Pending, RevisionState::Active],
        }
    }

    /// The state that it leads to.
    pub const fn to(self) -> RevisionState {
        match self {
            Self::Activate(_) => RevisionState::Active,
            Self::Undo => RevisionState::Undone,
        }
    }

    /// What becomes of a row; it stays as it is where the switch does not lead on from its state.
    pub fn apply(self, row: &mut RevisionRow) {
        if self.from().contains(&row.state) {
            row.state = self.to();
            if let Self::Activate(changed) = self {
                row.changed = Some(changed);
            }
        }
    }
}

/// What became of the wish to begin a recalculation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Began {
    /// It has this number, and is pending.
    Begun(Revision),
    /// This one is pending already, and holds minutes of it. Nothing was begun.
    Overlaps(Box<RevisionRow>),
}

/// The rows with which a new recalculation is compared: its number, or the pending one that is in its way.
pub(crate) fn next(rows: &[RevisionRow], new: &Recalculation) -> Result<Revision, Box<RevisionRow>> {
    let range = new.holds.range;
    let overlaps = |row: &&RevisionRow| {
        let other = row.recalculation.holds.range;
        row.state == RevisionState::Pending && other.from < range.to && range.from < other.to
    };
    match rows.iter().find(overlaps) {
        Some(row) => Err(Box::new(row.clone())),
        None => {
            Ok(Revision(rows.iter().map(|row| row.revision.0).max().unwrap_or(Revision::STREAM.0).saturating_add(1)))
        }
    }
}

impl View {
    /// What a reader sees who read these rows.
    pub fn of_rows(rows: &[RevisionRow]) -> Self {
        let active = rows.iter().filter(|row| row.state == RevisionState::Active);
        Self::of(active.map(|row| (row.revision, row.recalculation.holds.clone())))
    }
}
