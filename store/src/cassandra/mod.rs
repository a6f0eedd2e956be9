//! The store on many machines: Apache Cassandra.
//!
//! - **Ads are hashed into buckets**, and a closed minute of a bucket and filter is one batch of rows in one partition: one mutation, atomic, ten times cheaper than a row a request. The tables are described in
//!   `schema.rs`, where a figure stands in `keys.rs`.
//! - **A range is summed where it is stored**: days and hours by their totals, the minutes at its edges one by one, each piece one partition, all at once (`pieces.rs`).
//! - **Figures, then progress**: progress is written after every row was acknowledged. All writes are absolute. Progress has the minute that it tells for its write time, so that a writer that was replaced without knowing it does no harm,
//!   though Cassandra cannot fence it: its rows are what is there already, and its older progress does not win.
//! - **A read meets every acknowledged write**, or the store is not opened (`overlap.rs`).
//! - **Figures go by themselves**, at a time that is fixed when they are written (`retention.rs`).
//! - **Writes are paced** by what the cluster takes (`pace.rs`), and sent again where it did not.

mod connect;
mod error;
mod keys;
mod options;
mod overlap;
mod pace;
mod pieces;
mod progress;
mod ranked;
mod read;
mod retention;
mod revisions;
mod schema;
mod statements;
mod verdict;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickmill_model::records::FilterSpan;
use clickmill_model::{Definition, FilterId, Minute, Partition, Revision, SpanKind, Timestamp, Window};
use futures_util::try_join;
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use tokio::runtime::{Handle, Runtime};

pub use self::error::OpenError;
pub use self::options::{BUCKETS, Consistency, Login, MOST_BUCKETS, Options, Replication, Tls};

use self::connect::Profiles;
use self::error::{explain, garbled};
use self::pace::Pace;
use self::progress::Stage;
use self::retention::{Fate, Mark, marks};
use self::schema::Settings;
use self::statements::{PIPELINE, Statements};
use self::write::{CountRow, Plan, deliver, send_batch};
use crate::{
    AggregateStore, Began, ClosedWrite, EachCount, MinuteRange, RankedWrite, Recalculation, Result, RevisionRow,
    RevisionState, StoreError, StoreProgress, StoredRanking, Switch, TopAds, View,
};

/// Threads that talk to the cluster.
const THREADS: usize = 2;

/// How long it is believed what retention has taken away. It is taken away an hour later than is said.
const RETENTION_FRESH: Duration = Duration::from_secs(10);

/// How long a progress that was read before may say which totals are stored: an older one only says fewer, but for those that retention takes away.
const TOTALS_FRESH: Duration = Duration::from_secs(60);

/// The store in a Cassandra cluster.
pub struct CassandraStore {
    cluster: Cluster,
    handle: Handle,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

/// The connection, and what is known of what is stored.
struct Cluster {
    session: Session,
    statements: Statements,
    settings: Settings,
    keep_counts: Option<Duration>,
    keep_rankings: Option<Duration>,
    pace: Mutex<Pace>,
    /// How many aggregator partitions there are, once a definition was seen.
    partitions: Mutex<Option<u32>>,
    /// The marks of retention that are stored already.
    marked: Mutex<BTreeMap<(i8, i64), Minute>>,
    /// From when on nothing is missing, counts and rankings.
    kept_from: Mutex<Option<(Instant, [Option<Minute>; 2])>>,
    /// The progress that was read last.
    known: Mutex<Option<(Instant, Arc<StoreProgress>)>>,
}

impl fmt::Debug for CassandraStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassandraStore").field("settings", &self.cluster.settings).finish_non_exhaustive()
    }
}

fn threads() -> Result<Runtime, OpenError> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("cassandra")
        .enable_all()
        .build();
    built.map_err(|error| {
        OpenError::Store(StoreError::Unavailable { what: "starting threads".into(), why: error.to_string() })
    })
}

/// Makes the keyspace and its tables where they are not there, and brings an older schema up to date; with `dry_run` it only says what it would do. Returns the statements; none where nothing is to be done.
///
/// # Errors
/// What cannot be, with the setting that would have to change. What exists is never changed where that could lose figures.
pub fn create_schema(options: &Options, dry_run: bool) -> Result<Vec<String>, OpenError> {
    options.check()?;
    let runtime = threads()?;
    let created = runtime.block_on(async {
        let session = connect::connect(options).await?;
        schema::create(&session, options, dry_run).await
    });
    runtime.shutdown_background();
    created
}

impl CassandraStore {
    /// Opens the store of this keyspace, whose schema must be there.
    ///
    /// # Errors
    /// What cannot be, with the setting that would have to change; [`OpenError::Unreachable`] where no node answers.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        options.check()?;
        let runtime = threads()?;
        let opened = runtime.block_on(Cluster::open(options));
        match opened {
            Ok(cluster) => Ok(Self { cluster, handle: runtime.handle().clone(), runtime: Some(runtime) }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }
}

impl Drop for CassandraStore {
    fn drop(&mut self) {
        // Without waiting: it may be dropped where that is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The time, for times to live.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH.after(since)
}

/// The write time of what shall never give way to what an earlier minute said, in microseconds.
fn write_time(minute: Minute) -> i64 {
    minute.start().as_micros()
}

impl Cluster {
    async fn open(options: &Options) -> Result<Self, OpenError> {
        let session = connect::connect(options).await?;
        let settings = schema::check(&session, options).await?;
        let statements = Statements::prepare(&session, options, &Profiles::new(options)).await?;
        let cluster = Self {
            session,
            statements,
            settings,
            keep_counts: options.keep_counts,
            keep_rankings: options.keep_rankings,
            pace: Mutex::default(),
            partitions: Mutex::default(),
            marked: Mutex::default(),
            kept_from: Mutex::default(),
            known: Mutex::default(),
        };
        cluster.definitions().await?;
        Ok(cluster)
    }

    async fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        let partitions = *self.partitions.lock();
        let plan = Plan::new(write, self.settings.buckets, partitions, self.keep_counts, now());
        let plan = plan.map_err(StoreError::Broken)?;
        deliver(&self.pace, "writing counts", plan.batches(), |rows| self.insert_counts(rows)).await?;
        self.mark(Stage::Counts, plan.marks()).await?;
        self.raise_progress(write.revision, Stage::Counts, write.partition, write.until, &write.filters).await
    }

    async fn insert_counts<'a>(&self, rows: Vec<CountRow<'a>>) -> (Vec<CountRow<'a>>, Result<(), ExecutionError>) {
        let sent = send_batch(&self.session, &self.statements.insert_count, &rows).await;
        (rows, sent)
    }

    async fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        let now = now();
        let fates: Vec<Fate> =
            write.rankings.iter().map(|(_, arrival)| Fate::of(*arrival, self.keep_rankings, now)).collect();
        let rows = write.rankings.iter().zip(&fates).filter_map(|((ranking, _), fate)| {
            let tier = keys::tier(ranking.window, ranking.minute);
            let key = (write.revision.0 as i32, keys::kind_number(tier), i32::from(ranking.filter.0));
            let period = keys::period(tier, ranking.minute);
            let value =
                (ranking.window.0 as i32, period, ranking.minute.as_epoch(), ranked::encode(ranking), fate.ttl()?);
            Some((key.0, key.1, key.2, value.0, value.1, value.2, value.3, value.4))
        });
        let send = async |row| {
            let sent = self.session.execute_unpaged(&self.statements.insert_ranking, &row).await;
            (row, sent.map(|_| ()))
        };
        deliver(&self.pace, "writing rankings", rows, send).await?;
        let minutes = write.rankings.iter().map(|(ranking, _)| ranking.minute);
        self.mark(Stage::Rankings, marks(minutes.zip(fates))).await?;
        self.raise_progress(write.revision, Stage::Rankings, write.partition, write.until, &[]).await
    }

    /// Notes how far the figures reach that go at a time, where that is not noted yet.
    async fn mark(&self, what: Stage, marks: Vec<Mark>) -> Result<()> {
        let what = what.number();
        let is_new = |mark: &Mark| self.marked.lock().get(&(what, mark.gone_at)).is_none_or(|last| *last < mark.last);
        let new: Vec<Mark> = marks.into_iter().filter(is_new).collect();
        let send = async |mark: Mark| {
            let row = (what, mark.gone_at, mark.last.as_epoch(), write_time(mark.last));
            let sent = self.session.execute_unpaged(&self.statements.insert_mark, &row).await;
            (mark, sent.map(|_| ()))
        };
        deliver(&self.pace, "noting what retention will take", new.iter().copied(), send).await?;
        self.marked.lock().extend(new.into_iter().map(|mark| ((what, mark.gone_at), mark.last)));
        Ok(())
    }

    async fn raise_progress(
        &self,
        revision: Revision,
        stage: Stage,
        partition: Partition,
        until: Minute,
        filters: &[FilterSpan],
    ) -> Result<()> {
        let told = progress::encode(filters);
        let row = (revision.0 as i32, stage.number(), partition.0 as i32, until.as_epoch(), told, write_time(until));
        let send = async |row| {
            let sent = self.session.execute_unpaged(&self.statements.raise_progress, &row).await;
            (row, sent.map(|_| ()))
        };
        deliver(&self.pace, "writing the progress", iter::once(row), send).await
    }

    async fn write_definition(&self, definition: &Definition) -> Result<()> {
        let version = definition.version;
        let json = serde_json::to_string(definition)
            .map_err(|error| StoreError::Broken(format!("definition {version} cannot be written as JSON: {error}")))?;
        let row = (PIPELINE, version as i32, json);
        let send = async |row| {
            let sent = self.session.execute_unpaged(&self.statements.insert_definition, &row).await;
            (row, sent.map(|_| ()))
        };
        deliver(&self.pace, "writing a definition", iter::once(row), send).await?;
        *self.partitions.lock() = Some(definition.partitions);
        Ok(())
    }

    async fn definitions(&self) -> Result<Vec<Definition>> {
        let what = "reading definitions";
        let answer = self.session.execute_unpaged(&self.statements.definitions, (PIPELINE,)).await;
        let rows = answer.map_err(|error| explain(what, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(what, &error))?;
        let rows = rows.rows::<(i32, &str)>().map_err(|error| garbled(what, &error))?;
        let mut definitions: Vec<Definition> = Vec::new();
        for row in rows {
            let (version, json) = row.map_err(|error| garbled(what, &error))?;
            let definition = serde_json::from_str(json)
                .map_err(|error| StoreError::Broken(format!("table definitions, version {version}: {error}")))?;
            definitions.push(definition);
        }
        if let Some(newest) = definitions.last() {
            *self.partitions.lock() = Some(newest.partitions);
        }
        Ok(definitions)
    }

    async fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
        let ((progress, filters), [counts_from, rankings_from]) = try_join!(self.told(revision), self.kept_from())?;
        let filters = filters.into_values().collect();
        let [counts, rankings] = progress;
        let progress = StoreProgress { counts, rankings, filters, counts_from, rankings_from };
        if revision == Revision::STREAM {
            *self.known.lock() = Some((Instant::now(), Arc::new(progress.clone())));
        }
        Ok(progress)
    }

    /// A progress of the stream, that says which totals are stored.
    async fn known(&self) -> Result<Arc<StoreProgress>> {
        let known = self.known.lock().clone();
        match known {
            Some((at, known)) if at.elapsed() < TOTALS_FRESH => Ok(known),
            _ => Ok(Arc::new(self.progress_of(Revision::STREAM).await?)),
        }
    }

    async fn told(&self, revision: Revision) -> Result<(Told, BTreeMap<FilterId, FilterSpan>)> {
        let what = "reading the progress";
        let answer = self.session.execute_unpaged(&self.statements.progress, (revision.0 as i32,)).await;
        let rows = answer.map_err(|error| explain(what, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(what, &error))?;
        let rows = rows.rows::<(i8, i32, i64, &[u8])>().map_err(|error| garbled(what, &error))?;
        let (mut told, mut filters) = (Told::default(), BTreeMap::new());
        for row in rows {
            let (stage, partition, until, said) = row.map_err(|error| garbled(what, &error))?;
            let (partition, until) = (Partition(partition as u32), Minute::from_epoch(until));
            let said = progress::decode(said)
                .map_err(|error| StoreError::Broken(format!("table progress, partition {partition}: {error}")))?;
            progress::join(&mut filters, &said);
            let [counts, rankings] = &mut told;
            if stage == Stage::Counts.number() { counts } else { rankings }.insert(partition, until);
        }
        Ok((told, filters))
    }

    async fn kept_from(&self) -> Result<[Option<Minute>; 2]> {
        let known = *self.kept_from.lock();
        if let Some((at, kept_from)) = known
            && at.elapsed() < RETENTION_FRESH
        {
            return Ok(kept_from);
        }
        let now = now().as_micros().div_euclid(1_000_000);
        let (counts, rankings) = try_join!(self.gone(Stage::Counts, now), self.gone(Stage::Rankings, now))?;
        let kept_from = [counts, rankings].map(|last| last.map(Minute::next));
        *self.kept_from.lock() = Some((Instant::now(), kept_from));
        Ok(kept_from)
    }

    /// The last minute of which something is gone.
    async fn gone(&self, stage: Stage, now: i64) -> Result<Option<Minute>> {
        let what = "reading what retention took";
        let answer = self.session.execute_unpaged(&self.statements.gone, (stage.number(), now)).await;
        let rows = answer.map_err(|error| explain(what, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(what, &error))?;
        let (last,) = rows.single_row::<(Option<i64>,)>().map_err(|error| garbled(what, &error))?;
        Ok(last.map(Minute::from_epoch))
    }
}

/// The first minute that is not told, by partition: of counts, of rankings.
type Told = [BTreeMap<Partition, Minute>; 2];

impl AggregateStore for CassandraStore {
    fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        self.handle.block_on(self.cluster.write_closed(write))
    }

    fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        self.handle.block_on(self.cluster.write_ranked(write))
    }

    fn write_verdict(&self, verdict: &crate::Verdict) -> Result<()> {
        self.handle.block_on(self.cluster.write_verdict(verdict))
    }

    fn last_verdict(&self) -> Result<Option<crate::Verdict>> {
        self.handle.block_on(self.cluster.last_verdict())
    }

    fn write_definition(&self, definition: &Definition) -> Result<()> {
        self.handle.block_on(self.cluster.write_definition(definition))
    }

    fn definitions(&self) -> Result<Vec<Definition>> {
        self.handle.block_on(self.cluster.definitions())
    }

    fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
        self.handle.block_on(self.cluster.progress_of(revision))
    }

    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        self.handle.block_on(self.cluster.revisions())
    }

    fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        self.handle.block_on(self.cluster.begin_revision(new))
    }

    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        self.handle.block_on(self.cluster.switch_revision(revision, switch))
    }

    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        self.handle.block_on(self.cluster.counts(view, ads, filter, range))
    }

    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        self.handle.block_on(self.cluster.series(view, ad, filter, range, step))
    }

    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        self.handle.block_on(self.cluster.each_count(view, kind, filter, range, visit))
    }

    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        self.handle.block_on(self.cluster.rankings(view, filter, which))
    }

    /// Never but for an empty range: the ads of a minute stand apart from each other, so that all of each day would have to be read.
    fn top(&self, _: &View, _: FilterId, range: MinuteRange, _: usize) -> Result<Option<TopAds>> {
        Ok((range.from >= range.to).then(Vec::new))
    }

    /// Deletes nothing: figures go by themselves, as [`Options::keep_counts`] and [`Options::keep_rankings`] said when they were written.
    fn expire(&self, _: Timestamp, _: Timestamp) -> Result<u64> {
        Ok(0)
    }
}
