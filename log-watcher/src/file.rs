//! One file that is followed.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::Timestamp;

use crate::gzip::End;
use crate::identity::{PRINT_BYTES, Print, stem};
use crate::mark::{FileTime, Hold, HoldLimits};
use crate::pack::{Bounds, Packer, Taken};
use crate::position::FileRow;
use crate::reader::{Content, Look};

/// A chunk is read whole unless another file is behind it.
pub(crate) const MOST_CHUNK_BYTES: usize = 1 << 20;

/// What is taken of a file at least, though another one is behind: else many sparse files would be read line by line.
const LEAST_CHUNK_BYTES: usize = 16 * 1024;

/// A chunk without newline must be able to show that its line is too long.
const LONG_LINE_CHUNK_BYTES: usize = 128 * 1024;

/// How often a file that cannot be read is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// A file that has not grown for so long is closed while nothing happens to it.
const CLOSE_AFTER: Duration = Duration::from_secs(300);

/// Why and since when a file cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) since: Timestamp,
    pub(crate) tried: Timestamp,
    pub(crate) why: String,
}

impl Trouble {
    /// What `error` makes of the trouble that there was before; says so once.
    pub(crate) fn after(before: Option<&Self>, path: &Path, error: &io::Error, now: Timestamp) -> Self {
        let why = error.to_string();
        if before.is_none_or(|before| before.why != why) {
            tracing::warn!(file = %path.display(), error = %why, "cannot be read; trying again");
        }
        Self { since: before.map_or(now, |before| before.since), tried: now, why }
    }

    pub(crate) fn retry_is_due(&self, now: Timestamp) -> bool {
        now < self.tried || now.since(self.tried) >= RETRY
    }
}

/// What reading depends on beside the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) limits: HoldLimits,
    pub(crate) drain: bool,
}

/// A look at a file told that its content is another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replaced;

/// A file that is followed.
pub(crate) struct Followed {
    pub(crate) row: FileRow,
    /// Its name for people and records.
    pub(crate) name: Arc<str>,
    pub(crate) content: Option<Content>,
    pub(crate) look: Look,
    /// The event time of its first click, where its beginning has one.
    pub(crate) first: Option<Timestamp>,
    /// Some pattern names it.
    pub(crate) listed: bool,
    /// As of when it is known to be read to its end.
    pub(crate) ended: Option<Timestamp>,
    /// Its size when the end was found.
    pub(crate) looked_bytes: u64,
    /// What stands behind the last newline.
    pub(crate) rest_bytes: usize,
    /// Its end lies within compressed data.
    pub(crate) cut: bool,
    /// That was said.
    pub(crate) cut_told: bool,
    /// When it grew last.
    pub(crate) grown: Timestamp,
    /// When its name changed or went last: what a writer still holds back of the last line may come after that.
    pub(crate) turned: Timestamp,
    /// Something about it changed: compare its beginning again.
    pub(crate) suspect: bool,
    pub(crate) hold: Hold,
    pub(crate) trouble: Option<Trouble>,
    /// Where it stands in the queue of those to be read.
    pub(crate) queued: Option<Timestamp>,
    chunk_bytes: usize,
}

impl Followed {
    pub(crate) fn new(row: FileRow, look: Look, first: Option<Timestamp>, now: Timestamp) -> Self {
        Self {
            name: row.path.to_string_lossy().into(),
            row,
            content: None,
            look,
            first,
            listed: true,
            ended: None,
            looked_bytes: 0,
            rest_bytes: 0,
            cut: false,
            cut_told: false,
            grown: Timestamp::from_micros(look.modified).min(now),
            turned: Timestamp::MIN,
            suspect: false,
            hold: Hold::default(),
            trouble: None,
            queued: None,
            chunk_bytes: 4 * LEAST_CHUNK_BYTES,
        }
    }

    /// Takes its new name.
    pub(crate) fn rename(&mut self, path: &Path, now: Timestamp) {
        self.turned = now;
        self.row.path = path.to_owned();
        self.name = self.row.path.to_string_lossy().into();
        self.row.renamed = true;
    }

    /// By which time it is read: the lowest first.
    pub(crate) fn time_at_position(&self) -> Timestamp {
        self.row.highest.or(self.first).unwrap_or(Timestamp::MIN)
    }

    pub(crate) fn is_quiet(&self, now: Timestamp, rules: Rules) -> bool {
        now.since(self.grown.max(self.turned)) >= rules.limits.settle
    }

    /// True where nobody will complete its last line any more.
    fn is_rotated(&self) -> bool {
        !self.listed || self.row.renamed || self.row.gzip || self.has_younger_sibling()
    }

    /// True where it has the name of a rotated file, and the one that it was rotated away from is there.
    fn has_younger_sibling(&self) -> bool {
        let name = self.row.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = stem(name);
        stem != name && self.row.path.with_file_name(stem).exists()
    }

    fn takes_rest(&self, now: Timestamp, rules: Rules) -> bool {
        self.rest_bytes > 0
            && !self.cut
            && self.ended.is_some()
            && self.is_quiet(now, rules)
            && (rules.drain || self.is_rotated())
    }

    /// True where reading it may give something.
    pub(crate) fn is_ready(&self, now: Timestamp, rules: Rules) -> bool {
        match &self.trouble {
            Some(trouble) => trouble.retry_is_due(now),
            None => {
                self.ended.is_none()
                    || self.suspect
                    || self.look.size_bytes != self.looked_bytes
                    || self.takes_rest(now, rules)
            }
        }
    }

    /// True where a drain needs nothing more of it.
    pub(crate) fn is_drained(&self, now: Timestamp, rules: Rules) -> bool {
        match &self.trouble {
            Some(trouble) => now.since(trouble.since) > rules.limits.source_timeout,
            None if self.cut => self.is_quiet(now, rules) && !self.is_ready(now, rules),
            None => self.rest_bytes == 0 && !self.is_ready(now, rules),
        }
    }

    /// What it says about how far time has come.
    pub(crate) fn time(&self, now: Timestamp, rules: Rules) -> FileTime {
        let at = self.row.highest.or(self.first);
        if let Some(trouble) = &self.trouble {
            return FileTime::Unreadable { since: trouble.since, at };
        }
        let waits_for_rest = self.rest_bytes > 0 && !self.cut;
        match (self.ended, self.row.highest, self.first) {
            (Some(as_of), highest, _) if !(rules.drain && waits_for_rest) => {
                let held = highest.filter(|_| self.hold.holds(now, rules.limits));
                // Its last line will be sent once it is certain that it is one.
                let rest_comes = waits_for_rest && self.is_rotated();
                FileTime::AtEnd { as_of: if rest_comes { as_of.min(self.grown.max(self.turned)) } else { as_of }, held }
            }
            (_, Some(highest), _) => FileTime::CatchingUp { highest },
            (_, None, Some(first)) => FileTime::Unbegun { first },
            (_, None, None) => FileTime::Unknown,
        }
    }

    /// Takes note of a look at it.
    pub(crate) fn see(&mut self, look: Look, now: Timestamp) -> Result<(), Replaced> {
        let before = std::mem::replace(&mut self.look, look);
        if (look.size_bytes, look.modified) == (before.size_bytes, before.modified) {
            if self.ended.is_some() && self.looked_bytes == look.size_bytes {
                self.ended = Some(now);
            }
            return Ok(());
        }
        let shrunk = look.size_bytes < before.size_bytes;
        if shrunk && (self.row.gzip || look.size_bytes < self.row.offset) || self.content.is_none() {
            return Err(Replaced);
        }
        // Now, and not only when it is read: a file that is met next may be a copy of what stood here.
        if let Some(content @ Content::Plain(_)) = &mut self.content {
            let mut head = [0; PRINT_BYTES];
            let read = content.fill(0, &mut head);
            if read.is_ok_and(|(n, _)| !self.row.head.begins(head.get(..n).unwrap_or_default())) {
                return Err(Replaced);
            }
        }
        self.suspect = true;
        if look.size_bytes != before.size_bytes {
            self.grown = now;
        }
        Ok(())
    }

    /// True where it may be closed: nothing happens to it.
    pub(crate) fn may_close(&self, now: Timestamp) -> bool {
        let is_idle = self.ended.is_some() && self.rest_bytes == 0 && self.looked_bytes == self.look.size_bytes;
        self.content.is_some() && self.listed && is_idle && now.since(self.grown) > CLOSE_AFTER
    }

    /// Says once that its compressed data has no end.
    pub(crate) fn tell_cut(&mut self, now: Timestamp, rules: Rules) {
        if self.cut && !self.cut_told && self.ended.is_some() && self.is_quiet(now, rules) {
            self.cut_told = true;
            tracing::warn!(file = %self.name, bytes = self.rest_bytes, "ends in the middle of its compressed data: what should follow is missing");
        }
    }

    /// Reads the next chunk into `packer`.
    pub(crate) fn read(
        &mut self,
        packer: &mut Packer,
        buf: &mut Vec<u8>,
        (latest, stop_after): (Timestamp, Option<Timestamp>),
        now: Timestamp,
        rules: Rules,
    ) -> io::Result<Result<Taken, Replaced>> {
        if self.content.is_none() {
            let (content, look) = Content::open(&self.row.path)?;
            if look.place != self.row.place || content.is_gzip() != self.row.gzip {
                return Ok(Err(Replaced));
            }
            self.content = Some(content);
        }
        let Some(content) = &mut self.content else { return Ok(Err(Replaced)) };
        if buf.len() < self.chunk_bytes {
            buf.resize(self.chunk_bytes, 0);
        }
        let chunk = buf.get_mut(..self.chunk_bytes).unwrap_or_default();
        let (n, end) = content.fill(self.row.offset, chunk)?;
        let chunk = chunk.get(..n).unwrap_or_default();
        match content {
            // After the chunk, so that what was read of it is known to be this content's.
            Content::Plain(_) => {
                let mut head = [0; PRINT_BYTES];
                let (n, _) = content.fill(0, &mut head)?;
                let head = head.get(..n).unwrap_or_default();
                if !self.row.head.begins(head) {
                    return Ok(Err(Replaced));
                }
                self.row.head = Print::of_head(head);
            }
            Content::Gzip(_) if self.row.offset == 0 && n > self.row.head.len => {
                self.row.head = Print::of_head(chunk);
            }
            Content::Gzip(_) => {}
        }
        let hole = self.hole_bytes(chunk);
        if hole > 0 {
            let taken = Taken { bytes: hole, stopped: hole < n, ..Taken::default() };
            self.moved(&taken, chunk, end, now, rules);
            return Ok(Ok(taken));
        }
        let take_rest = self.rest_bytes == n && self.takes_rest(now, rules);
        let bounds = Bounds {
            latest,
            stop_after,
            least_bytes: LEAST_CHUNK_BYTES,
            take_rest,
            in_long_line: self.row.in_long_line,
        };
        let taken = packer.take(&self.name, self.row.offset, chunk, bounds);
        self.moved(&taken, chunk, end, now, rules);
        Ok(Ok(taken))
    }

    /// How much of `chunk` belongs to the hole that a copy-truncate leaves at a file's beginning where its writer goes on at its old position: it is
    /// no part of the first line.
    fn hole_bytes(&self, chunk: &[u8]) -> usize {
        let zeros = Print::of_head(&[0; PRINT_BYTES]);
        let row = &self.row;
        if row.gzip || row.head != zeros || row.offset > 0 && row.tail != zeros {
            return 0;
        }
        chunk.iter().position(|byte| *byte != 0).unwrap_or(chunk.len())
    }

    /// `taken` was taken of `chunk`, behind which the file ended or not.
    fn moved(&mut self, taken: &Taken, chunk: &[u8], end: End, now: Timestamp, rules: Rules) {
        let rest = chunk.get(taken.bytes..).unwrap_or_default();
        let row = &mut self.row;
        row.offset += taken.bytes as u64;
        row.in_long_line = taken.in_long_line;
        row.highest = row.highest.max(taken.highest);
        if taken.bytes > 0 {
            row.tail = Print::of_tail(chunk.get(..taken.bytes).unwrap_or_default());
        }
        self.suspect = false;
        self.trouble = None;
        let at_end = end != End::More && !taken.stopped;
        if at_end {
            if !row.gzip && row.offset + rest.len() as u64 > self.look.size_bytes {
                self.look.size_bytes = row.offset + rest.len() as u64;
                self.grown = now;
            }
            self.ended = Some(now);
            self.looked_bytes = self.look.size_bytes;
            self.rest_bytes = rest.len();
            self.cut = end == End::Cut;
        } else {
            self.ended = None;
            self.rest_bytes = 0;
            self.chunk_bytes = match taken.stopped {
                true => (self.chunk_bytes / 2).max(LEAST_CHUNK_BYTES),
                false if taken.bytes == 0 => LONG_LINE_CHUNK_BYTES,
                false => (self.chunk_bytes * 2).min(MOST_CHUNK_BYTES),
            };
        }
        row.size_bytes = self.look.size_bytes;
        row.used_bytes = match &self.content {
            Some(Content::Gzip(_)) if at_end && rest.is_empty() && end == End::Whole => row.size_bytes,
            Some(Content::Gzip(gunzip)) => gunzip.read_bytes().min(row.size_bytes.saturating_sub(1)),
            Some(Content::Plain(_)) | None => row.offset,
        };
        let lowest = taken.lowest.filter(|_| taken.lines > 0);
        self.hold.gained(lowest, at_end, now, rules.limits);
    }
}
