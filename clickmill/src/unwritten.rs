//! Lines that a writer has not passed.

use std::ops::Range;

use clickmill_model::Offset;
use clickmill_queue::{Queue, TopicPartition};

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// True where a record at one of these offsets holds a line. What only says how far time has come is none: after a drain nobody may be there to pass it.
pub(crate) fn has_lines(queue: &dyn Queue, of: &TopicPartition, offsets: Range<Offset>) -> anyhow::Result<bool> {
    let mut next = offsets.start;
    while next < offsets.end {
        let records = queue.read(of, next, READ_BYTES)?;
        let inside = || records.iter().take_while(|record| record.offset < offsets.end);
        if inside().any(|record| !record.record.value.is_empty()) {
            return Ok(true);
        }
        match inside().last() {
            Some(last) => next = last.offset.next(),
            // Before its end a log may have offsets without records.
            None => break,
        }
    }
    Ok(false)
}
