//! `clickmill topics`: the topics that the configuration needs.

use std::collections::BTreeSet;

use clickmill_queue::topology;

use crate::config::Config;
use crate::pipeline;

/// Makes what is missing, or says what would be made.
#[allow(clippy::print_stdout)]
pub(crate) fn create(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let queue = pipeline::open_queue(config)?;
    let topics = topology::topics(&config.definition());
    let missing: BTreeSet<String> = queue.missing_topics(&topics)?.into_iter().map(|spec| spec.name).collect();
    if !dry_run {
        queue.create_topics(&topics)?;
    }
    for spec in &topics {
        let state = match (missing.contains(&spec.name), dry_run) {
            (true, true) => "would be made",
            (true, false) => "made",
            (false, _) => "is there, as it should be",
        };
        println!("{}, {} partitions: {state}", spec.name, spec.partitions);
    }
    Ok(())
}
