//! What every implementation tells people when partitions come and go: who works on what is the first question when something stands still.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::types::{Poll, TopicPartition};

/// Logs that a member of the group was given partitions, shall give them up, or lost them.
pub(crate) fn news(group: &str, poll: &Poll) {
    match poll {
        Poll::Assigned(partitions) => {
            let partitions = list(partitions.iter().map(|(partition, _)| partition));
            tracing::info!(group, partitions, "took over");
        }
        Poll::Revoking(partitions) => tracing::info!(group, partitions = list(partitions), "handing over"),
        Poll::Lost(partitions) => {
            tracing::warn!(group, partitions = list(partitions), "lost to another process");
        }
        Poll::Records { .. } | Poll::Idle { .. } => {}
    }
}

/// `ad-clicks/0-3,7 other/0`.
pub(crate) fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let mut by_topic: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for of in partitions {
        by_topic.entry(&of.topic).or_default().push(of.partition.0);
    }
    let mut text = String::new();
    for (topic, mut numbers) in by_topic {
        numbers.sort_unstable();
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => runs.push((number, number)),
            }
        }
        let runs: Vec<String> = runs
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = write!(text, "{space}{topic}/{}", runs.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_together() {
        let of = |topic, numbers: &[u32]| numbers.iter().map(|n| TopicPartition::new(topic, *n)).collect::<Vec<_>>();
        assert_eq!(list(&of("ad-clicks", &[3, 0, 1, 2, 7])), "ad-clicks/0-3,7");
        let two = [of("b", &[5]), of("a", &[1, 2])].concat();
        assert_eq!(list(&two), "a/1-2 b/5");
    }
}
