//! Draws ads by Zipf's law in constant time.

use clickmill_model::prefetch::prefetch;

/// The alias method (Walker 1977; built in linear time as by Vose 1991) for weights 1, 1/2, 1/3 …: only divisions, so that every
/// machine builds the same table.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// For each place, the chance to stay there in 2⁻³² and the place taken otherwise.
    places: Vec<(u32, u32)>,
}

impl Zipf {
    /// For ranks from 0 to `n`.
    pub(crate) fn new(n: u64) -> Self {
        let total: f64 = (1..=n).map(|rank| 1.0 / rank as f64).sum();
        // How full each place is of its own rank, 1 being just full; what is missing in one is filled up from another.
        let mut full: Vec<f64> = (1..=n).map(|rank| n as f64 / (rank as f64 * total)).collect();
        let mut places: Vec<(u32, u32)> = (0..n as u32).map(|own| (u32::MAX, own)).collect();
        let (mut large, mut small): (Vec<usize>, Vec<usize>) = (0..full.len()).partition(|place| full[*place] >= 1.0);
        while let (Some(&from), Some(to)) = (large.last(), small.pop()) {
            places[to] = ((full[to] * f64::from(u32::MAX)) as u32, from as u32);
            full[from] -= 1.0 - full[to];
            if full[from] < 1.0 {
                large.pop();
                small.push(from);
            }
        }
        Self { places }
    }

    fn place(&self, random: u64) -> usize {
        (((random >> 32) * self.places.len() as u64) >> 32) as usize
    }

    /// Asks for the memory that [`Zipf::pick`] of the same number reads.
    #[inline]
    pub(crate) fn prefetch(&self, random: u64) {
        prefetch(&self.places, self.place(random));
    }

    /// The rank, from 0, that a random number gives.
    #[inline]
    pub(crate) fn pick(&self, random: u64) -> u32 {
        let place = self.place(random);
        match self.places.get(place) {
            Some((stay, _)) if random as u32 <= *stay => place as u32,
            Some((_, other)) => *other,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_ad_of_rank_r_gets_a_share_of_one_over_r() {
        const DRAWS: usize = 2_000_000;
        for n in [1_u64, 2, 10, 1000] {
            let zipf = Zipf::new(n);
            let mut random = Random::new(7, 0);
            let mut counts = vec![0_u64; n as usize];
            for _ in 0..DRAWS {
                counts[zipf.pick(random.next()) as usize] += 1;
            }
            let harmonic: f64 = (1..=n).map(|r| 1.0 / r as f64).sum();
            for (i, count) in counts.iter().enumerate() {
                let expected = DRAWS as f64 / ((i + 1) as f64 * harmonic);
                let off = (*count as f64 - expected).abs();
                assert!(off < 6.0 * expected.sqrt() + 1.0, "rank {i} of {n}: {count}, not {expected}");
            }
        }
    }
}
