//! What each stage of this process is doing, for `/v1/status` and `/readyz`.

use clickmill_model::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

/// What a stage is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Not yet reading.
    Starting,
    /// Reading and writing.
    Running,
    /// Held up by something that passes: a store away, a partition not yet handed over.
    Waiting,
    /// Ended by a broken promise.
    Failed,
    /// Ended because it was told to.
    Stopped,
    /// Runs in another process, if at all.
    Unknown,
}

/// The state of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageState {
    /// What it is doing.
    pub state: RunState,
    /// Why, or what it waits for; empty where there is nothing to say. People read it, also those who cannot see the logs.
    pub detail: String,
    /// Since when it has been in this state.
    pub since: Timestamp,
}

/// The stages of this process by name. Whoever runs them writes it, the HTTP side reads it.
#[derive(Debug, Default)]
pub struct StageBoard {
    stages: Mutex<Vec<(String, StageState)>>,
}

impl StageBoard {
    /// A board without stages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what a stage is doing. `now` becomes its `since` where the state is another one than before.
    pub fn set(&self, name: &str, state: RunState, detail: &str, now: Timestamp) {
        let mut stages = self.stages.lock();
        let fresh = || StageState { state, detail: detail.to_owned(), since: now };
        match stages.iter_mut().find(|(known, _)| known == name) {
            None => stages.push((name.to_owned(), fresh())),
            Some((_, old)) if old.state != state => *old = fresh(),
            Some((_, old)) => detail.clone_into(&mut old.detail),
        }
    }

    /// Every stage, in the order in which they were first told.
    pub fn all(&self) -> Vec<(String, StageState)> {
        self.stages.lock().clone()
    }

    /// The first stage that is not able to work: starting, or failed.
    pub fn not_ready(&self) -> Option<String> {
        let stages = self.stages.lock();
        let waits = |state| matches!(state, RunState::Starting | RunState::Failed);
        stages.iter().find(|(_, stage)| waits(stage.state)).map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_moves_only_when_the_state_changes() {
        let board = StageBoard::new();
        let at = Timestamp::from_secs;
        board.set("mapper", RunState::Starting, "", at(1));
        board.set("reducer", RunState::Running, "", at(1));
        assert_eq!(board.not_ready(), Some("mapper".into()));
        board.set("mapper", RunState::Running, "", at(2));
        board.set("mapper", RunState::Running, "4 partitions", at(3));
        assert_eq!(board.not_ready(), None);
        let mapper = StageState { state: RunState::Running, detail: "4 partitions".into(), since: at(2) };
        assert_eq!(board.all().first(), Some(&("mapper".into(), mapper)));
        board.set("reducer", RunState::Failed, "offset gap", at(4));
        assert_eq!(board.not_ready(), Some("reducer".into()));
    }
}
