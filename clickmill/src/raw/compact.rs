//! `clickmill raw compact`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, bail};
use clickmill_db_writer::late::LATE_FOLDER;
use clickmill_db_writer::raw::{RAW_FOLDER, compact, spans};
use clickmill_model::records::LATE_CLICKS;
use clickmill_model::{Offset, RawPartition};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::topology::{LATE_WRITER, RAW_WRITER};

use crate::config::Config;
use crate::pipeline::{Access, Parts};
use crate::up;

/// What the writers have committed: the lines before that are settled.
struct Committed {
    offsets: BTreeMap<RawPartition, Offset>,
}

impl Committed {
    fn load(parts: &Parts) -> anyhow::Result<Self> {
        let Some(definitions) = parts.definitions()? else { bail!("the pipeline has no definition yet") };
        let queue = &*parts.queue;
        let topics = RawTopics::load(queue, definitions.all())?.of_raw_writer(queue)?;
        let raw = topics.iter().map(|topic| (RAW_WRITER, topic.as_str()));
        let mut offsets = BTreeMap::new();
        for (group, topic) in raw.chain([(LATE_WRITER, LATE_CLICKS)]) {
            // A partition without an offset has nothing that is settled.
            for partition in 0..queue.partitions(topic)?.unwrap_or(0) {
                offsets.insert(RawPartition::new(topic, clickmill_model::Partition(partition)), Offset(0));
            }
            for (partition, at) in queue.committed(group, topic)? {
                offsets.insert(RawPartition::new(topic, partition), at.offset);
            }
        }
        Ok(Self { offsets })
    }
}

impl compact::Settled for Committed {
    fn before(&self, raw: &RawPartition) -> Option<Offset> {
        // Nobody writes any more what was read from a topic that is no input now.
        self.offsets.get(raw).copied()
    }
}

/// `clickmill raw compact`.
#[allow(clippy::print_stdout)]
pub(crate) fn compact(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let stop = up::signals()?;
    let parts = Parts::open(config, Access::Read)?;
    let files = parts.files()?;
    let mut out = std::io::stdout().lock();
    for folder in [RAW_FOLDER, LATE_FOLDER] {
        // Before the files: what is committed then is in one of them.
        let committed = Committed::load(&parts)?;
        let work = compact::plan(&spans(&files, folder)?, &committed);
        let mut lines = Vec::new();
        for covered in &work.covered {
            lines.push(format!("{}: its lines are in {}", files.shown(&covered.path), files.shown(&covered.by)));
        }
        for group in &work.groups {
            let mib = group.bytes as f64 / f64::from(1 << 20);
            lines.push(format!("{}: {} files, {mib:.1} MiB", files.shown(&group.path()), group.parts.len()));
        }
        for line in &lines {
            writeln!(out, "{line}").context("writing to stdout")?;
        }
        if dry_run {
            let merged: usize = work.groups.iter().map(|group| group.parts.len()).sum();
            let (groups, covered) = (work.groups.len(), work.covered.len());
            writeln!(out, "{folder}: {merged} files would become {groups}, and {covered} that others hold would go")
                .context("writing to stdout")?;
            continue;
        }
        let done = compact::compact(&files, &work, &stop, |what| tracing::info!("{what}"))
            .with_context(|| format!("merging the files in {}", files.shown(folder)))?;
        writeln!(out, "{folder}: {} files written, {} deleted", done.written, done.deleted)
            .context("writing to stdout")?;
    }
    Ok(())
}
