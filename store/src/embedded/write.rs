//! Writing counts, with the progress that they stand for.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_model::records::FilterSpan;
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::ads::{Dictionary, Numbers, Space};
use super::block::{BlockWriter, split};
use super::fault::{Fault, Result};
use crate::ClosedWrite;

/// The parts of one span, with the newest of their arrivals.
type Parts<'a> = (Vec<&'a Columns>, Option<Timestamp>);

/// Whose progress.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    Counts,
    Rankings,
}

/// How a span's kind is stored.
pub(super) const fn kind_number(kind: SpanKind) -> i64 {
    match kind {
        SpanKind::Minute => 0,
        SpanKind::Hour => 1,
        SpanKind::Day => 2,
    }
}

/// Everything that an aggregator partition told. `conn` is in a write transaction.
pub(super) fn write_closed(conn: &Connection, dictionary: &Dictionary, write: &ClosedWrite) -> Result<()> {
    let mut spans: BTreeMap<Span, Parts<'_>> = BTreeMap::new();
    for (columns, arrival) in &write.counts {
        let parts = spans.entry(columns.span).or_default();
        parts.0.push(columns);
        parts.1 = parts.1.max(*arrival);
    }
    if !spans.is_empty() {
        let space = Space::of(write.partition);
        let mut numbers = Numbers::new(conn, dictionary, space)?;
        for (span, (parts, arrival)) in spans {
            write_span(conn, &mut numbers, &SpanWrite { revision: write.revision, space, span, parts, arrival })?;
        }
        numbers.save(conn)?;
    }
    let stored = progress_of(conn, write.revision, Stage::Counts, write.partition)?;
    if stored.is_none_or(|stored| write.until >= stored) {
        write_filters(conn, write.revision, write.partition, &write.filters)?;
    }
    raise_progress(conn, write.revision, Stage::Counts, write.partition, write.until)
}

struct SpanWrite<'a> {
    revision: Revision,
    space: Space,
    span: Span,
    parts: Vec<&'a Columns>,
    arrival: Option<Timestamp>,
}

/// An ad of a span: its number in the upper half, so that they sort by it; the part and the row where its counts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    number: u32,
    part: u32,
    row: u32,
}

fn write_span(conn: &Connection, numbers: &mut Numbers<'_>, write: &SpanWrite<'_>) -> Result<()> {
    let SpanWrite { revision, space, span, .. } = write;
    let key = (revision.0, space.0, kind_number(span.kind), span.start.as_epoch());
    delete_span(conn, key)?;
    let rows = rows(numbers, &write.parts)?;
    if let Some(twice) = rows.array_windows().find(|[a, b]| a.number == b.number).map(|[a, _]| a) {
        let ad = write.parts.get(twice.part as usize).map_or(&[][..], |part| part.ads.get(twice.row as usize));
        return Err(Fault::Broken(format!(
            "ad {} stands twice in the {:?} {} of aggregator partition {}",
            String::from_utf8_lossy(ad),
            span.kind,
            span.start,
            space.0
        )));
    }
    let filters: BTreeSet<FilterId> = write.parts.iter().flat_map(|part| part.filters.iter().copied()).collect();
    let mut insert = conn.prepare_cached(
        "INSERT INTO counts (revision, kind, filter, space, bucket, start, block) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut block = BlockWriter::default();
    for filter in &filters {
        let columns: Vec<Option<&[u64]>> = write.parts.iter().map(|part| column(part, *filter)).collect();
        let count_of = |row: &Row| {
            let column = columns.get(row.part as usize).copied().flatten();
            column.and_then(|column| column.get(row.row as usize)).copied().unwrap_or(0)
        };
        for bucket_rows in rows.chunk_by(|a, b| split(a.number).0 == split(b.number).0) {
            for row in bucket_rows {
                let count = count_of(row);
                if count > 0 {
                    block.push(split(row.number).1, count);
                }
            }
            if let Some(first) = bucket_rows.first().filter(|_| !block.is_empty()) {
                let bucket = split(first.number).0;
                insert.execute(params![key.0, key.2, filter.0, key.1, bucket, key.3, block.finish()])?;
            }
        }
    }
    let buckets = rows.last().map_or(0, |last| split(last.number).0 + 1);
    let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
    conn.prepare_cached(
        "INSERT INTO spans (revision, space, kind, start, arrival, filters, buckets) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![key.0, key.1, key.2, key.3, write.arrival.map(Timestamp::as_micros), filters.join(","), buckets])?;
    Ok(())
}

fn column(part: &Columns, filter: FilterId) -> Option<&[u64]> {
    let index = part.filters.iter().position(|f| *f == filter)?;
    part.counts.get(index).map(Vec::as_slice)
}

/// Every ad of a span, by rising number.
fn rows(numbers: &mut Numbers<'_>, parts: &[&Columns]) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(parts.iter().map(|part| part.ads.len()).sum());
    for (part, columns) in (0_u32..).zip(parts) {
        // Columns hold fewer than 2³² ads: the lengths of their ids would not fit.
        numbers.of_all(&columns.ads, |row, number| rows.push(Row { number, part, row: row as u32 }))?;
    }
    rows.sort_unstable();
    Ok(rows)
}

/// Deletes what is there of a span: revision, space, kind and start. True where there was something.
pub(super) fn delete_span(conn: &Connection, (revision, space, kind, start): (u32, i64, i64, i64)) -> Result<bool> {
    let delete =
        "DELETE FROM spans WHERE revision = ?1 AND space = ?2 AND kind = ?3 AND start = ?4 RETURNING filters, buckets";
    let old: Option<(String, u32)> = conn
        .prepare_cached(delete)?
        .query_row((revision, space, kind, start), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((filters, buckets)) = old else { return Ok(false) };
    let mut delete = conn.prepare_cached(
        "DELETE FROM counts WHERE revision = ?1 AND kind = ?2 AND filter = ?3 AND space = ?4 AND bucket = ?5 AND start = ?6",
    )?;
    for filter in filters.split(',').filter(|filter| !filter.is_empty()) {
        let filter: u16 = filter.parse().map_err(|_| {
            Fault::Broken(format!(
                "table spans, revision {revision}, space {space}, kind {kind}, start {start}: filter {filter:?}"
            ))
        })?;
        for bucket in 0..buckets {
            delete.execute(params![revision, kind, filter, space, bucket, start])?;
        }
    }
    Ok(true)
}

fn write_filters(conn: &Connection, revision: Revision, partition: Partition, filters: &[FilterSpan]) -> Result<()> {
    conn.prepare_cached("DELETE FROM filter_spans WHERE revision = ?1 AND partition = ?2")?
        .execute((revision.0, partition.0))?;
    let mut insert = conn.prepare_cached(
        "INSERT OR REPLACE INTO filter_spans (revision, partition, filter, \"from\", until) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for span in filters {
        let until = span.until.map(Minute::as_epoch);
        insert.execute((revision.0, partition.0, span.filter.0, span.from.as_epoch(), until))?;
    }
    Ok(())
}

fn progress_of(conn: &Connection, revision: Revision, stage: Stage, partition: Partition) -> Result<Option<Minute>> {
    let select = "SELECT until FROM progress WHERE revision = ?1 AND kind = ?2 AND partition = ?3";
    let until: Option<i64> =
        conn.prepare_cached(select)?.query_row((revision.0, stage as i64, partition.0), |row| row.get(0)).optional()?;
    Ok(until.map(Minute::from_epoch))
}

/// Notes the progress, unless there is a higher one.
pub(super) fn raise_progress(
    conn: &Connection,
    revision: Revision,
    stage: Stage,
    partition: Partition,
    until: Minute,
) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO progress (revision, kind, partition, until) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
    )?
    .execute((revision.0, stage as i64, partition.0, until.as_epoch()))?;
    Ok(())
}

/// Notes a definition, unless its version is there.
pub(super) fn write_definition(conn: &Connection, definition: &Definition) -> Result<()> {
    let version = definition.version;
    let json = serde_json::to_string(definition)
        .map_err(|error| Fault::Broken(format!("definition {version} cannot be written as JSON: {error}")))?;
    conn.prepare_cached("INSERT OR IGNORE INTO definitions (version, json) VALUES (?1, ?2)")?
        .execute((version, json))?;
    Ok(())
}
