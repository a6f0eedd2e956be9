//! Libraries between a process and the C library, which change what it does or sees. They are compiled by the C compiler that the program needs anyway.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Such a library. It goes when this is dropped: processes that run by then keep it.
#[derive(Debug)]
pub struct Preload {
    folder: TempDir,
}

impl Preload {
    /// Compiles one.
    ///
    /// # Panics
    /// Where there is no C compiler.
    pub fn compile(text: &str) -> Self {
        let preload = Self { folder: tempfile::tempdir().unwrap() };
        let source = preload.folder.path().join("preload.c");
        fs::write(&source, text).unwrap();
        let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(preload.path()).arg(&source).arg("-ldl");
        assert!(compiler.status().is_ok_and(|status| status.success()), "a C compiler is needed: {compiler:?}");
        preload
    }

    /// A library that shows a process a clock which is `SHIFT_SECONDS` ahead.
    ///
    /// # Panics
    /// Where there is no C compiler, or processes do not take the library.
    pub fn clock() -> Self {
        let clock = Self::compile(include_str!("clock.c"));
        let mut date = Command::new("date");
        clock.give_to(&mut date);
        let shown = date.arg("+%s").env("SHIFT_SECONDS", "3600").output().unwrap().stdout;
        let shown: i64 = String::from_utf8(shown).unwrap().trim().parse().unwrap();
        let ahead = shown * 1_000_000 - crate::traffic::wall_clock().as_micros();
        assert!((3_500_000_000..3_700_000_000).contains(&ahead), "the clock is shown {ahead} µs ahead");
        clock
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("preload.so")
    }

    /// Gives it to a process that is not started yet.
    pub fn give_to(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.path());
    }
}
