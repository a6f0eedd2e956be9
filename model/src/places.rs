//! The memory of a hash table.

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};

/// From so many bytes on a table asks for huge pages.
const LARGE_BYTES: usize = 4 << 20;

/// An array that begins as zeros and is looked up here and there.
///
/// Each look-up in a large table costs, besides the wait for memory, a walk through page tables, unless it lies on huge pages: these are asked for, which is a hint that the system may pass over.
#[derive(Debug)]
pub struct Places<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    Small(Vec<T>),
    Large(MmapMut),
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self(Memory::Small(Vec::new()))
    }
}

impl<T: Pod> Places<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        if bytes >= LARGE_BYTES
            && let Ok(map) = MmapMut::map_anon(bytes)
        {
            #[cfg(target_os = "linux")]
            let _ = map.advise(Advice::HugePage);
            return Self(Memory::Large(map));
        }
        Self(Memory::Small(vec![T::zeroed(); len]))
    }

    /// All places.
    #[inline]
    pub fn get(&self) -> &[T] {
        match &self.0 {
            Memory::Small(places) => places,
            // A map begins at a page, and is as long as it was asked for.
            Memory::Large(map) => bytemuck::cast_slice(map),
        }
    }

    /// All places, to be changed.
    #[inline]
    pub fn get_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Small(places) => places,
            Memory::Large(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_or_large_it_begins_as_zeros_and_keeps_what_is_put_in() {
        for len in [0, 1, 1000, LARGE_BYTES / 16, LARGE_BYTES / 16 + 1] {
            let mut places = Places::<u128>::zeros(len);
            assert_eq!(places.get(), vec![0; len]);
            for (i, place) in places.get_mut().iter_mut().enumerate() {
                *place = u128::MAX - i as u128;
            }
            assert!(places.get().iter().enumerate().all(|(i, place)| *place == u128::MAX - i as u128));
        }
    }
}
