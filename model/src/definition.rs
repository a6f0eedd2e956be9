//! The pipeline's definition: every setting that decides a figure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::filter::{Filter, FilterSet};
use crate::ids::FilterId;
use crate::records::OWN_TOPICS;
use crate::window::Window;

/// The number of a definition, from 1.
pub type DefinitionVersion = u32;

/// A topic that raw clicks come in through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InputTopic {
    /// Its name.
    pub topic: String,
    /// How many partitions it has, for good.
    pub partitions: u32,
}

/// What chooses the partition of a click.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionBy {
    /// A hash of the click's identity.
    Identity,
    /// The ad, as Kafka's clients do it.
    AdId,
}

/// The bounds on clocks and disorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeSettings {
    /// How far out of order the lines of one source may be.
    pub max_disorder: Duration,
    /// A click further ahead of its arrival than this comes from a wrong clock.
    pub max_clock_skew: Duration,
    /// A source silent for so long is no longer waited for.
    pub source_timeout: Duration,
}

impl Default for TimeSettings {
    fn default() -> Self {
        Self {
            max_disorder: Duration::from_secs(30),
            max_clock_skew: Duration::from_secs(300),
            source_timeout: Duration::from_secs(120),
        }
    }
}

/// Every setting that decides a figure. Kept in the queue's topic `pipeline`, one version after the other, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// From 1, one higher each time.
    pub version: DefinitionVersion,
    /// The filters counted, filter 0 first, by rising id.
    pub filters: Vec<Filter>,
    /// The configured windows, rising.
    pub windows: Vec<Window>,
    /// How many ads the rankings answer with unless asked otherwise.
    pub n: u32,
    /// Where raw clicks come in.
    pub inputs: Vec<InputTopic>,
    /// The partitions of `click-partials`, `top-candidates` and `click-results`, for good.
    pub partitions: u32,
    /// Clocks and disorder.
    pub time: TimeSettings,
    /// Whether a click told twice counts once.
    pub dedup: bool,
    /// What chooses the partition of a click, for good.
    pub partition_by: PartitionBy,
    /// Sources that must have been heard before the first minute closes.
    pub sources: BTreeSet<String>,
}

/// Why a definition cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DefinitionError {
    /// Two filters with one id.
    #[error("filter id {0} is there twice: give each filter an id of its own")]
    DuplicateFilter(FilterId),
    /// Filter 0 with a predicate.
    #[error("filter 0 is always there and matches every click: give this filter another id")]
    FilterZero,
    /// More filters than fit.
    #[error("{0} filters: at most {most} fit, filter 0 among them", most = FilterSet::MOST)]
    TooManyFilters(usize),
    /// A filter that matches everything.
    #[error("filter {0} has no condition: give it a country, exclude_country, ip or user_id")]
    EmptyFilter(FilterId),
    /// A window that cannot be.
    #[error("a window of {0} minutes: windows are 1 to {longest} minutes", longest = Window::LONGEST.0)]
    BadWindow(u32),
    /// Too many windows.
    #[error("{0} windows: at most 16 fit")]
    TooManyWindows(usize),
    /// `n` that cannot be.
    #[error("top.n is {0}: it may be 1 to 1000")]
    BadN(u32),
    /// A disorder that would make every click ahead of its arrival a wrong clock.
    #[error("time.max_disorder ({0:?}) is above time.max_clock_skew ({1:?}): raise the second or lower the first")]
    DisorderAboveSkew(Duration, Duration),
    /// A timeout below what heartbeats need.
    #[error("time.source_timeout is {0:?}: it must be at least 5s, since sources speak once a second")]
    TimeoutTooShort(Duration),
    /// No input.
    #[error("input.topics is empty: name at least one topic")]
    NoInput,
    /// An input twice.
    #[error("input.topics names {0} twice: name each topic once")]
    DuplicateInput(String),
    /// A topic of the pipeline's own as input.
    #[error("input.topics names {0}, which the pipeline itself writes: choose a topic for raw clicks alone")]
    OwnTopic(String),
    /// An id that once meant something else.
    #[error(
        "filter {0} meant something else in definition {1}: a filter id means one predicate for good, choose a new id"
    )]
    FilterChanged(FilterId, DefinitionVersion),
    /// A topic that is no input any more.
    #[error(
        "input topic {0} was retired after definition {1}, and nobody reads what came to it since: choose a new topic"
    )]
    Retired(String, DefinitionVersion),
    /// Something that is fixed when the topics are made.
    #[error("{0} cannot change once the pipeline has run: {1} now, {2} proposed")]
    Fixed(&'static str, String, String),
}

impl Definition {
    /// The longest rankings that are kept, in ads: deep enough that merging them is exact for the usual skew.
    pub fn depth(&self) -> usize {
        (self.n as usize * 2).max(self.n as usize + 100)
    }

    /// The filter with this id.
    pub fn filter(&self, id: FilterId) -> Option<&Filter> {
        self.filters.iter().find(|f| f.id == id)
    }

    /// Refuses what cannot be, whatever ran before.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let mut ids = BTreeSet::new();
        for filter in &self.filters {
            if !ids.insert(filter.id) {
                return Err(DefinitionError::DuplicateFilter(filter.id));
            }
            let is_all = filter.has_predicate_of(&Filter::all());
            if filter.id == FilterId::ALL && !is_all {
                return Err(DefinitionError::FilterZero);
            }
            if filter.id != FilterId::ALL && is_all {
                return Err(DefinitionError::EmptyFilter(filter.id));
            }
        }
        if self.filters.len() > FilterSet::MOST {
            return Err(DefinitionError::TooManyFilters(self.filters.len()));
        }
        if let Some(bad) = self.windows.iter().find(|w| w.0 == 0 || **w > Window::LONGEST) {
            return Err(DefinitionError::BadWindow(bad.0));
        }
        if self.windows.len() > 16 {
            return Err(DefinitionError::TooManyWindows(self.windows.len()));
        }
        if !(1..=1000).contains(&self.n) {
            return Err(DefinitionError::BadN(self.n));
        }
        let TimeSettings { max_disorder, max_clock_skew, source_timeout } = self.time;
        if max_disorder > max_clock_skew {
            return Err(DefinitionError::DisorderAboveSkew(max_disorder, max_clock_skew));
        }
        if source_timeout < Duration::from_secs(5) {
            return Err(DefinitionError::TimeoutTooShort(source_timeout));
        }
        if self.inputs.is_empty() {
            return Err(DefinitionError::NoInput);
        }
        let mut topics = BTreeSet::new();
        for InputTopic { topic, .. } in &self.inputs {
            if OWN_TOPICS.contains(&topic.as_str()) {
                return Err(DefinitionError::OwnTopic(topic.clone()));
            }
            if !topics.insert(topic) {
                return Err(DefinitionError::DuplicateInput(topic.clone()));
            }
        }
        Ok(())
    }

    /// Decides what becomes of a proposal after `history` (oldest first, the last one in force): `None` where it says the same as
    /// the one in force, the next version where it may follow, or why it may not.
    pub fn following(&self, history: &[Self]) -> Result<Option<Self>, DefinitionError> {
        self.check()?;
        for before in history {
            for filter in &self.filters {
                if before.filter(filter.id).is_some_and(|old| !old.has_predicate_of(filter)) {
                    return Err(DefinitionError::FilterChanged(filter.id, before.version));
                }
            }
            for input in &self.inputs {
                if let Some(old) =
                    before.inputs.iter().find(|old| old.topic == input.topic && old.partitions != input.partitions)
                {
                    return Err(fixed("the number of partitions of an input topic", old.partitions, input.partitions));
                }
            }
        }
        let Some(last) = history.last() else { return Ok(Some(Self { version: 1, ..self.clone() })) };
        if last.partitions != self.partitions {
            return Err(fixed("queue.partitions", last.partitions, self.partitions));
        }
        if last.partition_by != self.partition_by {
            let name = |by| match by {
                PartitionBy::Identity => "identity",
                PartitionBy::AdId => "ad_id",
            };
            return Err(fixed("input.partition_by", name(last.partition_by), name(self.partition_by)));
        }
        let reads = |definition: &Self, topic: &str| definition.inputs.iter().any(|input| input.topic == topic);
        for InputTopic { topic, .. } in self.inputs.iter().filter(|input| !reads(last, &input.topic)) {
            if let Some(before) = history.iter().rev().find(|before| reads(before, topic)) {
                return Err(DefinitionError::Retired(topic.clone(), before.version));
            }
        }
        let mut next = Self { version: last.version, ..self.clone() };
        if next.has_inputs_of(last) {
            // Their order means nothing.
            next.inputs.clone_from(&last.inputs);
        }
        if next == *last { Ok(None) } else { Ok(Some(Self { version: last.version + 1, ..next })) }
    }
}

fn fixed(what: &'static str, now: impl std::fmt::Display, proposed: impl std::fmt::Display) -> DefinitionError {
    DefinitionError::Fixed(what, now.to_string(), proposed.to_string())
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            version: 1,
            filters: vec![Filter::all()],
            windows: vec![Window(1), Window(5), Window(60)],
            n: 100,
            inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 4 }],
            partitions: 4,
            time: TimeSettings::default(),
            dedup: true,
            partition_by: PartitionBy::Identity,
            sources: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usa(id: u16) -> Filter {
        Filter { id: FilterId(id), name: "USA".into(), country: vec!["USA".into()], ..Filter::default() }
    }

    fn with(filters: Vec<Filter>) -> Definition {
        Definition { filters: [vec![Filter::all()], filters].concat(), ..Definition::default() }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let check = |definition: Definition, error: DefinitionError| assert_eq!(definition.check(), Err(error));
        check(with(vec![usa(1), usa(1)]), DefinitionError::DuplicateFilter(FilterId(1)));
        check(with(vec![Filter { country: vec![], ..usa(1) }]), DefinitionError::EmptyFilter(FilterId(1)));
        check(Definition { filters: vec![usa(0)], ..Definition::default() }, DefinitionError::FilterZero);
        check(Definition { windows: vec![Window(0)], ..Definition::default() }, DefinitionError::BadWindow(0));
        check(Definition { n: 0, ..Definition::default() }, DefinitionError::BadN(0));
        let time = TimeSettings { max_disorder: Duration::from_secs(301), ..TimeSettings::default() };
        check(
            Definition { time, ..Definition::default() },
            DefinitionError::DisorderAboveSkew(Duration::from_secs(301), Duration::from_secs(300)),
        );
        assert_eq!(with(vec![usa(1)]).check(), Ok(()));
    }

    #[test]
    fn a_proposal_follows_or_is_refused() {
        let first = with(vec![usa(1)]).following(&[]).unwrap().unwrap();
        assert_eq!(first.version, 1);
        assert_eq!(first.following(std::slice::from_ref(&first)), Ok(None));
        let second = with(vec![]).following(std::slice::from_ref(&first)).unwrap().unwrap();
        assert_eq!(second.version, 2);
        let history = [first, second];
        let back = with(vec![usa(1)]).following(&history).unwrap().unwrap();
        assert_eq!(back.version, 3, "the same predicate may come back");
        let other = Filter { country: vec!["France".into()], ..usa(1) };
        assert_eq!(with(vec![other]).following(&history), Err(DefinitionError::FilterChanged(FilterId(1), 1)));
        let wider = Definition { partitions: 8, ..with(vec![]) };
        assert!(matches!(wider.following(&history), Err(DefinitionError::Fixed("queue.partitions", ..))));
    }

    fn reading(topics: &[(&str, u32)]) -> Definition {
        let inputs = topics.iter().map(|(topic, n)| InputTopic { topic: (*topic).into(), partitions: *n }).collect();
        Definition { inputs, ..Definition::default() }
    }

    #[test]
    fn inputs_may_come_and_go_once() {
        let mut history = vec![reading(&[("a", 4)])];
        let mut check = |topics: &[(&str, u32)], version: Option<DefinitionVersion>| {
            let next = reading(topics).following(&history).unwrap();
            assert_eq!(next.as_ref().map(|d| d.version), version, "{topics:?}");
            history.extend(next);
        };
        check(&[("a", 4), ("b", 2)], Some(2));
        check(&[("b", 2), ("a", 4)], None);
        check(&[("b", 2)], Some(3));
        check(&[("c", 4), ("b", 2)], Some(4));
        let refused = |topics: &[(&str, u32)]| reading(topics).following(&history).unwrap_err();
        assert_eq!(refused(&[("a", 4), ("b", 2)]), DefinitionError::Retired("a".into(), 2));
        assert!(matches!(refused(&[("b", 3)]), DefinitionError::Fixed(..)));
        assert_eq!(refused(&[]), DefinitionError::NoInput);
        assert_eq!(refused(&[("a", 4), ("a", 4)]), DefinitionError::DuplicateInput("a".into()));
        assert_eq!(refused(&[("click-results", 4)]), DefinitionError::OwnTopic("click-results".into()));
    }
}
