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
        use clickmill_model::records::Ranking;
        use clickmill_model::{Definition, FilterId, Minute, SpanKind, Timestamp, Window};
        use clickmill_store::{ClosedWrite, EachCount, RankedWrite};

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
            fn write_definition(&self, definition: &Definition) -> Result<()> {
                self.writer()?.write_definition(definition)
            }
            fn definitions(&self) -> Result<Vec<Definition>> {
                self.reader()?.definitions()
            }
            fn progress(&self) -> Result<StoreProgress> {
                self.reader()?.progress()
            }
            fn counts(&self, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
                self.reader()?.counts(ads, filter, range)
            }
            fn series(
                &self,
                ad: &str,
                filter: FilterId,
                range: MinuteRange,
                step: SpanKind,
            ) -> Result<Vec<(Minute, u64)>> {
                self.reader()?.series(ad, filter, range, step)
            }
            fn each_count(
                &self,
                kind: SpanKind,
                filter: FilterId,
                range: MinuteRange,
                visit: &mut EachCount<'_>,
            ) -> Result<()> {
                self.reader()?.each_count(kind, filter, range, visit)
            }
            fn rankings(&self, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<Option<Ranking>>> {
                self.reader()?.rankings(filter, which)
            }
            fn top(&self, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
                self.reader()?.top(filter, range, n)
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
