//! Every statement, prepared once.

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use super::connect::Profiles;
use super::error::explain;
use super::options::Options;
use super::schema::serial;
use crate::Result;

/// Every statement, prepared once. Each may be sent again: what it writes is absolute.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) insert_count: PreparedStatement,
    pub(super) sum: PreparedStatement,
    pub(super) sums: PreparedStatement,
    pub(super) series: PreparedStatement,
    pub(super) each: PreparedStatement,
    pub(super) insert_ranking: PreparedStatement,
    pub(super) rankings: PreparedStatement,
    pub(super) insert_mark: PreparedStatement,
    pub(super) gone: PreparedStatement,
    pub(super) raise_progress: PreparedStatement,
    pub(super) progress: PreparedStatement,
    pub(super) insert_definition: PreparedStatement,
    pub(super) definitions: PreparedStatement,
    pub(super) revisions: PreparedStatement,
    /// The same, after whatever was under way.
    pub(super) revisions_decided: PreparedStatement,
    pub(super) insert_revision: PreparedStatement,
    pub(super) switch_revision: PreparedStatement,
    pub(super) set: PreparedStatement,
    pub(super) get: PreparedStatement,
}

/// The key of the one pipeline that a keyspace holds.
pub(super) const PIPELINE: i32 = 0;

/// Whose profile a statement gets.
#[derive(Clone, Copy)]
enum Does {
    Read,
    Write,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, options: &Options, profiles: &Profiles) -> Result<Self> {
        let statement = async |does: Does, text: &str| {
            let text = text.replace("KEYSPACE", &options.keyspace);
            let prepared = session.prepare(text).await;
            let mut prepared = prepared.map_err(|error| explain("preparing a statement", &error.into()))?;
            let profile = match does {
                Does::Read => &profiles.read,
                Does::Write => &profiles.write,
            };
            prepared.set_execution_profile_handle(Some(profile.clone()));
            prepared.set_is_idempotent(true);
            Ok(prepared)
        };
        const OF_COUNTS: &str =
            "FROM KEYSPACE.counts WHERE revision = ? AND kind = ? AND filter = ? AND period = ? AND bucket = ?";
        let revisions =
            statement(Does::Read, "SELECT revision, state, what, changed FROM KEYSPACE.revisions WHERE pipeline = ?")
                .await?;
        let mut revisions_decided = revisions.clone();
        revisions_decided.set_consistency(match serial(options.write) {
            SerialConsistency::Serial => Consistency::Serial,
            SerialConsistency::LocalSerial => Consistency::LocalSerial,
        });
        Ok(Self {
            revisions,
            revisions_decided,
            insert_revision: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.revisions (pipeline, revision, state, from_minute, until_minute, what) VALUES (?, ?, ?, ?, ?, ?) IF NOT EXISTS",
            )
            .await?,
            switch_revision: statement(
                Does::Write,
                "UPDATE KEYSPACE.revisions SET state = ?, changed = ? WHERE pipeline = ? AND revision = ? IF state = ?",
            )
            .await?,
            insert_count: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.counts (revision, kind, filter, period, bucket, ad, start, clicks) VALUES (?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?",
            )
            .await?,
            sum: statement(Does::Read, &format!("SELECT sum(clicks) {OF_COUNTS} AND ad = ? AND start >= ? AND start < ?")).await?,
            sums: statement(
                Does::Read,
                &format!("SELECT ad, sum(clicks) {OF_COUNTS} AND ad IN ? AND start >= ? AND start < ? GROUP BY ad"),
            )
            .await?,
            series: statement(Does::Read, &format!("SELECT start, clicks {OF_COUNTS} AND ad = ? AND start >= ? AND start < ?"))
                .await?,
            // Of one partition: its node passes over the minutes that are not asked for.
            each: statement(
                Does::Read,
                &format!("SELECT ad, start, clicks {OF_COUNTS} AND start >= ? AND start < ? ALLOW FILTERING"),
            )
            .await?,
            insert_ranking: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.rankings (revision, kind, filter, window_minutes, period, minute, ranking) VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?",
            )
            .await?,
            rankings: statement(
                Does::Read,
                "SELECT minute, ranking FROM KEYSPACE.rankings
                 WHERE revision = ? AND kind = ? AND filter = ? AND window_minutes = ? AND period = ? AND minute IN ?",
            )
            .await?,
            insert_mark: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.retention (what, gone_at, last_minute) VALUES (?, ?, ?) USING TIMESTAMP ?",
            )
            .await?,
            gone: statement(Does::Read, "SELECT max(last_minute) FROM KEYSPACE.retention WHERE what = ? AND gone_at <= ?").await?,
            raise_progress: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.progress (revision, stage, partition, until, told) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
            )
            .await?,
            progress: statement(Does::Read, "SELECT stage, partition, until, told FROM KEYSPACE.progress WHERE revision = ?").await?,
            set: statement(Does::Write, "INSERT INTO KEYSPACE.settings (name, value) VALUES (?, ?)").await?,
            get: statement(Does::Read, "SELECT value FROM KEYSPACE.settings WHERE name = ?").await?,
            insert_definition: statement(
                Does::Write,
                "INSERT INTO KEYSPACE.definitions (pipeline, version, json) VALUES (?, ?, ?) IF NOT EXISTS",
            )
            .await?,
            definitions: statement(Does::Read, "SELECT version, json FROM KEYSPACE.definitions WHERE pipeline = ?").await?,
        })
    }
}
