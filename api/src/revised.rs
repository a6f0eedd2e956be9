//! The recalculations that there are, and what readers see of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_store::{AggregateStore, RevisionRow, StoreError, View};
use parking_lot::Mutex;

/// How long rows are believed without asking again. A switch is seen so much later at most, by all requests that begin from then on.
const FRESH: Duration = Duration::from_secs(1);

/// The recalculations at one moment. A request takes one value, and reads all its figures by it.
#[derive(Debug, Default)]
pub(crate) struct Revised {
    /// Oldest first.
    pub(crate) rows: Vec<RevisionRow>,
    /// What is seen of them.
    pub(crate) view: View,
}

/// Keeps them for a second.
#[derive(Debug, Default)]
pub(crate) struct Revisions {
    read: Mutex<Option<(Instant, Arc<Revised>)>>,
}

impl Revisions {
    /// The recalculations, at most a second old.
    pub(crate) fn get(&self, store: &dyn AggregateStore) -> Result<Arc<Revised>, StoreError> {
        let mut read = self.read.lock();
        if let Some((at, revised)) = read.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(revised));
        }
        let rows = store.revisions()?;
        let revised = Arc::new(Revised { view: View::of_rows(&rows), rows });
        *read = Some((Instant::now(), Arc::clone(&revised)));
        Ok(revised)
    }

    /// Those that were read last, for when the store cannot be read.
    pub(crate) fn known(&self) -> Arc<Revised> {
        self.read.lock().as_ref().map(|(_, revised)| Arc::clone(revised)).unwrap_or_default()
    }
}
