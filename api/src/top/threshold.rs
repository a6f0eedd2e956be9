//! The first `n` of a sum of rankings, exactly, from the heads of those rankings.
//!
//! After Fagin, Lotem and Naor, "Optimal aggregation algorithms for middleware" (2001). Their combined algorithm fits here: sorted access is
//! as good as free, since the heads are in memory, and random access costs a query. So the heads give every ad a lower and an upper
//! bound, and totals are looked up only for ads whose bounds leave open whether they belong to the answer.
//!
//! The stop is strict. An ad that is in no head may have as many clicks as the last entries of the heads together; were the
//! last one of the answer to have just as many, the other could come before it by its id.

use std::cmp::Reverse;
use std::collections::HashMap;

use clickmill_store::TopAds;

/// The head of a ranking: most clicked first, ties by `ad_id`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a> {
    /// The ads with their clicks.
    pub(crate) ads: &'a [(String, u64)],
    /// True where every ad with a click is here.
    pub(crate) whole: bool,
}

/// What the heads say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The most clicked ads, as far as is known.
    pub(crate) ads: TopAds,
    /// True where these are the most clicked ads for certain, with all their clicks.
    pub(crate) exact: bool,
    /// The most clicks that an ad may have that is not among them.
    pub(crate) bound: u64,
    /// How many totals were looked up.
    pub(crate) looked_up: usize,
}

/// What is known of an ad.
struct Known<'a> {
    ad: &'a str,
    /// It has at least this many clicks.
    lower: u64,
    /// It has at most this many.
    upper: u64,
}

/// The fewest totals that are looked up at once: below this a query costs about the same.
const FEWEST_AT_ONCE: usize = 64;

/// Ranks the ads of several heads by the sum of their clicks. `totals` tells those sums for some ads; it is asked for `most_look_ups` ads at most.
pub(crate) fn decide<E>(
    heads: &[Head<'_>],
    n: usize,
    most_look_ups: usize,
    mut totals: impl FnMut(&[&str]) -> Result<Vec<u64>, E>,
) -> Result<Verdict, E> {
    if let [only] = heads {
        return Ok(first_of(*only, n));
    }
    let (mut known, unseen) = bounds(heads);
    let mut looked_up = 0;
    let given_up = loop {
        let cut = nth_lower(&known, n);
        let mut open: Vec<usize> = (0..known.len()).filter(|i| is_open(&known[*i], cut)).collect();
        if open.is_empty() {
            break false;
        }
        if looked_up >= most_look_ups {
            break true;
        }
        open.sort_unstable_by_key(|i| (Reverse(known[*i].upper), known[*i].ad));
        open.truncate(n.max(FEWEST_AT_ONCE).min(most_look_ups - looked_up));
        let ads: Vec<&str> = open.iter().map(|i| known[*i].ad).collect();
        looked_up += ads.len();
        for (i, total) in open.iter().zip(totals(&ads)?) {
            // Where the range is still growing, the heads may be newer than the counts.
            let total = total.max(known[*i].lower);
            (known[*i].lower, known[*i].upper) = (total, total);
        }
    };
    known.sort_unstable_by(|a, b| b.lower.cmp(&a.lower).then_with(|| a.ad.cmp(b.ad)));
    let last = n.checked_sub(1).and_then(|place| known.get(place)).map_or(0, |ad| ad.lower);
    let beyond = known.iter().skip(n).map(|ad| ad.upper).max().unwrap_or(0);
    let exact = !given_up && (unseen == 0 || last > unseen);
    known.truncate(n);
    let ads = known.into_iter().map(|ad| (ad.ad.to_owned(), ad.lower)).filter(|(_, count)| *count > 0).collect();
    Ok(Verdict { ads, exact, bound: unseen.max(beyond), looked_up })
}

/// One head is its own answer.
fn first_of(head: Head<'_>, n: usize) -> Verdict {
    let ads = head.ads.get(..n).unwrap_or(head.ads);
    let next = head.ads.get(n).or(if head.whole { None } else { head.ads.last() });
    Verdict {
        ads: ads.to_vec(),
        exact: head.whole || head.ads.len() >= n,
        bound: next.map_or(0, |(_, count)| *count),
        looked_up: 0,
    }
}

/// What the heads say of each ad in them, and the most clicks that an ad in none of them may have.
fn bounds<'a>(heads: &[Head<'a>]) -> (Vec<Known<'a>>, u64) {
    // An ad that is missing from a head that is not whole stands behind its last entry.
    let rest = |head: &Head<'_>| if head.whole { 0 } else { head.ads.last().map_or(u64::MAX, |(_, count)| *count) };
    let unseen = heads.iter().map(rest).fold(0, u64::saturating_add);
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(heads.iter().map(|h| h.ads.len()).max().unwrap_or(0));
    let mut known: Vec<Known<'a>> = Vec::new();
    for head in heads {
        let rest = rest(head);
        for (ad, count) in head.ads {
            let place = *places.entry(ad).or_insert_with(|| {
                known.push(Known { ad, lower: 0, upper: unseen });
                known.len() - 1
            });
            if let Some(known) = known.get_mut(place) {
                known.lower = known.lower.saturating_add(*count);
                known.upper = (known.upper - rest).saturating_add(*count);
            }
        }
    }
    (known, unseen)
}

/// The `n`-th highest lower bound: an ad with fewer clicks is out. 0 where there are fewer ads.
fn nth_lower(known: &[Known<'_>], n: usize) -> u64 {
    let Some(place) = n.checked_sub(1).filter(|place| *place < known.len()) else { return 0 };
    let mut lowers: Vec<u64> = known.iter().map(|ad| ad.lower).collect();
    let (_, nth, _) = lowers.select_nth_unstable_by_key(place, |lower| Reverse(*lower));
    *nth
}

/// True where it is not known exactly how many clicks the ad has, and it may belong to the answer (also by its id, with as many clicks as the last one).
fn is_open(ad: &Known<'_>, cut: u64) -> bool {
    ad.lower < ad.upper && ad.upper >= cut
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    type Counts = BTreeMap<String, u64>;

    /// The slow way: every ad, sorted.
    fn ranking(counts: &Counts) -> TopAds {
        let mut all: TopAds = counts.iter().filter(|(_, c)| **c > 0).map(|(ad, c)| (ad.clone(), *c)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.as_bytes().cmp(b.0.as_bytes())));
        all
    }

    fn merged(spans: &[Counts]) -> Counts {
        let mut total = Counts::new();
        for (ad, count) in spans.iter().flatten() {
            *total.entry(ad.clone()).or_default() += count;
        }
        total
    }

    fn decided(spans: &[Counts], depth: usize, n: usize, most: usize) -> Verdict {
        let rankings: Vec<TopAds> = spans.iter().map(ranking).collect();
        let heads: Vec<Head<'_>> =
            rankings.iter().map(|r| Head { ads: &r[..r.len().min(depth)], whole: r.len() <= depth }).collect();
        let total = merged(spans);
        let answer: Result<_, Infallible> =
            decide(&heads, n, most, |ads| Ok(ads.iter().map(|ad| total.get(*ad).copied().unwrap_or(0)).collect()));
        match answer {
            Ok(verdict) => verdict,
        }
    }

    fn check(spans: &[Counts], depth: usize, n: usize, most: usize) -> Result<Verdict, TestCaseError> {
        let verdict = decided(spans, depth, n, most);
        let truth = merged(spans);
        let full = ranking(&truth);
        prop_assert!(verdict.looked_up <= most);
        if verdict.exact {
            prop_assert_eq!(&verdict.ads, &full[..full.len().min(n)]);
        }
        for (ad, count) in &verdict.ads {
            prop_assert!(*count <= truth[ad], "{} has {} clicks, not {}", ad, truth[ad], count);
        }
        for (ad, count) in &full {
            let listed = verdict.ads.iter().any(|(listed, _)| listed == ad);
            prop_assert!(listed || *count <= verdict.bound, "{} has {} > {}", ad, count, verdict.bound);
        }
        let whole = spans.iter().all(|span| span.len() <= depth);
        prop_assert!(verdict.exact || !whole || most == 0, "whole rankings leave nothing open");
        Ok(verdict)
    }

    /// Few ads and small counts, so that ties are everywhere.
    fn spans(most_clicks: u64) -> impl Strategy<Value = Vec<Counts>> {
        let ad = "[a-dB]{1,2}";
        prop::collection::vec(prop::collection::btree_map(ad, 1..=most_clicks, 0..20), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn an_exact_answer_is_the_full_merge(spans in spans(4), depth in 1_usize..12, n in 1_usize..12) {
            check(&spans, depth, n, usize::MAX)?;
        }

        #[test]
        fn so_it_is_where_every_count_is_one(spans in spans(1), depth in 1_usize..12, n in 1_usize..12) {
            check(&spans, depth, n, usize::MAX)?;
        }

        #[test]
        fn so_it_is_with_counts_far_apart(spans in spans(1_000_000), depth in 1_usize..12, n in 1_usize..12) {
            check(&spans, depth, n, usize::MAX)?;
        }

        #[test]
        fn few_look_ups_leave_a_bound_that_holds(spans in spans(4), depth in 1_usize..6, n in 1_usize..6, most in 0_usize..4) {
            check(&spans, depth, n, most)?;
        }
    }

    fn counts(ads: &[(&str, u64)]) -> Counts {
        ads.iter().map(|(ad, count)| ((*ad).to_owned(), *count)).collect()
    }

    #[test]
    fn a_steep_ranking_is_decided_from_its_head() {
        let spans = [
            counts(&[("a", 100), ("b", 50), ("c", 20), ("d", 3), ("e", 2)]),
            counts(&[("a", 90), ("c", 40), ("b", 30), ("e", 5), ("d", 1)]),
        ];
        let verdict = decided(&spans, 3, 3, 10);
        assert_eq!(verdict.ads, [("a".to_owned(), 190), ("b".to_owned(), 80), ("c".to_owned(), 60)]);
        assert!(verdict.exact);
        assert_eq!(verdict.looked_up, 0, "every head holds all three");
    }

    #[test]
    fn an_ad_that_may_tie_from_below_is_not_ruled_out() {
        // "a" is in neither head, and comes before "b" by its id.
        let spans = [counts(&[("z", 9), ("b", 2), ("a", 1)]), counts(&[("z", 9), ("a", 1)])];
        let verdict = decided(&spans, 1, 1, 10);
        assert_eq!((verdict.exact, verdict.bound), (false, 18), "a head's last entry bounds what follows it");
        let spans = [counts(&[("z", 9), ("b", 2), ("a", 1)]), counts(&[("z", 9), ("a", 1), ("b", 0)])];
        let verdict = decided(&spans, 2, 2, 10);
        assert!(!verdict.exact, "an unseen ad may have 2 + 1 clicks, b has 2");
    }

    #[test]
    fn the_last_place_is_not_given_while_another_may_tie_for_it() {
        let spans = [counts(&[("b", 1), ("c", 1), ("d", 1)]), counts(&[("a", 1), ("b", 1), ("e", 1)])];
        assert!(!decided(&spans, 2, 1, 10).exact, "b has 2, and so might an unseen ad");
        assert!(decided(&spans, 3, 1, 10).exact);
    }

    #[test]
    fn one_ranking_is_its_own_answer_however_its_ties_fall() {
        let span = [counts(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)])];
        for (depth, n, exact, bound) in [(3, 3, true, 1), (3, 2, true, 1), (3, 4, false, 1), (4, 9, true, 0)] {
            let verdict = decided(&span, depth, n, 10);
            assert_eq!((verdict.exact, verdict.bound), (exact, bound), "{depth} {n}");
        }
        assert_eq!(decided(&[], 3, 3, 3), Verdict { ads: vec![], exact: true, bound: 0, looked_up: 0 });
    }

    #[test]
    fn totals_are_looked_up_for_few_ads() {
        // Zipf-like, each span with its ranks a little shuffled: only ads about the cut are open.
        let spans: Vec<Counts> = (0..24_u64)
            .map(|span| {
                let clicks = |rank: u64| 1_000_000 / (rank + 1) + (rank * 7919 + span * 104_729) % 97;
                (0..5000).map(|rank| (format!("ad{rank:05}"), clicks(rank))).collect()
            })
            .collect();
        let verdict = decided(&spans, 200, 100, 5000);
        assert!(verdict.exact);
        assert!(verdict.looked_up < 300, "{}", verdict.looked_up);
        assert_eq!(verdict.ads, ranking(&merged(&spans))[..100]);
    }
}
