//! The suite, on each implementation.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod memory {
    use clickmill_store::MemoryStore;
    use clickmill_store::conformance::Store;

    fn with_memory(case: fn(&Store)) {
        case(&Store::new(MemoryStore::new()));
    }

    clickmill_store::conformance_suite!(with_memory);
}

mod embedded {
    use clickmill_store::conformance::Store;
    use clickmill_store::embedded::{EmbeddedStore, Options};
    use clickmill_store::{AggregateStore, MinuteRange, Result, StoreProgress, TopAds};

    fn with_embedded(case: fn(&Store)) {
        let dir = tempfile::tempdir().unwrap();
        case(&Store::new(EmbeddedStore::open(dir.path(), Options::default()).unwrap()));
    }

    clickmill_store::conformance_suite!(with_embedded);

    /// The same, with each read and each write in a process that has just begun, and reads in one that was opened for reading only.
    mod anew {
        use clickmill_model::{Definition, FilterId, Minute, Revision, SpanKind, Timestamp, Window};
        use clickmill_store::{
            Began, ClosedWrite, EachCount, RankedWrite, Recalculation, RevisionRow, RevisionState, StoredRanking,
            Switch, View,
        };

        use super::*;

        struct Anew(tempfile::TempDir);

        impl Anew {
            fn writer(&self) -> Result<EmbeddedStore> {
                EmbeddedStore::open(self.0.path(), Options::default())
            }

            fn reader(&self) -> Result<EmbeddedStore> {
                EmbeddedStore::open_read_only(self.0.path(), Options::default())
            }
        }

        impl AggregateStore for Anew {
            fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
                self.writer()?.write_closed(write)
            }
            fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
                self.writer()?.write_ranked(write)
            }
            fn write_verdict(&self, verdict: &clickmill_store::Verdict) -> Result<()> {
                self.writer()?.write_verdict(verdict)
            }
            fn last_verdict(&self) -> Result<Option<clickmill_store::Verdict>> {
                self.reader()?.last_verdict()
            }
            fn write_definition(&self, definition: &Definition) -> Result<()> {
                self.writer()?.write_definition(definition)
            }
            fn definitions(&self) -> Result<Vec<Definition>> {
                self.reader()?.definitions()
            }
            fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
                self.reader()?.progress_of(revision)
            }
            fn revisions(&self) -> Result<Vec<RevisionRow>> {
                self.reader()?.revisions()
            }
            fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
                self.writer()?.begin_revision(new)
            }
            fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
                self.writer()?.switch_revision(revision, switch)
            }
            fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
                self.reader()?.counts(view, ads, filter, range)
            }
            fn series(
                &self,
                view: &View,
                ad: &str,
                filter: FilterId,
                range: MinuteRange,
                step: SpanKind,
            ) -> Result<Vec<(Minute, u64)>> {
                self.reader()?.series(view, ad, filter, range, step)
            }
            fn each_count(
                &self,
                view: &View,
                kind: SpanKind,
                filter: FilterId,
                range: MinuteRange,
                visit: &mut EachCount<'_>,
            ) -> Result<()> {
                self.reader()?.each_count(view, kind, filter, range, visit)
            }
            fn rankings(
                &self,
                view: &View,
                filter: FilterId,
                which: &[(Window, Minute)],
            ) -> Result<Vec<StoredRanking>> {
                self.reader()?.rankings(view, filter, which)
            }
            fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
                self.reader()?.top(view, filter, range, n)
            }
            fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64> {
                self.writer()?.expire(counts_before, rankings_before)
            }
        }

        fn with_anew(case: fn(&Store)) {
            case(&Store::new(Anew(tempfile::tempdir().unwrap())));
        }

        clickmill_store::conformance_suite!(with_anew);
    }
}
