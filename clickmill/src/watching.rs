//! The log watcher, as long as somebody reads what it sends.

use std::sync::Arc;
use std::time::Duration;

use clickmill_log_watcher::Watcher;
use clickmill_model::Timestamp;
use clickmill_queue::definitions::Definitions;
use clickmill_queue::{Progress, Queue, Stage, StageError};

/// How often definitions are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A watcher that ends when its topic is no input of the pipeline any more: nobody would read its lines.
pub(crate) struct Watching {
    watcher: Watcher,
    queue: Arc<dyn Queue>,
    definitions: Definitions,
    topic: String,
    looked: Option<Timestamp>,
}

impl Watching {
    pub(crate) fn start(
        queue: Arc<dyn Queue>,
        config: clickmill_log_watcher::Config,
        now: Timestamp,
    ) -> Result<Self, StageError> {
        let definitions = Definitions::load(&*queue)?;
        let topic = config.topic.clone();
        refuse_retired(&definitions, &topic)?;
        let watcher = Watcher::start(Arc::clone(&queue), config, now)?;
        Ok(Self { watcher, queue, definitions, topic, looked: None })
    }
}

fn refuse_retired(definitions: &Definitions, topic: &str) -> Result<(), StageError> {
    let Some(newest) = definitions.newest() else { return Ok(()) };
    if newest.inputs.iter().any(|input| input.topic == topic) {
        return Ok(());
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
            if self.definitions.refresh(&*self.queue)? {
                refuse_retired(&self.definitions, &self.topic)?;
            }
        }
        self.watcher.step(now, wait)
    }

    fn stop(self: Box<Self>) -> Result<(), StageError> {
        Box::new(self.watcher).stop()
    }
}
