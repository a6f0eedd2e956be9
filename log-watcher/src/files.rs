//! The files that are followed: which are new, which are known under another name or as a copy, which went away, and which is read next.
//!
//! A content (a row of `log-positions`) is borne by one file on the disk at a time. When that file goes or is overwritten, the row stays behind in
//! `gone`, and a file that turns out to have the same content (moved to another disk, compressed, copied back, or the copy of a copy-truncate) takes it over with its position.
//! A copy of a file that is still there is a shadow: it is not read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use clickmill_model::{SourceName, Timestamp};
use clickmill_queue::Record;

use crate::file::{Followed, Replaced, Rules, Trouble};
use crate::gzip::End;
use crate::identity::{Place, Print, is_name_of_copy, stem};
use crate::mark::FileTime;
use crate::pack::{Packer, Taken, first_time};
use crate::patterns::{Listed, Listing};
use crate::position::{FileId, FileRow, file_record};
use crate::reader::{Content, Look};
use crate::report::Report;

/// How many contents without a file are remembered.
const MOST_GONE: usize = 4096;

/// How many files are kept open.
const MOST_OPEN: usize = 256;

/// How far the file that is read may get in front of the next one.
const LEAD: Duration = Duration::from_secs(60);

struct Gone {
    row: FileRow,
    since: Timestamp,
    /// What was not read of it was counted.
    booked: bool,
}

struct Shadow {
    of: FileId,
    look: Look,
}

/// Why a file that is listed is not followed yet.
#[derive(Debug)]
enum Why {
    /// It has no content.
    Blank,
    /// It has too little to be told from others, and may be growing.
    Growing,
    /// It cannot be read.
    Trouble(Trouble),
}

struct Waiting {
    why: Why,
    look: Look,
    changed: Timestamp,
}

/// Whether a file has the content of a row.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Same,
    /// As far as it goes, but it is shorter than what was read of that content.
    Short,
    Other,
}

/// The files that are followed.
pub(crate) struct Files {
    rules: Rules,
    max_clock_skew: Duration,
    followed: HashMap<FileId, Followed>,
    by_place: HashMap<Place, FileId>,
    gone: HashMap<FileId, Gone>,
    shadows: HashMap<Place, Shadow>,
    waiting: HashMap<Place, Waiting>,
    /// Those to be read, by the event time at their position.
    ready: BTreeSet<(Timestamp, FileId)>,
    next_id: FileId,
    dirty: BTreeSet<FileId>,
    buf: Vec<u8>,
    open: usize,
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
            for listed in &unknown {
                self.meet(listed, None, now);
            }
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
    fn lose(&mut self, id: FileId, now: Timestamp) {
        let Some(file) = self.followed.remove(&id) else { return };
        if let Some(key) = file.queued {
            self.ready.remove(&(key, id));
        }
        self.open -= usize::from(file.content.is_some());
        self.by_place.remove(&file.row.place);
        self.dirty.insert(id);
        self.gone.insert(id, Gone { booked: file.row.unread_bytes() == 0, row: file.row, since: now });
    }

    /// False for a shadow and for one that waits, as long as nothing changed.
    fn wants_a_look(&self, listed: &Listed, now: Timestamp) -> bool {
        let is_same = |look: &Look| (look.size_bytes, look.modified) == (listed.look.size_bytes, listed.look.modified);
        if let Some(shadow) = self.shadows.get(&listed.look.place) {
            return !is_same(&shadow.look) || !self.followed.get(&shadow.of).is_some_and(|original| original.listed);
        }
        let Some(waiting) = self.waiting.get(&listed.look.place) else { return true };
        match &waiting.why {
            _ if !is_same(&waiting.look) => true,
            Why::Blank => false,
            Why::Growing => now.since(waiting.changed) >= self.rules.limits.settle,
            Why::Trouble(trouble) => trouble.retry_is_due(now),
        }
    }

    /// Finds out what a file is that is not followed. With `rows` it only asks whether it is one of those; false where it is none.
    fn meet(&mut self, listed: &Listed, rows: Option<&Vec<FileId>>, now: Timestamp) -> bool {
        let place = listed.look.place;
        let opened = Content::open(&listed.path).and_then(|(mut content, look)| {
            let head = content.head()?;
            Ok((content, look, head))
        });
        let (mut content, look, (head, end)) = match opened {
            Ok(opened) => opened,
            // Gone again: the next listing will tell.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
            Err(error) => {
                self.shadows.remove(&place);
                let before = self.waiting.remove(&place);
                let before = before.as_ref().and_then(|waiting| match &waiting.why {
                    Why::Trouble(trouble) => Some(trouble),
                    Why::Blank | Why::Growing => None,
                });
                let why = Why::Trouble(Trouble::after(before, &listed.path, &error, now));
                self.waiting.insert(place, Waiting { why, look: listed.look, changed: now });
                return true;
            }
        };
        if look.place != place {
            return true;
        }
        let changed = match self.waiting.get(&place) {
            Some(waiting) if waiting.look.size_bytes == look.size_bytes => waiting.changed,
            Some(_) | None => now,
        };
        let is_quiet = now.since(changed) >= self.rules.limits.settle;
        let mut wait = |why| {
            self.waiting.insert(place, Waiting { why, look, changed });
            true
        };
        let head_print = Print::of_head(&head);
        let is_cut = content.is_gzip() && end == End::Cut;
        if is_cut && !head_print.is_full() && !is_quiet {
            return wait(Why::Growing);
        }
        if head.is_empty() {
            return wait(Why::Blank);
        }
        if let Some(rows) = rows {
            for id in rows {
                let Some(gone) = self.gone.get(id) else { continue };
                match compare(&gone.row, &mut content, &head, look, true) {
                    Match::Same => return self.adopt(*id, listed, (look, &head), Some(content), None, now),
                    // Its end was cut off. What is left was read.
                    Match::Short => return self.adopt(*id, listed, (look, &head), None, Some(look.size_bytes), now),
                    Match::Other => {}
                }
            }
            return false;
        }
        self.meet_by_content(listed, look, content, (&head, end), is_quiet, now)
    }

    /// The same for a file at a place where none is known.
    fn meet_by_content(
        &mut self,
        listed: &Listed,
        look: Look,
        mut content: Content,
        (head, end): (&[u8], End),
        is_quiet: bool,
        now: Timestamp,
    ) -> bool {
        let place = look.place;
        let was_shadow = self.shadows.remove(&place).map(|shadow| shadow.of);
        // One that has no name any more and was read to its end gives way to what has its content and a name.
        let nameless = self.followed.iter().filter(|(_, file)| !file.listed && !file.is_ready(now, self.rules));
        let same: Vec<FileId> =
            nameless.filter(|(_, file)| may_be_copy(&file.row, listed, head)).map(|(id, _)| *id).collect();
        for id in same {
            self.lose(id, now);
        }
        if let Some(of) = self.original(listed, look, head, content.is_gzip()) {
            self.waiting.remove(&place);
            self.shadows.insert(place, Shadow { of, look });
            return true;
        }
        let mut candidates: Vec<(u64, FileId)> = self
            .gone
            .iter()
            .filter(|(_, gone)| may_be_copy(&gone.row, listed, head))
            .map(|(id, gone)| (gone.row.offset, *id))
            .collect();
        candidates.sort_unstable();
        for (_, id) in candidates.into_iter().rev() {
            let Some(gone) = self.gone.get(&id) else { continue };
            let is_gzip = content.is_gzip();
            match compare(&gone.row, &mut content, head, look, false) {
                Match::Same => return self.adopt(id, listed, (look, head), Some(content), None, now),
                Match::Short if is_quiet || is_gzip && end == End::Whole => {
                    let cut_to = (!is_gzip).then_some(look.size_bytes);
                    return self.adopt(id, listed, (look, head), None, cut_to, now);
                }
                // It may be being copied.
                Match::Short => {
                    let changed = match self.waiting.get(&place) {
                        Some(waiting) if waiting.look.size_bytes == look.size_bytes => waiting.changed,
                        _ => now,
                    };
                    self.waiting.insert(place, Waiting { why: Why::Growing, look, changed });
                    return true;
                }
                Match::Other if is_gzip => {
                    // It cannot be read backwards.
                    let Ok((again, _)) = Content::open(&listed.path) else { return true };
                    content = again;
                }
                Match::Other => {}
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut row = FileRow { head: Print::of_head(head), ..FileRow::default() };
        // A copy that has outgrown its original goes on where that one is.
        if let Some(of) = was_shadow.and_then(|of| self.followed.get(&of))
            && !content.is_gzip()
            && compare(&of.row, &mut content, head, look, false) == Match::Same
        {
            row = of.row.clone();
        }
        self.follow(id, row, listed, (look, head), Some(content), now);
        true
    }

    /// The file that is followed and that `listed` is a copy of.
    fn original(&self, listed: &Listed, look: Look, head: &[u8], is_gzip: bool) -> Option<FileId> {
        let copy = name(&listed.path);
        let is_copy = |file: &Followed| {
            let original = name(&file.row.path);
            let by_name = if file.listed {
                is_name_of_copy(&original, &copy)
            } else {
                file.row.head.is_full() || stem(&original) == stem(&copy)
            };
            // A copy is no longer than its original was when it was made.
            let fits = is_gzip || !file.listed || look.size_bytes <= file.look.size_bytes;
            by_name && fits && file.row.head.len > 0 && !file.row.gzip && file.row.head.begins(head)
        };
        self.followed.iter().filter(|(_, file)| is_copy(file)).map(|(id, _)| *id).min()
    }

    /// A file has the content of a row that had lost its own. `cut_to`: it has only so much of it.
    fn adopt(
        &mut self,
        id: FileId,
        listed: &Listed,
        (look, head): (Look, &[u8]),
        content: Option<Content>,
        cut_to: Option<u64>,
        now: Timestamp,
    ) -> bool {
        let Some(Gone { mut row, .. }) = self.gone.remove(&id) else { return false };
        if let Some(size) = cut_to {
            row.offset = size;
            row.tail = Print::default();
            row.in_long_line = false;
        }
        tracing::debug!(file = %listed.path.display(), before = %row.path.display(), position = row.offset, "known");
        self.follow(id, row, listed, (look, head), content, now);
        true
    }

    fn follow(
        &mut self,
        id: FileId,
        mut row: FileRow,
        listed: &Listed,
        (look, head): (Look, &[u8]),
        content: Option<Content>,
        now: Timestamp,
    ) {
        let was_elsewhere =
            !row.path.as_os_str().is_empty() && row.path != listed.path && !listed.also.contains(&row.path);
        let is_gzip = content.as_ref().map_or(row.gzip, Content::is_gzip);
        let is_read =
            look.size_bytes == row.used_bytes && is_gzip == row.gzip && row.offset > 0 && look.place == row.place;
        row.renamed |= was_elsewhere;
        row.place = look.place;
        row.path.clone_from(&listed.path);
        row.gzip = is_gzip;
        row.size_bytes = look.size_bytes;
        if !row.gzip {
            row.used_bytes = row.offset;
        }
        let latest = now.after(self.max_clock_skew);
        let first = if row.highest.is_none() { first_time(head, latest) } else { None };
        let mut file = Followed::new(row, look, first, now);
        if is_read {
            file.ended = Some(now);
            file.looked_bytes = look.size_bytes;
        }
        // What is read next stays open; the rest is opened again when its turn comes.
        if !is_read && self.open < MOST_OPEN {
            self.open += usize::from(content.is_some());
            file.content = content;
        }
        self.waiting.remove(&look.place);
        self.shadows.remove(&look.place);
        self.by_place.insert(look.place, id);
        self.followed.insert(id, file);
        self.dirty.insert(id);
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

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// True where a file that begins with `head` may have a content whose file is gone. A short beginning says something only of a file that
/// has a related name.
fn may_be_copy(row: &FileRow, listed: &Listed, head: &[u8]) -> bool {
    let is_related = || stem(&name(&row.path)) == stem(&name(&listed.path));
    row.head.len > 0 && (row.head.is_full() || is_related()) && row.head.begins(head)
}

/// Compares an open file with a row: its beginning, and what stands before the row's position.
fn compare(row: &FileRow, content: &mut Content, head: &[u8], look: Look, same_place: bool) -> Match {
    if row.head.len == 0 {
        return if same_place && row.offset == 0 { Match::Same } else { Match::Other };
    }
    if !row.head.begins(head) {
        return Match::Other;
    }
    // A compressed file that was read would have to be unpacked from its start.
    let is_read_gzip = same_place && row.gzip && content.is_gzip() && row.used_bytes == look.size_bytes;
    if is_read_gzip || row.offset == 0 {
        return Match::Same;
    }
    let mut tail = vec![0; row.tail.len];
    match content.fill(row.offset - row.tail.len as u64, &mut tail) {
        Ok((n, _)) if n < tail.len() => Match::Short,
        Ok(_) if !content.is_gzip() && look.size_bytes < row.offset => Match::Short,
        Ok(_) if row.tail.begins(&tail) => Match::Same,
        Ok(_) | Err(_) => Match::Other,
    }
}
