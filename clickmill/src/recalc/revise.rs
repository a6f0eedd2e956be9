//! A recalculation, written beside the stream's figures and switched at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clickmill_model::Revision;
use clickmill_model::records::CLICK_RESULTS;
use clickmill_queue::QueueError;
use clickmill_queue::topology::DB_WRITER;
use clickmill_recalc::{Changes, Comparison, Plan, Prepared, RecalcError, Summary, Told};
use clickmill_store::{AggregateStore, Began, RevisionRow, RevisionState, StoreError, StoreProgress, Switch, View};

use super::dry_run::warn_of_deleted;
use super::plan::to_begin;
use super::revisions::in_the_way;
use super::show::{Bar, end, json_of_revised, text_of_left_out, text_of_revised};
use super::tell::Teller;
use crate::pipeline::{Parts, Running};

/// How often it looks how far the results are stored.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When it looks again where the store was away.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// When nobody has written results for so long, a writer of this process does. Handing over partitions takes less.
const WRITE_AFTER: Duration = Duration::from_secs(3);

/// How often a change of state is tried again that failed by a passing fault, each time [`LOOK_EVERY`] later.
const TRIES: u32 = 100;

/// What is to be done, and how.
pub(super) struct Run<'a> {
    pub(super) parts: &'a Parts,
    pub(super) plan: &'a Plan,
    pub(super) json: bool,
    pub(super) rate: Option<u64>,
    pub(super) stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Begins a revision, and leads it to its end.
    pub(super) fn begin(&self) -> anyhow::Result<()> {
        let (store, files) = (self.parts.store()?, self.parts.files()?);
        // Lines that are not there are a reason not to begin.
        let prepared = Prepared::new(&files, self.plan)?;
        let recalculation = to_begin(self.plan, who(), self.parts.clock.now());
        let revision = match store.begin_revision(&recalculation).context("beginning a revision")? {
            Began::Begun(revision) => revision,
            Began::Overlaps(row) => return Err(in_the_way(&row)),
        };
        tracing::info!(%revision, from = %self.plan.minutes.start, to = %self.plan.minutes.end, "begins");
        self.finish(&store, revision, prepared)
    }

    /// Goes on with a revision that is pending.
    pub(super) fn go_on(&self, row: &RevisionRow) -> anyhow::Result<()> {
        let (store, files) = (self.parts.store()?, self.parts.files()?);
        let prepared = match Prepared::new(&files, self.plan) {
            Ok(prepared) => prepared,
            Err(error) => return Err(left(&*store, row.revision, error.into())),
        };
        tracing::info!(revision = %row.revision, from = %self.plan.minutes.start, to = %self.plan.minutes.end, "goes on");
        self.finish(&store, row.revision, prepared)
    }

    #[allow(clippy::print_stdout)]
    fn finish(
        &self,
        store: &Arc<dyn AggregateStore>,
        revision: Revision,
        prepared: Prepared<'_>,
    ) -> anyhow::Result<()> {
        let (summary, changes) =
            self.tell_all(store, revision, prepared).map_err(|error| left(&**store, revision, error))?;
        let line = if self.json {
            json_of_revised(revision, self.plan, &summary, &changes).to_string()
        } else {
            text_of_revised(revision, self.plan, &summary, &changes)
        };
        if !self.json {
            text_of_left_out(&summary).for_each(|line| println!("{line}"));
        }
        println!("{line}");
        end(&summary)
    }

    fn tell_all(
        &self,
        store: &Arc<dyn AggregateStore>,
        revision: Revision,
        prepared: Prepared<'_>,
    ) -> anyhow::Result<(Summary, Changes)> {
        // No other one that holds these minutes becomes active from now on: each would have to be pending.
        let view = View::of_rows(&store.revisions().context("reading the revisions")?);
        let progress = store.progress().context("reading how far the store is complete")?;
        warn_of_deleted(&progress, self.plan);
        let stored = store.progress_of(revision).context("reading how far the revision is stored")?;
        let (holds, partitions) = (self.plan.holds(), self.plan.newest().partitions);
        let mut teller = Teller::new(&*self.parts.queue, revision, &holds, partitions, &stored)?;
        let mut comparison = Comparison::new(&**store, &progress, &view, self.plan);
        let mut writer = Writer::new(self.parts);
        let mut bar = Bar::new(self.rate)?;
        let told = prepared.run::<Failed>(
            self.stop,
            &mut |progress| bar.show(progress, self.stop),
            &mut |told: Told| {
                let waited = &mut || {
                    self.check_stop()?;
                    writer.look()
                };
                teller.take_in(&told, waited)?;
                comparison.take_in(told, &mut |_| ())?;
                match comparison.without_raw().first() {
                    None => Ok(()),
                    Some(minute) => Err(Failed::Raw(anyhow::anyhow!(
                        "the store has clicks in the minute {minute}, of which no raw line is there: its lines are gone, and missing lines must not become a bill of nothing"
                    ))),
                }
            },
        );
        bar.finish();
        let summary = told?;
        let changes = comparison.finish();
        self.until_stored(&**store, revision, partitions, &mut writer)?;
        activate(&**store, revision, Switch::Activate(changes.changed()))?;
        writer.stop()?;
        Ok((summary, changes))
    }

    fn check_stop(&self) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("it was stopped");
        }
        Ok(())
    }

    /// Waits until everything that was told is in the store.
    fn until_stored(
        &self,
        store: &dyn AggregateStore,
        revision: Revision,
        partitions: u32,
        writer: &mut Writer<'_>,
    ) -> anyhow::Result<()> {
        let end = self.plan.minutes.end;
        let is_stored = |progress: &StoreProgress| {
            let until = progress.complete_until(partitions);
            until.is_some_and(|until| until >= end)
        };
        loop {
            match store.progress_of(revision) {
                Ok(progress) if is_stored(&progress) => return Ok(()),
                Ok(_) => std::thread::sleep(LOOK_EVERY),
                Err(error @ StoreError::Unavailable { .. }) => {
                    tracing::warn!(%error, "waits for the store");
                    std::thread::sleep(AGAIN_AFTER);
                }
                Err(error) => return Err(error).context("reading how far the revision is stored"),
            }
            self.check_stop()?;
            writer.look()?;
        }
    }
}

/// Why the figures were not told to their end.
enum Failed {
    /// The raw lines are not what they must be.
    Raw(anyhow::Error),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<RecalcError> for Failed {
    fn from(error: RecalcError) -> Self {
        Self::Other(error.into())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<Failed> for anyhow::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Raw(error) => error.context(LinesAreGone),
            Failed::Other(error) => error,
        }
    }
}

/// Marks an error that another try would meet again.
#[derive(Debug)]
struct LinesAreGone;

impl std::fmt::Display for LinesAreGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raw lines are missing")
    }
}

/// What becomes of a revision that was not led to its end: undone where its lines are gone, since another try would come to the same; else it stays pending, and the error says how to go on.
fn left(store: &dyn AggregateStore, revision: Revision, error: anyhow::Error) -> anyhow::Error {
    let lines_are_gone = error.is::<LinesAreGone>()
        || matches!(
            error.downcast_ref::<RecalcError>(),
            Some(RecalcError::Missing { .. } | RecalcError::NoRawData { .. })
        );
    if lines_are_gone {
        return match switch(store, revision, Switch::Undo) {
            Ok(_) => error.context(format!("revision {revision} is dropped")),
            Err(other) => error.context(format!("revision {revision} could not be dropped ({other:#})")),
        };
    }
    let state = store.revisions().ok().and_then(|rows| rows.into_iter().find(|row| row.revision == revision));
    match state.map(|row| row.state) {
        Some(RevisionState::Undone) => error.context(format!("revision {revision} was undone meanwhile")),
        Some(RevisionState::Active) => error.context(format!("revision {revision} is active")),
        Some(RevisionState::Pending) | None => error.context(format!(
            "revision {revision} stays pending: go on with it (`clickmill recalc --resume {revision}`), or drop it (`clickmill recalc undo {revision}`)"
        )),
    }
}

fn activate(store: &dyn AggregateStore, revision: Revision, to_active: Switch) -> anyhow::Result<()> {
    match switch(store, revision, to_active).context("making the revision active")? {
        Some(RevisionState::Pending | RevisionState::Active) => Ok(()),
        Some(RevisionState::Undone) => bail!("it cannot be made active any more"),
        None => bail!("its row is gone"),
    }
}

/// [`AggregateStore::switch_revision`], tried again where the store was away.
fn switch(store: &dyn AggregateStore, revision: Revision, switch: Switch) -> Result<Option<RevisionState>, StoreError> {
    let mut tries = 0;
    loop {
        match store.switch_revision(revision, switch) {
            Err(error @ StoreError::Unavailable { .. }) if tries < TRIES => {
                tracing::warn!(%error, "tries again");
                tries += 1;
                std::thread::sleep(LOOK_EVERY);
            }
            result => return result,
        }
    }
}

/// Writes results to the store in this process, where nobody else does.
struct Writer<'a> {
    parts: &'a Parts,
    running: Option<Running>,
    /// What the writers had committed, all partitions together, and when that changed last.
    moved: Option<(u64, Instant)>,
}

impl<'a> Writer<'a> {
    fn new(parts: &'a Parts) -> Self {
        Self { parts, running: None, moved: None }
    }

    /// Looks whether results are being written, and begins to where they have not been for a while.
    fn look(&mut self) -> anyhow::Result<()> {
        if self.running.as_ref().is_some_and(Running::has_ended) {
            return self.running.take().map_or(Ok(()), Running::stop);
        }
        let committed = match self.parts.queue.committed(DB_WRITER, CLICK_RESULTS) {
            Ok(committed) => committed,
            // Who sends says so.
            Err(QueueError::Unavailable { .. }) => return Ok(()),
            Err(error) => return Err(error).context("reading how far results are written"),
        };
        let sum = committed.iter().map(|(_, committed)| committed.offset.0).sum();
        match self.moved {
            Some((before, since)) if before == sum => {
                if self.running.is_none() && since.elapsed() >= WRITE_AFTER {
                    tracing::info!("nobody writes results to the store: this process does");
                    self.parts.check_history(true)?;
                    let mut running = Running::new(self.parts);
                    running.results_writer()?;
                    self.running = Some(running);
                }
            }
            _ => self.moved = Some((sum, Instant::now())),
        }
        Ok(())
    }

    fn stop(self) -> anyhow::Result<()> {
        self.running.map_or(Ok(()), Running::stop)
    }
}

/// Who asks for it: user and host.
fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", crate::config::host_name())
}
