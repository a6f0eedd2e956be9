//! The writers at the end of the stream: results to the aggregate store, raw and late clicks to Parquet.
//!
//! In: `click-results` ([`ResultsWriter`]), the raw topics ([`raw::RawWriter`]) and `late-clicks` ([`late::LateWriter`]).
//!
//! What they promise:
//! - an offset is committed only when what stands before it is durable in the store or in a file;
//! - writing again changes nothing: figures are absolute, a file is only ever created, and its name depends on its first line alone.

pub mod late;
pub mod raw;
mod results;

pub use results::{ResultsConfig, ResultsWriter};
