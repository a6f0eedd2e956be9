//! Which filters are published in a minute, and which windows are in force: what every raw partition agrees on.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::FilterSpan;
use clickmill_model::{Announced, Definition, DefinitionVersion, FilterId, Minute, RawPartition};

use crate::aggregator::Raw;

/// The definition that a raw partition counts a minute by. `None` where it was no input then.
fn version_at(announced: &[Announced], minute: Minute) -> Option<DefinitionVersion> {
    announced.iter().rev().find(|announced| announced.from <= minute).map(|announced| announced.version)
}

/// The definitions, and from when to when each filter was published.
#[derive(Debug, Default)]
pub(crate) struct Published {
    definitions: Vec<Definition>,
    spans: Vec<FilterSpan>,
    begun: bool,
}

impl Published {
    pub(crate) fn new(definitions: &[Definition]) -> Self {
        Self { definitions: definitions.to_vec(), ..Self::default() }
    }

    pub(crate) fn learn(&mut self, definition: &Definition) {
        if self.definitions.iter().all(|d| d.version != definition.version) {
            self.definitions.push(definition.clone());
        }
    }

    pub(crate) fn knows(&self, version: DefinitionVersion) -> bool {
        self.definitions.iter().any(|d| d.version == version)
    }

    pub(crate) fn restore(&mut self, spans: &[FilterSpan]) {
        self.spans = spans.to_vec();
        self.begun = true;
    }

    pub(crate) fn spans(&self) -> &[FilterSpan] {
        &self.spans
    }

    fn definition(&self, version: DefinitionVersion) -> Option<&Definition> {
        self.definitions.iter().find(|d| d.version == version)
    }

    pub(crate) fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The definitions that this minute is counted by, oldest first. A raw partition that is no input by its own definition of that minute has no say.
    fn all_at(&self, minute: Minute, raws: &BTreeMap<RawPartition, Raw>) -> impl Iterator<Item = &Definition> {
        let of = |(raw, state): (&RawPartition, &Raw)| {
            let definition = self.definition(version_at(&state.definitions, minute)?)?;
            definition.has_input(raw).then_some(definition.version)
        };
        let versions: BTreeSet<DefinitionVersion> = raws.iter().filter_map(of).collect();
        versions.into_iter().filter_map(|version| self.definition(version))
    }

    /// The definition whose windows and `n` hold at this minute: the oldest that a raw partition counts it by.
    pub(crate) fn in_force(&self, minute: Minute, raws: &BTreeMap<RawPartition, Raw>) -> Option<&Definition> {
        self.all_at(minute, raws).next()
    }

    /// The filters that every raw partition counted in this minute, by rising id.
    pub(crate) fn filters(&self, minute: Minute, raws: &BTreeMap<RawPartition, Raw>) -> Vec<FilterId> {
        let mut definitions = self.all_at(minute, raws);
        let Some(first) = definitions.next() else { return Vec::new() };
        let mut filters: Vec<FilterId> = first.filters.iter().map(|f| f.id).collect();
        for definition in definitions {
            filters.retain(|id| definition.filter(*id).is_some());
        }
        filters.sort_unstable();
        filters
    }

    /// The minutes from `from` to `until` (exclusive) are being closed: filters begin and end where the raw partitions' definitions change.
    pub(crate) fn close(&mut self, from: Minute, until: Minute, raws: &BTreeMap<RawPartition, Raw>) {
        let mut changes: Vec<Minute> = raws
            .values()
            .flat_map(|raw| raw.definitions.iter().map(|announced| announced.from))
            .filter(|at| *at > from && *at < until)
            .chain([from])
            .collect();
        changes.sort_unstable();
        changes.dedup();
        for minute in changes {
            let filters = self.filters(minute, raws);
            let begin = if self.begun { minute } else { Minute::MIN };
            self.begun = true;
            for span in self.spans.iter_mut().filter(|span| span.until.is_none() && !filters.contains(&span.filter)) {
                span.until = Some(minute);
            }
            for filter in filters {
                match self.spans.iter_mut().find(|span| span.filter == filter) {
                    Some(span) if span.until.is_none() => {}
                    Some(span) => *span = FilterSpan { filter, from: begin, until: None },
                    None => self.spans.push(FilterSpan { filter, from: begin, until: None }),
                }
            }
        }
    }

    /// True where the filter was published in every minute from `first` to `last`.
    pub(crate) fn covers(&self, filter: FilterId, first: Minute, last: Minute) -> bool {
        self.spans
            .iter()
            .any(|span| span.filter == filter && span.from <= first && span.until.is_none_or(|until| last < until))
    }
}
