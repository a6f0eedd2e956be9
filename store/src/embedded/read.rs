//! Reading counts: a range is read from whole days, then whole hours, then minutes, each where they are there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use clickmill_model::records::FilterSpan;
use clickmill_model::window::tiles;
use clickmill_model::{AdTable, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind};
use rusqlite::Connection;

use super::ads::{Dictionary, Space};
use super::block::{BUCKET, Block, split};
use super::expire::Kept;
use super::fault::{Fault, Result};
use super::write::{Stage, kind_number};
use crate::{EachCount, MinuteRange, StoreProgress, TopAds, View};

/// The longest range that [`top`] merges: a year and a day.
const MOST_MINUTES: i64 = 367 * 1440;

/// How much [`top`] merges at most: ads known, times the spans that the range is made of. That is a day of 100,000 ads, whatever minute it begins at, twice over: about 50 ms.
const MOST_ENTRIES: u64 = 1 << 25;

/// The counts of 4,096 ads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    space: Space,
    bucket: u32,
}

/// Every block of a bucket that the range is made of, as a view shows it.
fn scan(
    conn: &Connection,
    of: Bucket,
    (view, filter): (&View, FilterId),
    range: MinuteRange,
    longest: SpanKind,
    mut visit: impl FnMut(Minute, Block<'_>) -> Result<(), String>,
) -> Result<()> {
    for (piece, revision) in view.pieces(filter, range) {
        scan_piece(conn, of, (revision, filter), piece, longest, &mut visit)?;
    }
    Ok(())
}

/// Every block of a bucket that a range of one revision is made of, each minute once: days where they lie in the range and are there, hours in what is left, minutes in what is left then.
///
/// The hour that runs has no block of its own yet, and an hour in which no ad of the bucket was clicked never gets one: both are passed over in one step.
fn scan_piece(
    conn: &Connection,
    of: Bucket,
    (revision, filter): (Revision, FilterId),
    range: MinuteRange,
    longest: SpanKind,
    mut visit: impl FnMut(Minute, Block<'_>) -> Result<(), String>,
) -> Result<()> {
    let mut select = conn.prepare_cached(
        "SELECT start, block FROM counts
         WHERE revision = ?1 AND kind = ?2 AND filter = ?3 AND space = ?4 AND bucket = ?5 AND start >= ?6 AND start < ?7 ORDER BY start",
    )?;
    let mut gaps = vec![(range.from.as_epoch(), range.to.as_epoch())];
    for kind in [SpanKind::Day, SpanKind::Hour, SpanKind::Minute] {
        if kind > longest {
            continue;
        }
        let length = kind.minutes();
        let mut left = Vec::new();
        for (from, to) in gaps {
            // Those that lie in the gap as a whole.
            let (first, end) = ((from + length - 1).div_euclid(length) * length, to.div_euclid(length) * length);
            let mut at = from;
            if first < end {
                let key = (revision.0, kind_number(kind), filter.0, of.space.0, of.bucket, first, end);
                let mut rows = select.query(key)?;
                while let Some(row) = rows.next()? {
                    let start: i64 = row.get(0)?;
                    let damaged = |why: String| damaged((revision, kind, filter), of, start, &why);
                    let bytes = row.get_ref(1)?.as_blob().map_err(|error| damaged(error.to_string()))?;
                    Block::read(bytes).and_then(|block| visit(Minute::from_epoch(start), block)).map_err(damaged)?;
                    if at < start {
                        left.push((at, start));
                    }
                    at = start.saturating_add(length);
                }
            }
            if at < to {
                left.push((at, to));
            }
        }
        gaps = left;
    }
    Ok(())
}

/// Where an ad's counts are.
fn find(dictionary: &Dictionary, ad: &str) -> Option<(Bucket, u16)> {
    let hash = AdTable::hash(ad.as_bytes());
    let tables = dictionary.read();
    tables.iter().filter(|(space, _)| **space != Space::RANKED).find_map(|(space, table)| {
        let (bucket, place) = split(table.find(hash, ad.as_bytes())?);
        Some((Bucket { space: *space, bucket }, place))
    })
}

/// Clicks of each ad. Each block is read once for all ads that are in it.
pub(super) fn counts(
    conn: &Connection,
    dictionary: &Dictionary,
    ads: &[&str],
    of: (&View, FilterId),
    range: MinuteRange,
) -> Result<Vec<u64>> {
    dictionary.catch_up(conn)?;
    let mut wanted: BTreeMap<(Bucket, u16), Vec<usize>> = BTreeMap::new();
    for (index, ad) in ads.iter().enumerate() {
        if let Some(place) = find(dictionary, ad) {
            wanted.entry(place).or_default().push(index);
        }
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut found = vec![0; ads.len()];
    for of_bucket in wanted.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
        let Some(((bucket, _), _)) = of_bucket.first() else { continue };
        let places: Vec<u16> = of_bucket.iter().map(|((_, place), _)| *place).collect();
        let mut sums = vec![0; places.len()];
        scan(conn, *bucket, of, range, SpanKind::Day, |_, block| block.add_to(&places, &mut sums))?;
        for ((_, indexes), sum) in of_bucket.iter().zip(sums) {
            for index in indexes {
                if let Some(count) = found.get_mut(*index) {
                    *count = sum;
                }
            }
        }
    }
    Ok(found)
}

/// Each span of this kind that the range touches, with no clicks yet.
pub(super) fn empty_series(range: MinuteRange, step: SpanKind) -> Vec<(Minute, u64)> {
    let mut at = range.from;
    let mut series = Vec::new();
    while at < range.to {
        let span = Span::holding(step, at);
        series.push((span.start, 0));
        at = span.end();
    }
    series
}

/// Adds an ad's clicks to a series.
pub(super) fn series(
    conn: &Connection,
    dictionary: &Dictionary,
    ad: &str,
    of: (&View, FilterId),
    range: MinuteRange,
    step: SpanKind,
    series: &mut [(Minute, u64)],
) -> Result<()> {
    dictionary.catch_up(conn)?;
    let (Some((bucket, place)), Some((first, _))) = (find(dictionary, ad), series.first().copied()) else {
        return Ok(());
    };
    scan(conn, bucket, of, range, step, |start, block| {
        let mut count = [0];
        block.add_to(&[place], &mut count)?;
        let index = start.minus(first).div_euclid(step.minutes());
        if let Some((_, sum)) = usize::try_from(index).ok().and_then(|index| series.get_mut(index)) {
            *sum = sum.saturating_add(count[0]);
        }
        Ok(())
    })
}

/// Every count of the spans of a kind that begin in the range, bucket by bucket.
pub(super) fn each_count(
    conn: &Connection,
    dictionary: &Dictionary,
    (view, kind, filter): (&View, SpanKind, FilterId),
    range: MinuteRange,
    visit: &mut EachCount<'_>,
) -> Result<()> {
    let sizes = dictionary.catch_up(conn)?;
    let mut select = conn.prepare_cached(
        "SELECT start, block FROM counts
         WHERE revision = ?1 AND kind = ?2 AND filter = ?3 AND space = ?4 AND bucket = ?5 AND start >= ?6 AND start < ?7",
    )?;
    let mut counts = Box::new([0_u64; BUCKET as usize]);
    let pieces = view.spans(kind, filter, range);
    for (space, ads) in sizes.into_iter().filter(|(space, _)| *space != Space::RANKED) {
        for (bucket, (starts, revision)) in
            (0..ads.div_ceil(BUCKET)).flat_map(|bucket| pieces.iter().map(move |piece| (bucket, *piece)))
        {
            let (from, to) = (starts.from.as_epoch(), starts.to.as_epoch());
            let key = (revision.0, kind_number(kind), filter.0, space.0, bucket, from, to);
            let mut rows = select.query(key)?;
            while let Some(row) = rows.next()? {
                let start: i64 = row.get(0)?;
                counts.fill(0);
                let bytes = row.get_ref(1)?.as_blob().map_err(|error| error.to_string());
                let read = bytes.and_then(Block::read).and_then(|block| block.add_all_to(&mut counts));
                let of = Bucket { space, bucket };
                read.map_err(|why| damaged((revision, kind, filter), of, start, &why))?;
                let tables = dictionary.read();
                let Some(table) = tables.get(&space) else { continue };
                for (number, count) in (bucket * BUCKET..).zip(*counts).filter(|(_, count)| *count > 0) {
                    visit(Minute::from_epoch(start), table.get(number), count);
                }
            }
        }
    }
    Ok(())
}

/// A block that cannot be read.
fn damaged((revision, kind, filter): (Revision, SpanKind, FilterId), of: Bucket, start: i64, why: &str) -> Fault {
    let Bucket { space, bucket } = of;
    Fault::Broken(format!(
        "table counts, revision {revision}, kind {}, filter {filter}, space {}, bucket {bucket}, start {start}: {why}",
        kind_number(kind),
        space.0,
    ))
}

/// The most clicked ads, by merging every block of the range. `None` where that would be more than [`MOST_ENTRIES`].
pub(super) fn top(
    conn: &Connection,
    dictionary: &Dictionary,
    (view, filter): (&View, FilterId),
    range: MinuteRange,
    n: usize,
) -> Result<Option<TopAds>> {
    let sizes = dictionary.catch_up(conn)?;
    let sizes = sizes.iter().filter(|(space, _)| *space != Space::RANKED);
    let ads: u64 = sizes.clone().map(|(_, ads)| u64::from(*ads)).sum();
    if range.to.minus(range.from) > MOST_MINUTES {
        return Ok(None);
    }
    let pieces = view.pieces(filter, range);
    let spans: usize = pieces.iter().map(|(piece, _)| tiles(piece.from, piece.to).count()).sum();
    if ads.saturating_mul(spans as u64) > MOST_ENTRIES {
        return Ok(None);
    }
    let mut best = Best::new(n);
    let mut sums = Box::new([0_u64; BUCKET as usize]);
    let mut merged = 0;
    for (space, ads) in sizes {
        for bucket in 0..ads.div_ceil(BUCKET) {
            sums.fill(0);
            scan(conn, Bucket { space: *space, bucket }, (view, filter), range, SpanKind::Day, |_, block| {
                merged += block.entries() as u64;
                block.add_all_to(&mut sums)
            })?;
            // Where the hours are not there yet, their minutes were merged instead: one day's at most, about twice what was foreseen.
            if merged > 4 * MOST_ENTRIES {
                return Ok(None);
            }
            let tables = dictionary.read();
            let Some(table) = tables.get(space) else { continue };
            for (number, count) in (bucket * BUCKET..).zip(*sums) {
                best.offer(count, || table.get(number));
            }
        }
    }
    Ok(Some(best.finish()))
}

/// The `n` most clicked, ties by ad id.
#[derive(Debug)]
struct Best {
    n: usize,
    /// The worst on top: fewest clicks, then the highest ad id.
    heap: BinaryHeap<(Reverse<u64>, Vec<u8>)>,
}

impl Best {
    fn new(n: usize) -> Self {
        Self { n, heap: BinaryHeap::new() }
    }

    #[inline]
    fn offer<'a>(&mut self, count: u64, name: impl FnOnce() -> &'a [u8]) {
        if count == 0 {
            return;
        }
        if self.heap.len() < self.n {
            self.heap.push((Reverse(count), name().to_vec()));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && count >= worst.0.0
        {
            let name = name();
            if count > worst.0.0 || name < worst.1.as_slice() {
                *worst = (Reverse(count), name.to_vec());
            }
        }
    }

    fn finish(self) -> TopAds {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|(count, ad)| (String::from_utf8_lossy(&ad).into_owned(), count.0)).collect()
    }
}

/// How far the figures of a revision are stored.
pub(super) fn progress(conn: &Connection, revision: Revision) -> Result<StoreProgress> {
    let mut progress = StoreProgress::default();
    let mut select = conn.prepare_cached("SELECT kind, partition, until FROM progress WHERE revision = ?1")?;
    let mut rows = select.query([revision.0])?;
    while let Some(row) = rows.next()? {
        let (kind, partition, until) = (row.get::<_, i64>(0)?, Partition(row.get(1)?), Minute::from_epoch(row.get(2)?));
        let of_stage = if kind == Stage::Counts as i64 { &mut progress.counts } else { &mut progress.rankings };
        of_stage.insert(partition, until);
    }
    let mut select = conn.prepare_cached(
        "SELECT filter, max(\"from\"), min(until) FROM filter_spans WHERE revision = ?1 GROUP BY filter ORDER BY filter",
    )?;
    let spans = select.query_map([revision.0], |row| {
        let until: Option<i64> = row.get(2)?;
        Ok(FilterSpan {
            filter: FilterId(row.get(0)?),
            from: Minute::from_epoch(row.get(1)?),
            until: until.map(Minute::from_epoch),
        })
    })?;
    progress.filters = spans.collect::<Result<_, _>>()?;
    let mut select = conn.prepare_cached("SELECT what, minute FROM deleted_before")?;
    let mut rows = select.query(())?;
    while let Some(row) = rows.next()? {
        let (what, minute) = (row.get::<_, i64>(0)?, Minute::from_epoch(row.get(1)?));
        let from = if what == Kept::Counts as i64 { &mut progress.counts_from } else { &mut progress.rankings_from };
        *from = Some(minute);
    }
    Ok(progress)
}

/// Every definition, oldest first.
pub(super) fn definitions(conn: &Connection) -> Result<Vec<Definition>> {
    let mut select = conn.prepare_cached("SELECT version, json FROM definitions ORDER BY version")?;
    let mut rows = select.query(())?;
    let mut definitions = Vec::new();
    while let Some(row) = rows.next()? {
        let (version, json): (u32, String) = (row.get(0)?, row.get(1)?);
        let definition = serde_json::from_str(&json)
            .map_err(|error| Fault::Broken(format!("table definitions, version {version}: {error}")))?;
        definitions.push(definition);
    }
    Ok(definitions)
}
