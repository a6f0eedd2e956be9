//! The definitions, as the store has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::{Definition, Filter, FilterId};
use clickmill_store::{AggregateStore, StoreError};
use parking_lot::Mutex;

/// How long definitions are believed without asking again.
const FRESH: Duration = Duration::from_secs(1);

/// Every definition there ever was.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// Oldest first.
    pub(crate) all: Vec<Definition>,
    /// Every filter there ever was, as the newest definition that has it calls it.
    pub(crate) filters: BTreeMap<FilterId, Filter>,
}

impl Definitions {
    fn new(all: Vec<Definition>) -> Self {
        let mut filters = BTreeMap::from([(FilterId::ALL, Filter::all())]);
        filters.extend(all.iter().flat_map(|d| &d.filters).map(|filter| (filter.id, filter.clone())));
        Self { all, filters }
    }

    /// The one in force.
    pub(crate) fn newest(&self) -> Option<&Definition> {
        self.all.last()
    }

    /// How many partitions must have told before a minute is complete. 0 where there is no definition yet: then nothing is.
    pub(crate) fn partitions(&self) -> u32 {
        self.newest().map_or(0, |definition| definition.partitions)
    }
}

/// Keeps the definitions for a second.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    read: Mutex<Option<(Instant, Arc<Definitions>)>>,
}

impl Catalog {
    /// The definitions, at most a second old.
    pub(crate) fn definitions(&self, store: &dyn AggregateStore) -> Result<Arc<Definitions>, StoreError> {
        let mut read = self.read.lock();
        if let Some((at, definitions)) = read.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(definitions));
        }
        let definitions = Arc::new(Definitions::new(store.definitions()?));
        *read = Some((Instant::now(), Arc::clone(&definitions)));
        Ok(definitions)
    }

    /// Those that were read last, however long ago, for when the store cannot be read. They still hold; there may only be newer ones.
    pub(crate) fn known(&self) -> Arc<Definitions> {
        self.read.lock().as_ref().map(|(_, definitions)| Arc::clone(definitions)).unwrap_or_default()
    }
}
