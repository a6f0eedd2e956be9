//! What the aggregator writes beside its committed offset: where in its own results a restart finds the rest.

use clickmill_model::codec::{Reader, Writer};
use clickmill_model::{CodecError, Minute, Offset, Window};

const WHAT: &str = "an aggregator checkpoint";
const VERSION: u8 = 1;

/// The metadata of the aggregator's committed offset.
///
/// On the wire: version 1; the first open minute (zigzag); the offset in `click-partials`; 0, or 1 and the offset in `click-results`;
/// the number of windows that came later, and for each its minutes and the first minute (zigzag) that it could sum up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatorCheckpoint {
    /// The first minute that is not closed.
    pub closed_until: Minute,
    /// The first block of `click-partials` that a restart must read again: the oldest with counts of an open minute, or the first behind the last closing.
    pub replay_from: Offset,
    /// The first record of the own partition of `click-results` that a restart must read: the oldest minute that a window still needs, the oldest hour of the
    /// running day, the last closing. `None` before the first closing.
    pub results_from: Option<Offset>,
    /// The windows that were configured while the pipeline ran, each with the first minute that it could sum up.
    pub sums_from: Vec<(Window, Minute)>,
}

impl AggregatorCheckpoint {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.int(self.closed_until.as_epoch());
        out.uint(self.replay_from.0);
        out.u8(self.results_from.is_some().into());
        if let Some(offset) = self.results_from {
            out.uint(offset.0);
        }
        out.uint(self.sums_from.len() as u64);
        for (window, from) in &self.sums_from {
            out.uint(window.0.into());
            out.int(from.as_epoch());
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
        let closed_until = Minute::from_epoch(input.int()?);
        let replay_from = Offset(input.uint()?);
        let results_from = if input.u8()? == 0 { None } else { Some(Offset(input.uint()?)) };
        let sums_from = (0..input.count(2)?)
            .map(|_| Ok((Window(input.u32()?), Minute::from_epoch(input.int()?))))
            .collect::<Result<_, CodecError>>()?;
        input.finish()?;
        Ok(Self { closed_until, replay_from, results_from, sums_from })
    }
}
