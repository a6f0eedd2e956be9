//! What all clients have in common: they tell librdkafka's news to the log, and remember the last trouble, so that an error can say what is behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::options::Properties;
use crate::types::QueueError;

/// How long a trouble explains an error that comes after it.
const EXPLAINS: Duration = Duration::from_secs(30);

/// The trouble that the clients of one queue had.
#[derive(Debug)]
pub(super) struct Trouble {
    brokers: String,
    properties: Properties,
    last: Mutex<Option<(Instant, RDKafkaErrorCode, String)>>,
}

impl Trouble {
    pub(super) fn new(brokers: &str, properties: &Properties) -> Arc<Self> {
        Arc::new(Self { brokers: brokers.to_owned(), properties: properties.clone(), last: Mutex::new(None) })
    }

    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut last = self.last.lock();
        // That no broker is there follows from what was said of each.
        let says_nothing = code == RDKafkaErrorCode::AllBrokersDown;
        if !says_nothing || last.as_ref().is_none_or(|(at, ..)| at.elapsed() > EXPLAINS) {
            *last = Some((Instant::now(), code, self.properties.hide(reason)));
        }
    }

    /// True where it does not go by itself: the brokers do not let this user in.
    pub(super) fn is_final(&self) -> bool {
        let last = self.last.lock();
        last.as_ref().is_some_and(|(_, code, _)| {
            matches!(
                code,
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
            )
        })
    }

    /// An error that says what was being done, what came back, what is behind it, and which setting to look at.
    pub(super) fn unavailable(&self, what: impl Into<String>, error: &KafkaError) -> QueueError {
        let why = match error.rdkafka_error_code() {
            Some(code) => self.explain(code),
            None => self.properties.hide(&error.to_string()),
        };
        QueueError::Unavailable { what: what.into(), why }
    }

    /// [`Trouble::unavailable`] of an error code.
    pub(super) fn failed(&self, what: impl Into<String>, code: RDKafkaErrorCode) -> QueueError {
        QueueError::Unavailable { what: what.into(), why: self.explain(code) }
    }

    /// What an error code means for people who can change something.
    pub(super) fn explain(&self, code: RDKafkaErrorCode) -> String {
        use RDKafkaErrorCode as Code;
        let is_vague = matches!(
            code,
            Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown | Code::WaitingForCoordinator
        );
        let behind = self.last.lock().clone().filter(|(at, ..)| is_vague && at.elapsed() < EXPLAINS);
        let (code, said) = match behind {
            Some((_, behind, reason)) => (behind, reason),
            None => (code, code.to_string()),
        };
        let look_at = match code {
            Code::Resolve | Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut => {
                format!(
                    "look at queue.brokers, which is {:?}, and at security.protocol in queue.properties",
                    self.brokers
                )
            }
            Code::Authentication | Code::SaslAuthenticationFailed => {
                "look at sasl.mechanism, sasl.username and sasl.password in queue.properties, or queue.password_file"
                    .to_owned()
            }
            Code::SSL => "look at ssl.ca.location and the other ssl settings in queue.properties".to_owned(),
            Code::TopicAuthorizationFailed => "the user has no right to do this with the topic".to_owned(),
            Code::GroupAuthorizationFailed => "the user has no right to read as a member of this group".to_owned(),
            Code::TransactionalIdAuthorizationFailed => {
                "the user has no right to write under this transactional id".to_owned()
            }
            Code::ClusterAuthorizationFailed => "the user has no right to do this with the cluster".to_owned(),
            _ => return said,
        };
        format!("{said}: {look_at}")
    }
}

/// What a client of librdkafka calls back.
#[derive(Debug)]
pub(super) struct Context(pub(super) Arc<Trouble>);

impl Context {
    pub(super) fn hear(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A consumer is told of a producer's properties that it passes over, and the other way round: that is as it should be.
        if facility == "CONFWARN" {
            return;
        }
        let message = self.0.properties.hide(message);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(facility, "kafka: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!(facility, "kafka: {message}");
            }
        }
    }

    pub(super) fn fail(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.0.note(code, reason);
        tracing::debug!(%code, "kafka: {}", self.0.properties.hide(reason));
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hear(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.fail(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// True for an error that goes by itself, a moment later.
pub(super) fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::UnknownTopic
            | Code::OffsetNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::UnstableOffsetCommit
            | Code::BrokerTransportFailure
            | Code::RequestTimedOut
            | Code::ReplicaNotAvailable
            | Code::KafkaStorageError
    )
}
