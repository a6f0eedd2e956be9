//! The files that are followed: which are new, which are known under another name or as a copy, which went away, and which is read next.
//!
//! A content (a row of `log-positions`) is borne by one file on the disk at a time. When that file goes or is overwritten, the row stays behind in
//! `gone`, and a file that turns out to have the same content (moved to another disk, compressed, copied back, or the copy of a copy-truncate) takes it over with its position.
//! A copy of a file that is still there is a shadow: it is not read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use clickmill_model::{SourceName, Timestamp};
use clickmill_queue::Record;

use crate::file::{Followed, Replaced, Rules, Trouble};
use crate::identity::Place;
use crate::mark::FileTime;
use crate::meet::MOST_OPEN;
use crate::pack::{Packer, Taken};
use crate::patterns::{Listed, Listing};
use crate::position::{FileId, FileRow, file_record};
use crate::reader::{Content, Look};
use crate::report::Report;

/// How many contents without a file are remembered.
const MOST_GONE: usize = 4096;

/// How far the file that is read may get in front of the next one.
const LEAD: Duration = Duration::from_secs(60);

/// A content without a file.
pub(crate) struct Gone {
    pub(crate) row: FileRow,
    pub(crate) since: Timestamp,
    /// What was not read of it was counted.
    pub(crate) booked: bool,
}

/// A copy of a file that is followed.
pub(crate) struct Shadow {
    pub(crate) of: FileId,
    pub(crate) look: Look,
}

/// Why a file that is listed is not followed yet.
#[derive(Debug)]
pub(crate) enum Why {
    /// It has no content.
    Blank,
    /// It has too little to be told from others, and may be growing.
    Growing,
    /// It cannot be read.
    Trouble(Trouble),
}

/// A file that is listed and not followed yet.
pub(crate) struct Waiting {
    pub(crate) why: Why,
    pub(crate) look: Look,
    pub(crate) changed: Timestamp,
}

/// The files that are followed.
pub(crate) struct Files {
    pub(crate) rules: Rules,
    pub(crate) max_clock_skew: Duration,
    pub(crate) followed: HashMap<FileId, Followed>,
    pub(crate) by_place: HashMap<Place, FileId>,
    pub(crate) gone: HashMap<FileId, Gone>,
    pub(crate) shadows: HashMap<Place, Shadow>,
    pub(crate) waiting: HashMap<Place, Waiting>,
    /// Those that are followed and have no name any more, and the others by name: filled only while unknown files are met.
    pub(crate) nameless: Vec<FileId>,
    pub(crate) named: HashMap<String, Vec<FileId>>,
    /// Those to be read, by the event time at their position.
    pub(crate) ready: BTreeSet<(Timestamp, FileId)>,
    pub(crate) next_id: FileId,
    pub(crate) dirty: BTreeSet<FileId>,
    pub(crate) buf: Vec<u8>,
    pub(crate) open: usize,
    /// A file's content turned out to be another one: list again before anything is said.
    pub(crate) must_list: bool,
    /// Bytes that were there and cannot be read any more.
    pub(crate) unread_bytes: u64,
}

impl Files {
    /// Begins with what was stored: contents whose files have yet to be found.
    pub(crate) fn new(
        rows: impl IntoIterator<Item = (FileId, FileRow)>,
        rules: Rules,
        max_clock_skew: Duration,
        now: Timestamp,
    ) -> Self {
        let gone: HashMap<FileId, Gone> =
            rows.into_iter().map(|(id, row)| (id, Gone { booked: row.unread_bytes() == 0, row, since: now })).collect();
        Self {
            rules,
            max_clock_skew,
            followed: HashMap::new(),
            by_place: HashMap::new(),
            next_id: gone.keys().max().map_or(1, |id| id + 1),
            gone,
            shadows: HashMap::new(),
            waiting: HashMap::new(),
            nameless: Vec::new(),
            named: HashMap::new(),
            ready: BTreeSet::new(),
            dirty: BTreeSet::new(),
            buf: Vec::new(),
            open: 0,
            must_list: false,
            unread_bytes: 0,
        }
    }

    /// Takes note of a listing.
    pub(crate) fn list(&mut self, listing: Listing, now: Timestamp) {
        self.must_list = false;
        let named = self.followed.iter_mut().filter_map(|(id, file)| std::mem::take(&mut file.listed).then_some(*id));
        let had_names: HashSet<FileId> = named.collect();
        let mut unknown = Vec::new();
        for listed in listing.files {
            match self.by_place.get(&listed.look.place).copied() {
                Some(id) if self.see_listed(id, &listed, now) => {}
                Some(id) => {
                    self.lose(id, now);
                    unknown.push(listed);
                }
                None => unknown.push(listed),
            }
        }
        // A folder that could not be looked at may still hold what was not listed.
        let is_whole = listing.errors.is_empty();
        self.see_unlisted(&had_names, is_whole, now);
        if is_whole {
            let places: HashSet<Place> = unknown.iter().map(|listed| listed.look.place).collect();
            self.shadows.retain(|place, _| places.contains(place));
            self.waiting.retain(|place, _| places.contains(place));
        }
        unknown.retain(|listed| self.wants_a_look(listed, now));
        if !unknown.is_empty() {
            let mut rows_at: HashMap<Place, Vec<FileId>> = HashMap::new();
            for (id, gone) in &self.gone {
                rows_at.entry(gone.row.place).or_default().push(*id);
            }
            // First those that lie where they lay, so that no copy of them takes their rows.
            unknown.retain(|listed| match rows_at.get(&listed.look.place) {
                Some(rows) => !self.meet(listed, Some(rows), now),
                None => true,
            });
            self.index_names();
            for listed in &unknown {
                self.meet(listed, None, now);
            }
            self.nameless.clear();
            self.named.clear();
        }
        self.book(now, false);
        self.forget();
        self.queue_all(now);
    }

    /// Looks at the open files only.
    pub(crate) fn look(&mut self, now: Timestamp) {
        let open = self.followed.iter_mut().filter(|(_, file)| file.content.is_some());
        let mut lost = Vec::new();
        for (id, file) in open {
            let Some(Ok(look)) = file.content.as_ref().map(Content::look) else { continue };
            if file.see(look, now) == Err(Replaced) {
                lost.push(*id);
            }
        }
        for id in lost {
            self.lose(id, now);
            self.must_list = true;
        }
        self.queue_all(now);
    }

    /// A file that is followed was listed. False where its content is another one now.
    fn see_listed(&mut self, id: FileId, listed: &Listed, now: Timestamp) -> bool {
        let Some(file) = self.followed.get_mut(&id) else { return false };
        file.listed = true;
        let seen = file.see(listed.look, now);
        let is_renamed = file.row.path != listed.path && !listed.also.contains(&file.row.path);
        if seen.is_ok() && is_renamed {
            tracing::debug!(from = %file.name, to = %listed.path.display(), "renamed");
            file.rename(&listed.path, now);
            self.dirty.insert(id);
        }
        if file.may_close(now) {
            file.content = None;
            self.open -= 1;
        }
        if seen == Err(Replaced) && listed.look.size_bytes < file.row.offset {
            tracing::warn!(file = %file.name, size = listed.look.size_bytes, position = file.row.offset, "truncated: what was written to it since the last look, before it was truncated, is lost; rotate by renaming instead");
        }
        seen.is_ok()
    }

    /// Files that no pattern names any more: an open one is read to its end.
    fn see_unlisted(&mut self, had_names: &HashSet<FileId>, is_whole: bool, now: Timestamp) {
        let mut lost = Vec::new();
        for (id, file) in self.followed.iter_mut().filter(|(_, file)| !file.listed) {
            if had_names.contains(id) {
                file.turned = now;
            }
            let Some(content) = &file.content else {
                if is_whole {
                    lost.push(*id);
                }
                continue;
            };
            let replaced = match content.look() {
                Ok(look) => {
                    let names = look.names;
                    let replaced = file.see(look, now) == Err(Replaced);
                    let limits = self.rules.limits;
                    let patience = if names == 0 { limits.settle } else { limits.settle.max(limits.source_timeout) };
                    replaced || file.is_drained(now, self.rules) && now.since(file.grown.max(file.turned)) >= patience
                }
                Err(_) => true,
            };
            if replaced {
                lost.push(*id);
            }
        }
        for id in lost {
            self.lose(id, now);
        }
    }

    /// The file that bore a content is no more, or bears another one.
    pub(crate) fn lose(&mut self, id: FileId, now: Timestamp) {
        let Some(file) = self.followed.remove(&id) else { return };
        if let Some(key) = file.queued {
            self.ready.remove(&(key, id));
        }
        self.open -= usize::from(file.content.is_some());
        self.by_place.remove(&file.row.place);
        self.dirty.insert(id);
        self.gone.insert(id, Gone { booked: file.row.unread_bytes() == 0, row: file.row, since: now });
    }

    /// Counts what cannot be read any more, once nothing has turned up that has it.
    pub(crate) fn book(&mut self, now: Timestamp, at_once: bool) {
        for (id, gone) in &mut self.gone {
            if gone.booked || !at_once && now.since(gone.since) < self.rules.limits.settle {
                continue;
            }
            gone.booked = true;
            let bytes = gone.row.unread_bytes();
            gone.row.size_bytes = gone.row.used_bytes;
            tracing::warn!(file = %gone.row.path.display(), bytes, "went away, or was truncated, before all of it was read: these bytes are lost");
            metrics::counter!("clickmill_watcher_unread_bytes_total", "cause" => "gone").increment(bytes);
            self.unread_bytes += bytes;
            self.dirty.insert(*id);
        }
    }

    /// Forgets the contents that went first, where there are too many.
    fn forget(&mut self) {
        if self.gone.len() <= MOST_GONE {
            return;
        }
        let mut oldest: Vec<(Timestamp, FileId)> = self.gone.iter().map(|(id, gone)| (gone.since, *id)).collect();
        oldest.sort_unstable();
        for (_, id) in oldest.iter().take(self.gone.len() - MOST_GONE) {
            self.gone.remove(id);
            self.dirty.insert(*id);
        }
    }

    fn queue_all(&mut self, now: Timestamp) {
        let rules = self.rules;
        for (id, file) in &mut self.followed {
            file.tell_cut(now, rules);
            queue(&mut self.ready, *id, file, file.is_ready(now, rules));
        }
    }

    /// How many files are followed or waited for.
    pub(crate) fn len(&self) -> u64 {
        (self.followed.len() + self.waiting.len() + self.shadows.len()) as u64
    }

    /// True where a file waits to be read.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Reads a chunk of the file whose position has the lowest event time. `None` where nothing is to be read.
    pub(crate) fn read_next(&mut self, packer: &mut Packer, now: Timestamp) -> Option<Taken> {
        let mut first = self.ready.iter();
        let (_, id) = *first.next()?;
        let stop_after = first.next().map(|(next, _)| next.after(LEAD));
        let file = self.followed.get_mut(&id)?;
        let was_open = file.content.is_some();
        let latest = now.after(self.max_clock_skew);
        let read = file.read(packer, &mut self.buf, (latest, stop_after), now, self.rules);
        if read.is_err() {
            file.content = None;
        }
        self.open = self.open + usize::from(file.content.is_some()) - usize::from(was_open);
        let taken = match read {
            Ok(Ok(taken)) => taken,
            Ok(Err(Replaced)) => {
                self.lose(id, now);
                self.must_list = true;
                return Some(Taken::default());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.lose(id, now);
                self.must_list = true;
                return Some(Taken::default());
            }
            Err(error) => {
                file.trouble = Some(Trouble::after(file.trouble.as_ref(), &file.row.path, &error, now));
                queue(&mut self.ready, id, file, false);
                return Some(Taken::default());
            }
        };
        // One without a name could not be opened again, and a compressed one would to be read from its start.
        if self.open > MOST_OPEN && file.listed && !file.row.gzip && file.content.take().is_some() {
            self.open -= 1;
        }
        if taken.cut_bytes > 0 {
            metrics::counter!("clickmill_watcher_unread_bytes_total", "cause" => "too_long").increment(taken.cut_bytes);
        }
        if taken.bytes > 0 {
            self.dirty.insert(id);
        }
        let is_ready = file.is_ready(now, self.rules);
        queue(&mut self.ready, id, file, is_ready);
        Some(taken)
    }

    /// What each file says about how far time has come.
    pub(crate) fn times(&self, now: Timestamp) -> impl Iterator<Item = FileTime> {
        let rules = self.rules;
        let waiting = self.waiting.values().filter_map(|waiting| match &waiting.why {
            Why::Blank => None,
            Why::Growing => Some(FileTime::Unknown),
            Why::Trouble(trouble) => Some(FileTime::Unreadable { since: trouble.since, at: None }),
        });
        waiting.chain(self.followed.values().map(move |file| file.time(now, rules)))
    }

    /// True where a drain has nothing left to read.
    pub(crate) fn is_drained(&self, now: Timestamp) -> bool {
        let timeout = self.rules.limits.source_timeout;
        let nobody_waits = self.waiting.values().all(|waiting| match &waiting.why {
            Why::Blank => true,
            Why::Growing => false,
            Why::Trouble(trouble) => now.since(trouble.since) > timeout,
        });
        nobody_waits && !self.must_list && self.followed.values().all(|file| file.is_drained(now, self.rules))
    }

    /// True where some file is not read to its end.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.followed.values().any(|file| file.ended.is_none() && file.trouble.is_none())
    }

    /// The rows that changed since the last call.
    pub(crate) fn take_changed(&mut self, source: &SourceName) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        let row =
            |id| self.followed.get(&id).map(|file| &file.row).or_else(|| self.gone.get(&id).map(|gone| &gone.row));
        dirty.into_iter().map(|id| file_record(source, id, row(id))).collect()
    }

    /// Adds up the files.
    pub(crate) fn report(&self, report: &mut Report) {
        report.files = (self.followed.len() + self.waiting.len()) as u64;
        let at_end = self.followed.values().filter(|file| file.trouble.is_none() && file.ended.is_some());
        report.files_at_end = at_end.count() as u64;
        let trouble = self.followed.values().filter(|file| file.trouble.is_some()).count();
        let waiting = self.waiting.values().map(|waiting| &waiting.why);
        let (mut blank, mut unreadable) = (0, trouble);
        for why in waiting {
            match why {
                Why::Blank => blank += 1,
                Why::Growing => {}
                Why::Trouble(_) => unreadable += 1,
            }
        }
        report.files_at_end += blank;
        report.files_unreadable = unreadable as u64;
        report.read_bytes = self.followed.values().map(|file| file.row.used_bytes).sum();
        report.known_bytes = self.followed.values().map(|file| file.row.size_bytes).sum();
        report.unread_bytes = self.unread_bytes;
    }
}

fn queue(ready: &mut BTreeSet<(Timestamp, FileId)>, id: FileId, file: &mut Followed, is_ready: bool) {
    let key = is_ready.then(|| file.time_at_position());
    if key == file.queued {
        return;
    }
    if let Some(before) = file.queued {
        ready.remove(&(before, id));
    }
    if let Some(key) = key {
        ready.insert((key, id));
    }
    file.queued = key;
}
