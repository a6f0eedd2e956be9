//! The most clicked ads among many, without sorting them all.

use clickmill_model::AdTable;
use std::cmp::Ordering;

/// Keeps the `depth` best of what it is shown: most clicks first, ties by `ad_id` bytewise.
pub(crate) struct Best<'a> {
    ads: &'a AdTable,
    depth: usize,
    kept: Vec<(u64, u32)>,
    /// Once `depth` are known: the last of them. Who is not better is not kept.
    last: Option<(u64, u32)>,
    shown: usize,
}

impl<'a> Best<'a> {
    pub(crate) fn new(ads: &'a AdTable, depth: usize) -> Self {
        Self { ads, depth, kept: Vec::with_capacity(depth * 4), last: None, shown: 0 }
    }

    fn order(ads: &AdTable, a: &(u64, u32), b: &(u64, u32)) -> Ordering {
        b.0.cmp(&a.0).then_with(|| ads.get(a.1).cmp(ads.get(b.1)))
    }

    /// Shows it an ad with a click or more.
    #[inline]
    pub(crate) fn show(&mut self, ad: u32, count: u64) {
        self.shown += 1;
        if let Some(last) = &self.last
            && (count < last.0 || Self::order(self.ads, &(count, ad), last) == Ordering::Greater)
        {
            return;
        }
        self.kept.push((count, ad));
        if self.kept.len() >= self.depth * 4 {
            self.prune();
        }
    }

    fn prune(&mut self) {
        let ads = self.ads;
        if self.depth > 0 && self.kept.len() > self.depth {
            let (_, last, _) = self.kept.select_nth_unstable_by(self.depth - 1, |a, b| Self::order(ads, a, b));
            self.last = Some(*last);
        }
        self.kept.truncate(self.depth);
    }

    /// The best with their clicks, and whether that is all that were shown.
    pub(crate) fn finish(mut self) -> (Vec<(String, u64)>, bool) {
        self.prune();
        let ads = self.ads;
        self.kept.sort_unstable_by(|a, b| Self::order(ads, a, b));
        let whole = self.shown <= self.depth;
        let named = self.kept.into_iter().map(|(count, ad)| (String::from_utf8_lossy(ads.get(ad)).into_owned(), count));
        (named.collect(), whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_best_are_those_of_a_full_sort(counts in proptest::collection::vec(1_u64..6, 0..300), depth in 1_usize..20) {
            let mut ads = AdTable::new();
            let mut best_model: Vec<(String, u64)> = Vec::new();
            for (i, count) in counts.iter().enumerate() {
                let name = format!("ad{}", (i * 7919) % 1000);
                ads.intern(AdTable::hash(name.as_bytes()), name.as_bytes());
                best_model.push((name, *count));
            }
            let mut best = Best::new(&ads, depth);
            for (i, count) in counts.iter().enumerate() {
                best.show(i as u32, *count);
            }
            best_model.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let whole = best_model.len() <= depth;
            best_model.truncate(depth);
            proptest::prop_assert_eq!(best.finish(), (best_model, whole));
        }
    }
}
