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

/// Appends a definition, which must follow the newest one ([`Definition::following`]).
pub fn append(queue: &dyn Queue, definition: &Definition) -> Result<()> {
    let value = serde_json::to_vec(definition).map_err(|error| QueueError::Broken(error.to_string()))?;
    let mut transaction = Transaction::default();
    transaction.send(place(), Record::of(value));
    queue.producer("define")?.commit(&transaction, None).map(|_| ())
}
