//! `clickmill define`, and what `up` does of it at its start: the configuration becomes the pipeline's definition.

use anyhow::Context;
use clickmill_model::records::PIPELINE;
use clickmill_model::{Definition, InputTopic};
use clickmill_queue::definitions::{self, Definitions};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::{Queue, topology};

use crate::Misused;
use crate::cli::DefineAction;
use crate::config::Config;
use crate::pipeline;

/// What became of a proposal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Proposed {
    /// It says what is in force already.
    Same(Definition),
    /// It is in force from the next minutes on, or would be.
    New(Definition),
}

/// How often a proposal is looked at anew because another process defined something meanwhile.
const TRIES: u32 = 10;

/// Proposes a definition. With `dry_run` nothing is written.
pub(crate) fn propose(queue: &dyn Queue, proposal: &Definition, dry_run: bool) -> anyhow::Result<Proposed> {
    for _ in 0..TRIES {
        if let Some(proposed) = try_to_propose(queue, proposal, dry_run)? {
            return Ok(proposed);
        }
    }
    anyhow::bail!("other processes define something again and again: {TRIES} times another one was faster")
}

/// `None` where another process was faster.
fn try_to_propose(queue: &dyn Queue, proposal: &Definition, dry_run: bool) -> anyhow::Result<Option<Proposed>> {
    let history = if queue.partitions(PIPELINE)?.is_some() {
        Definitions::load(queue).context("reading the pipeline's definitions")?.all().to_vec()
    } else {
        Vec::new()
    };
    let next = proposal.following(&history).map_err(|error| Misused(error.into()))?;
    if let (Some(next), Some(last)) = (&next, history.last())
        && !next.has_inputs_of(last)
        && !RawTopics::load(queue, &history)?.are_those_of(last)
    {
        return Err(Misused(anyhow::anyhow!(
            "input.topics changed with definition {}, and the mappers have not followed yet: let the pipeline run by that one until they have, then change them again",
            last.version
        ))
        .into());
    }
    for input in &proposal.inputs {
        if let Some(there) = queue.partitions(&input.topic)?
            && there != input.partitions
        {
            let InputTopic { topic, partitions } = input;
            return Err(Misused(anyhow::anyhow!(
                "input topic {topic} has {there} partitions, but queue.partitions is {partitions}: make the topic anew with {partitions}, or choose another one"
            ))
            .into());
        }
    }
    match (next, history.last()) {
        (None, Some(last)) => {
            if !dry_run {
                queue.create_topics(&topology::topics(last))?;
            }
            Ok(Some(Proposed::Same(last.clone())))
        }
        (next, _) => {
            let next = next.unwrap_or_else(|| proposal.clone());
            if !dry_run {
                queue.create_topics(&topology::topics(&next)).context("making the topics")?;
                if !definitions::append(queue, &next).context("writing the definition")? {
                    return Ok(None);
                }
            }
            Ok(Some(Proposed::New(next)))
        }
    }
}

/// `clickmill define`.
#[allow(clippy::print_stdout)]
pub(crate) fn run(config: &Config, dry_run: bool, action: Option<&DefineAction>) -> anyhow::Result<()> {
    let queue = pipeline::open_queue(config)?;
    if matches!(action, Some(DefineAction::List)) {
        if queue.partitions(PIPELINE)?.is_some() {
            for definition in Definitions::load(&*queue)?.all() {
                println!("{}", serde_json::to_string(definition)?);
            }
        }
        return Ok(());
    }
    match propose(&*queue, &config.definition(), dry_run)? {
        Proposed::Same(definition) => println!("definition {} is in force and says the same", definition.version),
        Proposed::New(definition) => {
            let verb = if dry_run { "would be" } else { "is" };
            println!("definition {} {verb} in force for the next minutes", definition.version);
            println!("{}", serde_json::to_string_pretty(&definition)?);
        }
    }
    Ok(())
}
