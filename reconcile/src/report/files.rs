//! The folder of reports: each a JSON and an HTML file, a history, and a page of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::history::{Entry, History};
use super::{Report, html};

/// A folder that reports are written to.
#[derive(Debug)]
pub struct ReportFolder {
    folder: PathBuf,
    /// Held while the history is read and written.
    lock: File,
}

/// Two reconciliations may end at once.
const LOCK: &str = ".lock";
const HISTORY: &str = "history.json";
const INDEX: &str = "index.html";

impl ReportFolder {
    /// Makes the folder where it is not there, and looks whether files can be written to it, so that nobody counts for an hour in vain.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let what = || format!("the report folder {}", folder.display());
        fs::create_dir_all(folder).with_context(what)?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK)).with_context(what)?;
        let report_folder = Self { folder: folder.to_owned(), lock };
        report_folder.write_all(&[(".probe", b"can be written")]).with_context(what)?;
        fs::remove_file(folder.join(".probe")).with_context(what)?;
        Ok(report_folder)
    }

    /// Writes a report, and adds it to the history. Returns the path of its HTML file.
    pub fn add(&self, report: &Report) -> anyhow::Result<PathBuf> {
        let name = format!("reconcile-{}-{}-{}", report.from, report.to, report.made_at.replace([':', '-', '.'], ""));
        let what = || format!("writing the report to {}", self.folder.display());
        let json = serde_json::to_vec_pretty(report).with_context(what)?;
        self.lock.lock().with_context(what)?;
        let page = format!("{name}.html");
        let mut history = self.history()?;
        history.add(Entry::of(report, &name));
        // The history last: a report that is in it is there.
        let written = self.write_all(&[
            (&format!("{name}.json"), &json),
            (&page, html::page(report).as_bytes()),
            (INDEX, html::index(&history).as_bytes()),
            (HISTORY, &serde_json::to_vec_pretty(&history).with_context(what)?),
        ]);
        self.lock.unlock().with_context(what)?;
        written.with_context(what)?;
        Ok(self.folder.join(page))
    }

    /// The reports so far. One that cannot be read is never taken for none.
    pub fn history(&self) -> anyhow::Result<History> {
        let path = self.folder.join(HISTORY);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no history of reports: move it away to begin a new one", path.display()))
    }

    /// Writes files one after the other, none before there is room for all: a reader sees all of a file or none of it, and a full disk leaves nothing.
    fn write_all(&self, files: &[(&str, &[u8])]) -> io::Result<()> {
        let temporary = |name: &str| self.folder.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            for (name, bytes) in files {
                let mut file = File::create(temporary(name))?;
                file.write_all(bytes)?;
                file.sync_all()?;
            }
            for (name, _) in files {
                fs::rename(temporary(name), self.folder.join(name))?;
            }
            File::open(&self.folder)?.sync_all()
        })();
        if written.is_err() {
            for (name, _) in files {
                // What is half written helps nobody, and may be what fills the disk.
                let _ = fs::remove_file(temporary(name));
            }
        }
        written
    }
}
