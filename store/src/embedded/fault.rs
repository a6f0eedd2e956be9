//! What can go wrong inside, before the file's name is put to it.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::StoreError;

/// Why a read or a write did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// What SQLite said.
    Sql(rusqlite::Error),
    /// What is stored is not what it should be; or the caller broke a promise. Says which table and key.
    Broken(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    /// As the caller sees it: with the file and what was being done.
    pub(super) fn explain(self, file: &Path, what: &str) -> StoreError {
        let file = file.display();
        match self {
            Self::Broken(why) => StoreError::Broken(format!("{file}: {why} (while {what})")),
            Self::Sql(error) if may_pass(&error) => {
                StoreError::Unavailable { what: format!("{what} in {file}"), why: error.to_string() }
            }
            Self::Sql(error) => StoreError::Broken(format!("{file}: {error} (while {what})")),
        }
    }
}

/// True for what goes away without anybody repairing the file: a full disk, a lock held elsewhere, a folder that is away.
fn may_pass(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OperationInterrupted
        )
    )
}

/// Results inside of this module.
pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;
