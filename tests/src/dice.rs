//! Random numbers of tests: the same for the same seed, so that what failed can be seen again.

/// The name of the environment variable that gives a seed.
pub const SEED: &str = "CLICKMILL_TEST_SEED";

/// The name of the environment variable that says how many seeds are tried.
pub const SEEDS: &str = "CLICKMILL_TEST_SEEDS";

/// Xorshift64* (Vigna 2016).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds shall differ at once, and the state must not be 0.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 up to, and without, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next_u64() >> 16) % bound.max(1)
    }

    /// True once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds to try: the one that the environment names, or as many as it asks for, or `usual` ones.
pub fn seeds(usual: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number(SEED) {
        Some(seed) => vec![seed],
        None => (0..number(SEEDS).unwrap_or(usual)).collect(),
    }
}
