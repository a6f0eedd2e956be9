//! How far a watcher that catches up is in front of the others. Pure.

use std::collections::VecDeque;

use clickmill_model::Timestamp;

/// How many steps of the watermark are remembered. A watermark before the oldest of them is answered with what was sent since that one.
const MOST_STEPS: usize = 4096;

/// How many bytes were sent at each of the watcher's watermarks.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    sent_bytes: u64,
    /// Watermark, and what had been sent when it was reached; both rising.
    steps: VecDeque<(Timestamp, u64)>,
}

impl Ahead {
    /// `bytes` were sent, and the watermark is now `mark`.
    pub(crate) fn sent(&mut self, bytes: u64, mark: Option<Timestamp>) {
        self.sent_bytes += bytes;
        let Some(mark) = mark else { return };
        if self.steps.back().is_none_or(|(last, _)| *last < mark) {
            self.steps.push_back((mark, self.sent_bytes));
            if self.steps.len() > MOST_STEPS {
                self.steps.pop_front();
            }
        }
    }

    /// What was sent since the watermark passed `slowest`.
    pub(crate) fn beyond_bytes(&self, slowest: Timestamp) -> u64 {
        let passed = self.steps.partition_point(|(mark, _)| *mark <= slowest);
        let before = match passed.checked_sub(1) {
            Some(last) => self.steps.get(last).map_or(0, |(_, sent)| *sent),
            None => 0,
        };
        self.sent_bytes - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_since_a_watermark_is_known() {
        let at = Timestamp::from_secs;
        let mut ahead = Ahead::default();
        ahead.sent(50, None);
        for (bytes, mark) in [(100, 10), (100, 10), (100, 20), (100, 30)] {
            ahead.sent(bytes, Some(at(mark)));
        }
        for (slowest, beyond) in [(5, 450), (10, 300), (15, 300), (20, 100), (30, 0), (40, 0)] {
            assert_eq!(ahead.beyond_bytes(at(slowest)), beyond, "{slowest}");
        }
    }
}
