//! Old files are deleted.
//!
//! A file goes when its newest line arrived before the retention, and its lines are committed: nobody will write them again under its name. Who deletes does not matter, nor how
//! often: any number of writers may do it at once, and one that stops in the middle leaves the rest to the next.
//!
//! A writer that was stopped for longer than the retention, just before its file appeared, finds the name free again. What it writes then is as old as what was deleted, and goes with the
//! next look; until then it shares lines with files that are there, which readers take once ([`super::each_line_once`]), and its commit is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_model::{Offset, Partition, RawPartition, Timestamp};
use clickmill_queue::{Queue, StageError};

use super::files::{Files, FilesError};
use super::span::FileSpan;

/// Deletes the files of a folder whose newest line arrived before this time, as far as the group that writes them has committed their lines. `topics` are those that it reads. Returns
/// how many went.
pub(super) fn expire(
    queue: &dyn Queue,
    files: &Files,
    (group, topics, folder): (&str, &[String], &str),
    before: Timestamp,
) -> Result<u64, StageError> {
    let mut committed = BTreeMap::new();
    let mut deleted = 0;
    for listed in files.list_of_days(folder, |day| day <= day_of(before).as_str())? {
        if FileSpan::first_arrival_of(&listed.path).is_none_or(|first| first >= before) {
            continue;
        }
        let span = match FileSpan::read(files, &listed.path) {
            Ok(span) => span,
            Err(error @ FilesError::Damaged { .. }) => {
                tracing::warn!(%error, "a file past its retention is kept");
                continue;
            }
            // Another writer has deleted it, or the next look will.
            Err(FilesError::Unavailable { .. } | FilesError::Gone { .. } | FilesError::Refused { .. }) => continue,
        };
        if span.last_arrival >= before {
            continue;
        }
        let FileSpan { from: RawPartition { topic, partition }, last_offset, .. } = &span;
        // Nobody writes any more what was read from a topic that is no input now. Lines of an import that goes on after so long are written again, and go again.
        let is_read = span.import().is_none() && topics.iter().any(|read| **read == **topic);
        if is_read && !committed.contains_key(topic) {
            let offsets = queue.committed(group, topic)?.into_iter().map(|(partition, at)| (partition, at.offset));
            committed.insert(Arc::clone(topic), offsets.collect::<BTreeMap<Partition, Offset>>());
        }
        let next = committed.get(topic).and_then(|offsets| offsets.get(partition));
        let is_committed = !is_read || next.is_some_and(|next| next > last_offset);
        if is_committed {
            files.delete(&listed.path)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// `yyyy-MM-dd`.
fn day_of(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('T').map_or(text.clone(), |(day, _)| day.to_owned())
}
