//! Programs that are started as commands of this one, as git does: they stand beside it, or on the path.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// The auditor.
const RECONCILE: &str = "clickmill-reconcile";

/// `clickmill reconcile`: becomes `clickmill-reconcile` with the same arguments. Returns only where that cannot be.
pub(crate) fn reconcile(args: &[OsString]) -> anyhow::Result<()> {
    let Some(program) = find(RECONCILE) else {
        anyhow::bail!(
            "{RECONCILE} is neither beside this program nor on the path: build it with `cargo build --release --package {RECONCILE}`"
        );
    };
    become_program(&program, args).with_context(|| format!("starting {}", program.display()))
}

#[cfg(unix)]
fn become_program(program: &Path, args: &[OsString]) -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;
    Err(Command::new(program).args(args).exec())
}

#[cfg(not(unix))]
fn become_program(program: &Path, args: &[OsString]) -> std::io::Result<()> {
    let status = Command::new(program).args(args).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// The program of this name beside this one, or the first on the path.
fn find(name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|this| Some(this.parent()?.join(&name)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let all = beside.into_iter().chain(std::env::split_paths(&on_path).map(|folder| folder.join(&name)));
    all.into_iter().find(|path| path.is_file())
}
