//! Small disks for tests: a tmpfs that a test fills, makes read-only, and gives room again.
//!
//! A real file system, since nothing else fails as one does: a limit on the size of files, say, knows no file that is there already and cannot be lengthened. Only root may mount
//! one, but anybody is root in a user namespace of his own: there, a test that is run by another user runs itself again.

#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests give up as tests do.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

/// Set in a test that runs in a namespace of its own.
const INSIDE: &str = "CLICKMILL_TEST_NAMESPACE";

/// Runs a test on a new file system of so many MiB, mounted at `folder`, which must be there. Call it first in a test: where the user may not mount, the test runs itself again where it may.
///
/// # Panics
/// Where no disk can be mounted by any means; and where the test does.
pub fn with_small_disk(folder: &Path, mebibytes: u32, test: impl FnOnce(&SmallDisk)) {
    if !rustix::process::geteuid().is_root() && std::env::var_os(INSIDE).is_none() {
        return run_again_as_root_of_a_namespace();
    }
    let disk = SmallDisk(folder.to_owned());
    let size = format!("size={mebibytes}m");
    assert!(
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], &disk.0),
        "this test mounts a tmpfs, which it may not do here"
    );
    let result = catch_unwind(AssertUnwindSafe(|| test(&disk)));
    // Lazily: what still has a file open there keeps it for itself.
    let unmounted = Command::new("umount").arg("-l").arg(&disk.0).status();
    assert!(unmounted.is_ok_and(|status| status.success()), "{} cannot be unmounted", disk.0.display());
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

fn run_again_as_root_of_a_namespace() {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{test} mounts a tmpfs: run it as root, or where unshare may make a user namespace ({status:?})"
    );
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    Command::new("mount").args(arguments).arg(at).status().is_ok_and(|status| status.success())
}

impl SmallDisk {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves no byte free.
    ///
    /// # Panics
    /// Where it cannot be written for another reason.
    pub fn fill(&self) {
        let mut held = fs::read(self.ballast()).map_or(0, |held| held.len());
        // In ever smaller pieces, until not one more page fits.
        let mut piece = 1 << 20;
        while piece >= 4096 {
            match append(&self.ballast(), piece) {
                Ok(()) => held += piece,
                Err(_) => piece /= 2,
            }
        }
        assert!(held > 0, "there was no room to begin with");
    }

    /// What filled it is gone.
    ///
    /// # Panics
    /// Where that is not so.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// Nothing can be written any more, or everything again. No file may be open for writing.
    ///
    /// # Panics
    /// Where it is in use.
    pub fn read_only(&self, is_so: bool) {
        let how = if is_so { "remount,ro" } else { "remount,rw" };
        assert!(mount(&["-o", how], &self.0), "{} is in use", self.0.display());
    }
}

fn append(file: &Path, bytes: usize) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::File::options().create(true).append(true).open(file)?;
    file.write_all(&vec![0; bytes])
}
