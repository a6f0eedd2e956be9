//! The definitions of a pipeline, as the topic `pipeline` holds them: one version a record, JSON.

use clickmill_model::records::PIPELINE;
use clickmill_model::{Definition, Offset};

use crate::types::{Queue, QueueError, Record, Result, TopicPartition, Transaction};

/// Reads definitions as they come.
#[derive(Debug)]
pub struct Definitions {
    all: Vec<Definition>,
    next: Offset,
}

fn place() -> TopicPartition {
    TopicPartition::new(PIPELINE, 0)
}

impl Definitions {
    /// Reads every definition that is there. `Unavailable` where there is no topic yet.
    pub fn load(queue: &dyn Queue) -> Result<Self> {
        if queue.partitions(PIPELINE)?.is_none() {
            return Err(QueueError::Unavailable {
                what: "reading the pipeline's definition".into(),
                why: "there is none yet: start `clickmill up`, or run `clickmill define`".into(),
            });
        }
        let mut definitions = Self { all: Vec::new(), next: queue.range(&place())?.start };
        definitions.refresh(queue)?;
        Ok(definitions)
    }

    /// Reads what has come since. True where that is anything.
    pub fn refresh(&mut self, queue: &dyn Queue) -> Result<bool> {
        let known = self.all.len();
        loop {
            let records = queue.read(&place(), self.next, 1 << 20)?;
            let Some(last) = records.last() else { return Ok(self.all.len() > known) };
            self.next = last.offset.next();
            for fetched in &records {
                let definition: Definition = serde_json::from_slice(&fetched.record.value).map_err(|error| {
                    QueueError::Broken(format!("definition at {}@{} cannot be read: {error}", place(), fetched.offset))
                })?;
                self.all.push(definition);
            }
        }
    }

    /// Every definition, oldest first.
    pub fn all(&self) -> &[Definition] {
        &self.all
    }

    /// The one that is in force for new minutes.
    pub fn newest(&self) -> Option<&Definition> {
        self.all.last()
    }
}

/// Appends a definition, which must follow the newest one ([`Definition::following`]). False, and nothing is appended, where that is not the one before it any more: another process was faster.
#[must_use = "what follows from the definition before must be looked up anew where it is false"]
pub fn append(queue: &dyn Queue, definition: &Definition) -> Result<bool> {
    // It ends those that others began before, so that nobody appends between our look at what is there and our commit: whoever begins after us ends ours.
    let mut producer = queue.producer("define")?;
    let newest = Definitions::load(queue)?.newest().map_or(0, |newest| newest.version);
    if newest + 1 != definition.version {
        return Ok(false);
    }
    let value = serde_json::to_vec(definition).map_err(|error| QueueError::Broken(error.to_string()))?;
    let mut transaction = Transaction::default();
    transaction.send(place(), Record::of(value));
    match producer.commit(&transaction, None) {
        Ok(_) => Ok(true),
        Err(QueueError::Fenced(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clickmill_model::records::PIPELINE;

    use super::*;
    use crate::memory::MemoryQueue;
    use crate::topology;

    #[test]
    fn of_several_processes_that_define_at_once_each_version_is_one_of_theirs() {
        let queue = MemoryQueue::new(crate::SystemClock::shared());
        queue.create_topics(&topology::topics(&Definition::default())).unwrap();
        let queue: Arc<dyn Queue> = Arc::new(queue);
        std::thread::scope(|scope| {
            for n in 1..=4 {
                let queue = Arc::clone(&queue);
                scope.spawn(move || {
                    let mut appended = 0;
                    while appended < 5 {
                        let version =
                            Definitions::load(&*queue).unwrap().newest().map_or(1, |newest| newest.version + 1);
                        let definition = Definition { version, n, ..Definition::default() };
                        appended += u32::from(append(&*queue, &definition).unwrap());
                    }
                });
            }
        });
        let definitions = Definitions::load(&*queue).unwrap();
        let versions: Vec<_> = definitions.all().iter().map(|definition| definition.version).collect();
        assert_eq!(versions, Vec::from_iter(1..=20), "{PIPELINE}");
    }
}
