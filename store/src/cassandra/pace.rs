//! How many batches are on their way at once: as many as the cluster takes (additive increase, multiplicative decrease, as TCP does it).

/// The most batches on their way at once. Beyond, they only wait in the nodes' queues.
const MOST: u32 = 64;

/// How many are on their way at first.
const FIRST: u32 = 16;

/// The pace of one writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pace {
    limit: u32,
    /// Acknowledged since the limit last changed.
    taken: u32,
    /// Still to come back of those that were sent before the limit was last lowered: they say nothing new.
    old: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: FIRST, taken: 0, old: 0 }
    }
}

impl Pace {
    /// How many may be on their way now, at least 1.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// A batch was acknowledged. One more may be on its way for each round of them.
    pub(super) fn acknowledged(&mut self) {
        self.old = self.old.saturating_sub(1);
        self.taken += 1;
        if self.taken >= self.limit {
            self.limit = (self.limit + 1).min(MOST);
            self.taken = 0;
        }
    }

    /// A batch was refused or not answered in time, while so many more are on their way: half as many from now on.
    pub(super) fn refused(&mut self, on_way: usize) {
        if self.old > 0 {
            self.old -= 1;
            return;
        }
        self.limit = (self.limit / 2).max(1);
        self.taken = 0;
        self.old = u32::try_from(on_way).unwrap_or(u32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mut pace: Pace, acknowledged: u32) -> Pace {
        for _ in 0..acknowledged {
            pace.acknowledged();
        }
        pace
    }

    #[test]
    fn each_round_that_is_taken_allows_one_more() {
        assert_eq!(Pace::default().limit(), 16);
        assert_eq!(after(Pace::default(), 15).limit(), 16);
        assert_eq!(after(Pace::default(), 16).limit(), 17);
        assert_eq!(after(Pace::default(), 16 + 17).limit(), 18);
        assert_eq!(after(Pace::default(), 100_000).limit(), 64);
    }

    #[test]
    fn what_is_refused_halves_it_once_for_all_that_were_on_their_way() {
        let mut pace = Pace::default();
        for _ in 0..=10 {
            pace.refused(10);
        }
        assert_eq!(pace.limit(), 8);
        pace.refused(0);
        assert_eq!(pace.limit(), 4);
        for _ in 0..9 {
            pace.refused(0);
        }
        assert_eq!(pace.limit(), 1, "never none");
        assert_eq!(after(pace, 1).limit(), 2);
    }
}
