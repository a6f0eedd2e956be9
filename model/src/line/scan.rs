//! One look at each byte of a line, sixteen at once where the processor can.

/// The longest line that is looked at, in bytes: a bit each.
pub(super) const MOST: usize = 128;

/// Where the commas, the dots and the spaces of a line are: bit `i` is byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    pub(super) commas: u128,
    pub(super) dots: u128,
    pub(super) spaces: u128,
}

/// A line of which every byte is ASCII.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ascii<'a>(&'a [u8]);

impl<'a> Ascii<'a> {
    #[inline]
    pub(super) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// What stands from `start` to `end`; `None` where the line has no such place.
    #[inline]
    pub(super) fn get(self, start: usize, end: usize) -> Option<&'a str> {
        let bytes = self.0.get(start..end)?;
        // SAFETY: each byte is a character.
        #[allow(unsafe_code)]
        Some(unsafe { std::str::from_utf8_unchecked(bytes) })
    }
}

/// The line as text, and where its commas, dots and spaces are. `None` where a byte is a control character or not ASCII, and for a line of more than [`MOST`] bytes.
#[inline]
pub(super) fn plain_ascii(line: &[u8]) -> Option<(Ascii<'_>, Marks)> {
    if line.len() > MOST {
        return None;
    }
    // `marks` looks at every byte, and finds nothing where one is not ASCII.
    marks(line).map(|marks| (Ascii(line), marks))
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
        marks.spaces |= u128::from(*byte == b' ') << i;
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
        spaces: u64,
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
            self.spaces |= where_is(b' ') << at;
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
            last.spaces &= (1 << rest.len()) - 1;
        }
        if low.odd | high.odd | last.odd != 0 {
            return None;
        }
        let both = |low, high, last| u128::from(low) | u128::from(high) << 64 | u128::from(last) << last_at;
        Some(Marks {
            commas: both(low.commas, high.commas, last.commas),
            dots: both(low.dots, high.dots, last.dots),
            spaces: both(low.spaces, high.spaces, last.spaces),
        })
    }
}

/// The first line of a text that ends with `\n`, as [`plain_ascii`] has it. `None` also where fewer than [`MOST`] bytes are left, and where no faster way is known to find its end than byte by byte.
#[inline]
pub(super) fn first_line(text: &[u8]) -> Option<(Ascii<'_>, Marks)> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        #[allow(unsafe_code)]
        let (end, marks) = unsafe { avx2::first_line(text.first_chunk()?)? };
        return Some((Ascii(text.get(..end)?), marks));
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set_epi64x,
        _mm256_set1_epi8,
    };

    use super::{MOST, Marks};

    /// How long the line is that ends in this block, and its marks.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn first_line(block: &[u8; MOST]) -> Option<(usize, Marks)> {
        let (mut odd, mut commas, mut dots, mut spaces) = (0_u128, 0, 0, 0);
        // Iterators' own functions know nothing of these instructions, and would not become part of this one.
        for (i, chunk) in block.as_chunks::<32>().0.iter().enumerate() {
            let bytes = load(chunk);
            let at = 32 * i;
            // Bytes are compared as signed: those that are not ASCII are below 0x20 too.
            let low = _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), bytes);
            odd |= bits(_mm256_or_si256(low, equal(bytes, 0x7f))) << at;
            commas |= bits(equal(bytes, b',')) << at;
            dots |= bits(equal(bytes, b'.')) << at;
            spaces |= bits(equal(bytes, b' ')) << at;
        }
        let end = odd.trailing_zeros() as usize;
        if block.get(end) != Some(&b'\n') {
            return None;
        }
        let within = (1_u128 << end) - 1;
        Some((end, Marks { commas: commas & within, dots: dots & within, spaces: spaces & within }))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(chunk: &[u8; 32]) -> __m256i {
        let (low, high) = chunk.split_at(16);
        let word = |half: &[u8]| half.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
        let (low, high) = (word(low), word(high));
        _mm256_set_epi64x((high >> 64) as i64, high as i64, (low >> 64) as i64, low as i64)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn equal(bytes: __m256i, byte: u8) -> __m256i {
        _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn bits(found: __m256i) -> u128 {
        u128::from(_mm256_movemask_epi8(found) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_first_line_is_the_one_up_to_its_end() {
        if first_line(&[b'\n'; MOST]).is_none() {
            return;
        }
        for len in 0..=MOST + 1 {
            for odd in [None, Some(0x1f), Some(0x7f), Some(0x80), Some(b'\r')] {
                let mut text: Vec<u8> = b"a, .b.c ~!".iter().copied().cycle().take(len).collect();
                if let (Some(odd), Some(byte)) = (odd, text.get_mut(len / 3)) {
                    *byte = odd;
                }
                text.extend(b"\nx, .\x7f.");
                text.resize(text.len().max(MOST), 0xff);
                let found = first_line(&text);
                let line = &text[..len];
                let right = if len < MOST { one_by_one(line).map(|marks| (line, marks)) } else { None };
                assert_eq!(found.map(|(line, marks)| (line.bytes(), marks)), right, "{len} {odd:?}");
            }
        }
    }

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
