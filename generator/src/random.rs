//! Random numbers that are the same everywhere and for ever.

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014). Written out because the
/// generators of libraries may change between versions, and the same seed must give the same bytes for good.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// One of many independent sequences of a seed.
    pub(crate) fn new(seed: u64, sequence: u64) -> Self {
        let mut both = Self(seed ^ sequence.wrapping_mul(0xd134_2543_de82_ef95));
        Self(both.next())
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to, and without, `bound`.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Scatters `number` over the numbers of `bits` bits, each to one of its own.
#[inline]
pub(crate) fn scatter(number: u64, bits: u32) -> u64 {
    // Each step can be undone on its own, so that no two numbers end at one.
    let mask = (1 << bits) - 1;
    let mut x = number & mask;
    x ^= x >> (bits / 2);
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    x ^ (x >> (bits / 2))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn splitmix_is_the_one_of_its_authors() {
        // The first numbers from the seed 1234567, as the reference implementation in C gives them.
        let mut random = Random(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn scattered_numbers_are_all_different() {
        for bits in [16, 17] {
            let seen: HashSet<u64> = (1 << 40..(1 << 40) + (1 << bits)).map(|n| scatter(n, bits)).collect();
            assert_eq!(seen.len(), 1 << bits);
            assert!(seen.iter().all(|n| *n < 1 << bits));
        }
    }
}
