//! `clickmill written`: how far raw and late lines are in Parquet. For `clickmill-reconcile`, which knows no queue.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use clickmill_db_writer::raw::Before;
use clickmill_model::records::LATE_CLICKS;
use clickmill_model::{Offset, Partition, RawPartition};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{Committed, Queue, TopicPartition, topology};
use serde_json::{Value, json};

use crate::config::Config;
use crate::pipeline::{Access, Parts};
use crate::unwritten::has_lines;
use crate::up;

/// How often it looks whether the writers have come as far as the mappers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the mappers had told when it was noted: every line of it must be in a file.
struct Told {
    /// The next record of each raw partition.
    counted: BTreeMap<RawPartition, Offset>,
    /// The end of each partition of `late-clicks`.
    late: Vec<(TopicPartition, Offset)>,
}

/// Prints as JSON how far the writers are, and which of them is behind what the mappers had told when this began. Waits until none is, if asked.
#[allow(clippy::print_stdout)]
pub(crate) fn run(config: &Config, wait: bool) -> anyhow::Result<()> {
    let stop = up::signals()?;
    let parts = Parts::open(config, Access::Read)?;
    let queue = &*parts.queue;
    let Some(definitions) = parts.definitions()? else { bail!("the pipeline has no definition yet") };
    // Figures that are stored by now were counted before the mappers committed this.
    let counted = RawTopics::load(queue, definitions.all())?.mapped().clone();
    let told = Told { counted, late: late_ends(queue)? };
    let mut answer = told.answer(queue)?;
    while wait && answer["behind"] == json!(true) {
        if stop.load(Ordering::Relaxed) {
            bail!("stopped while waiting for the writers of raw and late lines");
        }
        std::thread::sleep(LOOK_EVERY);
        answer = told.answer(queue)?;
    }
    println!("{answer}");
    Ok(())
}

fn late_ends(queue: &dyn Queue) -> anyhow::Result<Vec<(TopicPartition, Offset)>> {
    let mut ends = Vec::new();
    for partition in 0..queue.partitions(LATE_CLICKS)?.unwrap_or(0) {
        let of = TopicPartition::new(LATE_CLICKS, partition);
        let end = queue.range(&of)?.end;
        ends.push((of, end));
    }
    Ok(ends)
}

impl Told {
    fn answer(&self, queue: &dyn Queue) -> anyhow::Result<Value> {
        let mut raw = Vec::new();
        let mut is_behind = false;
        for (partition, counted) in &self.counted {
            let of = TopicPartition { topic: partition.topic.clone(), partition: partition.partition };
            let committed = committed_by(topology::RAW_WRITER, queue, &of)?;
            let is_there = queue.partitions(&partition.topic)?.is_some();
            let behind = is_there && has_lines_behind(queue, committed.as_ref(), &of, *counted)?;
            is_behind |= behind;
            let last = match committed.as_ref().map(|committed| Before::committed(&committed.metadata)) {
                Some(Before::File { last_offset, last_arrival }) => {
                    json!({ "offset": last_offset, "arrival_micros": last_arrival.as_micros() })
                }
                Some(Before::Nothing | Before::Unknown) | None => Value::Null,
            };
            let next = committed.map_or(*counted, |committed| committed.offset);
            raw.push(json!({
                "topic": partition.topic, "partition": partition.partition,
                "counted": counted, "next": next, "last": last, "behind": behind,
            }));
        }
        let mut late = Vec::new();
        for (of, end) in &self.late {
            let committed = committed_by(topology::LATE_WRITER, queue, of)?;
            let behind = has_lines_behind(queue, committed.as_ref(), of, *end)?;
            is_behind |= behind;
            late.push(json!({ "partition": of.partition, "end": end, "behind": behind }));
        }
        Ok(json!({ "behind": is_behind, "raw": raw, "late": late }))
    }
}

fn committed_by(group: &str, queue: &dyn Queue, of: &TopicPartition) -> anyhow::Result<Option<Committed>> {
    let committed: BTreeMap<Partition, Committed> = queue.committed(group, &of.topic)?.into_iter().collect();
    Ok(committed.get(&of.partition).cloned())
}

/// True where a record before `end` that a writer has not passed holds a line.
fn has_lines_behind(
    queue: &dyn Queue,
    committed: Option<&Committed>,
    of: &TopicPartition,
    end: Offset,
) -> anyhow::Result<bool> {
    let next = match committed {
        Some(committed) => committed.offset,
        None => queue.range(of)?.start,
    };
    has_lines(queue, of, next..end)
}
