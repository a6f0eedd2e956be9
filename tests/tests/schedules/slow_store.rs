//! The way to a store that cannot fence: a write may arrive long after its writer was given up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clickmill_model::{Definition, FilterId, Minute, Revision, Span, SpanKind, Timestamp, Window};
use clickmill_store::memory::MemoryStore;
use clickmill_store::{
    AggregateStore, Began, ClosedWrite, EachCount, MinuteRange, RankedWrite, Recalculation, Result, RevisionRow,
    RevisionState, StoreError, StoreProgress, StoredRanking, Switch, TopAds, View,
};
use parking_lot::Mutex;

/// Totals of hours and days, as they were told.
pub(crate) type Totals = BTreeMap<(Span, FilterId), BTreeMap<String, u64>>;

#[derive(Debug)]
enum Write {
    Closed(ClosedWrite),
    Ranked(RankedWrite),
}

/// A store in memory, whose writes may be under way for as long as a test likes.
#[derive(Debug, Default)]
pub(crate) struct SlowStore {
    pub(crate) store: Arc<MemoryStore>,
    holds_next: AtomicBool,
    under_way: Mutex<VecDeque<Write>>,
    totals: Mutex<Totals>,
}

impl SlowStore {
    /// The next write is under way until it is delivered; its writer hears that the store is away.
    pub(crate) fn hold_next_write(&self) {
        self.holds_next.store(true, Ordering::Relaxed);
    }

    pub(crate) fn forget_faults(&self) {
        self.holds_next.store(false, Ordering::Relaxed);
    }

    /// The oldest write that is under way arrives. False where there is none.
    pub(crate) fn deliver(&self) -> bool {
        let Some(write) = self.under_way.lock().pop_front() else { return false };
        self.arrive(&write).unwrap();
        true
    }

    /// What was told of whole hours and days.
    pub(crate) fn totals(&self) -> Totals {
        self.totals.lock().clone()
    }

    fn send(&self, write: Write) -> Result<()> {
        if self.holds_next.swap(false, Ordering::Relaxed) {
            self.under_way.lock().push_back(write);
            return Err(StoreError::Unavailable { what: "writing".into(), why: "as the test wished".into() });
        }
        self.arrive(&write)
    }

    fn arrive(&self, write: &Write) -> Result<()> {
        match write {
            Write::Closed(write) => {
                self.store.write_closed(write)?;
                let mut totals = self.totals.lock();
                for (columns, _) in write.counts.iter().filter(|(columns, _)| columns.span.kind != SpanKind::Minute) {
                    for (filter, counts) in columns.filters.iter().zip(&columns.counts) {
                        let of_filter = totals.entry((columns.span, *filter)).or_default();
                        for (ad, count) in columns.ads.iter().zip(counts).filter(|(_, count)| **count > 0) {
                            // Absolute: a write that comes again changes nothing.
                            of_filter.insert(String::from_utf8(ad.to_vec()).unwrap(), *count);
                        }
                    }
                }
                Ok(())
            }
            Write::Ranked(write) => self.store.write_ranked(write),
        }
    }
}

impl AggregateStore for SlowStore {
    fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        self.send(Write::Closed(write.clone()))
    }

    fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        self.send(Write::Ranked(write.clone()))
    }

    fn write_verdict(&self, verdict: &clickmill_store::Verdict) -> Result<()> {
        self.store.write_verdict(verdict)
    }

    fn last_verdict(&self) -> Result<Option<clickmill_store::Verdict>> {
        self.store.last_verdict()
    }

    fn write_definition(&self, definition: &Definition) -> Result<()> {
        self.store.write_definition(definition)
    }

    fn definitions(&self) -> Result<Vec<Definition>> {
        self.store.definitions()
    }

    fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
        self.store.progress_of(revision)
    }
    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        self.store.revisions()
    }
    fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        self.store.begin_revision(new)
    }
    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        self.store.switch_revision(revision, switch)
    }

    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        self.store.counts(view, ads, filter, range)
    }

    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        self.store.series(view, ad, filter, range, step)
    }

    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        self.store.each_count(view, kind, filter, range, visit)
    }

    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        self.store.rankings(view, filter, which)
    }

    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
        self.store.top(view, filter, range, n)
    }

    fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64> {
        self.store.expire(counts_before, rankings_before)
    }
}
