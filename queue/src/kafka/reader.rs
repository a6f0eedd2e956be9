//! Reading without a group: every committed record up to the end that the log had when it was asked, waiting for transactions that are still open there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::client::Context;
use super::fetch::Fetching;
use super::native::Bell;
use super::shared::{ANSWER_WITHIN, Shared, client_name, configured, list, place};
use crate::check;
use crate::types::{Fetched, QueueError, Result, TopicPartition};

/// Under this group's name readers that are no members connect; nothing is ever committed under it.
const GROUP: &str = "clickmill-reader";

/// How many clients are kept for the next who reads.
const MOST_IDLE: usize = 4;

/// A client that reads one partition at a time.
struct Reader {
    // It ends before the client, whose queue it has.
    fetching: Option<(TopicPartition, Fetching)>,
    consumer: Arc<BaseConsumer<Context>>,
    bell: Arc<Bell>,
}

/// The clients, and what is known of the ends of logs.
#[derive(Default)]
pub(super) struct Readers {
    idle: Mutex<Vec<Reader>>,
    /// Between these offsets of a partition there is no record.
    gaps: Mutex<HashMap<TopicPartition, (Offset, Offset)>>,
}

/// What [`crate::Queue::read`] does.
pub(super) fn read(shared: &Shared, of: &TopicPartition, from: Offset, max_bytes: usize) -> Result<Vec<Fetched>> {
    let range = shared.range(of)?;
    check::within(of, from, range)?;
    let known = shared.readers.gaps.lock().get(of).copied();
    let is_known_gap = known.is_some_and(|(start, end)| start <= from && from < end && range.end <= end);
    if from == range.end || is_known_gap {
        return Ok(Vec::new());
    }
    let mut reader = take(shared, of, from)?;
    let result = reader.read(shared, of, from, range.end, max_bytes);
    match &result {
        Ok(records) => {
            if records.is_empty() {
                shared.readers.gaps.lock().insert(of.clone(), (from, range.end));
                reader.rest();
            }
            let mut idle = shared.readers.idle.lock();
            if idle.len() < MOST_IDLE {
                idle.push(reader);
            }
        }
        // A client that had trouble is not used again.
        Err(_) => drop(reader),
    }
    result
}

/// A client, best one that is there already.
fn take(shared: &Shared, of: &TopicPartition, from: Offset) -> Result<Reader> {
    let mut idle = shared.readers.idle.lock();
    let at = idle.iter().position(|reader| reader.is_at(of, from)).or(idle.len().checked_sub(1));
    if let Some(at) = at {
        return Ok(idle.swap_remove(at));
    }
    drop(idle);
    let bell = Arc::new(Bell::default());
    let mut config = shared.options.reader(&client_name("read"), GROUP);
    // Somebody waits for the end, and nothing is fetched behind it.
    config.set("fetch.wait.max.ms", "10");
    let consumer = config
        .create_with_context(Context(Arc::clone(&shared.trouble)))
        .map_err(|error| configured(&shared.options, &error))?;
    Ok(Reader { fetching: None, consumer: Arc::new(consumer), bell })
}

impl Reader {
    fn is_at(&self, of: &TopicPartition, from: Offset) -> bool {
        self.fetching.as_ref().is_some_and(|(has, fetching)| has == of && fetching.given() == from)
    }

    /// Fetches no more.
    fn rest(&mut self) {
        self.fetching = None;
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "kafka: a reader could not be put to rest");
        }
    }

    fn read(
        &mut self,
        shared: &Shared,
        of: &TopicPartition,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Fetched>> {
        if !self.is_at(of, from) {
            self.fetching = None;
            let failed = |error| shared.trouble.unavailable(format!("reading {of}"), &error);
            let fetching = Fetching::new(&self.consumer, of, from, &self.bell)?;
            self.consumer.assign(&list([(of, place(from))]).map_err(failed)?).map_err(failed)?;
            self.fetching = Some((of.clone(), fetching));
        }
        let Some((_, fetching)) = &mut self.fetching else { return Ok(Vec::new()) };
        // A transaction that its producer left open is aborted in time by the broker.
        let deadline = Instant::now() + shared.options.transaction_timeout + 2 * ANSWER_WITHIN;
        loop {
            // The common queue tells of troubles, through its context.
            while self.consumer.poll(Duration::ZERO).is_some() {}
            fetching.fill(shared, max_bytes)?;
            if fetching.is_ready() {
                return Ok(fetching.give());
            }
            if fetching.position() >= end {
                return Ok(Vec::new());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(QueueError::Unavailable {
                    what: format!("reading {of}"),
                    why: format!(
                        "read up to offset {}, but it ends at {end}: a transaction there does not end, or the broker does not answer",
                        fetching.position()
                    ),
                });
            }
            self.bell.wait((deadline - now).min(Duration::from_millis(100)));
        }
    }
}
