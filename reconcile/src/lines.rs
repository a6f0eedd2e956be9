//! The raw lines behind a count that differs.

use clickmill_model::{Filter, FilterId, Minute, Timestamp};
use serde::Serialize;

use crate::clicks::{numbers, text};
use crate::compare::CountDifference;
use crate::count::{Counter, FIRST_IMPORTED};
use crate::engine::Engine;
use crate::error::Result;
use crate::filters;

/// A raw line that tells a click of a count that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineBehind {
    /// The minute of the count.
    pub minute: Minute,
    /// Its filter.
    pub filter: FilterId,
    /// Its ad.
    pub ad_id: String,
    /// True where the line was set aside as late, or imported.
    pub late: bool,
    /// Where the line is in the queue: `topic/partition`.
    pub partition: String,
    /// The offset of its record.
    pub offset: i64,
    /// Its place in the record, from 0.
    pub line_number: i64,
    /// When it arrived.
    #[serde(serialize_with = "as_text")]
    pub arrival: Timestamp,
    /// The log file that it was read from, where that is known.
    pub file: Option<String>,
    /// Where it begins there.
    pub byte_offset: Option<i64>,
}

impl LineBehind {
    /// How many lines are told at most, whatever differs.
    pub const MOST: usize = 10_000;
}

/// The first `most` lines of the clicks of a differing count, the late ones first. The tables `clicks` and `late` hold its minute.
pub(crate) fn lines_behind(
    engine: &Engine,
    counter: &Counter<'_>,
    filter: Option<&Filter>,
    (difference, ad): (&CountDifference, u32),
    most: usize,
) -> Result<Vec<LineBehind>> {
    let condition = filter.map_or_else(|| "TRUE".to_owned(), filters::condition);
    let sql = format!(
        "SELECT CAST(c.raw AS BIGINT) AS number, c.\"offset\" AS place, CAST(c.line_number AS BIGINT) AS line, c.arrival AS time, CAST(l.raw IS NOT NULL OR c.\"offset\" >= {FIRST_IMPORTED} AS BIGINT) AS is_late \
         FROM clicks c LEFT JOIN (SELECT DISTINCT raw, arrival, \"offset\", line_number FROM late) l \
         ON c.raw = l.raw AND c.arrival = l.arrival AND c.\"offset\" = l.\"offset\" AND c.line_number = l.line_number \
         WHERE c.minute = {} AND c.ad = {ad} AND {condition} ORDER BY is_late DESC, time, place, line LIMIT {most}",
        difference.start.as_epoch()
    );
    let mut lines = Vec::new();
    for batch in engine.rows(&sql)? {
        let columns = batch.columns().iter().map(numbers).collect::<Result<Vec<_>>>()?;
        let [raw, offset, line_number, arrival, late] = columns.as_slice() else { continue };
        for row in 0..batch.num_rows() {
            let Some(partition) = counter.partition(raw.value(row)) else { continue };
            let mut line = LineBehind {
                minute: difference.start,
                filter: difference.filter,
                ad_id: difference.ad_id.clone(),
                late: late.value(row) > 0,
                partition: partition.to_string(),
                offset: offset.value(row),
                line_number: line_number.value(row),
                arrival: Timestamp::from_micros(arrival.value(row)),
                file: None,
                byte_offset: None,
            };
            find_origin(engine, counter, raw.value(row), &mut line)?;
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Looks up in the raw files which log file the line came from.
fn find_origin(engine: &Engine, counter: &Counter<'_>, raw: i64, line: &mut LineBehind) -> Result<()> {
    let files = counter.files_with(raw, line.offset);
    if files.is_empty() {
        return Ok(());
    }
    engine.set_raw("origins", &files)?;
    let sql = format!(
        "SELECT file, byte_offset FROM origins WHERE \"offset\" = {} AND line_number = {} AND CAST(arrival AS BIGINT) = {} LIMIT 1",
        line.offset,
        line.line_number,
        line.arrival.as_micros()
    );
    for batch in engine.rows(&sql)? {
        let [file, byte_offset] = batch.columns() else { continue };
        line.file = text(file)?.iter().next().flatten().map(str::to_owned);
        line.byte_offset = numbers(byte_offset)?.iter().next().flatten();
    }
    Ok(())
}

fn as_text<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}
