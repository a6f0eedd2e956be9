//! One look at each byte of a line, sixteen at once where the processor can.

/// The longest line that is looked at, in bytes: a bit each.
pub(super) const MOST: usize = 128;

/// Where the commas and the dots of a line are: bit `i` is byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    pub(super) commas: u128,
    pub(super) dots: u128,
}

/// The line as text, and where its commas and dots are. `None` where a byte is a control character or not ASCII, and for a line of more than [`MOST`] bytes.
#[inline]
pub(super) fn plain_ascii(line: &[u8]) -> Option<(&str, Marks)> {
    if line.len() > MOST {
        return None;
    }
    let marks = marks(line)?;
    // SAFETY: `marks` looked at every byte, and each of them is ASCII.
    #[allow(unsafe_code)]
    let text = unsafe { std::str::from_utf8_unchecked(line) };
    Some((text, marks))
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn marks(line: &[u8]) -> Option<Marks> {
    // SAFETY: every x86-64 processor has SSE2.
    #[allow(unsafe_code)]
    unsafe {
        sse2::marks(line)
    }
}

#[cfg(not(target_arch = "x86_64"))]
use one_by_one as marks;

/// [`marks`], as every processor can.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn one_by_one(line: &[u8]) -> Option<Marks> {
    let mut marks = Marks::default();
    for (i, byte) in line.iter().enumerate() {
        if !(0x20..0x7f).contains(byte) {
            return None;
        }
        marks.commas |= u128::from(*byte == b',') << i;
        marks.dots |= u128::from(*byte == b'.') << i;
    }
    Some(marks)
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };

    use super::Marks;

    /// What is found in sixteen bytes, a bit a byte.
    #[derive(Default)]
    struct Found {
        commas: u64,
        dots: u64,
        /// Control characters, and what is not ASCII.
        odd: u64,
    }

    impl Found {
        #[inline]
        #[target_feature(enable = "sse2")]
        fn add(&mut self, chunk: [u8; 16], at: usize) {
            let both = u128::from_le_bytes(chunk);
            let bytes = _mm_set_epi64x((both >> 64) as i64, both as i64);
            let where_is = |byte: u8| _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))) as u64;
            self.commas |= where_is(b',') << at;
            self.dots |= where_is(b'.') << at;
            // Bytes are compared as signed: those that are not ASCII are below 0x20 too.
            let low = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
            let delete = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
            self.odd |= _mm_movemask_epi8(_mm_or_si128(low, delete)) as u64;
        }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn marks(line: &[u8]) -> Option<Marks> {
        let (chunks, rest) = line.as_chunks::<16>();
        let (mut low, mut high, mut last) = (Found::default(), Found::default(), Found::default());
        for (i, chunk) in chunks.iter().take(4).enumerate() {
            low.add(*chunk, i * 16);
        }
        for (i, chunk) in chunks.iter().skip(4).enumerate() {
            high.add(*chunk, i * 16);
        }
        let mut last_at = 0;
        if let Some(chunk) = line.last_chunk::<16>() {
            // Some of its bytes were looked at before: they are found in the same places again.
            last.add(*chunk, 0);
            last_at = line.len() - 16;
        } else {
            let mut padded = [b' '; 16];
            for (to, byte) in padded.iter_mut().zip(rest) {
                *to = *byte;
            }
            last.add(padded, 0);
        }
        if low.odd | high.odd | last.odd != 0 {
            return None;
        }
        let both = |low, high, last| u128::from(low) | u128::from(high) << 64 | u128::from(last) << last_at;
        Some(Marks { commas: both(low.commas, high.commas, last.commas), dots: both(low.dots, high.dots, last.dots) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn sixteen_at_once_are_found_as_one_by_one(line in "[ -~,.]{0,128}", at: usize, byte: u8) {
            let mut line = line.into_bytes();
            proptest::prop_assert_eq!(marks(&line), one_by_one(&line));
            if !line.is_empty() {
                let at = at % line.len();
                line[at] = byte;
                proptest::prop_assert_eq!(marks(&line), one_by_one(&line));
            }
        }
    }
}
