//! Which raw partitions a pipeline counts, as its definitions add and retire input topics.
//!
//! The rules, by which every stage comes to the same answer from what the raw partitions announced:
//! - a new input is waited for from the first minute on that was open at the slowest of the old partitions when that one announced the definition. No minute from there
//!   on can have been closed without the new input, since the slowest one had not passed it without saying so; every minute before was passed by all without it;
//! - where that minute lies is known once all old partitions have announced the definition. Until then no minute is closed that could lie behind it;
//! - a partition that is retired announces the definition when it has been read to its end. From then on nobody waits for it: all that it will ever count is counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{CodecError, Reader, Writer};
use crate::definition::{Definition, DefinitionVersion};
use crate::ids::{Partition, RawPartition};
use crate::records::MapperCheckpoint;
use crate::time::Minute;

/// A definition that a raw partition has put in force, as it tells everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announced {
    /// Which one.
    pub version: DefinitionVersion,
    /// The first minute that is counted by it.
    pub from: Minute,
    /// The first minute that was open in the partition when it put the definition in force; at most `from`.
    pub open_from: Minute,
}

impl Announced {
    /// In force from a minute before which nothing was open.
    pub fn new(version: DefinitionVersion, from: Minute) -> Self {
        Self { version, from, open_from: from }
    }

    /// Writes a list of them: its length, then for each its version and the two minutes (zigzag).
    pub(crate) fn write(all: &[Self], out: &mut Writer) {
        out.uint(all.len() as u64);
        for Self { version, from, open_from } in all {
            out.uint((*version).into());
            out.int(from.as_epoch());
            out.int(open_from.as_epoch());
        }
    }

    /// Reads a list of them. Format 1 of the records that hold such lists had one minute.
    pub(crate) fn read(input: &mut Reader<'_>, format: u8) -> Result<Vec<Self>, CodecError> {
        let count = input.count(2)?;
        let mut one = || {
            let (version, from) = (input.u32()?, Minute::from_epoch(input.int()?));
            let open_from = if format == 1 { from } else { Minute::from_epoch(input.int()?) };
            Ok(Self { version, from, open_from })
        };
        (0..count).map(|_| one()).collect()
    }
}

impl Definition {
    /// The partitions of its input topics.
    pub fn raw_partitions(&self) -> impl Iterator<Item = RawPartition> + '_ {
        let of = |topic: &str, n| (0..n).map(|p| RawPartition::new(topic, Partition(p))).collect::<Vec<_>>();
        self.inputs.iter().flat_map(move |input| of(&input.topic, input.partitions))
    }

    /// True where clicks of this raw partition are counted.
    pub fn has_input(&self, raw: &RawPartition) -> bool {
        self.inputs.iter().any(|input| *input.topic == *raw.topic && raw.partition.0 < input.partitions)
    }

    /// True where both have the same input topics, in whatever order.
    pub fn has_inputs_of(&self, other: &Self) -> bool {
        self.inputs.iter().collect::<BTreeSet<_>>() == other.inputs.iter().collect::<BTreeSet<_>>()
    }
}

fn of_version(definitions: &[Definition], version: DefinitionVersion) -> Option<&Definition> {
    definitions.iter().find(|definition| definition.version == version)
}

/// True while a raw partition that announced this goes on counting. One that announced a definition without it was read to its end: what it counted is final.
pub fn goes_on(definitions: &[Definition], raw: &RawPartition, announced: &[Announced]) -> bool {
    let last = announced.last().and_then(|last| of_version(definitions, last.version));
    last.is_none_or(|definition| definition.has_input(raw))
}

/// The raw partitions that take part under the inputs of definition `since`, each with what it told if it did: those that the definition names, and any other one that
/// goes on counting by what it announced, since it is ahead of the others.
pub fn taking_part<'a, T: AsRef<[Announced]>>(
    definitions: &[Definition],
    since: DefinitionVersion,
    told: &'a BTreeMap<RawPartition, T>,
) -> BTreeMap<RawPartition, Option<&'a T>> {
    let named = of_version(definitions, since).into_iter().flat_map(Definition::raw_partitions);
    let others = told.iter().filter(|(raw, told)| goes_on(definitions, raw, told.as_ref())).map(|(raw, _)| raw.clone());
    named.chain(others).map(|raw| (raw.clone(), told.get(&raw))).collect()
}

/// A definition whose inputs are others than those in force.
#[derive(Debug, Clone, Copy)]
pub struct InputChange<'a> {
    /// Which one.
    pub definition: &'a Definition,
    /// Minutes from this one on wait for its inputs, or may have to. `None` while nobody has announced it.
    pub from: Option<Minute>,
    /// True once every partition has announced it: `from` is final.
    pub agreed: bool,
}

/// The first definition after `since` that has other inputs, and what the raw partitions have announced of it.
pub fn next_change<'a, T: AsRef<[Announced]>>(
    definitions: &'a [Definition],
    since: DefinitionVersion,
    told: &BTreeMap<RawPartition, T>,
) -> Option<InputChange<'a>> {
    let old = of_version(definitions, since)?;
    let definition = definitions.iter().find(|d| d.version > since && !d.has_inputs_of(old))?;
    let announced = |told: &T| told.as_ref().iter().find(|a| a.version >= definition.version).map(|a| a.open_from);
    let all: Vec<Option<Minute>> =
        taking_part(definitions, since, told).into_values().map(|told| told.and_then(announced)).collect();
    let agreed = all.iter().all(Option::is_some);
    Some(InputChange { definition, from: all.into_iter().flatten().min(), agreed })
}

/// Which raw partitions are to be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadInputs {
    /// The definition whose inputs they are: every partition that was read before has announced it.
    pub since: DefinitionVersion,
    /// All of them, those too that are still being read to their end.
    pub partitions: BTreeSet<RawPartition>,
    /// The new ones, each with the first minute in which its clicks count.
    pub first_minutes: BTreeMap<RawPartition, Minute>,
}

impl ReadInputs {
    /// By all definitions that there are, oldest first, and by what was committed for each raw partition.
    pub fn new(definitions: &[Definition], committed: &BTreeMap<RawPartition, MapperCheckpoint>) -> Self {
        // What was agreed on long ago need not be proved again: the offsets of retired topics may have expired since.
        let knows = |raw: &RawPartition, version| committed.get(raw).is_some_and(|c| c.inputs_since >= version);
        let settled = definitions.iter().rev().find(|d| d.raw_partitions().all(|raw| knows(&raw, d.version)));
        let mut since = settled.or(definitions.first()).map_or(0, |definition| definition.version);
        let mut first_minutes = BTreeMap::new();
        while let Some(InputChange { definition, from: Some(from), agreed: true }) =
            next_change(definitions, since, committed)
        {
            let old = taking_part(definitions, since, committed);
            let new = definition.raw_partitions().filter(|raw| !old.contains_key(raw));
            first_minutes.extend(new.map(|raw| (raw, from)));
            since = definition.version;
        }
        let partitions = taking_part(definitions, since, committed).into_keys().collect();
        Self { since, partitions, first_minutes }
    }

    /// The topics that they are of, each once.
    pub fn topics(&self) -> BTreeSet<&str> {
        self.partitions.iter().map(|raw| &*raw.topic).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::InputTopic;

    /// Definitions from version 1 on, each with these topics of one partition.
    fn definitions(inputs: &[&[&str]]) -> Vec<Definition> {
        let one = |(i, topics): (usize, &&[&str])| Definition {
            version: i as DefinitionVersion + 1,
            inputs: topics.iter().map(|t| InputTopic { topic: (*t).into(), partitions: 1 }).collect(),
            ..Definition::default()
        };
        inputs.iter().enumerate().map(one).collect()
    }

    fn raw(topic: &str) -> RawPartition {
        RawPartition::new(topic, Partition(0))
    }

    fn minute(n: i64) -> Minute {
        Minute::from_epoch(n)
    }

    /// What partitions have announced: topic, and version with the first open minute of each.
    type Told<'a> = &'a [(&'a str, &'a [(DefinitionVersion, i64)])];

    fn committed(told: Told<'_>, inputs_since: DefinitionVersion) -> BTreeMap<RawPartition, MapperCheckpoint> {
        let one = |(topic, announced): &(&str, &[(DefinitionVersion, i64)])| {
            let announced = announced.iter().map(|(version, open_from)| Announced {
                version: *version,
                from: minute(open_from + 1),
                open_from: minute(*open_from),
            });
            let checkpoint = MapperCheckpoint { definitions: announced.collect(), inputs_since, ..empty() };
            (raw(topic), MapperCheckpoint::decode(&checkpoint.encode()).unwrap())
        };
        told.iter().map(one).collect()
    }

    fn empty() -> MapperCheckpoint {
        MapperCheckpoint {
            watermark: crate::Watermark::NONE,
            has_live_source: false,
            replay_from: crate::Offset(0),
            highest_counted: None,
            last_heard: None,
            definitions: Vec::new(),
            books: crate::records::Books::default(),
            inputs_since: 0,
            clock_bounds: Vec::new(),
        }
    }

    #[test]
    fn a_new_input_is_read_once_all_old_ones_have_announced_it() {
        let adds = definitions(&[&["a", "b"], &["a", "b", "c"]]);
        let check = |told: Told<'_>, topics: &[&str], first: Option<i64>| {
            let read = ReadInputs::new(&adds, &committed(told, 0));
            assert_eq!(read.topics().into_iter().collect::<Vec<_>>(), topics, "{told:?}");
            assert_eq!(read.first_minutes.get(&raw("c")).copied(), first.map(minute), "{told:?}");
        };
        check(&[], &["a", "b"], None);
        check(&[("a", &[(1, 0), (2, 9)])], &["a", "b"], None);
        check(&[("a", &[(1, 0), (2, 9)]), ("b", &[(1, 0)])], &["a", "b"], None);
        check(&[("a", &[(1, 0), (2, 9)]), ("b", &[(1, 0), (2, 5)])], &["a", "b", "c"], Some(5));
        check(&[("a", &[(2, 9)]), ("b", &[(3, 12)])], &["a", "b", "c"], Some(9));
    }

    #[test]
    fn changes_follow_each_other_as_they_are_agreed_on() {
        let moves = definitions(&[&["a"], &["a", "b"], &["a", "b"], &["b"]]);
        let check = |told: Told<'_>, since: DefinitionVersion, topics: &[&str], first: &[(&str, i64)]| {
            let read = ReadInputs::new(&moves, &committed(told, 0));
            let firsts: Vec<(&str, i64)> = read.first_minutes.iter().map(|(r, m)| (&*r.topic, m.as_epoch())).collect();
            assert_eq!(
                (read.since, read.topics().into_iter().collect(), firsts),
                (since, topics.to_vec(), first.to_vec())
            );
        };
        check(&[("a", &[(1, 0)])], 1, &["a"], &[]);
        check(&[("a", &[(1, 0), (2, 7)])], 2, &["a", "b"], &[("b", 7)]);
        // The version between has the same inputs; whoever has announced a later one has announced all before.
        check(&[("a", &[(1, 0), (4, 9)])], 2, &["a", "b"], &[("b", 9)]);
        check(&[("a", &[(4, 9)]), ("b", &[(3, 9)])], 2, &["a", "b"], &[]);
        check(&[("a", &[(4, 9)]), ("b", &[(4, 9)])], 4, &["b"], &[]);
    }

    #[test]
    fn what_was_agreed_on_is_known_although_the_offsets_of_a_retired_topic_are_gone() {
        let moved = definitions(&[&["a"], &["b"]]);
        let read = |since| ReadInputs::new(&moved, &committed(&[("b", &[(2, 7)])], since));
        assert_eq!((read(2).since, read(2).topics().into_iter().collect::<Vec<_>>()), (2, vec!["b"]));
        assert_eq!(read(1).since, 1);
    }

    #[test]
    fn no_minute_is_closed_that_may_wait_for_a_new_input() {
        let adds = definitions(&[&["a", "b"], &["a", "b", "c"]]);
        let check = |told: Told<'_>, from: Option<i64>, agreed: bool| {
            let told: BTreeMap<_, _> = committed(told, 0);
            let change = next_change(&adds, 1, &told).unwrap();
            assert_eq!((change.from, change.agreed), (from.map(minute), agreed), "{told:?}");
        };
        check(&[], None, false);
        check(&[("a", &[(1, 0), (2, 9)])], Some(9), false);
        check(&[("a", &[(1, 0), (2, 9)]), ("b", &[(1, 0), (2, 5)])], Some(5), true);
        // The new one starts at the first minute or behind it, and changes nothing.
        check(&[("a", &[(1, 0), (2, 9)]), ("b", &[(1, 0), (2, 5)]), ("c", &[(2, 5)])], Some(5), true);
        assert!(next_change(&adds, 2, &committed(&[], 0)).is_none());
    }
}
