//! One look at each byte of a line, sixteen at once where the processor can.

/// Where the commas are: bit `i` is byte `i`. `None` where a byte is a control character or not ASCII. At most 128 bytes.
#[cfg(target_arch = "x86_64")]
pub(super) fn commas_of_plain_ascii(line: &[u8]) -> Option<u128> {
    // SAFETY: every x86-64 processor has SSE2.
    #[allow(unsafe_code)]
    unsafe {
        commas_sse2(line)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn commas_sse2(line: &[u8]) -> Option<u128> {
    let mut commas = 0_u128;
    let mut odd = 0;
    let mut at = 0;
    let (chunks, rest) = line.as_chunks::<16>();
    for chunk in chunks {
        let (found, wrong) = look(*chunk);
        commas |= u128::from(found) << at;
        odd |= wrong;
        at += 16;
    }
    if !rest.is_empty() {
        let mut last = [b' '; 16];
        last[..rest.len()].copy_from_slice(rest);
        let (found, wrong) = look(last);
        commas |= u128::from(found) << at;
        odd |= wrong;
    }
    (odd == 0).then_some(commas)
}

/// Which of sixteen bytes are commas, and which are control characters or not ASCII.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn look(chunk: [u8; 16]) -> (u16, u16) {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let both = u128::from_le_bytes(chunk);
    let bytes = _mm_set_epi64x((both >> 64) as i64, both as i64);
    let found = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(b',' as i8)));
    // Bytes are compared as signed: those that are not ASCII are below 0x20 too.
    let low = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
    let delete = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
    (found as u16, _mm_movemask_epi8(_mm_or_si128(low, delete)) as u16)
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn commas_of_plain_ascii(line: &[u8]) -> Option<u128> {
    let mut commas = 0;
    for (i, byte) in line.iter().enumerate() {
        if !(0x20..0x7f).contains(byte) {
            return None;
        }
        commas |= u128::from(*byte == b',') << i;
    }
    Some(commas)
}
