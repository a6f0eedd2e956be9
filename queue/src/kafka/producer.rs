//! The producer: one transaction at a time, begun, filled and committed within one call, so that none is ever left open by a worker that lives.
//!
//! Errors come in three classes. What librdkafka can do again, it does again. After an error that wants an abort the transaction is aborted, and nothing was done: it is said so, and
//! the same transaction may be tried again. After a fatal one this producer is of no use; where it came when the commit was on its way, the commit may have succeeded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use clickmill_model::Offset;
use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, TopicPartitionList};

use super::client::{Context, Trouble};
use super::member::Member;
use super::native::{self, Membership, TransactionError};
use super::offsets;
use super::options::MAX_RECORD_BYTES;
use super::shared::{Shared, client_name, configured, connect};
use crate::check;
use crate::types::{Consumer, Producer, QueueError, Record, Result, TopicPartition, Transaction};

/// While the group shares its partitions anew, its offsets wait for so long at most.
const REBALANCED_WITHIN: Duration = Duration::from_secs(30);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// How much longer than it was told librdkafka may take.
const OVERDUE: Duration = Duration::from_secs(1);

/// What became of the records of a transaction.
#[derive(Debug, Default)]
struct Delivered {
    /// Records that were handed over and not answered for.
    waiting: usize,
    /// Where the first record of each partition went, in the order of the transaction's partitions. -1: the broker did not say.
    first: Vec<Option<i64>>,
    /// The first trouble.
    failed: Option<RDKafkaErrorCode>,
}

/// Collects what the broker says of records, for the transaction that is under way.
struct Deliveries {
    context: Context,
    delivered: Mutex<Delivered>,
    changed: Condvar,
}

impl Deliveries {
    fn begin(&self, partitions: usize) {
        *self.delivered.lock() = Delivered { first: vec![None; partitions], ..Delivered::default() };
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.hear(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.fail(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    /// The partition's place in the transaction, doubled; 1 more for the first record of it.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let mut delivered = self.delivered.lock();
        delivered.waiting = delivered.waiting.saturating_sub(1);
        match result {
            Ok(message) if place % 2 == 1 => {
                if let Some(first) = delivered.first.get_mut(place / 2) {
                    *first = Some(message.offset());
                }
            }
            Ok(_) => {}
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                // That the others were thrown away follows from it.
                let is_consequence = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
                if delivered.failed.is_none() && !is_consequence {
                    delivered.failed = Some(code);
                }
            }
        }
        self.changed.notify_all();
    }
}

pub(super) struct KafkaProducer {
    shared: Arc<Shared>,
    producer: Arc<ThreadedProducer<Deliveries>>,
    id: String,
    is_useless: bool,
}

/// Why an attempt did not succeed.
enum Failed {
    /// Nothing was done, and it may succeed in a moment.
    Again(QueueError),
    For(QueueError),
}

impl KafkaProducer {
    /// Takes over the transactional id: what an earlier one had not committed is aborted.
    pub(super) fn new(shared: &Arc<Shared>, id: &str) -> Result<Self> {
        let context = Deliveries {
            context: Context(Arc::clone(&shared.trouble)),
            delivered: Mutex::default(),
            changed: Condvar::new(),
        };
        let producer: ThreadedProducer<Deliveries> = shared
            .options
            .producer(&client_name("send"), id)
            .create_with_context(context)
            .map_err(|error| configured(&shared.options, &error))?;
        // Who does not answer now is waited for, or complained of, with what follows.
        let _ = connect(producer.client());
        let at_most = 2 * shared.options.transaction_timeout;
        producer
            .init_transactions(at_most)
            .map_err(|error| shared.trouble.unavailable(format!("taking over the transactional id {id}"), &error))?;
        Ok(Self { shared: Arc::clone(shared), producer: Arc::new(producer), id: id.to_owned(), is_useless: false })
    }

    fn trouble(&self) -> &Trouble {
        &self.shared.trouble
    }

    fn doing(&self) -> String {
        format!("committing as {}", self.id)
    }

    fn perform(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        check::transaction(transaction, consumer.is_some())?;
        let needs_member = !transaction.inputs.is_empty() || !transaction.keep.is_empty();
        let member =
            consumer.filter(|_| needs_member).map(|consumer| Member::find(&consumer.identity())).transpose()?;
        let places = self.places(transaction)?;
        if transaction.records.is_empty() && transaction.inputs.is_empty() {
            // What is kept is kept by time here.
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + REBALANCED_WITHIN;
        loop {
            match self.attempt(transaction, &places, member.as_deref()) {
                Ok(()) => return self.sent_to(places),
                Err(Failed::Again(error)) if Instant::now() >= deadline => return Err(error),
                Err(Failed::Again(error)) => {
                    tracing::debug!(%error, "committing again");
                    std::thread::sleep(PAUSE);
                }
                Err(Failed::For(error)) => return Err(error),
            }
        }
    }

    /// The partitions that records go to, each with its place among them. Refuses those that are not there.
    fn places<'a>(&self, transaction: &'a Transaction) -> Result<HashMap<&'a TopicPartition, usize>> {
        let mut places = HashMap::new();
        for (to, record) in &transaction.records {
            let next = places.len();
            if let std::collections::hash_map::Entry::Vacant(place) = places.entry(to) {
                self.shared.must_have(to)?;
                place.insert(next);
            }
            // With some room for what librdkafka puts around it.
            if record.size_bytes() + 1024 > MAX_RECORD_BYTES as usize {
                return Err(QueueError::Broken(format!(
                    "a record for {to} has {} bytes, at most {MAX_RECORD_BYTES} are allowed",
                    record.size_bytes()
                )));
            }
        }
        Ok(places)
    }

    fn sent_to(&self, places: HashMap<&TopicPartition, usize>) -> Result<Vec<(TopicPartition, Offset)>> {
        let delivered = self.producer.context().delivered.lock();
        places
            .into_iter()
            .map(|(to, place)| match delivered.first.get(place).copied().flatten().map(u64::try_from) {
                Some(Ok(offset)) => Ok((to.clone(), Offset(offset))),
                Some(Err(_)) | None => {
                    Err(QueueError::Unknown(format!("it was committed, but the broker does not say where in {to}")))
                }
            })
            .collect()
    }

    fn attempt(
        &self,
        transaction: &Transaction,
        places: &HashMap<&TopicPartition, usize>,
        member: Option<&Member>,
    ) -> Result<(), Failed> {
        let membership = match member {
            Some(member) => Some(member.membership(&transaction.inputs).map_err(Failed::For)?),
            None => None,
        };
        self.producer.context().begin(places.len());
        self.producer.begin_transaction().map_err(|error| self.begun(&error))?;
        for (seen, (to, record)) in FirstOfEach::new(&transaction.records) {
            let place = places.get(to).copied().unwrap_or_default();
            self.send(to, record, 2 * place + usize::from(seen)).map_err(|code| self.give_up(code))?;
        }
        if let (Some(membership), false) = (membership, transaction.inputs.is_empty()) {
            let offsets = offsets::to_commit(&transaction.inputs)
                .map_err(|error| self.give_up(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)))?;
            self.send_offsets(offsets, membership)?.map_err(|error| self.refused(&error, member))?;
        }
        let began = Instant::now();
        let committed = self.commit();
        metrics::histogram!("clickmill_queue_commit_seconds").record(began.elapsed());
        committed.map_err(|error| self.refused(&error, member))
    }

    fn begun(&self, error: &KafkaError) -> Failed {
        let fatal = self.producer.client().fatal_error();
        match fatal {
            Some((code, text)) => Failed::For(self.fatal(code, &text)),
            None => Failed::For(QueueError::Unknown(format!("{}: {error}", self.doing()))),
        }
    }

    /// Hands one record to librdkafka, waiting for room.
    fn send(&self, to: &TopicPartition, record: &Record, place: usize) -> Result<(), RDKafkaErrorCode> {
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&to.topic, place).partition(to.partition.0.cast_signed());
        if let Some(key) = &record.key {
            message = message.key(key);
        }
        // An empty value removes the key of a compacted topic, which Kafka wants as none at all.
        if !record.value.is_empty() {
            message = message.payload(&record.value);
        }
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let headers = record
                .headers
                .iter()
                .fold(headers, |headers, (name, value)| headers.insert(Header { key: name, value: Some(value) }));
            message = message.headers(headers);
        }
        let context = self.producer.context();
        loop {
            context.delivered.lock().waiting += 1;
            let Err((error, unsent)) = self.producer.send(message) else { return Ok(()) };
            message = unsent;
            let mut delivered = context.delivered.lock();
            delivered.waiting -= 1;
            match (error.rdkafka_error_code(), delivered.failed) {
                (Some(RDKafkaErrorCode::QueueFull), None) => {
                    context.changed.wait_for(&mut delivered, PAUSE);
                }
                (_, Some(failed)) => return Err(failed),
                (code, None) => return Err(code.unwrap_or(RDKafkaErrorCode::Unknown)),
            }
        }
    }

    /// Adds the offsets, in a thread of its own that is waited for no longer than a transaction may last: librdkafka 2.12 never comes back where the broker that coordinated the group is gone from the cluster, whatever time it
    /// was given (confluentinc/librdkafka#5456 and #5511). Such a thread keeps its client until librdkafka notices, and this producer is of no use any more.
    fn send_offsets(
        &self,
        offsets: TopicPartitionList,
        membership: Membership,
    ) -> Result<Result<(), TransactionError>, Failed> {
        let at_most = self.shared.options.transaction_timeout;
        let producer = Arc::clone(&self.producer);
        let (send, answer) = sync_channel(1);
        let waits = move || {
            let result = native::send_offsets(producer.client(), &offsets, &membership, at_most);
            drop(producer);
            // Nobody may wait any more.
            let _ = send.send(result);
        };
        let unknown = |why: &str| Failed::For(QueueError::Unknown(format!("{}: {why}", self.doing())));
        let thread = std::thread::Builder::new().name("kafka offsets".to_owned());
        thread.spawn(waits).map_err(|error| unknown(&format!("starting a thread: {error}")))?;
        answer.recv_timeout(at_most + OVERDUE).map_err(|_| unknown("the coordinator of the group does not answer"))
    }

    fn commit(&self) -> Result<(), TransactionError> {
        let deadline = Instant::now() + 2 * self.shared.options.transaction_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match native::commit_transaction(self.producer.client(), left) {
                Err(error) if error.is_retriable && Instant::now() < deadline => std::thread::sleep(PAUSE),
                result => return result,
            }
        }
    }

    /// A record was not taken: what was sent before it is aborted.
    fn give_up(&self, code: RDKafkaErrorCode) -> Failed {
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return Failed::For(self.fatal(code, &text));
        }
        if let Err(error) = native::abort_transaction(self.producer.client(), self.shared.options.transaction_timeout) {
            return Failed::For(QueueError::Unknown(format!("{}: {code}; aborting it: {}", self.doing(), error.text)));
        }
        Failed::For(self.undone(code, &code.to_string()))
    }

    /// What an error of the transaction comes to.
    fn refused(&self, error: &TransactionError, member: Option<&Member>) -> Failed {
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return Failed::For(self.fatal(code, &text));
        }
        if error.is_fatal {
            return Failed::For(self.fatal(error.code, &error.text));
        }
        if !error.must_abort {
            // The broker did not answer in time; the commit may be on its way.
            let why = self.trouble().explain(error.code);
            return Failed::For(QueueError::Unknown(format!("{}: {} ({why})", self.doing(), error.text)));
        }
        // What a record failed for is behind it.
        let code = self.producer.context().delivered.lock().failed.unwrap_or(error.code);
        if let Err(abort) = native::abort_transaction(self.producer.client(), self.shared.options.transaction_timeout) {
            if let Some((code, text)) = self.producer.client().fatal_error() {
                return Failed::For(self.fatal(code, &text));
            }
            return Failed::For(QueueError::Unknown(format!(
                "{}: {}; aborting it: {}",
                self.doing(),
                error.text,
                abort.text
            )));
        }
        use RDKafkaErrorCode as Code;
        match (code, member) {
            (Code::UnknownMemberId | Code::FencedInstanceId, Some(member)) => {
                Failed::For(check::no_member(&member.who.group, &member.who.member))
            }
            (Code::IllegalGeneration | Code::RebalanceInProgress, _) => Failed::Again(self.undone(code, &error.text)),
            _ => Failed::For(self.undone(code, &error.text)),
        }
    }

    /// After an abort: nothing was done.
    fn undone(&self, code: RDKafkaErrorCode, text: &str) -> QueueError {
        use RDKafkaErrorCode as Code;
        match code {
            Code::InvalidRecord | Code::BadMessage | Code::InvalidMessage => QueueError::Broken(format!(
                "{}: the broker refused a record ({text}); a record in a compacted topic needs a key",
                self.doing()
            )),
            Code::MessageSizeTooLarge => QueueError::Broken(format!(
                "{}: the broker refused a record as too large: set max.message.bytes of the topic to {MAX_RECORD_BYTES}",
                self.doing()
            )),
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => check::replaced_producer(&self.id),
            _ => {
                let why = self.trouble().explain(code);
                let why = if why.contains(text) || text.is_empty() { why } else { format!("{why} ({text})") };
                QueueError::Unavailable { what: self.doing(), why }
            }
        }
    }

    fn fatal(&self, code: RDKafkaErrorCode, text: &str) -> QueueError {
        use RDKafkaErrorCode as Code;
        match code {
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => check::replaced_producer(&self.id),
            _ => QueueError::Unknown(format!("{}: {code}: {text}", self.doing())),
        }
    }
}

/// Records, each with whether it is the first to its partition.
struct FirstOfEach<'a> {
    records: std::slice::Iter<'a, (TopicPartition, Record)>,
    seen: std::collections::HashSet<&'a TopicPartition>,
}

impl<'a> FirstOfEach<'a> {
    fn new(records: &'a [(TopicPartition, Record)]) -> Self {
        Self { records: records.iter(), seen: std::collections::HashSet::new() }
    }
}

impl<'a> Iterator for FirstOfEach<'a> {
    type Item = (bool, (&'a TopicPartition, &'a Record));

    fn next(&mut self) -> Option<Self::Item> {
        let (to, record) = self.records.next()?;
        Some((self.seen.insert(to), (to, record)))
    }
}

impl Producer for KafkaProducer {
    fn commit(
        &mut self,
        transaction: &Transaction,
        consumer: Option<&dyn Consumer>,
    ) -> Result<Vec<(TopicPartition, Offset)>> {
        if self.is_useless {
            return Err(QueueError::Fenced(format!("producer {} failed before: make a new one", self.id)));
        }
        if transaction.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.perform(transaction, consumer);
        self.is_useless = !matches!(result, Ok(_) | Err(QueueError::Unavailable { .. }));
        result
    }
}
