//! `click-results`, read as any other client would read it.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_generator::Truth;
use clickmill_model::records::{CLICK_RESULTS, ResultBody, ResultRecord};
use clickmill_model::{FilterId, Minute, Offset, Partition, Span, SpanKind};
use clickmill_queue::kafka::{KafkaQueue, Options};
use clickmill_queue::{Queue, TopicPartition};

/// Reads what was told of the stream on these brokers, and demands that every span was told once by each partition, in order, and that the minutes add up to what is true.
///
/// # Panics
/// At the first difference.
pub fn assert_results(brokers: &str, partitions: u32, truth: &Truth) {
    let queue = KafkaQueue::open(Options { brokers: brokers.into(), ..Options::default() }).unwrap();
    let mut counts: BTreeMap<(Minute, String), u64> = BTreeMap::new();
    for partition in 0..partitions {
        let of = TopicPartition::new(CLICK_RESULTS, partition);
        let mut offset = queue.range(&of).unwrap().start;
        let mut told: BTreeSet<(Partition, Span, Vec<u8>)> = BTreeSet::new();
        let mut closed: BTreeMap<Partition, Minute> = BTreeMap::new();
        loop {
            let records = queue.read(&of, offset, 16 << 20).unwrap();
            let Some(last) = records.last() else { break };
            offset = Offset(last.offset.0 + 1);
            for record in &records {
                let result = ResultRecord::decode(&record.record.value).unwrap();
                match result.body {
                    ResultBody::Counts { partition, columns, .. } => {
                        assert!(
                            closed.get(&partition).is_none_or(
                                |until| columns.span.kind != SpanKind::Minute || columns.span.start >= *until
                            ),
                            "{partition:?} tells {:?} again",
                            columns.span
                        );
                        let all = columns.filters.iter().position(|filter| *filter == FilterId::ALL).unwrap();
                        for (ad, count) in columns.ads.iter().zip(&columns.counts[all]) {
                            assert!(
                                told.insert((partition, columns.span, ad.to_vec())),
                                "{partition:?} tells an ad of {:?} twice",
                                columns.span
                            );
                            if columns.span.kind == SpanKind::Minute {
                                let ad = String::from_utf8(ad.to_vec()).unwrap();
                                *counts.entry((columns.span.start, ad)).or_default() += count;
                            }
                        }
                    }
                    ResultBody::Closed { partition, until, .. } => {
                        let before = closed.insert(partition, until);
                        assert!(before.is_none_or(|before| before <= until), "{partition:?} goes back in time");
                    }
                    ResultBody::Rankings { .. } | ResultBody::Ranked { .. } => {}
                }
            }
        }
    }
    let wrong = counts.iter().find(|(of, count)| truth.counts.get(*of) != Some(*count));
    assert_eq!(wrong, None, "in click-results");
    assert_eq!(counts.len(), truth.counts.len(), "minutes and ads in click-results");
}
