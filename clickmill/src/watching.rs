//! The log watcher, as long as somebody reads what it sends.

use std::sync::Arc;
use std::time::Duration;

use clickmill_log_watcher::Watcher;
use clickmill_model::{Definition, InputTopic, TimeSettings, Timestamp};
use clickmill_queue::definitions::Definitions;
use clickmill_queue::{Progress, Queue, Stage, StageError};

/// How often definitions are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A watcher that goes by the pipeline's definition, whatever the configuration of its own process says of time and partitions, and ends when its topic is no input any more: nobody would read its lines.
pub(crate) struct Watching {
    watcher: Watcher,
    queue: Arc<dyn Queue>,
    definitions: Definitions,
    topic: String,
    time: TimeSettings,
    looked: Option<Timestamp>,
}

impl Watching {
    pub(crate) fn start(
        queue: Arc<dyn Queue>,
        mut config: clickmill_log_watcher::Config,
        now: Timestamp,
    ) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let topic = config.topic.clone();
        if let Some((definition, input)) = input_of(&definitions, &topic)? {
            config.partitions = input.partitions;
            config.partition_by = definition.partition_by;
            config.time = definition.time;
        }
        let time = config.time;
        let watcher = Watcher::start(Arc::clone(&queue), config, now)?;
        Ok(Self { watcher, queue, definitions, topic, time, looked: None })
    }
}

/// The newest definition, and its input of this name, which it must have.
fn input_of<'a>(
    definitions: &'a Definitions,
    topic: &str,
) -> Result<Option<(&'a Definition, &'a InputTopic)>, StageError> {
    let Some(newest) = definitions.newest() else { return Ok(None) };
    if let Some(input) = newest.inputs.iter().find(|input| input.topic == topic) {
        return Ok(Some((newest, input)));
    }
    let inputs: Vec<&str> = newest.inputs.iter().map(|input| input.topic.as_str()).collect();
    Err(StageError::Broken(format!(
        "{topic} is no input of definition {}: nobody would read what this watcher sends there; set input.topic to {}",
        newest.version,
        inputs.join(" or ")
    )))
}

impl Stage for Watching {
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError> {
        if self.looked.is_none_or(|at| now < at || now.since(at) >= LOOK_EVERY) {
            self.looked = Some(now);
            if self.definitions.refresh(&*self.queue)?
                && let Some((definition, _)) = input_of(&self.definitions, &self.topic)?
                && definition.time != self.time
            {
                return Err(StageError::Outdated(format!("definition {} has other times", definition.version)));
            }
        }
        self.watcher.step(now, wait)
    }

    fn stop(self: Box<Self>) -> Result<(), StageError> {
        Box::new(self.watcher).stop()
    }
}
