//! `clickmill raw import`.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clickmill_db_writer::raw::Rolling;
use clickmill_db_writer::raw::import::{self, Brought, Entry, Fate, ImportError, Progress, Request};
use clickmill_model::Definition;
use clickmill_queue::inputs::RawTopics;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::Misused;
use crate::cli::Import;
use crate::config::Config;
use crate::pipeline::{Access, Parts};
use crate::up;

/// How often a log says how far it has come, where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// `clickmill raw import`.
#[allow(clippy::print_stdout)]
pub(crate) fn import(config: &Config, asked: &Import) -> anyhow::Result<()> {
    let stop = up::signals()?;
    let parts = Parts::open(config, Access::Read)?;
    let files = parts.files()?;
    let mut out = std::io::stdout().lock();
    if asked.list {
        for Entry { import, end } in import::imports(&files)? {
            let end = end.map_or(json!("unfinished"), |end| json!(end));
            writeln!(out, "{}", json!({ "import": import, "end": end })).context("writing to stdout")?;
        }
        return Ok(());
    }
    if let Some(number) = asked.drop {
        let deleted = import::drop_import(&files, number).map_err(explain)?;
        writeln!(out, "import {number} is given up: {deleted} files deleted").context("writing to stdout")?;
        return Ok(());
    }
    let Some(definitions) = parts.definitions()? else { bail!("the pipeline has no definition yet") };
    let Some(newest) = definitions.newest() else { bail!("the pipeline has no definition yet") };
    let topics = RawTopics::load(&*parts.queue, definitions.all())?.of_raw_writer(&*parts.queue)?;
    let topic = match (&asked.topic, topics.iter().collect::<Vec<_>>().as_slice()) {
        (Some(topic), _) if topics.contains(topic) => topic.clone(),
        (None, [only]) => (*only).clone(),
        (asked, _) => {
            let topics = topics.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let why = match asked {
                Some(topic) => anyhow!("{topic} is no input topic: --topic is one of {topics}"),
                None => anyhow!("there are several input topics: say by --topic which one of {topics}"),
            };
            return Err(Misused(why).into());
        }
    };
    if !newest.dedup && !asked.unread {
        let why = "duplicates are not removed (dedup.enabled is off), so a line that a log watcher has read would count twice: give --unread where none has";
        return Err(Misused(anyhow!(why)).into());
    }
    let Some(partitions) = parts.queue.partitions(&topic)? else { bail!("there is no topic {topic}") };
    let Definition { partition_by, time, .. } = *newest;
    let request = Request {
        topic,
        partitions,
        partition_by,
        max_clock_skew: time.max_clock_skew,
        is_complete: asked.complete,
        now: parts.clock.now(),
        rolling: Rolling::default(),
    };
    let mut bar = Bar::new(&asked.files, asked.dry_run)?;
    let mut tell = |progress| bar.show(progress);
    let summary = import::import(&files, &request, &asked.files, asked.dry_run, &stop, &mut tell);
    bar.bar.finish_and_clear();
    let summary = summary.map_err(explain)?;
    for (path, fate) in &summary.files {
        let path = path.display();
        let said = match fate {
            Fate::Imported(_) if asked.dry_run => "would be imported".to_owned(),
            Fate::Imported(number) => format!("import {number}"),
            Fate::Before(number) => format!("is in import {number}"),
            Fate::Same(other) => format!("is the same as {}", other.display()),
            Fate::Empty => "has no line".to_owned(),
        };
        writeln!(out, "{path}: {said}").context("writing to stdout")?;
    }
    // Of those too that were done before: whoever ran that may not have seen it.
    let numbers: BTreeSet<u32> = summary
        .files
        .iter()
        .filter_map(|(_, fate)| match fate {
            Fate::Imported(number) | Fate::Before(number) => Some(*number),
            Fate::Same(_) | Fate::Empty => None,
        })
        .collect();
    for entry in import::imports(&files)?.iter().filter(|entry| numbers.contains(&entry.import.number)) {
        let number = entry.import.number;
        let Some(Brought { lines, rejected, minutes }) = entry.brought() else { continue };
        let lines: u64 = lines.values().sum();
        writeln!(out, "import {number}: {lines} lines, {rejected} of them no clicks").context("writing to stdout")?;
        if let Some((first, last)) = minutes {
            let (last, to) = (*last, last.next());
            writeln!(
                out,
                "import {number}: clicks of {first} to {last}; clickmill recalc --from {first} --to {to} counts them"
            )
            .context("writing to stdout")?;
        }
    }
    Ok(())
}

/// What must be changed first is told apart from what may pass.
fn explain(error: ImportError) -> anyhow::Error {
    match error {
        ImportError::Unfinished { .. }
        | ImportError::Grown { .. }
        | ImportError::Unended { .. }
        | ImportError::OtherTopic { .. }
        | ImportError::Done(_)
        | ImportError::Unknown(_)
        | ImportError::Log { .. } => Misused(error.into()).into(),
        _ => error.into(),
    }
}

/// How far it has come, for who waits.
struct Bar {
    bar: ProgressBar,
    on_terminal: bool,
    told: Instant,
}

impl Bar {
    fn new(files: &[impl AsRef<Path>], dry_run: bool) -> anyhow::Result<Self> {
        let on_terminal = std::io::stderr().is_terminal();
        // What is compressed has more bytes than its file: then it takes longer than it looks.
        let sizes = files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len());
        let passes = if dry_run { 1 } else { 2 };
        let bar = if on_terminal {
            ProgressBar::new(sizes.sum::<u64>() * passes).with_style(ProgressStyle::with_template(
                "{bar:30} {percent}% {bytes_per_sec}, {eta} left, {msg} lines",
            )?)
        } else {
            ProgressBar::hidden()
        };
        Ok(Self { bar, on_terminal, told: Instant::now() })
    }

    fn show(&mut self, Progress { bytes, lines }: Progress) {
        self.bar.set_length(self.bar.length().unwrap_or(0).max(bytes));
        self.bar.set_position(bytes);
        self.bar.set_message(lines.to_string());
        if !self.on_terminal && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            tracing::info!(bytes, lines, "imports");
        }
    }
}
