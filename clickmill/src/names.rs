//! The name under which a worker of this process takes part in transactions: nobody else's while it runs, and the same again after a restart, so that what an earlier run left unfinished is ended by its successor.
//!
//! `DATA_DIR/workers/{stage}-{number}` is locked by the process that has it, and holds what makes the name unique beyond this folder: sixteen random hexadecimal digits, drawn when the file was made.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Seek, Write};
use std::path::Path;

use anyhow::{Context, bail};

/// How many workers of one stage may run on one data folder at once.
const MOST: u32 = 1024;

/// A worker's name, held as long as this lives.
#[derive(Debug)]
pub(crate) struct WorkerName {
    name: String,
    _lock: File,
}

impl WorkerName {
    /// Takes the first name of this stage that no other process has. `source` is put before it, for people.
    pub(crate) fn take(data_dir: &Path, stage: &str, source: &str) -> anyhow::Result<Self> {
        let folder = data_dir.join("workers");
        std::fs::create_dir_all(&folder).with_context(|| format!("making the folder {}", folder.display()))?;
        for number in 0..MOST {
            let path = folder.join(format!("{stage}-{number}"));
            let mut file = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
            let unique = unique_part(&mut file).with_context(|| format!("naming a worker in {}", path.display()))?;
            return Ok(Self { name: format!("{source}-{unique}"), _lock: file });
        }
        bail!("{MOST} processes run the stage {stage} on {}: no more are allowed", data_dir.display())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }
}

/// What the file holds; drawn anew where it holds nothing of use.
fn unique_part(file: &mut File) -> std::io::Result<String> {
    let mut held = Vec::new();
    file.take(64).read_to_end(&mut held)?;
    if held.len() == 16 && held.iter().all(u8::is_ascii_hexdigit) {
        return Ok(String::from_utf8_lossy(&held).into_owned());
    }
    // The standard library's hasher is seeded by the operating system.
    let drawn = format!("{:016x}", RandomState::new().build_hasher().finish());
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(drawn.as_bytes())?;
    file.sync_all()?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_nobody_elses_while_it_is_held_and_the_same_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let take = |stage| WorkerName::take(dir.path(), stage, "web-17").unwrap();
        let (first, second) = (take("mapper"), take("mapper"));
        assert!(first.as_str().starts_with("web-17-"));
        assert_ne!(first.as_str(), second.as_str());
        assert_ne!(take("reducer").as_str(), first.as_str());
        let before = first.as_str().to_owned();
        drop(first);
        assert_eq!(take("mapper").as_str(), before);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_ne!(WorkerName::take(elsewhere.path(), "mapper", "web-17").unwrap().as_str(), before);
    }

    #[test]
    fn a_file_that_was_cut_short_gets_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = WorkerName::take(dir.path(), "mapper", "a").unwrap().as_str().to_owned();
        std::fs::write(dir.path().join("workers/mapper-0"), "12").unwrap();
        let again = WorkerName::take(dir.path(), "mapper", "a").unwrap();
        assert_eq!(again.as_str().len(), name.len());
        assert_ne!(again.as_str(), name);
    }
}
