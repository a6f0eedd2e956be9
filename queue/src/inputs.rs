//! Which raw topics a stage reads: what the definitions say, as far as the mappers have followed.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::MapperCheckpoint;
use clickmill_model::{Definition, Offset, RawPartition, ReadInputs};

use crate::topology::{MAPPER, RAW_WRITER};
use crate::types::{Queue, QueueError, Result};

/// The raw topics of a pipeline.
#[derive(Debug)]
pub struct RawTopics {
    /// Those that the mappers read.
    pub read: ReadInputs,
    /// What the mappers have committed, for every topic that ever was an input.
    pub committed: BTreeMap<RawPartition, MapperCheckpoint>,
    offsets: BTreeMap<RawPartition, Offset>,
}

impl RawTopics {
    /// By all definitions that there are, oldest first.
    pub fn load(queue: &dyn Queue, definitions: &[Definition]) -> Result<Self> {
        let mut committed = BTreeMap::new();
        let mut offsets = BTreeMap::new();
        for topic in every_topic(queue, definitions)? {
            for (partition, at) in queue.committed(MAPPER, topic)? {
                let raw = RawPartition::new(topic, partition);
                let checkpoint = MapperCheckpoint::decode(&at.metadata)
                    .map_err(|error| QueueError::Broken(format!("what the mapper committed for {raw}: {error}")))?;
                committed.insert(raw.clone(), checkpoint);
                offsets.insert(raw, at.offset);
            }
        }
        Ok(Self { read: ReadInputs::new(definitions, &committed), committed, offsets })
    }

    /// The next record that the mappers will read of each raw partition, of those too that are no input any more.
    pub fn mapped(&self) -> &BTreeMap<RawPartition, Offset> {
        &self.offsets
    }

    /// The topics that the mappers read.
    pub fn of_mapper(&self) -> BTreeSet<String> {
        self.read.topics().into_iter().map(str::to_owned).collect()
    }

    /// True once the mappers read just the topics of the newest definition: no change of inputs is being followed.
    pub fn are_those_of(&self, newest: &Definition) -> bool {
        self.read.topics() == newest.inputs.iter().map(|input| input.topic.as_str()).collect()
    }

    /// The topics that the writer of raw lines reads: those of the mappers, and retired ones as far as the mappers had read them.
    pub fn of_raw_writer(&self, queue: &dyn Queue) -> Result<BTreeSet<String>> {
        let mut topics = self.of_mapper();
        let retired: BTreeSet<&str> =
            self.offsets.keys().map(|raw| &*raw.topic).filter(|topic| !topics.contains(*topic)).collect();
        let mut behind = Vec::new();
        for topic in retired {
            let written: BTreeMap<_, _> = queue.committed(RAW_WRITER, topic)?.into_iter().collect();
            let mapped = self.offsets.iter().filter(|(raw, _)| &*raw.topic == topic);
            let is_behind = |(raw, mapped): (&RawPartition, &Offset)| {
                written.get(&raw.partition).map_or(Offset(0), |written| written.offset) < *mapped
            };
            if mapped.into_iter().any(is_behind) {
                behind.push(topic.to_owned());
            }
        }
        topics.extend(behind);
        Ok(topics)
    }
}

/// Every topic that ever was an input and is still there.
fn every_topic<'a>(queue: &dyn Queue, definitions: &'a [Definition]) -> Result<BTreeSet<&'a str>> {
    let mut topics = BTreeSet::new();
    for input in definitions.iter().flat_map(|definition| &definition.inputs) {
        if !topics.contains(input.topic.as_str()) && queue.partitions(&input.topic)?.is_some() {
            topics.insert(input.topic.as_str());
        }
    }
    Ok(topics)
}
