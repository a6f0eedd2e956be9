//! HTTP itself: connections, limits, errors. It knows nothing of clicks.

pub(crate) mod guard;
pub(crate) mod limits;
pub(crate) mod problem;
pub(crate) mod server;
mod stream;
