//! Real servers for tests: fetched once from Maven Central, started on free ports in temporary folders, stopped when they are no longer needed, also where the test
//! process was killed.
//!
//! [`fetch`] gets a server's jars into `target/servers` (another folder: `CLICKMILL_TEST_SERVERS`); [`process`] starts a server and watches over it; [`kafka`] and [`cassandra`] know what each needs.
//! Tests that shall use servers which run already are pointed at them by `CLICKMILL_TEST_KAFKA=host:port` and `CLICKMILL_TEST_CASSANDRA=host:port`.

pub mod cassandra;
mod certificates;
pub mod fetch;
pub mod kafka;
pub mod process;
pub mod proxy;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

pub use cassandra::Cassandra;
pub use kafka::Kafka;
pub use proxy::Network;

/// Why there is no server.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A program that it needs is not installed.
    #[error("{program} is missing: install {install}, or point the tests at a server that runs already ({instead})")]
    Missing {
        /// What was looked for.
        program: &'static str,
        /// What to install.
        install: &'static str,
        /// The environment variable that makes it unnecessary.
        instead: &'static str,
    },
    /// Its jars could not be fetched.
    #[error("fetching {server} with Maven failed:\n{output}")]
    Fetch {
        /// The server.
        server: &'static str,
        /// What Maven said.
        output: String,
    },
    /// It ended instead of getting ready.
    #[error("{server} ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// The server.
        server: String,
        /// How.
        status: ExitStatus,
        /// Its last words.
        log: String,
    },
    /// It did not get ready in time.
    #[error("{server} was not ready after {waited:?}; the end of its log:\n{log}")]
    NotReady {
        /// The server.
        server: String,
        /// How long was waited.
        waited: Duration,
        /// Its last words.
        log: String,
    },
    /// A file or a process could not be handled.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

/// Results of this crate.
pub type Result<T, E = ServerError> = std::result::Result<T, E>;

/// Adds to an I/O error what was being done.
pub(crate) fn doing(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> ServerError {
    let path = path.into();
    move |error| ServerError::Io { what, path, error }
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(doing("writing", path))
}
