//! The topics of a pipeline, and which group reads what.

use clickmill_model::Definition;
use clickmill_model::records::{
    CLICK_PARTIALS, CLICK_RESULTS, DEAD_LETTERS, LATE_CLICKS, LOG_POSITIONS, PIPELINE, TOP_CANDIDATES,
};

use crate::types::{Retention, TopicSpec};

/// The group of the mappers: raw topics.
pub const MAPPER: &str = "mapper";
/// The group of the aggregators: `click-partials`; they keep what they need of `click-results`.
pub const AGGREGATOR: &str = "aggregator";
/// The group of the reducers: `top-candidates`.
pub const REDUCER: &str = "reducer";
/// The group of the writers to the store: `click-results`.
pub const DB_WRITER: &str = "db-writer";
/// The group of the writers of raw lines to Parquet: raw topics.
pub const RAW_WRITER: &str = "raw-writer";
/// The group of the writers of late clicks to Parquet: `late-clicks`.
pub const LATE_WRITER: &str = "late-writer";

/// What may wait in a partition of a topic before its senders are held back.
pub const BACKLOG_BYTES: u64 = 256 << 20;

/// What stays of lines set aside, a partition, for people to look at.
const EXAMPLES_BYTES: u64 = 4 << 20;

/// Every topic that the definition needs.
pub fn topics(definition: &Definition) -> Vec<TopicSpec> {
    let consumed = |by: &[&str], at_least_bytes| Retention::Consumed {
        by: by.iter().map(|group| (*group).to_owned()).collect(),
        at_least_bytes,
    };
    let spec = |name: &str, partitions, retention, max_backlog_bytes| TopicSpec {
        name: name.to_owned(),
        partitions,
        retention,
        max_backlog_bytes,
    };
    let inputs = definition
        .inputs
        .iter()
        .map(|input| spec(&input.topic, input.partitions, consumed(&[MAPPER, RAW_WRITER], 0), BACKLOG_BYTES));
    let n = definition.partitions;
    inputs
        .chain([
            spec(CLICK_PARTIALS, n, consumed(&[AGGREGATOR], 0), BACKLOG_BYTES),
            spec(TOP_CANDIDATES, n, consumed(&[REDUCER], 0), BACKLOG_BYTES),
            spec(CLICK_RESULTS, n, consumed(&[AGGREGATOR, DB_WRITER], 0), BACKLOG_BYTES),
            spec(LATE_CLICKS, n, consumed(&[LATE_WRITER], EXAMPLES_BYTES), 0),
            spec(DEAD_LETTERS, n, consumed(&[], EXAMPLES_BYTES), 0),
            spec(LOG_POSITIONS, 1, Retention::Compacted, 0),
            spec(PIPELINE, 1, Retention::Forever, 0),
        ])
        .collect()
}
