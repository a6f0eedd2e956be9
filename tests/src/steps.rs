//! Commands that are killed before each of the things that they do to files: writes, renames, deletions and the like.
//!
//! A [library](Preload) between the program and the C library counts these steps, and ends the process in front of one.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::preload::Preload;
use crate::process::{LONG, Site};

/// Kills commands.
#[derive(Debug)]
pub struct Steps {
    library: Preload,
    folder: TempDir,
}

impl Default for Steps {
    /// Compiles the library.
    ///
    /// # Panics
    /// Where there is no C compiler.
    fn default() -> Self {
        Self { library: Preload::compile(include_str!("steps.c")), folder: tempfile::tempdir().unwrap() }
    }
}

impl Steps {
    fn command(&self, site: &Site, args: &[&str], name: &str, value: impl AsRef<OsStr>) -> Command {
        let mut command = site.command(args);
        self.library.give_to(&mut command);
        command.env(name, value);
        command
    }

    /// How many steps a command takes that ends well.
    ///
    /// # Panics
    /// Where it does not.
    pub fn count(&self, site: &Site, args: &[&str]) -> u64 {
        let counted = self.folder.path().join("counted");
        let finished = site.run_command(self.command(site, args, "STEPS_TO", &counted), LONG);
        assert!(finished.status.success(), "{args:?}: {}", finished.stderr);
        fs::read_to_string(counted).unwrap().parse().unwrap()
    }

    /// Runs a command that is killed before a step, from 1. False: it ended, having fewer; some take as many as time allows.
    ///
    /// # Panics
    /// Where it ends in another way.
    #[must_use]
    pub fn kill_at(&self, step: u64, site: &Site, args: &[&str]) -> bool {
        let finished = site.run_command(self.command(site, args, "STEPS_AT", step.to_string()), LONG);
        let was_killed = finished.status.signal() == Some(Signal::KILL.as_raw());
        assert!(was_killed || finished.status.success(), "{args:?} at step {step}: {}", finished.stderr);
        was_killed
    }
}

/// True where `CLICKMILL_TEST_STEPS=all`.
pub fn every_step() -> bool {
    std::env::var("CLICKMILL_TEST_STEPS").is_ok_and(|which| which == "all")
}

/// The steps to try, of so many: about `most` from the first to the last, or [all](every_step).
pub fn some_of(steps: u64, most: u64) -> Vec<u64> {
    let most = if every_step() { steps } else { most.min(steps) };
    (0..most).map(|n| 1 + n * (steps - 1) / (most - 1).max(1)).collect()
}

/// A copy of a site with all that is in it.
pub fn copy_of(site: &Site) -> Site {
    let copy = Site::new("");
    copy_folder(site.path(), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
