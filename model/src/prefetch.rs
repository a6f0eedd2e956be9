//! Asks the processor for memory that will be read soon.
//!
//! Identities and counts are bound by the latency of memory: a loop that looks up one random place after the other waits
//! about 80 ns each time. Asking for the place of the element [`AHEAD`] steps before it is read hides most of it.

/// How many elements ahead of the one in work memory is asked for.
pub const AHEAD: usize = 24;

/// Asks for the cache line of `slice[index]`. Out of range does nothing.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(place) = slice.get(index) {
        // SAFETY: a prefetch is a hint; it reads no memory in the sense of the language, and the address is a live reference.
        #[allow(unsafe_code)]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}
