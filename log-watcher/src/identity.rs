//! What makes a file the same file: its place on the disk and its content together, never its name and never its inode alone.

use xxhash_rust::xxh3::xxh3_64;

/// How much of a file's beginning, and of what was read last, is remembered: about a dozen lines, which no two logs have in common.
pub(crate) const PRINT_BYTES: usize = 1024;

/// Where a file lies on the disk. A new file may get the place of a deleted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Place {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A hash (XXH3, 64 bits) of some bytes of a file's content. A compressed file's content is what comes out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Print {
    /// How many bytes, at most [`PRINT_BYTES`].
    pub(crate) len: usize,
    /// Their hash.
    pub(crate) hash: u64,
}

impl Print {
    /// Of the beginning of `bytes`.
    pub(crate) fn of_head(bytes: &[u8]) -> Self {
        let head = bytes.get(..PRINT_BYTES).unwrap_or(bytes);
        Self { len: head.len(), hash: xxh3_64(head) }
    }

    /// Of the end of `bytes`.
    pub(crate) fn of_tail(bytes: &[u8]) -> Self {
        let tail = bytes.get(bytes.len().saturating_sub(PRINT_BYTES)..).unwrap_or(bytes);
        Self { len: tail.len(), hash: xxh3_64(tail) }
    }

    /// True where `bytes` begin with these.
    pub(crate) fn begins(&self, bytes: &[u8]) -> bool {
        bytes.get(..self.len).is_some_and(|head| xxh3_64(head) == self.hash)
    }

    /// True where it says as much as a print can.
    pub(crate) fn is_full(&self) -> bool {
        self.len == PRINT_BYTES
    }
}

/// A file's name without what rotation appends: `access.log`, `access.log.1`, `access.log-20210101.gz` have the stem `access.log`.
pub(crate) fn stem(name: &str) -> &str {
    let mut stem = name.strip_suffix(".gz").unwrap_or(name);
    loop {
        let shorter = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(without) = shorter.strip_suffix(['.', '-', '_']) else { return stem };
        if shorter.len() == stem.len() || without.is_empty() {
            return stem;
        }
        stem = without;
    }
}

/// The names that a file may have whose copy, made by a rotation that copies, has the name `copy`: such a copy has something appended.
pub(crate) fn names_of_originals(copy: &str) -> impl Iterator<Item = &str> {
    copy.match_indices(['.', '-', '_']).filter_map(|(at, _)| copy.get(..at)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_stem() {
        for (name, expected) in [
            ("access.log", "access.log"),
            ("access.log.1", "access.log"),
            ("access.log.1.gz", "access.log"),
            ("access.log.gz", "access.log"),
            ("access.log-20210101", "access.log"),
            ("access.log-2021-01-01-13", "access.log"),
            ("ads-1.log", "ads-1.log"),
            ("clicks-00.000001.log.gz", "clicks-00.000001.log"),
            ("2021", "2021"),
            (".1", ".1"),
            ("", ""),
        ] {
            assert_eq!(stem(name), expected, "{name}");
        }
    }

    #[test]
    fn a_copy_has_a_longer_name() {
        let names: Vec<&str> = names_of_originals("access.log.10.gz").collect();
        assert_eq!(names, ["access", "access.log", "access.log.10"]);
        assert_eq!(names_of_originals("access").count(), 0);
        assert_eq!(names_of_originals(".log").count(), 0);
    }

    #[test]
    fn a_print_tells_contents_apart() {
        let long = vec![b'x'; 5000];
        assert!(Print::of_head(&long).is_full());
        assert!(Print::of_head(b"abc").begins(b"abcdef"));
        assert!(!Print::of_head(b"abc").begins(b"ab"));
        assert!(!Print::of_head(b"abc").begins(b"abd"));
        assert_eq!(Print::of_tail(&long).len, PRINT_BYTES);
    }
}
