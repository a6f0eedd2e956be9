//! The identities seen in one open minute.

use clickmill_model::Identity;
use clickmill_model::prefetch::prefetch;

/// A set of identities: open addressing with linear probing over 16 bytes a place, at most five eighths full.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    places: Vec<u128>,
    len: usize,
}

impl Identities {
    /// Room for `expected` identities without growing.
    pub(crate) fn with_room_for(expected: usize) -> Self {
        let mut set = Self::default();
        if expected > 0 {
            set.places = vec![0; (expected * 8 / 5 + 1).next_power_of_two().max(64)];
        }
        set
    }

    /// How many it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Asks for the memory that [`Identities::insert`] reads first.
    #[inline]
    pub(crate) fn prefetch(&self, identity: Identity) {
        prefetch(&self.places, identity.0 as usize & self.places.len().wrapping_sub(1));
    }

    /// Adds it. False where it was there already.
    #[inline]
    pub(crate) fn insert(&mut self, identity: Identity) -> bool {
        if (self.len + 1) * 8 > self.places.len() * 5 {
            self.grow();
        }
        let key = key(identity);
        let mask = self.places.len() - 1;
        let mut at = key as usize & mask;
        loop {
            let place = self.places[at];
            if place == key {
                return false;
            }
            if place == 0 {
                self.places[at] = key;
                self.len += 1;
                return true;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let larger = vec![0; (self.places.len() * 2).max(64)];
        let smaller = std::mem::replace(&mut self.places, larger);
        let mask = self.places.len() - 1;
        for key in smaller.into_iter().filter(|key| *key != 0) {
            let mut at = key as usize & mask;
            while self.places[at] != 0 {
                at = (at + 1) & mask;
            }
            self.places[at] = key;
        }
    }
}

/// 0 marks an empty place; the one identity in 2¹²⁸ that is 0 shares a place with 1.
fn key(identity: Identity) -> u128 {
    identity.0.max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_identity_is_new_once() {
        let mut set = Identities::default();
        let mut model = HashSet::new();
        let mut x = 1_u128;
        for i in 0..100_000_u128 {
            x = x.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(i);
            // Few distinct ones, and many that want the same place.
            let identity = Identity((x % 5_000) << 32 | (x % 3));
            assert_eq!(set.insert(identity), model.insert(key(identity)));
        }
        assert_eq!(set.len(), model.len());
    }
}
