//! Every bound of the server, with its reason.

use std::time::Duration;

/// The longest URL, path and query together. An ad id of 256 characters of any script takes at most 3 KiB of it.
pub(crate) const MOST_URL_BYTES: usize = 8 << 10;

/// The most bytes that a request's header fields may have together: what common servers take.
pub(crate) const MOST_HEADER_BYTES: usize = 16 << 10;

/// What the parser may hold of a request that is not whole: URL and headers with a little room, so that a request that is a little
/// above a limit is told which one.
pub(crate) const PARSER_BYTES: usize = 32 << 10;

/// The bounds that an operator may want to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once. When they are all taken, the one that has been idle for longest makes room.
    pub connections: usize,
    /// How long a client may take for the head of a request; and how long a connection may be idle.
    pub idle: Duration,
    /// How long a client may not take in any of its answer.
    pub stalled_write: Duration,
    /// How long requests that are being answered may take to end, once the server shall stop.
    pub shutdown: Duration,
    /// Single look-ups in the store at once.
    pub quick_reads: usize,
    /// Rankings and long series that are put together at once.
    pub heavy_reads: usize,
    /// Readers of the queue at once: the status, and lines that were set aside.
    pub queue_reads: usize,
    /// Requests that may wait for one of each kind; the others get 429.
    pub waiting_reads: usize,
    /// How long a request may wait and be worked on; then it gets 503.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            connections: 4096,
            idle: Duration::from_secs(30),
            stalled_write: Duration::from_secs(20),
            shutdown: Duration::from_secs(2),
            quick_reads: 8 * cores,
            heavy_reads: 2 * cores,
            queue_reads: 2,
            waiting_reads: 1024,
            patience: Duration::from_secs(10),
        }
    }
}
