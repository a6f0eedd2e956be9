//! The store's trait and the values that go through it.

use std::collections::BTreeMap;

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, SpanKind, Timestamp, Window};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Began, Recalculation, RevisionRow, RevisionState, StoredRanking, Switch, View};

/// Everything that one aggregator partition told up to a minute.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedWrite {
    /// Which calculation.
    pub revision: Revision,
    /// The aggregator partition. Each ad belongs to one of them for good.
    pub partition: Partition,
    /// The counts of closed minutes, hours and days, with the arrival of the oldest click in each (for retention). A span is whole: it may come in several parts, all of them in this write.
    /// An hour or a day with clicks is told when it is over, with every filter that is published in its last minute, as a minute is: readers may take the absence of an ad in it for a zero.
    pub counts: Vec<(Columns, Option<Timestamp>)>,
    /// The first minute that is not closed.
    pub until: Minute,
    /// From when to when each filter is published.
    pub filters: Vec<FilterSpan>,
}

/// Everything that one reducer partition told up to a minute.
#[derive(Debug, Clone, PartialEq)]
pub struct RankedWrite {
    /// Which calculation.
    pub revision: Revision,
    /// The reducer partition.
    pub partition: Partition,
    /// The rankings, with the arrival of the oldest click (for retention).
    pub rankings: Vec<(Ranking, Option<Timestamp>)>,
    /// The first minute whose rankings are not out.
    pub until: Minute,
}

/// How far the store is complete. Read it before the figures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreProgress {
    /// The first minute that is not closed, by aggregator partition.
    pub counts: BTreeMap<Partition, Minute>,
    /// The first minute whose rankings are not out, by reducer partition.
    pub rankings: BTreeMap<Partition, Minute>,
    /// From when to when each filter is published: the latest start and the earliest end that any aggregator partition told.
    pub filters: Vec<FilterSpan>,
    /// Counts and rankings before this minute may have been deleted, as may any that arrived long ago. `None`: nothing was deleted.
    pub counts_from: Option<Minute>,
    /// The same for rankings.
    pub rankings_from: Option<Minute>,
}

impl StoreProgress {
    /// The first minute whose counts are not complete, where `partitions` aggregator partitions must have told. `None` where one has not told anything.
    pub fn counts_until(&self, partitions: u32) -> Option<Minute> {
        until(&self.counts, partitions)
    }

    /// The same for rankings.
    pub fn rankings_until(&self, partitions: u32) -> Option<Minute> {
        until(&self.rankings, partitions)
    }

    /// The first minute of which counts or rankings are not complete.
    pub fn complete_until(&self, partitions: u32) -> Option<Minute> {
        self.counts_until(partitions).min(self.rankings_until(partitions))
    }
}

fn until(progress: &BTreeMap<Partition, Minute>, partitions: u32) -> Option<Minute> {
    (0..partitions).map(|p| progress.get(&Partition(p)).copied()).min().flatten()
}

/// A range of minutes `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinuteRange {
    /// The first minute.
    pub from: Minute,
    /// The first minute that is no longer in it.
    pub to: Minute,
}

/// Ads with their clicks, most clicked first, ties by `ad_id` (bytewise).
pub type TopAds = Vec<(String, u64)>;

/// What [`AggregateStore::each_count`] calls: a span's first minute, an ad, its clicks.
pub type EachCount<'a> = dyn FnMut(Minute, &[u8], u64) + 'a;

/// Why the store did not do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A passing fault: try again.
    #[error("{what}: {why}")]
    Unavailable {
        /// What was being done.
        what: String,
        /// What came back.
        why: String,
    },
    /// What is stored is not what it should be, or was written by a newer clickmill.
    #[error("{0}")]
    Broken(String),
}

/// Store results.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The counts and rankings that queries are answered from. Reads of figures are of those that a [`View`] shows: take one before, and give it to all reads that shall agree.
pub trait AggregateStore: Send + Sync {
    /// Writes the counts, then notes the progress; both at once where the store can.
    fn write_closed(&self, write: &ClosedWrite) -> Result<()>;

    /// Writes the rankings, then notes the progress.
    fn write_ranked(&self, write: &RankedWrite) -> Result<()>;

    /// Notes what the last reconciliation came to, in place of the one before.
    fn write_verdict(&self, verdict: &crate::Verdict) -> Result<()>;

    /// What the last reconciliation came to.
    fn last_verdict(&self) -> Result<Option<crate::Verdict>>;

    /// Copies a definition here, where readers find it. The same version again changes nothing.
    fn write_definition(&self, definition: &Definition) -> Result<()>;

    /// Every definition, oldest first.
    fn definitions(&self) -> Result<Vec<Definition>>;

    /// How far the stream's figures are complete.
    fn progress(&self) -> Result<StoreProgress> {
        self.progress_of(Revision::STREAM)
    }

    /// How far the figures of a revision are stored.
    fn progress_of(&self, revision: Revision) -> Result<StoreProgress>;

    /// Every recalculation, oldest first.
    fn revisions(&self) -> Result<Vec<RevisionRow>>;

    /// Gives a recalculation the next number, unless a pending one holds minutes of it.
    fn begin_revision(&self, new: &Recalculation) -> Result<Began>;

    /// Changes the state of a recalculation, where it is one that the switch leads on from. Returns the state that it had before; `None` where there is no such recalculation.
    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>>;

    /// Clicks of each of these ads in a range of at most a year and a day; 0 for an ad that has none.
    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>>;

    /// Clicks of an ad for each span of this kind that the range touches, oldest first; only minutes inside the range count.
    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>>;

    /// Hands each stored count of a filter to `visit`, with the span's first minute and the ad: of the spans of this kind that begin in the range, in no order. An ad without clicks in a span may be left out. What is
    /// written meanwhile may be seen or not. The totals of an hour or a day whose minutes come from several revisions are nobody's ([`View::has_total`]), and left out.
    ///
    /// A store in which the ads of a minute stand apart from each other reads whole days for it, however short the range: ask for long ones.
    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()>;

    /// The stored rankings that end at these minutes.
    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>>;

    /// The `n` most clicked ads of a range, by merging its counts. `None` where the store cannot do that for a range so long.
    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>>;

    /// Deletes figures whose newest click arrived before these times, of every revision. Returns how many stored things went. A store whose figures go by themselves, at a time that was fixed when they were written, has
    /// nothing to do here; it tells by [`StoreProgress::counts_from`] and [`StoreProgress::rankings_from`] what may be gone, before it goes.
    fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64>;
}
