//! What is to be counted, and by which filters each minute.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use clickmill_db_writer::raw::Before;
use clickmill_db_writer::raw::import::Entry;
use clickmill_model::records::FilterSpan;
use clickmill_model::{
    Announced, Definition, DefinitionVersion, FilterId, FilterSet, InputTopic, Minute, Offset, RawPartition,
};
use clickmill_store::{Holds, MinuteRange, StoreProgress, View};

use crate::RecalcError;

/// What is to be counted.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The minutes `[start, end)`.
    pub minutes: Range<Minute>,
    /// All definitions that there ever were, oldest first, at least one. The newest one's filters, windows, `n` and removal of duplicates hold for the whole span: when an older one's windows held
    /// is not recorded anywhere. Its bound on clocks holds for lines that were not counted when they were written; those that were are not judged again.
    pub definitions: Vec<Definition>,
    /// From when to when each filter was published ([`Plan::published_in`]), each once: those in force at the time are counted besides the newest ones.
    pub published: Vec<FilterSpan>,
    /// Lines of these partitions at or behind these offsets are left out, so that the same plan gives the same figures whatever is written meanwhile. Of a topic that was made anew, those of the
    /// newest one. Partitions that are not named are read as they are.
    pub pins: BTreeMap<RawPartition, Offset>,
    /// Where the last file of each partition ended, as its writer committed ([`Before::committed`]), so that it is missed where it is gone.
    pub ends: BTreeMap<RawPartition, Before>,
    /// The imports whose lines count: done ones. Those of others are passed over.
    pub imports: Vec<Entry>,
    /// How many rows are taken through at once, about.
    pub slice_rows: u64,
    /// How many raw partitions are read at once; at least one.
    pub threads: usize,
    /// Whether it goes on without files that are damaged or missing. What the span needs of each file is read once more for it, before anything is told.
    pub skip_damaged: bool,
}

/// [`Plan::slice_rows`], unless asked otherwise.
const SLICE_ROWS: u64 = 4 << 20;

impl Plan {
    /// These minutes by the newest of these definitions, of which there must be one.
    pub fn new(minutes: Range<Minute>, definitions: &[Definition]) -> Self {
        Self {
            minutes,
            definitions: definitions.to_vec(),
            published: Vec::new(),
            pins: BTreeMap::new(),
            ends: BTreeMap::new(),
            imports: Vec::new(),
            slice_rows: SLICE_ROWS,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            skip_damaged: false,
        }
    }

    /// The most that a click was ever allowed to be ahead of its arrival.
    pub(crate) fn widest_skew(&self) -> Duration {
        self.definitions.iter().map(|definition| definition.time.max_clock_skew).max().unwrap_or_default()
    }

    /// False for a line of an import that does not count.
    pub(crate) fn counts(&self, line: Offset) -> bool {
        line.import().is_none_or(|number| self.imports.iter().any(|entry| entry.import.number == number))
    }

    /// What a recalculation of this holds: the newest filters in the whole span, others in which they were published.
    pub fn holds(&self) -> Holds {
        let Range { start: from, end: to } = self.minutes;
        let newest = self.newest();
        let published = self.published.iter().map(|span| {
            let (from, to) = (span.from.max(from), span.until.map_or(to, |until| until.min(to)));
            (span.filter, MinuteRange { from, to })
        });
        let mut filters: BTreeMap<FilterId, MinuteRange> = published.filter(|(_, held)| held.from < held.to).collect();
        filters.extend(newest.filters.iter().map(|filter| (filter.id, MinuteRange { from, to })));
        Holds { range: MinuteRange { from, to }, filters, windows: newest.windows.into_iter().collect() }
    }

    /// From when to when each filter of what readers see is published, by the stream and by recalculations: one span each, from the first minute to the last. Minutes between are counted too.
    pub fn published_in(progress: &StoreProgress, view: &View) -> Vec<FilterSpan> {
        let mut spans: BTreeMap<FilterId, FilterSpan> =
            progress.filters.iter().map(|span| (span.filter, *span)).collect();
        for filter in view.filters() {
            for held in view.held(filter) {
                let span = spans.entry(filter).or_insert(FilterSpan { filter, from: held.from, until: Some(held.to) });
                span.from = span.from.min(held.from);
                span.until = span.until.map(|until| until.max(held.to));
            }
        }
        spans.into_values().collect()
    }

    /// The definition that the span is counted by. (A plan without any counts by the default one.)
    pub fn newest(&self) -> Definition {
        self.definitions.iter().max_by_key(|definition| definition.version).cloned().unwrap_or_default()
    }

    /// By which definition each minute is counted, the first one from [`Minute::MIN`] on: the newest one with the filters that were published besides. Their versions are 1, 2 and so on; their one input stands for
    /// all raw partitions.
    pub(crate) fn eras(&self) -> Result<Vec<(Minute, Definition)>, RecalcError> {
        let newest = self.newest();
        let old: Vec<&FilterSpan> = self.published.iter().filter(|span| newest.filter(span.filter).is_none()).collect();
        let inside = |minute: &Minute| *minute > self.minutes.start && *minute < self.minutes.end;
        let changes: BTreeSet<Minute> =
            old.iter().flat_map(|span| [Some(span.from), span.until]).flatten().filter(inside).collect();
        let mut eras: Vec<(Minute, Definition)> = Vec::new();
        for start in [self.minutes.start].into_iter().chain(changes) {
            let mut filters = newest.filters.clone();
            let in_force = |span: &&&FilterSpan| span.from <= start && span.until.is_none_or(|until| start < until);
            for span in old.iter().filter(in_force) {
                filters.push(self.filter(span.filter)?.clone());
            }
            filters.sort_by_key(|filter| filter.id);
            if filters.len() > FilterSet::MOST {
                return Err(RecalcError::TooManyFilters(filters.len()));
            }
            let from = if eras.is_empty() { Minute::MIN } else { start };
            let version = eras.len() as DefinitionVersion + 1;
            let inputs = vec![input()];
            eras.push((from, Definition { version, filters, inputs, sources: BTreeSet::new(), ..newest.clone() }));
        }
        Ok(eras)
    }

    fn filter(&self, id: FilterId) -> Result<&clickmill_model::Filter, RecalcError> {
        let known = self.definitions.iter().find_map(|definition| definition.filter(id));
        known.ok_or(RecalcError::UnknownFilter(id))
    }
}

/// What stands for all raw partitions behind the mappers: nothing there depends on which one a count came from.
fn input() -> InputTopic {
    InputTopic { topic: "raw".to_owned(), partitions: 1 }
}

/// The one partition of that input.
pub(crate) fn stand_in() -> RawPartition {
    RawPartition::new(&input().topic, clickmill_model::Partition(0))
}

/// The definitions of [`Plan::eras`] as a mapper announces them.
pub(crate) fn announced(eras: &[(Minute, Definition)]) -> Vec<Announced> {
    eras.iter().map(|(from, definition)| Announced::new(definition.version, *from)).collect()
}

#[cfg(test)]
mod tests {
    use clickmill_model::Filter;

    use super::*;

    fn filter(id: u16) -> Filter {
        Filter { id: FilterId(id), country: vec![format!("country {id}")], ..Filter::default() }
    }

    fn definition(version: DefinitionVersion, ids: &[u16]) -> Definition {
        let filters = [Filter::all()].into_iter().chain(ids.iter().map(|id| filter(*id))).collect();
        Definition { version, filters, ..Definition::default() }
    }

    fn minute(n: i64) -> Minute {
        Minute::from_epoch(n)
    }

    #[test]
    fn filters_of_the_time_are_counted_besides_the_newest() {
        let span = |filter, from: Minute, until: Option<i64>| FilterSpan {
            filter: FilterId(filter),
            from,
            until: until.map(minute),
        };
        let plan = Plan {
            published: vec![
                span(0, Minute::MIN, None),
                span(1, Minute::MIN, Some(105)),
                span(2, minute(103), Some(200)),
                span(3, minute(110), None),
                span(4, Minute::MIN, Some(50)),
            ],
            ..Plan::new(
                minute(100)..minute(120),
                &[definition(1, &[1, 4]), definition(2, &[1, 2]), definition(3, &[3])],
            )
        };
        let eras: Vec<(Minute, Vec<u16>)> = plan
            .eras()
            .unwrap()
            .into_iter()
            .map(|(from, definition)| (from, definition.filters.iter().map(|f| f.id.0).collect()))
            .collect();
        // Filter 3 is new: it counts from the span's beginning.
        let expected = [(Minute::MIN, vec![0, 1, 3]), (minute(103), vec![0, 1, 2, 3]), (minute(105), vec![0, 2, 3])];
        assert_eq!(eras, expected);
        let held = |from, to| MinuteRange { from: minute(from), to: minute(to) };
        let expected = [(0, held(100, 120)), (1, held(100, 105)), (2, held(103, 120)), (3, held(100, 120))];
        let expected = expected.map(|(filter, range)| (FilterId(filter), range)).into();
        assert_eq!((plan.holds().filters, plan.holds().range), (expected, held(100, 120)));
        let missing = Plan { published: vec![span(9, Minute::MIN, None)], ..plan };
        assert!(matches!(missing.eras(), Err(RecalcError::UnknownFilter(FilterId(9)))));
    }
}
