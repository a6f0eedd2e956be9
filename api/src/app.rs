//! What the handlers share.

use std::sync::Arc;

use clickmill_model::Minute;
use clickmill_queue::{Clock, Queue};
use clickmill_store::{AggregateStore, StoreError};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::board::StageBoard;
use crate::catalog::{Catalog, Definitions};
use crate::gate::Gate;
use crate::http::limits::Limits;
use crate::http::problem::{Kind, Problem};
use crate::revised::{Revised, Revisions};
use crate::routes::status::StatusCache;

/// Where answers come from.
#[derive(Clone)]
pub struct Sources {
    /// Counts and rankings.
    pub store: Arc<dyn AggregateStore>,
    /// The queue, for the status and for lines that were set aside. `None` where this process cannot reach it.
    pub queue: Option<Arc<dyn Queue>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// This process's metrics, from [`install_metrics`](crate::install_metrics).
    pub metrics: PrometheusHandle,
    /// The stages of this process; empty where it has none.
    pub stages: Arc<StageBoard>,
}

/// What the handlers share.
pub(crate) struct App {
    pub(crate) sources: Sources,
    pub(crate) catalog: Catalog,
    pub(crate) revisions: Revisions,
    /// For reads that take well below a millisecond each.
    pub(crate) quick: Gate,
    /// For reads that keep a core busy for a while, so that they leave room for the quick ones.
    pub(crate) heavy: Gate,
    /// For reads of the queue: while it hangs, the store is still answered from.
    pub(crate) queue: Gate,
    pub(crate) status: StatusCache,
}

impl App {
    pub(crate) fn new(sources: Sources, limits: Limits) -> Self {
        let gate = |at_once| Gate::new(at_once, limits.waiting_reads, limits.patience);
        Self {
            sources,
            catalog: Catalog::default(),
            revisions: Revisions::default(),
            quick: gate(limits.quick_reads),
            heavy: gate(limits.heavy_reads),
            queue: gate(limits.queue_reads),
            status: StatusCache::default(),
        }
    }

    pub(crate) fn store(&self) -> &dyn AggregateStore {
        &*self.sources.store
    }

    pub(crate) fn definitions(&self) -> Result<Arc<Definitions>, StoreError> {
        self.catalog.definitions(self.store())
    }

    /// The recalculations: take them once for a request.
    pub(crate) fn revised(&self) -> Result<Arc<Revised>, StoreError> {
        self.revisions.get(self.store())
    }

    /// The definitions that were read last, for when the store cannot be read.
    pub(crate) fn known_definitions(&self) -> Arc<Definitions> {
        self.catalog.known()
    }

    pub(crate) fn now(&self) -> Minute {
        self.sources.clock.now().minute()
    }
}

/// What a client is told when the store could not answer; the reason goes to the log.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable { .. } => tracing::warn!(%error, "the store is not available"),
            StoreError::Broken(_) => tracing::error!(%error, "the store cannot be read"),
        }
        Self::saying(Kind::Unavailable, "The store cannot be read at the moment. Try again.")
    }
}
