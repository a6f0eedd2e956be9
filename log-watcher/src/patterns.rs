//! Lists the files that the patterns name: single files, folders, globs. Symbolic links are followed, and a file that several names lead to is listed once.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use walkdir::WalkDir;

use crate::identity::Place;
use crate::reader::Look;

/// Ends of names that are no logs. A folder does not stand for them; a pattern that names them does.
const NO_LOGS: &[&str] = &["csv", "tsv", "tmp", "temp", "part", "new", "swp", "parquet", "sqlite", "db", "md", "toml"];

/// A regular file that a pattern names.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    /// Its other names, where it has some that match too.
    pub(crate) also: Vec<PathBuf>,
    pub(crate) look: Look,
    by_link: bool,
}

/// What a listing found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Every file once, by rising path.
    pub(crate) files: Vec<Listed>,
    /// The patterns that name no file.
    pub(crate) unmatched: Vec<String>,
    /// Folders and files that could not be looked at.
    pub(crate) errors: Vec<(PathBuf, io::Error)>,
}

struct Pattern {
    text: String,
    path: PathBuf,
    glob: Option<Glob>,
}

struct Glob {
    /// The folder above the first component with a wildcard.
    base: PathBuf,
    /// How far below the base a match may lie.
    depth: usize,
    matcher: GlobMatcher,
    /// True where a component begins with a dot: then hidden files may match.
    hidden: bool,
}

/// The configured patterns.
pub(crate) struct Patterns {
    patterns: Vec<Pattern>,
    /// Files in folders that were passed over, each said once.
    passed_over: HashSet<PathBuf>,
}

impl Patterns {
    /// Parses them; the error says which one is wrong.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, String> {
        let patterns = patterns.iter().map(|text| Pattern::new(text)).collect::<Result<_, _>>()?;
        Ok(Self { patterns, passed_over: HashSet::new() })
    }

    /// Lists the files that match now.
    pub(crate) fn list(&mut self) -> Listing {
        let mut found = Found::default();
        let mut unmatched = Vec::new();
        for pattern in &self.patterns {
            let before = found.matches;
            pattern.list(&mut found, &mut self.passed_over);
            if found.matches == before {
                unmatched.push(pattern.text.clone());
            }
        }
        let mut files = found.files;
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Listing { files, unmatched, errors: found.errors }
    }
}

#[derive(Default)]
struct Found {
    files: Vec<Listed>,
    by_place: HashMap<Place, usize>,
    errors: Vec<(PathBuf, io::Error)>,
    matches: u64,
}

impl Found {
    fn add(&mut self, path: PathBuf, look: Look, by_link: bool) {
        self.matches += 1;
        let known = self.by_place.get(&look.place).and_then(|at| self.files.get_mut(*at));
        let Some(known) = known else {
            self.by_place.insert(look.place, self.files.len());
            self.files.push(Listed { path, also: Vec::new(), look, by_link });
            return;
        };
        if path == known.path || known.also.contains(&path) {
            return;
        }
        // Its own name rather than that of a link, then the first: the same choice whatever the order in which they come.
        if (by_link, &path) < (known.by_link, &known.path) {
            let other = std::mem::replace(&mut known.path, path);
            known.by_link = by_link;
            known.also.push(other);
        } else {
            known.also.push(path);
        }
    }

    fn error(&mut self, path: &Path, error: io::Error) {
        // It was there a moment ago, or is a link that leads nowhere.
        if error.kind() != ErrorKind::NotFound {
            self.errors.push((path.to_owned(), error));
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let wrong = |why: String| format!("input.logs: {text:?} is no file, folder or glob: {why}");
        if text.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        let path = std::path::absolute(text).map_err(|error| wrong(error.to_string()))?;
        let whole = path.to_str().ok_or_else(|| wrong("it is not UTF-8".into()))?;
        let is_wild = |part: &OsStr| part.as_bytes().iter().any(|byte| b"*?[{".contains(byte));
        let components: Vec<Component<'_>> = path.components().collect();
        let Some(first) = components.iter().position(|component| is_wild(component.as_os_str())) else {
            return Ok(Self { text: text.to_owned(), path, glob: None });
        };
        let (base, rest) = components.split_at(first);
        let deep = rest.iter().any(|component| component.as_os_str() == "**");
        let glob = GlobBuilder::new(whole).literal_separator(true).build().map_err(|error| wrong(error.to_string()))?;
        let glob = Glob {
            base: base.iter().collect(),
            depth: if deep { usize::MAX } else { rest.len() },
            matcher: glob.compile_matcher(),
            hidden: rest.iter().any(|component| component.as_os_str().as_bytes().starts_with(b".")),
        };
        Ok(Self { text: text.to_owned(), path, glob: Some(glob) })
    }

    fn list(&self, found: &mut Found, passed_over: &mut HashSet<PathBuf>) {
        match (fs::metadata(&self.path), &self.glob) {
            (Ok(metadata), _) if metadata.is_file() => {
                let by_link = fs::symlink_metadata(&self.path).is_ok_and(|own| own.is_symlink());
                found.add(self.path.clone(), Look::of(&metadata), by_link);
            }
            (Ok(metadata), _) if metadata.is_dir() => self.walk(&self.path, usize::MAX, None, found, passed_over),
            (_, Some(glob)) => self.walk(&glob.base, glob.depth, Some(glob), found, passed_over),
            (Ok(_), None) => {}
            (Err(error), None) => found.error(&self.path, error),
        }
    }

    fn walk(
        &self,
        base: &Path,
        depth: usize,
        glob: Option<&Glob>,
        found: &mut Found,
        passed_over: &mut HashSet<PathBuf>,
    ) {
        let shows_hidden = glob.is_some_and(|glob| glob.hidden);
        let entries = WalkDir::new(base).follow_links(true).max_depth(depth).into_iter().filter_entry(|entry| {
            entry.depth() == 0 || shows_hidden || !entry.file_name().as_bytes().starts_with(b".")
        });
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(base).to_owned();
                    // A loop of links has no other error: what lies in it is listed by its own name.
                    if let Some(error) = error.into_io_error() {
                        found.error(&path, error);
                    }
                    continue;
                }
            };
            if !entry.file_type().is_file() {
                continue;
            }
            let path = entry.path();
            match glob {
                Some(glob) if !glob.matcher.is_match(path) => continue,
                Some(_) => {}
                None => {
                    let is_no_log = path.extension().is_some_and(|end| NO_LOGS.iter().any(|no| end == *no));
                    if is_no_log {
                        if passed_over.insert(path.to_owned()) {
                            tracing::info!(file = %path.display(), folder = %self.text, "passed over: by its name it is no log; name it itself if it is one");
                        }
                        continue;
                    }
                }
            }
            match entry.metadata() {
                Ok(metadata) => found.add(path.to_owned(), Look::of(&metadata), entry.path_is_symlink()),
                Err(error) => match error.into_io_error() {
                    Some(error) => found.error(path, error),
                    None => continue,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        folder
    }

    fn list(folder: &Path, patterns: &[&str]) -> (Vec<String>, Vec<String>) {
        let patterns: Vec<String> = patterns.iter().map(|p| folder.join(p).to_str().unwrap().to_owned()).collect();
        let listing = Patterns::new(&patterns).unwrap().list();
        let names = listing.files.iter().map(|f| f.path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
        (names.collect(), listing.unmatched)
    }

    #[test]
    fn files_folders_and_globs_are_listed() {
        let files = ["a.log", "b.log.1", "b.log", ".hidden.log", "truth.csv", "deep/c.log", "deep/er/d.log", "[x].log"];
        let folder = folder(&files);
        let check = |pattern: &str, expected: &[&str]| {
            assert_eq!(list(folder.path(), &[pattern]).0, expected, "{pattern}");
        };
        check("a.log", &["a.log"]);
        check("*.log", &["[x].log", "a.log", "b.log"]);
        check("b.log*", &["b.log", "b.log.1"]);
        check("*/*.log", &["deep/c.log"]);
        check("**/*.log", &["[x].log", "a.log", "b.log", "deep/c.log", "deep/er/d.log"]);
        check("{a,b}.log", &["a.log", "b.log"]);
        check("[x].log", &["[x].log"]);
        check("truth.csv", &["truth.csv"]);
        check("*.csv", &["truth.csv"]);
        check(".*.log", &[".hidden.log"]);
        check("", &["[x].log", "a.log", "b.log", "b.log.1", "deep/c.log", "deep/er/d.log"]);
        check("deep", &["deep/c.log", "deep/er/d.log"]);
        check("none*", &[]);
        check("none/*.log", &[]);
    }

    #[test]
    fn a_pattern_that_names_no_file_is_told() {
        let folder = folder(&["a.log"]);
        let (_, unmatched) = list(folder.path(), &["a.log", "b*.log", "none"]);
        let name = |p: &str| folder.path().join(p).to_str().unwrap().to_owned();
        assert_eq!(unmatched, [name("b*.log"), name("none")]);
        let (_, unmatched) = list(folder.path(), &["*.log", "a.log"]);
        assert!(unmatched.is_empty(), "the same file satisfies both");
    }

    #[test]
    fn a_file_that_several_names_lead_to_is_listed_once_under_its_own() {
        let folder = folder(&["real/z.log"]);
        let path = folder.path();
        symlink(path.join("real/z.log"), path.join("a.log")).unwrap();
        symlink(path.join("real"), path.join("linked")).unwrap();
        symlink(path, path.join("real/loop")).unwrap();
        symlink(path.join("nowhere"), path.join("broken.log")).unwrap();
        assert_eq!(list(path, &["*.log"]).0, ["a.log"]);
        assert_eq!(list(path, &["*.log", "real/*.log", "real/z.log"]).0, ["real/z.log"]);
        assert_eq!(list(path, &[""]).0.len(), 1);
    }

    #[test]
    fn what_is_no_glob_is_refused_by_name() {
        let error = Patterns::new(&["/var/log/[a.log".to_owned()]).err().unwrap();
        assert!(error.contains("/var/log/[a.log"), "{error}");
    }
}
