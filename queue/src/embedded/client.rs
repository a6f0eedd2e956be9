//! A process says that it is alive: by a file that it holds locked, and in which it notes the time.
//!
//! The lock goes with the process, however it ends, so that others see at once that it is gone. The time tells a process that is stopped or hangs from
//! one that works. It is that of the machine's steady clock, which stands while the machine sleeps: nobody is silent because a laptop was closed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::types::{QueueError, Result};

static OPENED: AtomicU64 = AtomicU64::new(0);

/// Milliseconds of the machine's steady clock, the same for all of its processes.
pub(super) fn steady_millis() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// An open of the queue by this process.
#[derive(Debug)]
pub(super) struct Client {
    /// The name of its file.
    pub(super) name: String,
    path: PathBuf,
    file: File,
}

impl Client {
    /// Makes the file.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        loop {
            let number = OPENED.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{}-{number}", std::process::id(), steady_millis());
            let path = dir.join(&name);
            let unavailable = |error: std::io::Error| QueueError::Unavailable {
                what: format!("making {}", path.display()),
                why: error.to_string(),
            };
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(unavailable(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                // Somebody just looks whether it is dead, and will delete it.
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(unavailable(error)),
            }
            let client = Self { name, path: path.clone(), file };
            client.beat().map_err(unavailable)?;
            return Ok(client);
        }
    }

    /// Notes that it is alive now.
    pub(super) fn beat(&self) -> std::io::Result<()> {
        self.file.write_all_at(format!("{:020}\n", steady_millis()).as_bytes(), 0)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // What stays behind is deleted by the next process that opens the queue.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What another client looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vital {
    /// It holds its lock, and noted the time lately.
    Alive,
    /// It holds its lock, and did not note the time for so long.
    Silent(Duration),
    /// Its lock is free, or its file gone.
    Dead,
}

/// Looks at another client.
pub(super) fn look(dir: &Path, name: &str, session_timeout: Duration) -> Vital {
    let mut file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vital::Dead,
        Err(_) => return Vital::Alive,
    };
    match file.try_lock() {
        Ok(()) => Vital::Dead,
        Err(TryLockError::Error(_)) => Vital::Alive,
        Err(TryLockError::WouldBlock) => {
            let mut beat = String::new();
            let noted = file.read_to_string(&mut beat).ok().and_then(|_| beat.trim().parse::<i64>().ok());
            let silent = noted.map_or(0, |noted| steady_millis() - noted);
            let silent = Duration::from_millis(silent.max(0).unsigned_abs());
            if silent > session_timeout { Vital::Silent(silent) } else { Vital::Alive }
        }
    }
}

/// Deletes the files of clients that are gone.
pub(super) fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
