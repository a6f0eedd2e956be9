//! The end of a drain: when everything is out, and what it came to.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_log_watcher::LiveReport;
use clickmill_model::records::{Books, LATE_CLICKS};
use clickmill_model::{Minute, Offset};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{Queue, TopicPartition, topology};
use indicatif::{ProgressBar, ProgressStyle};

use crate::pipeline::Parts;

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
    let mut rest = Rest::default();
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
            if is_out(parts, until, &mut rest)? {
                bar.finish_and_clear();
                return Ok(Drained::All);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a drain still waits for, once every figure is stored. Heartbeats go on meanwhile: what came after it was noted does not matter.
#[derive(Default)]
struct Rest {
    to_map: Option<Unread>,
    to_write: Option<Unread>,
}

/// True where every figure before `until` is stored and every line that was sent is in a file.
fn is_out(parts: &Parts, until: Option<Minute>, rest: &mut Rest) -> anyhow::Result<bool> {
    let Some(until) = until else { return Ok(true) };
    let queue = &*parts.queue;
    let complete = parts.store()?.progress()?.complete_until(parts.config.queue.partitions);
    if complete.is_none_or(|complete| complete < until) {
        return Ok(false);
    }
    let Some(raw) = raw_topics(parts)? else { return Ok(false) };
    let topics = raw.of_mapper();
    let inputs = |group| topics.iter().map(move |topic| (group, topic.as_str()));
    if !topics.contains(&parts.config.input.topic)
        || !Unread::is_read(&mut rest.to_map, queue, inputs(topology::MAPPER))?
    {
        return Ok(false);
    }
    // Every line is mapped now; what is still in memory shall go to files.
    parts.flush.store(true, Ordering::Relaxed);
    let late = (topology::LATE_WRITER, LATE_CLICKS);
    Ok(raw.of_raw_writer(queue)? == topics
        && Unread::is_read(&mut rest.to_write, queue, inputs(topology::RAW_WRITER).chain([late]))?)
}

/// Partitions that a group has not read up to the end that they had when it was noted.
struct Unread(Vec<(&'static str, TopicPartition, Offset)>);

impl Unread {
    /// Notes where these topics end, the first time, and tells whether the groups have committed everything before that.
    fn is_read<'a>(
        noted: &mut Option<Self>,
        queue: &dyn Queue,
        topics: impl Iterator<Item = (&'static str, &'a str)>,
    ) -> anyhow::Result<bool> {
        let mut left = match noted.take() {
            Some(Self(left)) => left,
            None => ends(queue, topics)?,
        };
        let mut failed = None;
        left.retain(|(group, of, end)| match has_read(queue, group, of, *end) {
            Ok(has_read) => !has_read,
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        let is_read = left.is_empty();
        *noted = Some(Self(left));
        failed.map_or(Ok(is_read), Err)
    }
}

fn ends<'a>(
    queue: &dyn Queue,
    topics: impl Iterator<Item = (&'static str, &'a str)>,
) -> anyhow::Result<Vec<(&'static str, TopicPartition, Offset)>> {
    let mut ends = Vec::new();
    for (group, topic) in topics {
        for partition in 0..queue.partitions(topic)?.unwrap_or(0) {
            let of = TopicPartition::new(topic, partition);
            let end = queue.range(&of)?.end;
            ends.push((group, of, end));
        }
    }
    Ok(ends)
}

/// True where a group has read every record of a partition before `end`.
fn has_read(queue: &dyn Queue, group: &str, of: &TopicPartition, end: Offset) -> anyhow::Result<bool> {
    let committed = queue.committed(group, &of.topic)?;
    let next = match committed.into_iter().find(|(partition, _)| *partition == of.partition) {
        Some((_, committed)) => committed.offset,
        None => queue.range(of)?.start,
    };
    // Before its end a log may have offsets without records.
    Ok(next >= end || queue.read(of, next, 1)?.first().is_none_or(|record| record.offset >= end))
}
