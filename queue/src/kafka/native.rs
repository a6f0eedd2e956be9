//! What the safe wrapper of librdkafka does not offer: the queue of one partition read in batches, the offset at which a partition's end was met, the membership
//! under which offsets are committed, and a commit that returns as soon as it is done. Everything unsafe of this crate is here.
//!
//! Ownership follows `rdkafka.h`: a queue, a message, an error and the metadata of a group belong to who got them, and are destroyed once; a client outlives them, because whoever has
//! one of them has the client as well.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use clickmill_model::{Offset, Timestamp};
use parking_lot::{Condvar, Mutex};
use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::{RDKafka, RDKafkaErrorCode, RDKafkaMessage, RDKafkaQueue, RDKafkaRespErr};

use crate::types::{Fetched, Record};

/// Rings when something has come for a consumer.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until it rings, or has rung since the last time, at most so long.
    pub(super) fn wait(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_for(&mut rung, at_most);
        }
        *rung = false;
    }
}

/// What comes out of a partition.
#[derive(Debug)]
pub(super) enum Event {
    /// A record, stamped by the broker.
    Record(Fetched),
    /// A record whose time is its sender's.
    SendersTime(Offset),
    /// Everything before this offset was read, and there was nothing more for the time being.
    End(Offset),
    /// The partition cannot be read.
    Error(RDKafkaErrorCode, String),
}

/// The records of one partition, apart from those of the others.
pub(super) struct PartitionQueue {
    queue: NonNull<RDKafkaQueue>,
    /// Rung by librdkafka's threads through the queue's callback: it must live until the callback is off.
    _bell: Arc<Bell>,
    /// The queue must not outlive its client.
    _client: Arc<dyn Send + Sync>,
}

// SAFETY: librdkafka's objects may be used from any thread; this one is used by one at a time.
unsafe impl Send for PartitionQueue {}

impl PartitionQueue {
    /// Takes the partition's records out of the consumer's common queue. To be called before the partition is assigned. `None` where there is no such partition.
    pub(super) fn split<C: ConsumerContext + 'static>(
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        partition: u32,
        bell: Arc<Bell>,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let partition = i32::try_from(partition).ok()?;
        let client: Arc<dyn Send + Sync> = Arc::clone(consumer) as _;
        // SAFETY: the client lives as long as `consumer`; the topic is a C string for the length of the call.
        let queue =
            unsafe { native::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        // SAFETY: the queue is ours. The bell is kept beside it, and the callback is taken off before either goes.
        unsafe {
            native::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            native::rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(ring_bell),
                Arc::as_ptr(&bell).cast_mut().cast::<c_void>(),
            );
        }
        Some(Self { queue, _bell: bell, _client: client })
    }

    /// Hands over what has come, at most so many, without waiting. Returns how many that were.
    pub(super) fn take(&self, most: usize, mut to: impl FnMut(Event)) -> usize {
        let mut messages: Vec<*mut RDKafkaMessage> = vec![ptr::null_mut(); most];
        // SAFETY: the queue is ours, and the array has room for as many pointers as is said.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, messages.as_mut_ptr(), messages.len())
        };
        let count = usize::try_from(count).unwrap_or(0).min(most);
        for &message in messages.iter().take(count) {
            // SAFETY: librdkafka filled so many entries with messages that are ours.
            let event = unsafe {
                let event = event(message);
                native::rd_kafka_message_destroy(message);
                event
            };
            to(event);
        }
        count
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours and was not destroyed. The callback is called under the queue's lock, which taking it off needs: afterwards it is called no more.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Where the log ended, committed or not, when records of the partition came last. `None` where none came yet.
pub(super) fn known_end<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: u32) -> Option<Offset> {
    let topic = CString::new(topic).ok()?;
    let partition = i32::try_from(partition).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as the consumer, the topic for the length of the call.
    unsafe {
        native::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        );
    }
    u64::try_from(high).ok().map(Offset)
}

/// `opaque` is a [`Bell`].
unsafe extern "C" fn ring_bell(_: *mut RDKafka, opaque: *mut c_void) {
    // SAFETY: `PartitionQueue::split` passed a bell that lives as long as the callback is on.
    let bell = unsafe { &*opaque.cast::<Bell>().cast_const() };
    bell.ring();
}

/// Copies what a message holds.
///
/// # Safety
/// It is a message that librdkafka gave out and that was not destroyed.
unsafe fn event(pointer: *mut RDKafkaMessage) -> Event {
    // SAFETY: as promised by the caller.
    let message = unsafe { &*pointer };
    let offset = Offset(message.offset.max(0).cast_unsigned());
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => return Event::End(offset),
        error => {
            // SAFETY: the string belongs to the message.
            let text = unsafe { text(native::rd_kafka_message_errstr(pointer)) };
            return Event::Error(error.into(), text);
        }
    }
    let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive.
    let millis = unsafe { native::rd_kafka_message_timestamp(pointer, &raw mut kind) };
    if kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME {
        return Event::SendersTime(offset);
    }
    // SAFETY: key and payload are as long as the message says, or null.
    let (key, value) = unsafe { (bytes(message.key, message.key_len), bytes(message.payload, message.len)) };
    let record = Record {
        key,
        // SAFETY: the message is alive.
        headers: unsafe { headers(pointer) },
        value: value.unwrap_or_default(),
    };
    Event::Record(Fetched { offset, arrival: Timestamp::from_micros(millis.saturating_mul(1000)), record })
}

/// # Safety
/// The message is alive.
unsafe fn headers(message: *const RDKafkaMessage) -> Vec<(String, Vec<u8>)> {
    let mut list = ptr::null_mut();
    let mut found = Vec::new();
    // SAFETY: the list belongs to the message, the names and values to the list.
    unsafe {
        if native::rd_kafka_message_headers(message, &raw mut list) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        while native::rd_kafka_header_get_all(list, found.len(), &raw mut name, &raw mut value, &raw mut size)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            found.push((text(name), bytes(value, size).unwrap_or_default()));
        }
    }
    found
}

/// # Safety
/// There are so many bytes, or it is null.
unsafe fn bytes(pointer: *const c_void, len: usize) -> Option<Vec<u8>> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    Some(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) }.to_vec())
}

/// # Safety
/// It is a C string, or null.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// The membership of a consumer in its group, at one moment.
pub(super) struct Membership {
    metadata: NonNull<native::rd_kafka_consumer_group_metadata_t>,
}

// SAFETY: it is a copy that nobody else has.
unsafe impl Send for Membership {}

impl Membership {
    /// What the consumer is now. `None` where it is closed.
    pub(super) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client lives as long as the consumer; what comes back is ours.
        let metadata = unsafe { native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        NonNull::new(metadata).map(|metadata| Self { metadata })
    }

    /// The name that the broker gave the member; empty where it is none.
    pub(super) fn member_id(&self) -> String {
        // SAFETY: the string belongs to the metadata, which is ours.
        unsafe { text(native::rd_kafka_consumer_group_metadata_member_id(self.metadata.as_ptr())) }
    }

    /// The group's generation; negative where the consumer is no member.
    pub(super) fn generation(&self) -> i32 {
        // SAFETY: the metadata is ours.
        unsafe { native::rd_kafka_consumer_group_metadata_generation_id(self.metadata.as_ptr()) }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: it is ours and was not destroyed.
        unsafe { native::rd_kafka_consumer_group_metadata_destroy(self.metadata.as_ptr()) }
    }
}

/// What librdkafka says of a transaction.
#[derive(Debug)]
pub(super) struct TransactionError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) text: String,
    pub(super) is_fatal: bool,
    pub(super) is_retriable: bool,
    pub(super) must_abort: bool,
}

/// Adds offsets to the transaction that is under way, for a member of a group.
pub(super) fn send_offsets<C: ClientContext>(
    producer: &Client<C>,
    offsets: &TopicPartitionList,
    membership: &Membership,
    at_most: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: producer, list and metadata are alive for the length of the call.
    let error = unsafe {
        native::rd_kafka_send_offsets_to_transaction(
            producer.native_ptr(),
            offsets.ptr(),
            membership.metadata.as_ptr(),
            millis(at_most),
        )
    };
    // SAFETY: what comes back is ours.
    unsafe { result(error) }
}

/// Sends what waits without lingering, and commits the transaction. (The safe wrapper waits in steps of a tenth of a second.) Another thread must poll the producer.
pub(super) fn commit_transaction<C: ClientContext>(
    producer: &Client<C>,
    at_most: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: the producer is alive, and what comes back is ours.
    unsafe { result(native::rd_kafka_commit_transaction(producer.native_ptr(), millis(at_most))) }
}

/// Aborts the transaction. Another thread must poll the producer.
pub(super) fn abort_transaction<C: ClientContext>(
    producer: &Client<C>,
    at_most: Duration,
) -> Result<(), TransactionError> {
    // SAFETY: the producer is alive, and what comes back is ours.
    unsafe { result(native::rd_kafka_abort_transaction(producer.native_ptr(), millis(at_most))) }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// # Safety
/// It is null or an error that is ours.
unsafe fn result(error: *mut native::rd_kafka_error_t) -> Result<(), TransactionError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: as promised by the caller; it is destroyed once, after it was read.
    unsafe {
        let read = TransactionError {
            code: native::rd_kafka_error_code(error).into(),
            text: text(native::rd_kafka_error_string(error)),
            is_fatal: native::rd_kafka_error_is_fatal(error) != 0,
            is_retriable: native::rd_kafka_error_is_retriable(error) != 0,
            must_abort: native::rd_kafka_error_txn_requires_abort(error) != 0,
        };
        native::rd_kafka_error_destroy(error);
        Err(read)
    }
}
