//! Which member of a group shall have which partition.
//!
//! A pure function of the members and of who has what now, so that every process comes to the same answer. It moves as little as it
//! can: each move costs the group a hand-over.

use std::collections::BTreeMap;

use crate::types::TopicPartition;

/// Who shall have each partition, given each member's topics and who has the partition now (or was promised it). Balanced: where every member reads
/// the same topics, no two of them differ by more than one partition. `None` where nobody reads the topic.
pub(crate) fn targets(
    members: &BTreeMap<String, Vec<String>>,
    partitions: &BTreeMap<TopicPartition, Option<String>>,
) -> BTreeMap<TopicPartition, Option<String>> {
    let reads = |member: &str, topic: &str| members.get(member).is_some_and(|topics| topics.iter().any(|t| t == topic));
    let mut load: BTreeMap<&str, Vec<&TopicPartition>> =
        members.keys().map(|member| (member.as_str(), Vec::new())).collect();
    let mut homeless = Vec::new();
    for (partition, holder) in partitions {
        match holder.as_deref().filter(|holder| reads(holder, &partition.topic)) {
            Some(holder) => load.entry(holder).or_default().push(partition),
            None => homeless.push(partition),
        }
    }
    for partition in homeless {
        let least =
            load.iter_mut().filter(|(member, _)| reads(member, &partition.topic)).min_by_key(|(_, has)| has.len());
        if let Some((_, has)) = least {
            has.push(partition);
        }
    }
    while let Some((from, at, to)) = next_move(&load, reads) {
        let moved = load.get_mut(from).map(|has| has.remove(at));
        load.entry(to).or_default().extend(moved);
    }
    let mut targets: BTreeMap<_, _> = partitions.keys().map(|partition| (partition.clone(), None)).collect();
    for (member, has) in load {
        for partition in has {
            targets.insert(partition.clone(), Some(member.to_owned()));
        }
    }
    targets
}

/// The first move from one with more to one with at least two fewer.
fn next_move<'a>(
    load: &BTreeMap<&'a str, Vec<&TopicPartition>>,
    reads: impl Fn(&str, &str) -> bool,
) -> Option<(&'a str, usize, &'a str)> {
    load.iter().find_map(|(from, has)| {
        load.iter().filter(|(_, other)| other.len() + 2 <= has.len()).find_map(|(to, _)| {
            let at = has.iter().rposition(|partition| reads(to, &partition.topic))?;
            Some((*from, at, *to))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `members`: "a b", all reading the topic t. `held`: who has partition 0, 1, …, `-` for nobody.
    fn check(members: &str, held: &str, expected: &str) {
        let members = members.split_whitespace().map(|m| (m.to_owned(), vec!["t".to_owned()])).collect();
        let partitions = held
            .split_whitespace()
            .zip(0..)
            .map(|(holder, p)| (TopicPartition::new("t", p), (holder != "-").then(|| holder.to_owned())))
            .collect();
        let found: Vec<_> =
            targets(&members, &partitions).into_values().map(|target| target.unwrap_or_else(|| "-".into())).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn partitions_are_shared_evenly_and_moved_as_little_as_possible() {
        check("a", "- - -", "a a a");
        check("a b", "- - -", "a b a");
        check("a b", "a a a a", "a a b b");
        check("a b", "a a a", "a a b");
        check("a b c", "a a b b", "a c b b");
        check("a", "a b a b", "a a a a");
        check("a b c d", "a b", "a b");
        check("b c", "a b a b", "c b c b");
        check("", "a -", "- -");
    }

    #[test]
    fn a_member_gets_nothing_of_a_topic_that_it_does_not_read() {
        let members = BTreeMap::from([("a".into(), vec!["s".into(), "t".into()]), ("b".into(), vec!["t".into()])]);
        let partitions: BTreeMap<_, _> = ["s", "t"]
            .into_iter()
            .flat_map(|topic| (0..3).map(move |p| (TopicPartition::new(topic, p), None)))
            .collect();
        let found = targets(&members, &partitions);
        for (partition, target) in found {
            assert_eq!(target.as_deref(), Some(if &*partition.topic == "s" { "a" } else { "b" }), "{partition}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_answer_is_balanced_and_stays(members: std::collections::BTreeSet<u8>, held: Vec<Option<u8>>) {
            let members: BTreeMap<String, Vec<String>> =
                members.into_iter().map(|m| (m.to_string(), vec!["t".to_owned()])).collect();
            let held = held.into_iter().zip(0..)
                .map(|(m, p)| (TopicPartition::new("t", p), m.map(|m| m.to_string()))).collect();
            let first = targets(&members, &held);
            proptest::prop_assert_eq!(&targets(&members, &first), &first);
            let counts: Vec<usize> =
                members.keys().map(|m| first.values().filter(|t| t.as_ref() == Some(m)).count()).collect();
            if let (Some(most), Some(least)) = (counts.iter().max(), counts.iter().min()) {
                proptest::prop_assert!(most - least <= 1);
                proptest::prop_assert_eq!(counts.iter().sum::<usize>(), first.len());
            }
        }
    }
}
