//! What is to be counted, and when that can be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clickmill_db_writer::raw::Before;
use clickmill_db_writer::raw::import::{self, Entry};
use clickmill_model::records::FilterSpan;
use clickmill_model::{Definition, Minute, Offset, Partition, RawPartition, TimeSettings, Timestamp};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{TopicPartition, topology};
use clickmill_recalc::Plan;
use clickmill_store::{MinuteRange, Recalculation, View};

use crate::pipeline::Parts;
use crate::unwritten::has_lines;

/// Where a recalculation's row has the numbers of the imports that it counts, among the topics with their partitions: no topic has this name.
const IMPORTS: &str = "imports/";

/// How often it looks whether the span can be recalculated now.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What must be so before a span is recalculated.
pub(super) struct Waiting<'a> {
    pub(super) parts: &'a Parts,
    pub(super) span: Range<Minute>,
    pub(super) wait: bool,
    pub(super) stop: &'a AtomicBool,
}

impl Waiting<'_> {
    /// Refuses, or waits, while minutes of the span are open or lines that the mappers have counted are not in Parquet. Then says what is to be counted.
    pub(super) fn plan(&self) -> anyhow::Result<Plan> {
        let Some(definitions) = self.parts.definitions()? else { bail!("the pipeline has no definition yet") };
        let all = definitions.all().to_vec();
        let Some(newest) = definitions.newest() else { bail!("the pipeline has no definition yet") };
        self.until_closed(newest)?;
        // What was mapped by now holds every click that was counted in the span, since it is closed.
        let raw = RawTopics::load(&*self.parts.queue, &all)?;
        self.until_written(raw.mapped())?;
        let store = self.parts.store()?;
        let view = View::of_rows(&store.revisions().context("reading the revisions")?);
        let progress = store.progress().context("reading how far the store is complete")?;
        let published = Plan::published_in(&progress, &view);
        let (pins, ends) = (pins(self.parts, &raw)?, ends(self.parts, &raw)?);
        let (imports, unfinished): (Vec<Entry>, Vec<Entry>) = import::imports(&*self.parts.files()?)?
            .into_iter()
            .filter(|entry| !entry.is_dropped())
            .partition(|entry| entry.brought().is_some());
        for Entry { import, .. } in unfinished {
            tracing::warn!(import = import.number, "an import has not come to its end: its lines are not counted");
        }
        Ok(Plan { published, pins, ends, imports, ..Plan::new(self.span.clone(), &all) })
    }

    fn until_closed(&self, newest: &Definition) -> anyhow::Result<()> {
        self.until("closing the span's last minute", || {
            let store = self.parts.store()?;
            let progress = store.progress().context("reading how far the store is complete")?;
            let Some(complete) = progress.complete_until(newest.partitions) else {
                return Ok(Some("no minute is closed yet: the pipeline has not counted anything".to_owned()));
            };
            if complete >= self.span.end {
                return Ok(None);
            }
            let TimeSettings { max_disorder, source_timeout, .. } = newest.time;
            Ok(Some(format!(
                "the minutes from {complete} on are still open: the last one of the span closes when every source has passed its end by {max_disorder:?}, \
                 at {} at the earliest ({source_timeout:?} later where a source is silent)",
                self.span.end.start().after(max_disorder)
            )))
        })
    }

    /// Waits until the writer of raw lines has passed what the mappers have.
    fn until_written(&self, mapped: &BTreeMap<RawPartition, Offset>) -> anyhow::Result<()> {
        self.until("writing the raw lines", || {
            for (raw, end) in mapped {
                let of = TopicPartition { topic: raw.topic.clone(), partition: raw.partition };
                if self.parts.queue.partitions(&raw.topic)?.is_none() {
                    continue;
                }
                let written = self.parts.queue.committed(topology::RAW_WRITER, &raw.topic)?;
                let written = written.into_iter().find(|(partition, _)| *partition == raw.partition);
                let written = match written {
                    Some((_, committed)) => committed.offset,
                    None => self.parts.queue.range(&of)?.start,
                };
                if has_lines(&*self.parts.queue, &of, written..*end)? {
                    return Ok(Some(format!(
                        "not all raw lines are in Parquet yet: {raw} is counted up to offset {end}, and written up to {written}"
                    )));
                }
            }
            Ok(None)
        })
    }

    /// Looks until nothing is in the way any more, or says what is.
    fn until(&self, what: &str, mut in_the_way: impl FnMut() -> anyhow::Result<Option<String>>) -> anyhow::Result<()> {
        let mut told = false;
        while let Some(why) = in_the_way()? {
            if !self.wait {
                bail!("{why}; give --wait to wait for it");
            }
            if self.stop.load(Ordering::Relaxed) {
                bail!("stopped while waiting: {why}");
            }
            if !told {
                tracing::info!(why, "waits for {what}");
                told = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// Lines from these records on are not counted: what the raw writer has committed by now, and of inputs that are none any more, what the mappers had read. Of a partition without either, nothing is.
fn pins(parts: &Parts, raw: &RawTopics) -> anyhow::Result<BTreeMap<RawPartition, Offset>> {
    let mut pins = BTreeMap::new();
    let topics = raw.of_mapper();
    for topic in &topics {
        for partition in 0..parts.queue.partitions(topic)?.unwrap_or(0) {
            pins.insert(RawPartition::new(topic, Partition(partition)), Offset(0));
        }
    }
    pins.extend(raw.mapped().clone());
    for topic in &topics {
        for (partition, committed) in parts.queue.committed(topology::RAW_WRITER, topic)? {
            pins.insert(RawPartition::new(topic, partition), committed.offset);
        }
    }
    Ok(pins)
}

/// Where the last file of each raw partition ended.
fn ends(parts: &Parts, raw: &RawTopics) -> anyhow::Result<BTreeMap<RawPartition, Before>> {
    let mut ends = BTreeMap::new();
    let topics: BTreeSet<&str> = raw.mapped().keys().map(|raw| &*raw.topic).collect();
    for topic in topics {
        for (partition, committed) in parts.queue.committed(topology::RAW_WRITER, topic)? {
            ends.insert(RawPartition::new(topic, partition), Before::committed(&committed.metadata));
        }
    }
    Ok(ends)
}

/// What a recalculation counts that was begun before: by its own pins and definition, whatever came meanwhile.
pub(super) fn of_begun(parts: &Parts, begun: &Recalculation) -> anyhow::Result<Plan> {
    let Some(definitions) = parts.definitions()? else { bail!("the pipeline has no definition") };
    let raw = RawTopics::load(&*parts.queue, definitions.all())?;
    let known = definitions.all().iter().filter(|definition| definition.version <= begun.definition);
    let known: Vec<Definition> = known.cloned().collect();
    if known.last().is_none_or(|newest| newest.version != begun.definition) {
        bail!("the pipeline's definition {} is not there, by which it was counted", begun.definition);
    }
    let MinuteRange { from, to } = begun.holds.range;
    let published = begun.holds.filters.iter().map(|(filter, held)| FilterSpan {
        filter: *filter,
        from: held.from,
        until: Some(held.to),
    });
    // What came to be since then has no line of it.
    let mut pins: BTreeMap<RawPartition, Offset> = pins(parts, &raw)?.into_keys().map(|raw| (raw, Offset(0))).collect();
    for (topic, partitions) in begun.pins.iter().filter(|(topic, _)| *topic != IMPORTS) {
        pins.extend(partitions.iter().map(|(partition, offset)| (RawPartition::new(topic, *partition), *offset)));
    }
    let counted = begun.pins.get(IMPORTS);
    let mut imports = import::imports(&*parts.files()?)?;
    imports.retain(|entry| counted.is_some_and(|counted| counted.contains_key(&Partition(entry.import.number))));
    if imports.len() != counted.map_or(0, BTreeMap::len) || imports.iter().any(|entry| entry.brought().is_none()) {
        bail!(
            "the list of imports lacks one whose lines were counted: restore what stood in {}/",
            import::IMPORTS_FOLDER
        );
    }
    Ok(Plan { published: published.collect(), pins, ends: ends(parts, &raw)?, imports, ..Plan::new(from..to, &known) })
}

/// What is noted of a plan when it begins.
pub(super) fn to_begin(plan: &Plan, began_by: String, began_at: Timestamp) -> Recalculation {
    let newest = plan.newest();
    let mut pins: BTreeMap<String, BTreeMap<Partition, Offset>> = BTreeMap::new();
    for (raw, offset) in &plan.pins {
        pins.entry(raw.topic.to_string()).or_default().insert(raw.partition, *offset);
    }
    for Entry { import, .. } in &plan.imports {
        pins.entry(IMPORTS.to_owned()).or_default().insert(Partition(import.number), Offset(0));
    }
    Recalculation {
        holds: plan.holds(),
        definition: newest.version,
        partitions: newest.partitions,
        pins,
        began_by,
        process: std::process::id(),
        began_at,
    }
}
