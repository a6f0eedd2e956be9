//! Bounds on what the store and the queue are asked at once. They answer by blocking a thread, so each request takes one for as long as it reads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::http::problem::{Kind, Problem};

/// Lets so many readers work at once and so many wait; the rest is told to come again.
#[derive(Debug)]
pub(crate) struct Gate {
    at_work: Arc<Semaphore>,
    /// A place for each request that works or waits.
    inside: Arc<Semaphore>,
    patience: Duration,
}

impl Gate {
    /// A gate for `at_once` readers, with as many as `waiting` behind them, each of which has its answer within `patience`.
    pub(crate) fn new(at_once: usize, waiting: usize, patience: Duration) -> Self {
        let (at_work, inside) = (Semaphore::new(at_once), Semaphore::new(at_once + waiting));
        Self { at_work: Arc::new(at_work), inside: Arc::new(inside), patience }
    }

    /// Runs `read` on a thread that may block. It keeps its place until it ends, even where nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = Arc::clone(&self.inside);
        let place = place.try_acquire_owned().map_err(|_| Problem::of(Kind::TooManyRequests))?;
        let work = async {
            let turn = Arc::clone(&self.at_work).acquire_owned().await;
            let reading = tokio::task::spawn_blocking(move || {
                let answer = read();
                drop((turn, place));
                answer
            });
            reading.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request ended without an answer");
                Err(Problem::of(Kind::Unavailable))
            })
        };
        match tokio::time::timeout(self.patience, work).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::saying(Kind::Unavailable, "The answer took too long. Try again, or ask for less.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn kind<T: std::fmt::Debug>(answer: Result<T, Problem>) -> Kind {
        answer.unwrap_err().kind
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_to_come_again() {
        let gate = Arc::new(Gate::new(1, 1, Duration::from_secs(20)));
        let (release, hold) = mpsc::channel::<()>();
        let begin = |read: Box<dyn FnOnce() -> Result<u32, Problem> + Send>| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.run(read).await })
        };
        let first = begin(Box::new(move || {
            hold.recv().ok();
            Ok(1)
        }));
        let second = begin(Box::new(|| Ok(2)));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while gate.inside.available_permits() > 0 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        assert_eq!(kind(gate.run(|| Ok(3)).await), Kind::TooManyRequests);
        release.send(()).unwrap();
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(1), Ok(2)));
        assert_eq!(gate.run(|| Ok(4)).await, Ok(4));
    }

    #[tokio::test]
    async fn what_takes_too_long_or_breaks_is_unavailable() {
        let gate = Gate::new(1, 1, Duration::from_millis(20));
        let (release, hold) = mpsc::channel::<()>();
        let slow = gate.run(move || {
            hold.recv().ok();
            Ok(())
        });
        assert_eq!(kind(slow.await), Kind::Unavailable);
        release.send(()).unwrap();
        let gate = Gate::new(1, 1, Duration::from_secs(20));
        let broken: Result<(), Problem> = gate.run(|| panic!("on purpose")).await;
        assert_eq!(kind(broken), Kind::Unavailable);
        assert_eq!(gate.run(|| Ok(4)).await, Ok(4), "its place is free again");
    }
}
