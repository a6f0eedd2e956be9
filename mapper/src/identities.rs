//! The identities seen in one open minute.

use clickmill_model::Identity;
use clickmill_model::places::Places;
use clickmill_model::prefetch::prefetch;

/// A set of identities: open addressing with linear probing over 16 bytes a place, at most five eighths full.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    places: Places<u128>,
    len: usize,
}

impl Identities {
    /// Room for `expected` identities without growing.
    pub(crate) fn with_room_for(expected: usize) -> Self {
        let places = if expected > 0 { Places::zeros(places_for(expected)) } else { Places::default() };
        Self { places, len: 0 }
    }

    /// True where it has the memory that [`Identities::with_room_for`] so many would take.
    pub(crate) fn has_just_room_for(&self, expected: usize) -> bool {
        self.room() == places_for(expected)
    }

    /// How many places it has.
    pub(crate) fn room(&self) -> usize {
        self.places.get().len()
    }

    /// The same memory with nothing in it.
    pub(crate) fn cleared(mut self) -> Self {
        self.places.get_mut().fill(0);
        self.len = 0;
        self
    }

    /// How many it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Asks for the memory that [`Identities::insert`] reads first.
    #[inline]
    pub(crate) fn prefetch(&self, identity: Identity) {
        let places = self.places.get();
        prefetch(places, identity.0 as usize & places.len().wrapping_sub(1));
    }

    /// Adds it. False where it was there already.
    #[inline]
    pub(crate) fn insert(&mut self, identity: Identity) -> bool {
        if (self.len + 1) * 8 > self.places.get().len() * 5 {
            self.grow();
        }
        let is_new = insert(self.places.get_mut(), key(identity));
        self.len += usize::from(is_new);
        is_new
    }

    #[cold]
    fn grow(&mut self) {
        let larger = Places::zeros((self.places.get().len() * 2).max(64));
        let smaller = std::mem::replace(&mut self.places, larger);
        let places = self.places.get_mut();
        for key in smaller.get().iter().filter(|key| **key != 0) {
            insert(places, *key);
        }
    }
}

/// The places of a set that holds so many without growing.
fn places_for(identities: usize) -> usize {
    (identities * 8 / 5 + 1).next_power_of_two().max(64)
}

/// Puts the key in, unless it is there. There must be an empty place.
#[inline]
fn insert(places: &mut [u128], key: u128) -> bool {
    let mask = places.len() - 1;
    let mut at = key as usize & mask;
    loop {
        let place = &mut places[at];
        if *place == key {
            return false;
        }
        if *place == 0 {
            *place = key;
            return true;
        }
        at = (at + 1) & mask;
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
        let room = set.room();
        let mut set = set.cleared();
        assert_eq!((set.len(), set.room()), (0, room));
        assert!(model.iter().all(|key| set.insert(Identity(*key))), "nothing is left of what it held");
    }
}
