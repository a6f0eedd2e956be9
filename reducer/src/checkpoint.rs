//! What the reducer writes beside its committed offset.

use clickmill_model::codec::{Reader, Writer};
use clickmill_model::{CodecError, Minute, Offset};

const WHAT: &str = "a reducer checkpoint";
const VERSION: u8 = 1;

/// The metadata of the reducer's committed offset.
///
/// On the wire: version 1; the first minute that was not told (zigzag); the offset of the oldest record with a minute still pending; the number of
/// aggregator partitions, and for each how far it had come (zigzag, as the distance from the first minute not told).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducerCheckpoint {
    /// Every minute before it was told.
    pub told_until: Minute,
    /// The first record that a restart must read again.
    pub replay_from: Offset,
    /// How far each aggregator partition had come, by its number.
    pub closed_until: Vec<Minute>,
}

impl ReducerCheckpoint {
    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION);
        out.int(self.told_until.as_epoch());
        out.uint(self.replay_from.0);
        out.uint(self.closed_until.len() as u64);
        for until in &self.closed_until {
            out.int(until.minus(self.told_until));
        }
        out.finish()
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
        let told_until = Minute::from_epoch(input.int()?);
        let replay_from = Offset(input.uint()?);
        let closed_until =
            (0..input.count(1)?).map(|_| Ok(told_until.plus(input.int()?))).collect::<Result<_, CodecError>>()?;
        input.finish()?;
        Ok(Self { told_until, replay_from, closed_until })
    }
}
