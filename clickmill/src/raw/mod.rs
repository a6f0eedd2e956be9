//! `clickmill raw`: what is done with the files of raw and late lines.

mod compact;
mod import;

pub(crate) use compact::compact;
pub(crate) use import::import;
