//! The table of recalculations: one partition, whose rows are changed by Paxos alone.

use clickmill_model::Revision;
use scylla::response::query_result::QueryResult;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};

use super::Cluster;
use super::error::{explain, garbled};
use super::statements::PIPELINE;
use crate::revisions::next;
use crate::{Began, Recalculation, Result, RevisionRow, RevisionState, StoreError, Switch};

/// How often it is tried again when another one was faster.
const TRIES: u32 = 20;

const READING: &str = "reading the revisions";
const BEGINNING: &str = "beginning a revision";
const SWITCHING: &str = "switching a revision";

impl Cluster {
    /// Every recalculation, oldest first.
    pub(super) async fn revisions(&self) -> Result<Vec<RevisionRow>> {
        self.read_revisions(&self.statements.revisions).await
    }

    /// Every one that anybody was told of, and what was under way is decided.
    async fn decided_revisions(&self) -> Result<Vec<RevisionRow>> {
        self.read_revisions(&self.statements.revisions_decided).await
    }

    async fn read_revisions(&self, statement: &PreparedStatement) -> Result<Vec<RevisionRow>> {
        let answer = self.session.execute_unpaged(statement, (PIPELINE,)).await;
        let rows = answer.map_err(|error| explain(READING, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(READING, &error))?;
        let rows = rows.rows::<(i32, &str, &str, Option<&str>)>().map_err(|error| garbled(READING, &error))?;
        let read = rows.map(|row| {
            let (revision, state, what, changed) = row.map_err(|error| garbled(READING, &error))?;
            let revision = Revision(revision as u32);
            let broken = |why: String| StoreError::Broken(format!("table revisions, revision {revision}: {why}"));
            let state = RevisionState::parse(state).ok_or_else(|| broken(format!("its state is {state:?}")))?;
            let recalculation = serde_json::from_str(what).map_err(|error| broken(error.to_string()))?;
            let changed = changed.map(serde_json::from_str).transpose();
            let changed = changed.map_err(|error| broken(error.to_string()))?;
            Ok(RevisionRow { revision, state, recalculation, changed })
        });
        read.collect()
    }

    /// Gives a recalculation the next number. Who takes it has seen every row before it: had there been another one meanwhile, the number would be taken.
    pub(super) async fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        for _ in 0..TRIES {
            let rows = self.decided_revisions().await?;
            // An earlier try of this call whose answer was lost.
            if let Some(own) = rows.iter().find(|row| row.recalculation == *new) {
                return Ok(Began::Begun(own.revision));
            }
            let revision = match next(&rows, new) {
                Ok(revision) => revision,
                Err(other) => return Ok(Began::Overlaps(other)),
            };
            let range = new.holds.range;
            let row = (
                PIPELINE,
                revision.0 as i32,
                RevisionState::Pending.as_str(),
                range.from.as_epoch(),
                range.to.as_epoch(),
                json(new)?,
            );
            let answer = self.session.execute_unpaged(&self.statements.insert_revision, row).await;
            if is_applied(BEGINNING, answer.map_err(|error| explain(BEGINNING, &error))?)? {
                return Ok(Began::Begun(revision));
            }
        }
        Err(busy(BEGINNING))
    }

    /// Changes a state, where the switch leads on from it.
    pub(super) async fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        let mut tried_from = None;
        for _ in 0..TRIES {
            let rows = self.decided_revisions().await?;
            let Some(mut row) = rows.into_iter().find(|row| row.revision == revision) else { return Ok(None) };
            let before = row.state;
            if before == switch.to() && tried_from.is_some() {
                // An earlier try of this call whose answer was lost, or another one who did the same meanwhile.
                return Ok(tried_from);
            }
            switch.apply(&mut row);
            if row.state == before {
                return Ok(Some(before));
            }
            let changed = row.changed.as_ref().map(json).transpose()?;
            let key = (row.state.as_str(), changed, PIPELINE, revision.0 as i32, before.as_str());
            let answer = self.session.execute_unpaged(&self.statements.switch_revision, key).await;
            if is_applied(SWITCHING, answer.map_err(|error| explain(SWITCHING, &error))?)? {
                return Ok(Some(before));
            }
            tried_from = Some(before);
        }
        Err(busy(SWITCHING))
    }
}

/// True where a conditional write was done: what its answer says first.
fn is_applied(what: &str, answer: QueryResult) -> Result<bool> {
    let rows = answer.into_rows_result().map_err(|error| garbled(what, &error))?;
    let row = rows.first_row::<Row>().map_err(|error| garbled(what, &error))?;
    match row.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        other => Err(garbled(what, &format!("it begins with {other:?}"))),
    }
}

fn busy(what: &str) -> StoreError {
    StoreError::Unavailable { what: what.to_owned(), why: format!("others were faster {TRIES} times") }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Broken(format!("a revision cannot be written as JSON: {error}")))
}
