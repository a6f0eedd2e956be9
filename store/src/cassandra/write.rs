//! Writing: what is refused, how counts become batches, and how these are sent.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::iter;
use std::time::{Duration, Instant};

use clickmill_model::partition::of_key;
use clickmill_model::{Columns, Revision, Span, SpanKind, Timestamp};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::error::{explain, may_pass};
use super::keys::{bucket, kind_number, period};
use super::pace::Pace;
use super::retention::{Fate, Mark, marks};
use crate::{ClosedWrite, Result};

/// The most rows of a batch: beyond, a row costs no less.
const MOST_ROWS: usize = 400;

/// The most bytes of ad ids in a batch, about: nodes handle a batch as one message.
const MOST_BYTES: usize = 64 << 10;

/// How long a node is waited for that acknowledges nothing: then the writer is told, and comes again.
const PATIENCE: Duration = Duration::from_secs(4);

/// The first pause before a batch is sent again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A row of `counts`: revision, kind, filter, period, bucket, ad, start, clicks, time to live in seconds (0: none).
pub(super) type CountRow<'a> = (i32, i8, i32, i32, i32, &'a str, i64, i64, i32);

/// What a write shall become, looked at as a whole: nothing is sent of one that is refused.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    revision: Revision,
    buckets: u32,
    fates: BTreeMap<Span, Fate>,
    parts: Vec<&'a Columns>,
}

impl<'a> Plan<'a> {
    /// Looks at a write. `partitions` is how many aggregator partitions there are, where that is known. The error says why the write is refused.
    pub(super) fn new(
        write: &'a ClosedWrite,
        buckets: u32,
        partitions: Option<u32>,
        keep: Option<Duration>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let mut spans: BTreeMap<Span, (Vec<&Columns>, Option<Timestamp>)> = BTreeMap::new();
        for (columns, arrival) in &write.counts {
            let (parts, newest) = spans.entry(columns.span).or_default();
            parts.push(columns);
            *newest = (*newest).max(*arrival);
        }
        for (span, (parts, _)) in &spans {
            check(write, *span, parts, partitions)?;
        }
        let fates = spans.iter().map(|(span, (_, arrival))| (*span, Fate::of(*arrival, keep, now))).collect();
        let parts = write.counts.iter().map(|(columns, _)| columns).collect();
        Ok(Self { revision: write.revision, buckets, fates, parts })
    }

    /// How far the minutes reach that go at one time. Hours and days need not be noted: what they lack is still told by their minutes.
    pub(super) fn marks(&self) -> Vec<Mark> {
        let minutes = self.fates.iter().filter(|(span, _)| span.kind == SpanKind::Minute);
        marks(minutes.map(|(span, fate)| (span.start, *fate)))
    }

    /// The rows, in batches of one partition each.
    pub(super) fn batches(&self) -> impl Iterator<Item = Vec<CountRow<'a>>> {
        self.parts.iter().flat_map(|columns| {
            let ttl = self.fates.get(&columns.span).and_then(|fate| fate.ttl());
            ttl.into_iter().flat_map(|ttl| Batches::new(columns, self.revision, self.buckets, ttl))
        })
    }
}

/// Refuses an ad that stands twice in a span, or belongs to another partition, or has an id or a count that cannot be stored.
fn check(write: &ClosedWrite, span: Span, parts: &[&Columns], partitions: Option<u32>) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(parts.iter().map(|part| part.ads.len()).sum());
    for ad in parts.iter().flat_map(|part| part.ads.iter()) {
        let name = || String::from_utf8_lossy(ad);
        let place = || format!("the {:?} {} of aggregator partition {}", span.kind, span.start, write.partition);
        if !seen.insert(ad) {
            return Err(format!("ad {} stands twice in {}", name(), place()));
        }
        if std::str::from_utf8(ad).is_err() {
            return Err(format!("ad {} in {} is not UTF-8", name(), place()));
        }
        // Rows are found by their ad alone: another partition's would take the place of these.
        let home = partitions.map(|partitions| of_key(ad, partitions));
        if let Some(home) = home.filter(|home| *home != write.partition) {
            return Err(format!("ad {} in {} belongs to partition {home}", name(), place()));
        }
    }
    let counts = parts.iter().flat_map(|part| part.counts.iter().flatten());
    match counts.copied().find(|count| i64::try_from(*count).is_err()) {
        Some(count) => Err(format!("{count} clicks in the {:?} {} cannot be", span.kind, span.start)),
        None => Ok(()),
    }
}

/// The batches of one part of a span.
#[derive(Debug)]
struct Batches<'a> {
    columns: &'a Columns,
    /// Everything of a row that they have in common: revision, kind, period, start, time to live.
    shared: (i32, i8, i32, i64, i32),
    /// The rows of `columns` by bucket.
    order: Vec<(i32, u32)>,
    filter: usize,
    at: usize,
}

impl<'a> Batches<'a> {
    fn new(columns: &'a Columns, revision: Revision, buckets: u32, ttl: i32) -> Self {
        let Span { kind, start } = columns.span;
        let shared = (revision.0 as i32, kind_number(kind), period(kind, start), start.as_epoch(), ttl);
        let mut order: Vec<(i32, u32)> = columns.ads.iter().map(|ad| bucket(ad, buckets)).zip(0..).collect();
        order.sort_unstable();
        Self { columns, shared, order, filter: 0, at: 0 }
    }

    /// The next rows of one bucket.
    fn take(&mut self, filter: i32, counts: &[u64]) -> Vec<CountRow<'a>> {
        let (revision, kind, period, start, ttl) = self.shared;
        let mut rows = Vec::new();
        let mut bytes = 0;
        let rest = self.order.get(self.at..).unwrap_or_default();
        let Some((bucket, _)) = rest.first().copied() else { return rows };
        for (_, row) in rest.iter().take_while(|(other, _)| *other == bucket) {
            if rows.len() == MOST_ROWS || bytes >= MOST_BYTES {
                break;
            }
            self.at += 1;
            let clicks = counts.get(*row as usize).copied().unwrap_or(0);
            if clicks > 0 {
                // Both were checked before.
                let ad = std::str::from_utf8(self.columns.ads.get(*row as usize)).unwrap_or_default();
                bytes += ad.len();
                rows.push((revision, kind, filter, period, bucket, ad, start, clicks as i64, ttl));
            }
        }
        rows
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Vec<CountRow<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let filter = self.columns.filters.get(self.filter)?;
            let counts = self.columns.counts.get(self.filter)?;
            let rows = self.take(filter.0.into(), counts);
            if self.at >= self.order.len() {
                self.filter += 1;
                self.at = 0;
            }
            if !rows.is_empty() {
                return Some(rows);
            }
        }
    }
}

/// Sends one batch of rows of one partition.
pub(super) async fn send_batch(
    session: &Session,
    insert: &PreparedStatement,
    rows: &[CountRow<'_>],
) -> Result<(), ExecutionError> {
    let statements = iter::repeat_n(insert.clone().into(), rows.len()).collect();
    // In one partition, a batch is one mutation: all of it or nothing, without a log.
    let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
    batch.set_is_idempotent(true);
    batch.set_execution_profile_handle(insert.get_execution_profile_handle().cloned());
    session.batch(&batch, rows).await.map(|_| ())
}

/// Sends requests until each is acknowledged, as many at once as the cluster takes; what is not taken is sent again. Gives up when nothing was acknowledged for [`PATIENCE`], or at once where trying again
/// is of no use. `send` gives the request back.
pub(super) async fn deliver<T, F>(
    pace: &Mutex<Pace>,
    what: &str,
    mut requests: impl Iterator<Item = T>,
    send: impl Fn(T) -> F,
) -> Result<()>
where
    F: Future<Output = (T, Result<(), ExecutionError>)>,
{
    let mut on_way = FuturesUnordered::new();
    let mut again = Vec::new();
    let mut heard = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        while on_way.len() < pace.lock().limit() {
            let Some(request) = again.pop().or_else(|| requests.next()) else { break };
            on_way.push(send(request));
        }
        let Some((request, answer)) = on_way.next().await else { return Ok(()) };
        match answer {
            Ok(()) => {
                pace.lock().acknowledged();
                heard = Instant::now();
                pause = PAUSES.0;
            }
            Err(error) if !may_pass(&error) || heard.elapsed() > PATIENCE => return Err(explain(what, &error)),
            Err(_) => {
                pace.lock().refused(on_way.len());
                again.push(request);
                // Writers that were refused together shall not come again together.
                let share = f64::from(heard.elapsed().subsec_micros() % 1000) / 1000.0;
                tokio::time::sleep(pause.mul_f64(0.5 + share / 2.0)).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clickmill_model::{FilterId, Minute, Partition};

    use super::*;

    fn columns(filters: &[u16], ads: &[(&[u8], &[u64])]) -> Columns {
        let mut columns =
            Columns::new(Span::minute(Minute::from_epoch(1441)), filters.iter().map(|id| FilterId(*id)).collect());
        for (ad, counts) in ads {
            columns.ads.push(ad);
            for (column, count) in columns.counts.iter_mut().zip(*counts) {
                column.push(*count);
            }
        }
        columns
    }

    fn write(parts: Vec<Columns>) -> ClosedWrite {
        ClosedWrite {
            revision: Revision(7),
            partition: Partition(0),
            counts: parts.into_iter().map(|part| (part, Some(Timestamp::EPOCH))).collect(),
            until: Minute::from_epoch(1442),
            filters: vec![],
        }
    }

    fn plan(write: &ClosedWrite, buckets: u32, partitions: Option<u32>) -> Result<Plan<'_>, String> {
        Plan::new(write, buckets, partitions, None, Timestamp::EPOCH)
    }

    #[test]
    fn rows_stand_in_batches_of_one_partition() {
        let names: Vec<String> = (0..1000).map(|i| format!("ad{i}")).collect();
        let ads: Vec<(&[u8], &[u64])> = names.iter().map(|ad| (ad.as_bytes(), &[3_u64, 0][..])).collect();
        let write = write(vec![columns(&[0, 9], &ads), columns(&[9], &[(b"other", &[5])])]);
        let plan = plan(&write, 2, None).unwrap();
        let batches: Vec<_> = plan.batches().collect();
        let mut rows = 0;
        for batch in &batches {
            assert!((1..=MOST_ROWS).contains(&batch.len()));
            for row in batch {
                let (revision, kind, filter, period, bucket, ad, start, clicks, ttl) = *row;
                let expected = if ad == "other" { (9, 5) } else { (0, 3) };
                assert_eq!((revision, kind, period, start, ttl), (7, 0, 1, 1441, 0));
                assert_eq!((filter, clicks), expected);
                assert_eq!(bucket, super::bucket(ad.as_bytes(), 2));
                assert_eq!((filter, bucket), (batch[0].2, batch[0].4), "of one partition");
                rows += 1;
            }
        }
        assert_eq!(rows, 1001);
        assert_eq!(batches.len(), 2 * 2 + 1, "some 500 ads in each of two buckets");
    }

    #[test]
    fn long_ids_make_short_batches() {
        let names: Vec<String> = (0..200).map(|i| format!("{i:01000}")).collect();
        let ads: Vec<(&[u8], &[u64])> = names.iter().map(|ad| (ad.as_bytes(), &[1_u64][..])).collect();
        let write = write(vec![columns(&[0], &ads)]);
        let lengths: Vec<usize> = plan(&write, 1, None).unwrap().batches().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [66, 66, 66, 2]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let ours: Vec<String> =
            (0..100).map(|i| format!("ad{i}")).filter(|ad| of_key(ad.as_bytes(), 4) == Partition(0)).take(2).collect();
        let (a, b) = (ours[0].as_bytes(), ours[1].as_bytes());
        let check = |parts: Vec<Columns>| plan(&write(parts), 4, Some(4)).map(|_| ());
        assert_eq!(check(vec![columns(&[0], &[(a, &[1]), (b, &[2])])]), Ok(()));
        let huge = i64::MAX as u64 + 1;
        for (parts, part) in [
            (vec![columns(&[0], &[(a, &[1]), (a, &[2])])], "stands twice"),
            (vec![columns(&[0], &[(a, &[1])]), columns(&[1], &[(a, &[2])])], "stands twice"),
            (vec![columns(&[0], &[(b"\xff", &[1])])], "not UTF-8"),
            (vec![columns(&[0], &[(a, &[huge])])], "9223372036854775808 clicks"),
        ] {
            let error = check(parts).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let theirs = (0..100).map(|i| format!("ad{i}")).find(|ad| of_key(ad.as_bytes(), 4) == Partition(3)).unwrap();
        let error = check(vec![columns(&[0], &[(theirs.as_bytes(), &[1])])]).unwrap_err();
        assert!(error.contains(&theirs) && error.contains("belongs to partition 3"), "{error}");
        let unknown = write(vec![columns(&[0], &[(theirs.as_bytes(), &[1])])]);
        assert!(plan(&unknown, 4, None).is_ok());
    }

    #[test]
    fn figures_past_their_retention_are_not_written_but_noted() {
        let write = write(vec![columns(&[0], &[(b"a", &[1])])]);
        let keep = Some(Duration::from_secs(86_400));
        let now = Timestamp::from_secs(30 * 86_400);
        let plan = Plan::new(&write, 4, None, keep, now).unwrap();
        assert_eq!(plan.batches().count(), 0);
        assert_eq!(plan.marks(), [Mark { gone_at: 2 * 86_400, last: Minute::from_epoch(1441) }]);
        let plan = Plan::new(&write, 4, None, keep, Timestamp::EPOCH).unwrap();
        assert_eq!(plan.batches().flatten().map(|row| row.8).collect::<Vec<_>>(), [2 * 86_400 + 3600]);
    }
}
