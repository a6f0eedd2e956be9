//! What every stage has in common: it is stepped until told to stop, and rebuilt from what is committed when something went wrong.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::{CodecError, Timestamp};
use thiserror::Error;

use crate::clock::Clock;
use crate::types::QueueError;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something: step again at once.
    Worked,
    /// Nothing was there to do.
    Idle,
}

/// Why a stage could not go on.
#[derive(Debug, Error)]
pub enum StageError {
    /// The queue refused.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A passing fault of something else (a store, a disk): the stage is rebuilt and goes on.
    #[error("{0}")]
    Unavailable(String),
    /// A broken promise: going on would give wrong figures.
    #[error("{0}")]
    Broken(String),
    /// No fault: the stage is rebuilt at once, since it has other topics to read now, or knows too few definitions.
    #[error("{0}")]
    Outdated(String),
}

impl StageError {
    /// The stage reads `before`, and has `now` to read.
    pub fn outdated(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Self {
        let list = |topics: &BTreeSet<String>| topics.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        Self::Outdated(format!("the input topics are {} now instead of {}", list(now), list(before)))
    }
}

impl From<CodecError> for StageError {
    fn from(error: CodecError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A stage's worker: polls, steps its operator, commits.
pub trait Stage: Send {
    /// Does one thing, waiting up to `wait` for something to do. After an error the stage is of no use and must be made anew.
    fn step(&mut self, now: Timestamp, wait: Duration) -> Result<Progress, StageError>;

    /// Gives back what it holds, so that others need not wait for a timeout. What was not committed is simply read again.
    fn stop(self: Box<Self>) -> Result<(), StageError>;
}

/// How long a step may wait for input.
const WAIT: Duration = Duration::from_millis(100);

/// The longest pause between two attempts to rebuild a stage.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A stage that is outdated as soon as it begins looks again after so long.
const LOOKS_AGAIN: Duration = Duration::from_millis(500);

/// What to do when another process took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFenced {
    /// Join again, and take what the others leave: workers of a group.
    JoinAgain,
    /// End: there shall be one of this name only.
    End,
}

/// Steps a stage until `stop` is set. Rebuilds it, at once where its topics changed, with a growing pause after passing faults; ends with the error after a broken promise. `noticed` is told of each failure before the pause, and with `None` when
/// the stage runs again.
pub fn run(
    name: &str,
    clock: &dyn Clock,
    stop: &AtomicBool,
    when_fenced: WhenFenced,
    mut noticed: impl FnMut(Option<&StageError>),
    mut make: impl FnMut() -> Result<Box<dyn Stage>, StageError>,
) -> Result<(), StageError> {
    let mut failures = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let made = make().inspect(|_| noticed(None));
        let error = match made.and_then(|stage| run_one(stage, clock, stop)) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let ends = match &error {
            StageError::Broken(_) | StageError::Queue(QueueError::Broken(_)) => true,
            StageError::Queue(QueueError::Fenced(_)) => when_fenced == WhenFenced::End,
            StageError::Outdated(why) => {
                tracing::info!(stage = name, why, "starting anew");
                // At once, but not again and again: what it wants to know may not be there yet.
                if began.elapsed() < LOOKS_AGAIN {
                    rest(LOOKS_AGAIN, stop);
                }
                continue;
            }
            StageError::Unavailable(_) | StageError::Queue(_) => false,
        };
        if ends {
            return Err(error);
        }
        noticed(Some(&error));
        metrics::counter!("clickmill_stage_restarts_total", "stage" => name.to_owned()).increment(1);
        tracing::warn!(stage = name, %error, "starting over from what is committed");
        failures = if began.elapsed() > Duration::from_secs(60) { 1 } else { failures + 1 };
        rest((Duration::from_millis(50) * 2_u32.saturating_pow(failures.min(8))).min(LONGEST_PAUSE), stop);
    }
    Ok(())
}

/// Does nothing for so long, or until `stop` is set.
fn rest(pause: Duration, stop: &AtomicBool) {
    let until = Instant::now() + pause;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run_one(mut stage: Box<dyn Stage>, clock: &dyn Clock, stop: &AtomicBool) -> Result<(), StageError> {
    while !stop.load(Ordering::Relaxed) {
        stage.step(clock.now(), WAIT)?;
    }
    stage.stop()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_stage_that_cannot_know_enough_yet_does_not_start_again_and_again() {
        let stop = AtomicBool::new(false);
        let mut made = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(700));
                stop.store(true, Ordering::Relaxed);
            });
            let make = || {
                made += 1;
                Err(StageError::Outdated("too few definitions".to_owned()))
            };
            run("test", &ManualClock::new(Timestamp::EPOCH), &stop, WhenFenced::End, |_| (), make).unwrap();
        });
        assert!((2..=3).contains(&made), "{made} times");
    }
}
