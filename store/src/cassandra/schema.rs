//! The tables, and how they are made.
//!
//! - `counts`: clicks of an ad in a span. One partition per revision, kind of span (0 minute, 1 hour, 2 day), filter, period (a day of minutes, 32 days of hours, 512 days of days, see `keys.rs`) and bucket of ads; in it ads in
//!   order, and each ad's spans in order, so that a range of one ad is consecutive. `start` is the span's first minute, in minutes since 1970.
//! - `rankings`: one row for each filter, window (in minutes) and last minute, packed (`ranked.rs`).
//! - `progress`: the first minute that is not told, by revision, stage (0 counts, 1 rankings) and partition of the stage, and what was said with it (`progress.rs`). Its write time is that minute, so that an older one never wins.
//! - `retention`: how far the figures reach (`last_minute`) that go at a time (`gone_at`, seconds since 1970), by what they are (0 counts, 1 rankings). Its write time is that minute.
//! - `definitions`: as JSON, each version once.
//! - `revisions` (since version 2): what recalculations there are, with their state, the minutes that they hold (since 1970), what they are (JSON, `Recalculation`) and what they changed (JSON, `Changed`). Written by conditional writes
//!   alone, in one partition, so that who takes the next number has seen all others.
//! - `settings`: `version` of this schema, `buckets`, and `data_centre` where figures are written with a local level; `last_reconciliation`, as JSON.
//!
//! Counts and rankings are written once, read for a while and go by their age: time-window compaction drops whole files of them.

use std::collections::BTreeMap;

use scylla::client::session::Session;
use scylla::cluster::ClusterState;
use scylla::cluster::metadata::Strategy;
use scylla::errors::ExecutionError;

use super::error::{OpenError, explain, garbled};
use super::options::{BUCKETS, Consistency, MOST_BUCKETS, Options, Replication};
use super::overlap::Copies;
use crate::{Result, StoreError};

/// The version that this program reads and writes.
pub(super) const VERSION: u32 = STEPS.len() as u32;

/// What leads from each version to the next, beginning with an empty keyspace. Each statement may be run again. `KEYSPACE` stands for the keyspace.
const STEPS: [&[&str]; 2] = [
    &[
        "CREATE TABLE IF NOT EXISTS KEYSPACE.counts (
        revision int, kind tinyint, filter int, period int, bucket int, ad text, start bigint, clicks bigint,
        PRIMARY KEY ((revision, kind, filter, period, bucket), ad, start)
    ) WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': '10'} AND gc_grace_seconds = 86400",
        "CREATE TABLE IF NOT EXISTS KEYSPACE.rankings (
        revision int, kind tinyint, filter int, window_minutes int, period int, minute bigint, ranking blob,
        PRIMARY KEY ((revision, kind, filter, window_minutes, period), minute)
    ) WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', 'compaction_window_size': '10'} AND gc_grace_seconds = 86400",
        "CREATE TABLE IF NOT EXISTS KEYSPACE.progress (
        revision int, stage tinyint, partition int, until bigint, told blob,
        PRIMARY KEY (revision, stage, partition)
    )",
        "CREATE TABLE IF NOT EXISTS KEYSPACE.retention (what tinyint, gone_at bigint, last_minute bigint, PRIMARY KEY (what, gone_at))",
        "CREATE TABLE IF NOT EXISTS KEYSPACE.definitions (pipeline int, version int, json text, PRIMARY KEY (pipeline, version))",
        SETTINGS,
    ],
    &["CREATE TABLE IF NOT EXISTS KEYSPACE.revisions (
        pipeline int, revision int, state text, from_minute bigint, until_minute bigint, what text, changed text,
        PRIMARY KEY (pipeline, revision)
    )"],
];

/// Says which schema this is; so it is read before anything else is known, and never changes.
const SETTINGS: &str = "CREATE TABLE IF NOT EXISTS KEYSPACE.settings (name text PRIMARY KEY, value text)";

/// What the schema says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) buckets: u32,
}

/// A keyspace of every cluster.
pub(super) const ALWAYS_THERE: &str = "system";

/// The copies of the keyspace; `None` where it is not there.
fn copies(state: &ClusterState, options: &Options) -> Result<Option<Copies>, OpenError> {
    let Some(keyspace) = state.get_keyspace(&options.keyspace) else { return Ok(None) };
    let copies = |factor: usize| u32::try_from(factor).unwrap_or(u32::MAX);
    match &keyspace.strategy {
        Strategy::SimpleStrategy { replication_factor } => {
            Ok(Some(Copies(BTreeMap::from([(String::new(), copies(*replication_factor))]))))
        }
        Strategy::NetworkTopologyStrategy { datacenter_repfactors } => {
            let by_dc = datacenter_repfactors.iter().filter(|(_, factor)| **factor > 0);
            Ok(Some(Copies(by_dc.map(|(dc, factor)| (dc.clone(), copies(*factor))).collect())))
        }
        other => Err(wrong(options, format!("its replication is not understood: {other:?}"))),
    }
}

fn wrong(options: &Options, why: String) -> OpenError {
    OpenError::Schema { keyspace: options.keyspace.clone(), why }
}

const CREATE: &str = "run `clickmill schema create`";

/// Refuses a keyspace that is not there, is another one's or another version's, or cannot keep the promises with these options. Returns what it says of itself.
pub(super) async fn check(session: &Session, options: &Options) -> Result<Settings, OpenError> {
    let state = session.get_cluster_state();
    let Some(copies) = copies(&state, options)? else {
        // The driver connects without the schema where it cannot read it.
        if state.get_keyspace(ALWAYS_THERE).is_none() {
            let what = "reading the schema".to_owned();
            return Err(StoreError::Unavailable { what, why: "no node of Cassandra tells it".to_owned() }.into());
        }
        return Err(wrong(options, format!("it is not there: {CREATE}, or name another one")));
    };
    check_levels(&copies, options)?;
    if !has_settings(&state, options) {
        return Err(wrong(options, format!("it holds no figures of clickmill: {CREATE}, or name another one")));
    }
    let found = read(session, options).await?;
    match version(&found, options)? {
        0 => return Err(wrong(options, format!("its schema was not made to the end: {CREATE}"))),
        old if old < VERSION => {
            return Err(wrong(
                options,
                format!("its schema has version {old}, this clickmill needs {VERSION}: {CREATE}"),
            ));
        }
        _ => {}
    }
    check_settings(&found, options)
}

fn check_levels(copies: &Copies, options: &Options) -> Result<(), OpenError> {
    let safe = copies.check(options.read, options.write, options.local_dc.as_deref());
    safe.map_err(|why| OpenError::Setting { setting: "consistency", why })
}

fn has_settings(state: &ClusterState, options: &Options) -> bool {
    state.get_keyspace(&options.keyspace).is_some_and(|keyspace| keyspace.tables.contains_key("settings"))
}

type Found = BTreeMap<String, String>;

async fn read(session: &Session, options: &Options) -> Result<Found> {
    let what = "reading the settings of the schema";
    let mut statement =
        scylla::statement::Statement::new(format!("SELECT name, value FROM {}.settings", options.keyspace));
    statement.set_consistency(options.read.of_driver());
    let rows = session.query_unpaged(statement, ()).await.map_err(|error| explain(what, &error))?;
    let rows = rows.into_rows_result().map_err(|error| garbled(what, &error))?;
    let rows = rows.rows::<(String, String)>().map_err(|error| garbled(what, &error))?;
    rows.map(|row| row.map_err(|error| garbled(what, &error))).collect()
}

/// The schema's version, 0 where it was not made to the end.
fn version(found: &Found, options: &Options) -> Result<u32, OpenError> {
    let Some(text) = found.get("version") else { return Ok(0) };
    match text.parse() {
        Ok(version) if version <= VERSION => Ok(version),
        Ok(version) => Err(wrong(
            options,
            format!(
                "a newer clickmill made its schema (version {version}, this clickmill knows up to {VERSION}): use that one"
            ),
        )),
        Err(_) => Err(wrong(options, format!("its schema's version is {text:?}, which is no version"))),
    }
}

fn check_settings(found: &Found, options: &Options) -> Result<Settings, OpenError> {
    let buckets = found.get("buckets").map_or("", String::as_str);
    let Some(buckets) = buckets.parse().ok().filter(|buckets| (1..=MOST_BUCKETS).contains(buckets)) else {
        return Err(wrong(options, format!("its number of buckets is {buckets:?}, which cannot be")));
    };
    if let Some(other) = options.buckets.filter(|other| *other != buckets) {
        return Err(OpenError::Setting {
            setting: "buckets",
            why: format!(
                "it is {other}, and the keyspace {} was made with {buckets}, for good: take {buckets}, leave it out, or name another keyspace",
                options.keyspace
            ),
        });
    }
    let is_local = options.read.is_local() || options.write.is_local();
    if let (Some(home), Some(local), true) = (found.get("data_centre"), &options.local_dc, is_local)
        && home != local
    {
        return Err(OpenError::Setting {
            setting: "local_dc",
            why: format!(
                "it is {local:?}, but figures are written in {home:?}: read there too, or with quorum, and write with quorum or each_quorum"
            ),
        });
    }
    Ok(Settings { buckets })
}

/// Makes the keyspace and its tables, or says what would be made. Returns the statements; none where everything is there.
pub(super) async fn create(session: &Session, options: &Options, dry_run: bool) -> Result<Vec<String>, OpenError> {
    let state = session.get_cluster_state();
    let mut run = Run { session, dry_run, done: Vec::new() };
    let existing = copies(&state, options)?;
    if let Some(existing) = &existing {
        check_replication(&state, existing, options)?;
        check_levels(existing, options)?;
        check_is_ours(&state, options)?;
    } else {
        let (statement, copies) = new_keyspace(&state, options)?;
        check_levels(&copies, options)?;
        run.change(statement).await?;
    }
    let found = if has_settings(&state, options) { read(session, options).await? } else { Found::new() };
    let version = version(&found, options)?;
    if version > 0 {
        check_settings(&found, options)?;
    }
    for (step, reached) in STEPS.iter().zip(1..).skip(version as usize) {
        for statement in *step {
            run.change(statement.replace("KEYSPACE", &options.keyspace)).await?;
        }
        if reached == 1 {
            run.set(options, "buckets", &options.buckets.unwrap_or(BUCKETS).to_string()).await?;
            if let Some(home) = options.local_dc.as_ref().filter(|_| options.write.is_local()) {
                run.set(options, "data_centre", home).await?;
            }
            // Last: what is not made to the end has no version.
            run.set(options, "version", "1").await?;
        } else {
            run.raise_version(options, reached - 1, reached).await?;
        }
    }
    if !dry_run && !run.done.is_empty() {
        // Another one may have made it at the same time, with other settings.
        check_settings(&read(session, options).await?, options)?;
    }
    Ok(run.done)
}

/// Runs statements, or only notes them.
struct Run<'a> {
    session: &'a Session,
    dry_run: bool,
    done: Vec<String>,
}

impl Run<'_> {
    async fn change(&mut self, statement: String) -> Result<()> {
        if !self.dry_run {
            let ran = self.session.query_unpaged(statement.as_str(), ()).await;
            ran.map_err(|error| explain(&format!("changing the schema ({})", first_line(&statement)), &error))?;
        }
        self.done.push(statement);
        Ok(())
    }

    /// Sets what is not set yet.
    async fn set(&mut self, options: &Options, name: &str, value: &str) -> Result<()> {
        let statement = format!(
            "INSERT INTO {}.settings (name, value) VALUES ('{name}', '{value}') IF NOT EXISTS",
            options.keyspace
        );
        self.conditional(options, statement).await
    }

    async fn raise_version(&mut self, options: &Options, from: u32, to: u32) -> Result<()> {
        let statement = format!(
            "UPDATE {}.settings SET value = '{to}' WHERE name = 'version' IF value = '{from}'",
            options.keyspace
        );
        self.conditional(options, statement).await
    }

    async fn conditional(&mut self, options: &Options, statement: String) -> Result<()> {
        if !self.dry_run {
            let mut conditional = scylla::statement::Statement::new(statement.as_str());
            conditional.set_consistency(options.write.of_driver());
            conditional.set_serial_consistency(Some(serial(options.write)));
            let ran = self.session.query_unpaged(conditional, ()).await;
            ran.map_err(|error: ExecutionError| explain("writing the settings of the schema", &error))?;
        }
        self.done.push(statement);
        Ok(())
    }
}

fn first_line(statement: &str) -> &str {
    statement.lines().next().unwrap_or_default()
}

/// The level at which writers agree who was first.
pub(super) fn serial(write: Consistency) -> scylla::statement::SerialConsistency {
    use scylla::statement::SerialConsistency;
    if write.is_local() { SerialConsistency::LocalSerial } else { SerialConsistency::Serial }
}

/// The nodes by data centre.
fn nodes(state: &ClusterState) -> BTreeMap<String, u32> {
    let mut nodes = BTreeMap::new();
    for node in state.get_nodes_info() {
        *nodes.entry(node.datacenter.clone().unwrap_or_default()).or_default() += 1;
    }
    nodes
}

/// What makes the keyspace, and the copies that it gets.
fn new_keyspace(state: &ClusterState, options: &Options) -> Result<(String, Copies), OpenError> {
    let nodes = nodes(state);
    let wanted = options.replication.clone().unwrap_or(Replication::Everywhere(3));
    let copies = match wanted {
        Replication::Everywhere(factor) => nodes.keys().map(|dc| (dc.clone(), factor)).collect(),
        Replication::ByDataCentre(factors) => factors,
    };
    let refuse = |why| Err(OpenError::Setting { setting: "replication", why });
    for (dc, factor) in &copies {
        match nodes.get(dc) {
            None => {
                let names: Vec<&str> = nodes.keys().map(String::as_str).collect();
                return refuse(format!("there is no data centre {dc:?}: there are {}", names.join(", ")));
            }
            Some(nodes) if nodes < factor => {
                return refuse(format!(
                    "{factor} copies are wanted in {dc}, which has {nodes} nodes: add nodes, or set it to {nodes}"
                ));
            }
            Some(_) => {}
        }
    }
    let factors: Vec<String> = copies.iter().map(|(dc, factor)| format!("'{dc}': {factor}")).collect();
    let statement = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}}",
        options.keyspace,
        factors.join(", ")
    );
    Ok((statement, Copies(copies)))
}

/// Copies are not changed here: that takes a repair, or reads would miss what was written before.
fn check_replication(state: &ClusterState, existing: &Copies, options: &Options) -> Result<(), OpenError> {
    let wanted = match &options.replication {
        None => return Ok(()),
        Some(Replication::ByDataCentre(factors)) => factors.clone(),
        Some(Replication::Everywhere(factor)) if existing.0.contains_key("") => {
            BTreeMap::from([(String::new(), *factor)])
        }
        Some(Replication::Everywhere(factor)) => nodes(state).into_keys().map(|dc| (dc, *factor)).collect(),
    };
    if wanted == existing.0 {
        return Ok(());
    }
    Err(OpenError::Setting {
        setting: "replication",
        why: format!(
            "it asks for {wanted:?}, and the keyspace {} has {:?}: change it with ALTER KEYSPACE and `nodetool repair --full`, or leave it out",
            options.keyspace, existing.0
        ),
    })
}

/// Refuses a keyspace that somebody else uses.
fn check_is_ours(state: &ClusterState, options: &Options) -> Result<(), OpenError> {
    let Some(keyspace) = state.get_keyspace(&options.keyspace) else { return Ok(()) };
    let is_ours =
        |table: &&String| STEPS.iter().copied().flatten().any(|step| step.contains(&format!(" KEYSPACE.{table} ")));
    let mut others: Vec<&String> = keyspace.tables.keys().filter(|table| !is_ours(table)).collect();
    others.sort();
    match others.first() {
        None => Ok(()),
        Some(other) => {
            Err(wrong(options, format!("it holds tables that are not clickmill's, such as {other}: name another one")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(of: &[(&str, &str)]) -> Found {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn another_version_or_another_number_of_buckets_is_refused() {
        let options = |buckets, local_dc: Option<&str>| Options {
            buckets,
            local_dc: local_dc.map(str::to_owned),
            ..Options::default()
        };
        let usual = options(None, None);
        assert_eq!(version(&found(&[]), &usual).unwrap(), 0);
        assert_eq!(version(&found(&[("version", "1")]), &usual).unwrap(), 1);
        for (text, part) in [("99", "a newer clickmill"), ("one", "no version")] {
            let error = version(&found(&[("version", text)]), &usual).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("clickmill (store.keyspace)"), "{error}");
        }
        let made = found(&[("buckets", "64"), ("data_centre", "dc1")]);
        for fits in [usual, options(Some(64), None), options(Some(64), Some("dc1"))] {
            assert_eq!(check_settings(&made, &fits).unwrap(), Settings { buckets: 64 });
        }
        let remote = Options { read: Consistency::Quorum, write: Consistency::Quorum, ..options(None, Some("dc2")) };
        assert_eq!(check_settings(&made, &remote).unwrap(), Settings { buckets: 64 });
        for (made, options, part) in [
            (&made, options(Some(32), None), "take 64"),
            (&made, options(None, Some("dc2")), "written in \"dc1\""),
            (&found(&[("buckets", "0")]), options(None, None), "buckets is \"0\""),
            (&found(&[]), options(None, None), "buckets is \"\""),
        ] {
            let error = check_settings(made, &options).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
