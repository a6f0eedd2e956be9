//! A packed ranking.
//!
//! Version 1; flags (1 whole, 2 complete); the number of ads as a varint; for each, in order, the length of its id as a varint, the id, and its clicks as a varint. Filter, window and minute are the row's key.

use clickmill_model::codec::{CodecError, Reader, Writer};
use clickmill_model::records::Ranking;
use clickmill_model::{FilterId, Minute, Window};

const VERSION: u8 = 1;
const WHAT: &str = "a stored ranking";
const WHOLE: u8 = 1;
const COMPLETE: u8 = 2;

pub(super) fn encode(ranking: &Ranking) -> Vec<u8> {
    let mut out = Writer::new(VERSION);
    out.u8(if ranking.whole { WHOLE } else { 0 } | if ranking.complete { COMPLETE } else { 0 });
    out.uint(ranking.ads.len() as u64);
    for (ad, count) in &ranking.ads {
        out.str(ad);
        out.uint(*count);
    }
    out.finish()
}

pub(super) fn decode(bytes: &[u8], filter: FilterId, window: Window, minute: Minute) -> Result<Ranking, CodecError> {
    let (mut input, _) = Reader::new(bytes, WHAT, VERSION)?;
    let flags = input.u8()?;
    let ads = (0..input.count(2)?).map(|_| Ok((input.str()?.to_owned(), input.uint()?)));
    let ads = ads.collect::<Result<_, CodecError>>()?;
    input.finish()?;
    Ok(Ranking { filter, window, minute, whole: flags & WHOLE != 0, complete: flags & COMPLETE != 0, ads })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(whole: bool, complete: bool, ads: &[(&str, u64)]) -> Ranking {
        let ads = ads.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect();
        Ranking { filter: FilterId(1), window: Window(5), minute: Minute::from_epoch(7), whole, complete, ads }
    }

    /// Written once, by version 1; must be read for ever.
    #[test]
    fn the_first_version_is_still_read() {
        for (whole, complete, flags) in [(false, false, 0), (true, false, 1), (false, true, 2), (true, true, 3)] {
            let told = ranking(whole, complete, &[("b", 300), ("é", 7)]);
            let stored = [1, flags, 2, 1, b'b', 0xac, 2, 2, 0xc3, 0xa9, 7];
            assert_eq!(encode(&told), stored);
            assert_eq!(decode(&stored, FilterId(1), Window(5), Minute::from_epoch(7)), Ok(told));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let stored = encode(&ranking(true, true, &[("b", u64::MAX)]));
        for end in 0..stored.len() {
            assert!(decode(&stored[..end], FilterId(1), Window(5), Minute::from_epoch(7)).is_err(), "cut at {end}");
        }
        let newer = [&[2], &stored[1..]].concat();
        assert!(matches!(
            decode(&newer, FilterId(1), Window(5), Minute::from_epoch(7)),
            Err(CodecError::TooNew { found: 2, .. })
        ));
    }
}
