//! The end of a drain: when everything is out, and what it came to.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_log_watcher::LiveReport;
use clickmill_model::records::{Books, LATE_CLICKS};
use clickmill_model::{Minute, Offset};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{TopicPartition, topology};
use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::{self, Parts};

/// How a drain ended.
pub(crate) enum Drained {
    /// Every line is counted and every figure is out.
    All,
    /// It was told to stop.
    Stopped,
}

/// What the books said when the drain began.
pub(crate) struct Before {
    books: Books,
    began: Instant,
}

/// The raw topics, as far as the mappers have followed the definitions.
fn raw_topics(parts: &Parts) -> anyhow::Result<Option<RawTopics>> {
    let definitions = parts.definitions()?;
    Ok(definitions.map(|definitions| RawTopics::load(&*parts.queue, definitions.all())).transpose()?)
}

fn books(parts: &Parts) -> anyhow::Result<Books> {
    let mut sum = Books::default();
    for checkpoint in raw_topics(parts)?.iter().flat_map(|raw| raw.committed.values()) {
        sum.add(&checkpoint.books);
    }
    Ok(sum)
}

impl Before {
    pub(crate) fn read(parts: &Parts) -> anyhow::Result<Self> {
        Ok(Self { books: books(parts)?, began: Instant::now() })
    }

    /// One line for people: what this drain did.
    pub(crate) fn summary(&self, parts: &Parts, live: &LiveReport) -> anyhow::Result<String> {
        let books = books(parts)?;
        let seconds = self.began.elapsed().as_secs_f64();
        let unread = match live.get().unread_bytes {
            0 => String::new(),
            bytes => format!(", {bytes} bytes could not be read"),
        };
        Ok(format!(
            "{} lines: {} clicks, {} duplicates, {} late, {} rejected; {} minutes; {seconds:.1} seconds{unread}",
            books.lines - self.books.lines,
            books.counted - self.books.counted,
            books.duplicates - self.books.duplicates,
            books.late - self.books.late,
            books.rejected_total() - self.books.rejected_total(),
            parts.minutes.as_ref().map_or(0, |minutes| minutes.lock().len()),
        ))
    }
}

/// Waits until everything is read, counted, ranked and written.
pub(crate) fn wait(
    parts: &Parts,
    live: &LiveReport,
    stop: &AtomicBool,
    ended: impl Fn() -> bool,
) -> anyhow::Result<Drained> {
    let bar = if std::io::stdout().is_terminal() {
        let style =
            ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} read, {bytes_per_sec}, {eta} left {msg}")?;
        ProgressBar::new(0).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    loop {
        if stop.load(Ordering::Relaxed) {
            bar.finish_and_clear();
            return Ok(Drained::Stopped);
        }
        if ended() {
            bar.finish_and_clear();
            // The error of the stage that ended is what its end returns.
            return Ok(Drained::Stopped);
        }
        let report = live.get();
        bar.set_length(report.known_bytes);
        bar.set_position(report.read_bytes);
        if report.finished {
            bar.set_message("writing the last results");
            let until = report.drained.map(|end| end.minute());
            if is_out(parts, until)? {
                bar.finish_and_clear();
                return Ok(Drained::All);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True where every figure before `until` is stored and every line that was sent is in a file.
fn is_out(parts: &Parts, until: Option<Minute>) -> anyhow::Result<bool> {
    let Some(until) = until else { return Ok(true) };
    let complete = pipeline::complete_until(&*parts.store, parts.config.queue.partitions)?;
    if complete.is_none_or(|complete| complete < until) {
        return Ok(false);
    }
    let Some(raw) = raw_topics(parts)? else { return Ok(false) };
    let topics = raw.of_mapper();
    if !topics.contains(&parts.config.input.topic) || !have_read(parts, topology::MAPPER, &topics)? {
        return Ok(false);
    }
    // Every line is mapped now; what is still in memory shall go to files.
    parts.flush.store(true, Ordering::Relaxed);
    if raw.of_raw_writer(&*parts.queue)? != topics || !have_read(parts, topology::RAW_WRITER, &topics)? {
        return Ok(false);
    }
    has_read(parts, topology::LATE_WRITER, LATE_CLICKS)
}

fn have_read(parts: &Parts, group: &str, topics: &BTreeSet<String>) -> anyhow::Result<bool> {
    for topic in topics {
        if !has_read(parts, group, topic)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True where the group has committed everything that the topic held when it was asked. Heartbeats go on meanwhile: it is enough to have been at the end once.
fn has_read(parts: &Parts, group: &str, topic: &str) -> anyhow::Result<bool> {
    let committed = parts.queue.committed(group, topic)?;
    for partition in 0..parts.queue.partitions(topic)?.unwrap_or(0) {
        let end = parts.queue.range(&TopicPartition::new(topic, partition))?.end;
        let done = committed.iter().find(|(p, _)| p.0 == partition).map_or(Offset(0), |(_, c)| c.offset);
        if done < end {
            return Ok(false);
        }
    }
    Ok(true)
}
