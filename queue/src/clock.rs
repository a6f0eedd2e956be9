//! The clocks of the edge. The operators have none: time is an argument there.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickmill_model::Timestamp;
use parking_lot::Mutex;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;
}

/// How far the machine's wall clock may run away from its steady one before that counts as a step.
const STEP: Duration = Duration::from_secs(2);

/// How long a step must have lasted before it is followed.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The machine's clock, without its steps: it goes on with the machine's steady clock (which counts the time that the machine slept), follows
/// small corrections at once, and a step of more than two seconds only when it has lasted for fifteen minutes.
pub struct SystemClock {
    state: Mutex<Steady>,
}

struct Steady {
    /// Wall clock minus steady clock, in microseconds.
    ahead: i64,
    stepped_since: Option<i64>,
}

impl SystemClock {
    /// Starts from the wall clock.
    pub fn new() -> Self {
        Self { state: Mutex::new(Steady { ahead: wall() - steady(), stepped_since: None }) }
    }

    /// The same, ready to be shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.state.lock().now(wall(), steady()))
    }
}

impl Steady {
    fn now(&mut self, wall: i64, steady: i64) -> i64 {
        let ahead = wall - steady;
        if (ahead - self.ahead).unsigned_abs() < STEP.as_micros() as u64 {
            self.ahead = ahead;
            self.stepped_since = None;
        } else {
            let since = *self.stepped_since.get_or_insert(steady);
            if since == steady {
                let seconds = (ahead - self.ahead) / 1_000_000;
                tracing::warn!(seconds, "the machine's clock stepped; clickmill follows only if it stays so");
            }
            if steady - since >= PATIENCE.as_micros() as i64 {
                tracing::warn!(seconds = (ahead - self.ahead) / 1_000_000, "following the step of the machine's clock");
                self.ahead = ahead;
                self.stepped_since = None;
            }
        }
        steady + self.ahead
    }
}

fn wall() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    }
}

fn steady() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// A clock that stands until it is told otherwise.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Stands at `time`.
    pub fn new(time: Timestamp) -> Self {
        Self(AtomicI64::new(time.as_micros()))
    }

    /// Sets it.
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.as_micros(), Ordering::SeqCst);
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as i64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn schedule_11_a_step_of_an_hour_once_or_for_ten_minutes_is_not_followed() {
        for step in [3600 * SECOND, -3600 * SECOND] {
            let mut clock = Steady { ahead: 1000 * SECOND, stepped_since: None };
            for t in 0..3000 {
                let is_wrong = t == 100 || (200..800).contains(&t);
                let wall = (1000 + t) * SECOND + if is_wrong { step } else { 0 };
                assert_eq!(clock.now(wall, t * SECOND), (1000 + t) * SECOND, "{step} {t}");
            }
        }
    }

    #[test]
    fn a_step_is_followed_only_when_it_lasts() {
        let mut clock = Steady { ahead: 1000 * SECOND, stepped_since: None };
        assert_eq!(clock.now(1010 * SECOND, 10 * SECOND), 1010 * SECOND);
        assert_eq!(clock.now(1021 * SECOND, 20 * SECOND), 1021 * SECOND, "a small correction");
        let hour = 3600 * SECOND;
        for t in 21..600 {
            assert_eq!(clock.now(1001 * SECOND + t * SECOND + hour, t * SECOND), (1001 + t) * SECOND);
        }
        assert_eq!(clock.now(1601 * SECOND, 600 * SECOND), 1601 * SECOND, "it stepped back again");
        for t in 601..601 + 900 {
            assert_eq!(clock.now(1001 * SECOND + t * SECOND - hour, t * SECOND), (1001 + t) * SECOND);
        }
        assert_eq!(clock.now(2502 * SECOND - hour, 1501 * SECOND), 2502 * SECOND - hour, "it lasted");
    }
}
