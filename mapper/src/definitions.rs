//! Which definition each minute of a raw partition follows.

use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Announced, Definition, DefinitionVersion, FilterSet, Minute};

/// A definition in force from a minute on.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    announced: Announced,
    /// The filters that its minutes count.
    pub(crate) filters: Arc<FilterSet>,
    /// Whether its minutes count a click once, however often it is told.
    pub(crate) dedup: bool,
    /// How far ahead of its arrival a click may be; for batch work, which does not know by what each record was judged.
    pub(crate) max_clock_skew: Duration,
}

impl InForce {
    fn new(definition: &Definition, from: Minute, open_from: Minute) -> Self {
        let filters = Arc::new(FilterSet::new(&definition.filters));
        let announced = Announced { version: definition.version, from, open_from };
        Self { announced, filters, dedup: definition.dedup, max_clock_skew: definition.time.max_clock_skew }
    }
}

/// The definitions that still matter, oldest first.
#[derive(Debug)]
pub(crate) struct Definitions {
    first: InForce,
    later: Vec<InForce>,
}

impl Definitions {
    /// This one alone.
    pub(crate) fn new(definition: &Definition, from: Minute, open_from: Minute) -> Self {
        Self { first: InForce::new(definition, from, open_from), later: Vec::new() }
    }

    /// Adds a newer one, in force from this minute on, when this one was the first that was open.
    pub(crate) fn put_in_force(&mut self, definition: &Definition, from: Minute, open_from: Minute) {
        self.later.push(InForce::new(definition, from, open_from));
    }

    /// The version of the newest one.
    pub(crate) fn newest(&self) -> DefinitionVersion {
        self.later.last().unwrap_or(&self.first).announced.version
    }

    /// The one that this minute follows.
    pub(crate) fn of(&self, minute: Minute) -> &InForce {
        self.later.iter().rev().find(|d| d.announced.from <= minute).unwrap_or(&self.first)
    }

    /// Forgets those that no minute from this one on follows.
    pub(crate) fn forget_before(&mut self, open_from: Minute) {
        if let Some(needed) = self.later.iter().rposition(|d| d.announced.from <= open_from) {
            self.first = self.later[needed].clone();
            self.later.drain(..=needed);
        }
    }

    /// As they are announced; rising.
    pub(crate) fn announced(&self) -> Vec<Announced> {
        std::iter::once(&self.first).chain(&self.later).map(|d| d.announced).collect()
    }
}
