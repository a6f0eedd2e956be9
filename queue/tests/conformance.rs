//! The conformance suite, run against each implementation.

// What fails in a test shall panic, in its helpers too.
#![allow(clippy::unwrap_used)]

mod memory {
    use std::sync::Arc;

    use clickmill_model::Timestamp;
    use clickmill_queue::conformance::Fixture;
    use clickmill_queue::memory::MemoryQueue;
    use clickmill_queue::{ConsumerIdentity, ManualClock, Queue};

    struct Memory(MemoryQueue);

    impl Fixture for Memory {
        fn open(&self) -> Box<dyn Queue> {
            Box::new(self.0.clone())
        }

        fn expire(&self, who: &ConsumerIdentity) {
            self.0.expire_member(&who.group, &who.member);
        }
    }

    fn make() -> Memory {
        Memory(MemoryQueue::new(Arc::new(ManualClock::new(Timestamp::from_secs(1_609_459_200)))))
    }

    clickmill_queue::conformance_tests!(make());
}

mod embedded {
    use clickmill_queue::conformance::Fixture;
    use clickmill_queue::embedded::{EmbeddedQueue, Options};
    use clickmill_queue::{ConsumerIdentity, Queue, SystemClock};

    struct Embedded {
        folder: tempfile::TempDir,
    }

    impl Embedded {
        fn open(&self) -> EmbeddedQueue {
            EmbeddedQueue::open(self.folder.path(), SystemClock::shared(), Options::default()).unwrap()
        }
    }

    impl Fixture for Embedded {
        fn open(&self) -> Box<dyn Queue> {
            Box::new(self.open())
        }

        fn expire(&self, who: &ConsumerIdentity) {
            self.open().expire_member(who).unwrap();
        }
    }

    fn make() -> Embedded {
        Embedded { folder: tempfile::tempdir().unwrap() }
    }

    clickmill_queue::conformance_tests!(make());
}
