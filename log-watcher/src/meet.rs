//! Finds out what a file is that is not followed yet: one that is known (moved, compressed, copied back), a copy of one that is followed, or a new one.

use std::path::Path;

use clickmill_model::Timestamp;

use crate::file::{Followed, Trouble};
use crate::files::{Files, Gone, Shadow, Waiting, Why};
use crate::gzip::End;
use crate::identity::{Print, names_of_originals, stem};
use crate::pack::first_time;
use crate::patterns::Listed;
use crate::position::{FileId, FileRow};
use crate::reader::{Content, Look};

/// How many files are kept open.
pub(crate) const MOST_OPEN: usize = 256;

/// Whether a file has the content of a row.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Same,
    /// As far as it goes, but it is shorter than what was read of that content.
    Short,
    Other,
}

/// The beginning of a file's content.
#[derive(Clone, Copy)]
struct Head<'a> {
    bytes: &'a [u8],
    print: Print,
}

impl Head<'_> {
    /// True where it begins with what `print` is of.
    fn has(&self, print: Print) -> bool {
        // The common case costs no hash.
        if print.len == self.print.len { print == self.print } else { print.begins(self.bytes) }
    }
}

impl Files {
    /// False for a shadow and for one that waits, as long as nothing changed.
    pub(crate) fn wants_a_look(&self, listed: &Listed, now: Timestamp) -> bool {
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
    pub(crate) fn meet(&mut self, listed: &Listed, rows: Option<&Vec<FileId>>, now: Timestamp) -> bool {
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
        let head = Head { bytes: &head, print: Print::of_head(&head) };
        let is_cut = content.is_gzip() && end == End::Cut;
        if is_cut && !head.print.is_full() && !is_quiet {
            return wait(Why::Growing);
        }
        if head.bytes.is_empty() {
            return wait(Why::Blank);
        }
        if let Some(rows) = rows {
            for id in rows {
                // A compressed copy may have got the place of its original.
                let is_gzip = content.is_gzip();
                let Some(gone) = self.gone.get(id).filter(|gone| gone.row.gzip == is_gzip) else { continue };
                match compare(&gone.row, &mut content, head, look, true) {
                    Match::Same => return self.adopt(*id, listed, (look, head), Some(content), None, now),
                    // Its end was cut off. What is left was read.
                    Match::Short if !is_gzip => {
                        return self.adopt(*id, listed, (look, head), None, Some(look.size_bytes), now);
                    }
                    Match::Short | Match::Other => {}
                }
            }
            return false;
        }
        self.meet_by_content(listed, look, content, (head, end), is_quiet, now)
    }

    /// The same for a file at a place where none is known.
    fn meet_by_content(
        &mut self,
        listed: &Listed,
        look: Look,
        mut content: Content,
        (head, end): (Head<'_>, End),
        is_quiet: bool,
        now: Timestamp,
    ) -> bool {
        let place = look.place;
        let was_shadow = self.shadows.remove(&place).map(|shadow| shadow.of);
        // One that has no name any more and was read to its end gives way to what has its content and a name.
        let gives_way = |id: &FileId| {
            let file = self.followed.get(id).filter(|file| !file.is_ready(now, self.rules));
            file.is_some_and(|file| may_be_copy(&file.row, listed, head))
        };
        let same: Vec<FileId> = self.nameless.iter().copied().filter(gives_way).collect();
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
        let mut row = FileRow { head: head.print, ..FileRow::default() };
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

    /// Fills what [`Files::original`] looks into.
    pub(crate) fn index_names(&mut self) {
        for (id, file) in &self.followed {
            if file.listed {
                self.named.entry(name(&file.row.path).to_owned()).or_default().push(*id);
            } else {
                self.nameless.push(*id);
            }
        }
    }

    /// The file that is followed and that `listed` is a copy of.
    fn original(&self, listed: &Listed, look: Look, head: Head<'_>, is_gzip: bool) -> Option<FileId> {
        let copy = name(&listed.path);
        // A copy is no longer than its original was when it was made.
        let size = if is_gzip { head.bytes.len() as u64 } else { look.size_bytes };
        let fits = |file: &Followed| !file.listed || size <= file.look.size_bytes;
        let is_copy = |id: &FileId| {
            let file = self.followed.get(id)?;
            let has_content = file.row.head.len > 0 && !file.row.gzip && head.has(file.row.head);
            let by_name = file.listed || file.row.head.is_full() || stem(name(&file.row.path)) == stem(copy);
            (has_content && by_name && fits(file)).then_some(*id)
        };
        let named = names_of_originals(copy).filter_map(|original| self.named.get(original)).flatten();
        named.chain(&self.nameless).filter_map(is_copy).min()
    }

    /// A file has the content of a row that had lost its own. `cut_to`: it has only so much of it.
    fn adopt(
        &mut self,
        id: FileId,
        listed: &Listed,
        (look, head): (Look, Head<'_>),
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
        (look, head): (Look, Head<'_>),
        content: Option<Content>,
        now: Timestamp,
    ) {
        let was_elsewhere =
            !row.path.as_os_str().is_empty() && row.path != listed.path && !listed.also.contains(&row.path);
        let is_gzip = content.as_ref().map_or(row.gzip, Content::is_gzip);
        let is_read =
            look.size_bytes == row.used_bytes && is_gzip == row.gzip && row.offset > 0 && look.place == row.place;
        // Of a beginning that is short and was not read the place may mean nothing.
        row.renamed |= was_elsewhere && (row.offset > 0 || row.head.is_full());
        row.place = look.place;
        row.path.clone_from(&listed.path);
        row.gzip = is_gzip;
        row.size_bytes = look.size_bytes;
        if !row.gzip {
            row.used_bytes = row.offset;
        }
        let latest = now.after(self.max_clock_skew);
        let first = if row.highest.is_none() { first_time(head.bytes, latest) } else { None };
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
        self.named.entry(name(&file.row.path).to_owned()).or_default().push(id);
        self.followed.insert(id, file);
        self.dirty.insert(id);
    }
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// True where a file that begins with `head` may have a content whose file is gone. A short beginning says something only of a file that
/// has a related name.
fn may_be_copy(row: &FileRow, listed: &Listed, head: Head<'_>) -> bool {
    let is_related = || stem(name(&row.path)) == stem(name(&listed.path));
    row.head.len > 0 && (row.head.is_full() || is_related()) && head.has(row.head)
}

/// Compares an open file with a row: its beginning, and what stands before the row's position.
fn compare(row: &FileRow, content: &mut Content, head: Head<'_>, look: Look, same_place: bool) -> Match {
    if row.head.len == 0 {
        return if same_place && row.offset == 0 { Match::Same } else { Match::Other };
    }
    if !head.has(row.head) {
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
