//! Short texts as numbers: most ad ids and countries are, and to compare two numbers costs less than a call that compares bytes.

/// The longest text that is one, in bytes.
pub const MOST: usize = 16;

/// The bytes of a text of at most [`MOST`], the first one lowest, with zeros behind them; `None` for a longer one. Texts of one length are equal where these are.
#[inline]
pub fn word(text: &[u8]) -> Option<u128> {
    let len = text.len();
    // The first and the last bytes, which may be partly the same.
    Some(match (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(first), Some(last)) if len <= MOST => {
            let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
            u128::from(first) | u128::from(last) << (8 * (len - 8))
        }
        (Some(_), _) => return None,
        _ => match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
                u128::from(u64::from(first) | u64::from(last) << (8 * (len - 4)))
            }
            _ => text.iter().rev().fold(0, |word, byte| word << 8 | u128::from(*byte)),
        },
    })
}

/// The [`word`] of the `len` bytes (at most [`MOST`]) that begin at `start`, where [`MOST`] bytes stand there.
#[inline]
pub(crate) fn word_at(bytes: &[u8], start: usize, len: usize) -> Option<u128> {
    let all = u128::from_le_bytes(*bytes.get(start..)?.first_chunk::<MOST>()?);
    let unused = 8 * MOST.checked_sub(len)? as u32;
    Some(all.checked_shl(unused).map_or(0, |kept| kept >> unused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_bytes_of_its_text() {
        let text = b"abcdefghijklmnopqrstuvwxyz0123456789";
        for len in 0..=20 {
            let mut bytes = [0; MOST];
            if len <= MOST {
                bytes[..len].copy_from_slice(&text[3..3 + len]);
            }
            let right = (len <= MOST).then(|| u128::from_le_bytes(bytes));
            assert_eq!(word(&text[3..3 + len]), right, "{len}");
            assert_eq!(word_at(text, 3, len), right, "{len}");
        }
        assert_eq!(word_at(text, text.len() - MOST, 2), word(&text[text.len() - MOST..][..2]));
        assert_eq!(word_at(text, text.len() - MOST + 1, 2), None);
    }
}
