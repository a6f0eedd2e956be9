//! Results under a revision, to `click-results`: the writers of the store write them as they write everything.
//!
//! Partition k tells the counts of aggregator partition k, with a [`ResultBody::Closed`] behind; rankings go to partition 0. Each transaction ends with what it has told: a writer that reads one never holds half a
//! minute, and what is told twice is the same.

use std::time::Duration;

use anyhow::{Context, bail};
use clickmill_model::records::{CLICK_RESULTS, FilterSpan, Ranking, ResultBody, ResultRecord};
use clickmill_model::{Columns, Minute, Partition, Revision, SpanKind, Timestamp};
use clickmill_queue::{Producer, Queue, QueueError, Record, TopicPartition, Transaction};
use clickmill_recalc::Told;
use clickmill_store::{Holds, StoreProgress};

/// Rankings of one record, about.
const RECORD_BYTES: usize = 512 << 10;

/// What one partition tells in one transaction, about: bounds what a writer holds before it writes it.
const TOLD_AT_ONCE_BYTES: usize = 4 << 20;

/// How long to wait before a transaction is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How often a transaction is tried again that failed by a passing fault: about half a minute.
const TRIES: u32 = 600;

/// What is said at each wait: `Err` ends it.
pub(super) type Waited<'a> = dyn FnMut() -> anyhow::Result<()> + 'a;

/// Sends what a recalculation tells.
pub(super) struct Teller<'a> {
    queue: &'a dyn Queue,
    producer: Box<dyn Producer>,
    revision: Revision,
    filters: Vec<FilterSpan>,
    /// What lies before it is stored already.
    stored_until: Minute,
    /// By aggregator partition.
    counts: Vec<Gathered>,
    rankings: Gathered,
}

/// What waits to be sent to a partition.
#[derive(Debug, Default)]
struct Gathered {
    records: Vec<Record>,
    bytes: usize,
    /// The minute that was told last.
    last: Option<Minute>,
}

impl Gathered {
    fn push(&mut self, revision: Revision, body: ResultBody) {
        let record = Record::of(ResultRecord { revision, body }.encode());
        self.bytes += record.size_bytes();
        self.records.push(record);
    }

    fn drain_to(&mut self, partition: Partition, transaction: &mut Transaction) {
        self.bytes = 0;
        let to = TopicPartition::new(CLICK_RESULTS, partition.0);
        transaction.records.extend(self.records.drain(..).map(|record| (to.clone(), record)));
    }
}

impl<'a> Teller<'a> {
    /// Ends an earlier process that tells the same revision, and begins behind what is stored of it.
    pub(super) fn new(
        queue: &'a dyn Queue,
        revision: Revision,
        holds: &Holds,
        partitions: u32,
        stored: &StoreProgress,
    ) -> anyhow::Result<Self> {
        let producer = queue.producer(&transactional_id(revision)).context("taking part in the queue")?;
        let stored_until = stored.complete_until(partitions);
        let filters = holds.filters.iter().map(|(filter, held)| FilterSpan {
            filter: *filter,
            from: held.from,
            until: Some(held.to),
        });
        Ok(Self {
            queue,
            producer,
            revision,
            filters: filters.collect(),
            stored_until: stored_until.unwrap_or(Minute::MIN),
            counts: (0..partitions).map(|_| Gathered::default()).collect(),
            rankings: Gathered::default(),
        })
    }

    /// Takes in what was told, and sends what has gathered.
    pub(super) fn take_in(&mut self, told: &Told, waited: &mut Waited<'_>) -> anyhow::Result<()> {
        match told {
            Told::Counts { partition, columns, oldest_arrival } => {
                self.take_counts(*partition, columns, *oldest_arrival, waited)
            }
            Told::Rankings { rankings, oldest_arrival } => self.take_rankings(rankings, *oldest_arrival, waited),
            Told::Until(until) => self.close(*until, waited),
        }
    }

    fn take_counts(
        &mut self,
        partition: Partition,
        columns: &Columns,
        oldest_arrival: Option<Timestamp>,
        waited: &mut Waited<'_>,
    ) -> anyhow::Result<()> {
        if columns.span.end() <= self.stored_until {
            return Ok(());
        }
        let start = columns.span.start;
        let Some(gathered) = self.counts.get(partition.0 as usize) else { bail!("there is no partition {partition}") };
        // Minutes are told in order, hours and days behind their last one. A further part of the minute that was told last stays with it.
        let is_next = columns.span.kind == SpanKind::Minute && gathered.last.is_none_or(|last| last < start);
        if is_next && gathered.bytes >= TOLD_AT_ONCE_BYTES {
            self.close_counts(partition, start, waited)?;
        }
        if let Some(gathered) = self.counts.get_mut(partition.0 as usize) {
            if is_next {
                gathered.last = Some(start);
            }
            let columns = columns.clone();
            gathered.push(self.revision, ResultBody::Counts { partition, oldest_arrival, columns });
        }
        Ok(())
    }

    fn take_rankings(
        &mut self,
        rankings: &[Ranking],
        oldest_arrival: Option<Timestamp>,
        waited: &mut Waited<'_>,
    ) -> anyhow::Result<()> {
        let partition = Partition(0);
        let mut part = Vec::new();
        let mut bytes = 0;
        let new = rankings.iter().filter(|ranking| ranking.minute >= self.stored_until);
        for ranking in new {
            bytes += 16 + ranking.ads.iter().map(|(ad, _)| ad.len() + 4).sum::<usize>();
            part.push(ranking.clone());
            if bytes > RECORD_BYTES {
                let rankings = std::mem::take(&mut part);
                self.rankings.push(self.revision, ResultBody::Rankings { partition, oldest_arrival, rankings });
                bytes = 0;
            }
        }
        if !part.is_empty() {
            self.rankings.push(self.revision, ResultBody::Rankings { partition, oldest_arrival, rankings: part });
        }
        // They come by whole minutes.
        if let Some(last) = rankings.last().filter(|_| self.rankings.bytes >= TOLD_AT_ONCE_BYTES) {
            self.rankings.push(self.revision, ResultBody::Ranked { partition, until: last.minute.next() });
            let mut transaction = Transaction::default();
            self.rankings.drain_to(partition, &mut transaction);
            self.commit(&transaction, waited)?;
        }
        Ok(())
    }

    fn closed(&self, partition: Partition, until: Minute) -> ResultBody {
        ResultBody::Closed { partition, until, covered: Vec::new(), filters: self.filters.clone() }
    }

    /// Everything of a partition before `until` has been told.
    fn close_counts(&mut self, partition: Partition, until: Minute, waited: &mut Waited<'_>) -> anyhow::Result<()> {
        let closed = self.closed(partition, until);
        let mut transaction = Transaction::default();
        if let Some(gathered) = self.counts.get_mut(partition.0 as usize) {
            gathered.push(self.revision, closed);
            gathered.drain_to(partition, &mut transaction);
        }
        self.commit(&transaction, waited)
    }

    /// Everything before `until` has been told.
    fn close(&mut self, until: Minute, waited: &mut Waited<'_>) -> anyhow::Result<()> {
        if until <= self.stored_until {
            return Ok(());
        }
        for partition in (0..self.counts.len() as u32).map(Partition) {
            self.close_counts(partition, until, waited)?;
        }
        let mut transaction = Transaction::default();
        self.rankings.drain_to(Partition(0), &mut transaction);
        // Who looks how far rankings are stored asks for every partition.
        for partition in (0..self.counts.len() as u32).map(Partition) {
            let mut ranked = Gathered::default();
            ranked.push(self.revision, ResultBody::Ranked { partition, until });
            ranked.drain_to(partition, &mut transaction);
        }
        self.commit(&transaction, waited)
    }

    fn commit(&mut self, transaction: &Transaction, waited: &mut Waited<'_>) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.producer.commit(transaction, None) {
                Ok(_) => return Ok(()),
                Err(QueueError::Full { .. }) => {}
                Err(error @ QueueError::Unavailable { .. }) if tries < TRIES => {
                    if tries == 0 {
                        tracing::warn!(%error, "tries again to send results");
                    }
                    tries += 1;
                }
                Err(error @ QueueError::Unknown(_)) if tries < TRIES => {
                    // Told twice is told once.
                    tracing::warn!(%error, "sends results again");
                    tries += 1;
                    self.producer =
                        self.queue.producer(&transactional_id(self.revision)).context("taking part in the queue")?;
                }
                Err(error @ QueueError::Fenced(_)) => {
                    return Err(anyhow::Error::new(error)
                        .context(format!("another process goes on with revision {}", self.revision)));
                }
                Err(error) => return Err(anyhow::Error::new(error).context("sending results")),
            }
            waited()?;
            std::thread::sleep(AGAIN_AFTER);
        }
    }
}

/// One for each revision: whoever goes on with it ends who did so before.
fn transactional_id(revision: Revision) -> String {
    format!("recalc-{revision}")
}
