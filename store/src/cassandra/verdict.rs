//! The last reconciliation, as a row of `settings`.

use std::iter;

use super::Cluster;
use super::error::{explain, garbled};
use super::write::deliver;
use crate::{Result, StoreError, Verdict};

/// The row's name.
const NAME: &str = "last_reconciliation";

impl Cluster {
    pub(super) async fn write_verdict(&self, verdict: &Verdict) -> Result<()> {
        let json = serde_json::to_string(verdict)
            .map_err(|error| StoreError::Broken(format!("a verdict cannot be written as JSON: {error}")))?;
        let send = async |row| {
            let sent = self.session.execute_unpaged(&self.statements.set, &row).await;
            (row, sent.map(|_| ()))
        };
        deliver(&self.pace, "writing a verdict", iter::once((NAME, json)), send).await
    }

    pub(super) async fn last_verdict(&self) -> Result<Option<Verdict>> {
        let what = "reading the last reconciliation";
        let answer = self.session.execute_unpaged(&self.statements.get, (NAME,)).await;
        let rows = answer.map_err(|error| explain(what, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(what, &error))?;
        let row = rows.maybe_first_row::<(&str,)>().map_err(|error| garbled(what, &error))?;
        let parse = |(json,): (&str,)| serde_json::from_str(json);
        row.map(parse).transpose().map_err(|error| StoreError::Broken(format!("table settings, {NAME}: {error}")))
    }
}
