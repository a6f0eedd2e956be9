//! What can go wrong, and what to do about it.

use scylla::errors::{DbError, ExecutionError, PagerExecutionError, PrepareError, RequestAttemptError};
use thiserror::Error;

use crate::StoreError;

/// Why the store could not be opened, or its schema not made.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A setting cannot be.
    #[error("{}: {why}", path(setting))]
    Setting {
        /// Its key, in `[store]` unless it names another section.
        setting: &'static str,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// No node answered.
    #[error("no node of Cassandra can be reached at {} (store.nodes): {why}", nodes.join(", "))]
    Unreachable {
        /// Where it was tried.
        nodes: Vec<String>,
        /// What came back.
        why: String,
    },
    /// The schema is not there, or is not the one that this program knows.
    #[error("the keyspace {keyspace} (store.keyspace): {why}")]
    Schema {
        /// The keyspace.
        keyspace: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Everything that may happen later too.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn path(setting: &str) -> String {
    if setting.starts_with("retention.") { setting.to_owned() } else { format!("store.{setting}") }
}

impl OpenError {
    /// True where trying again changes nothing before somebody changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Setting { .. } | Self::Schema { .. } | Self::Store(StoreError::Broken(_)) => true,
            Self::Unreachable { .. } | Self::Store(StoreError::Unavailable { .. }) => false,
        }
    }
}

/// What a read of many pages came to.
pub(super) fn explain_pages(what: &str, error: &PagerExecutionError) -> StoreError {
    StoreError::Unavailable { what: what.to_owned(), why: error.to_string() }
}

/// True for what goes away without anybody changing a setting, a right or the schema.
pub(super) fn may_pass(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::BadQuery(_) => false,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => db_error_may_pass(error),
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(error, _),
        }) => db_error_may_pass(error),
        _ => true,
    }
}

fn db_error_may_pass(error: &DbError) -> bool {
    !matches!(
        error,
        DbError::SyntaxError
            | DbError::Invalid
            | DbError::AlreadyExists { .. }
            | DbError::FunctionFailure { .. }
            | DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::ConfigError
            | DbError::ProtocolError
    )
}

/// As the caller sees it.
pub(super) fn explain(what: &str, error: &ExecutionError) -> StoreError {
    if may_pass(error) {
        StoreError::Unavailable { what: format!("{what} in Cassandra"), why: error.to_string() }
    } else {
        StoreError::Broken(format!("Cassandra refused {what}: {error}"))
    }
}

/// For an answer that does not have the columns that were asked for.
pub(super) fn garbled(what: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("Cassandra's answer cannot be read while {what}: {error}"))
}
