//! What the aggregator writes beside its committed offset: where in its own results a restart finds the rest.

use clickmill_model::codec::{Reader, Writer};
use clickmill_model::{CodecError, DefinitionVersion, Minute, Offset, Window};

const WHAT: &str = "an aggregator checkpoint";
const VERSION: u8 = 2;

/// The metadata of the aggregator's committed offset.
///
/// On the wire: version 2; the first open minute (zigzag); the offset in `click-partials`; 0, or 1 and the offset in `click-results`;
/// the number of windows that came later, and for each its minutes and the first minute (zigzag) that it could sum up; `inputs_since` (not in version 1).
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
    /// The definition whose inputs the next minute waits for. `None`: the first one's.
    pub inputs_since: Option<DefinitionVersion>,
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
        out.uint(self.inputs_since.unwrap_or(0).into());
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, format) = Reader::new(bytes, WHAT, VERSION)?;
        let closed_until = Minute::from_epoch(input.int()?);
        let replay_from = Offset(input.uint()?);
        let results_from = if input.u8()? == 0 { None } else { Some(Offset(input.uint()?)) };
        let sums_from = (0..input.count(2)?)
            .map(|_| Ok((Window(input.u32()?), Minute::from_epoch(input.int()?))))
            .collect::<Result<_, CodecError>>()?;
        let inputs_since = if format == 1 { 0 } else { input.u32()? };
        input.finish()?;
        let inputs_since = (inputs_since > 0).then_some(inputs_since);
        Ok(Self { closed_until, replay_from, results_from, sums_from, inputs_since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_version_1_is_read() {
        // Open from minute 3, replay from 4, results from 5, the window of 6 minutes from minute 7.
        let checkpoint = AggregatorCheckpoint::decode(&[1, 6, 4, 1, 5, 1, 6, 14]).unwrap();
        let expected = AggregatorCheckpoint {
            closed_until: Minute::from_epoch(3),
            replay_from: Offset(4),
            results_from: Some(Offset(5)),
            sums_from: vec![(Window(6), Minute::from_epoch(7))],
            inputs_since: None,
        };
        assert_eq!(checkpoint, expected);
        let again = AggregatorCheckpoint { inputs_since: Some(3), ..checkpoint };
        assert_eq!(AggregatorCheckpoint::decode(&again.encode()), Ok(again));
    }
}
