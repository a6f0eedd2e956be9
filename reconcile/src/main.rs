//! The program `clickmill-reconcile`: command line, configuration, wiring.

mod cli;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use clickmill_config::{Files, Place, Reconcile, Retention, Store, StoreKind};
use clickmill_model::Minute;
use clickmill_reconcile::report::{Repair, Report, ReportFolder, Verdict};
use clickmill_reconcile::state::{Clickmill, Refused};
use clickmill_reconcile::{FileStore, ReconcileError, Request, audit};
use clickmill_store::{AggregateStore, CassandraStore, EmbeddedStore, Verdict as Told};
use object_store::local::LocalFileSystem;
use serde::{Deserialize, Serialize};

use cli::{Cli, now};

/// The sections of the configuration that matter here. `clickmill`, which is asked besides, refuses keys that nobody knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Config {
    data_dir: PathBuf,
    store: Store,
    files: Files,
    retention: Retention,
    reconcile: Reconcile,
}

/// Wrong usage or configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misused(String);

/// How often it looks whether the span is closed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("clickmill-reconcile: {error:#}");
            }
            let by_store = matches!(error.downcast_ref(), Some(ReconcileError::Refused { .. }));
            ExitCode::from(if error.is::<Misused>() || error.is::<Refused>() || by_store { 2 } else { 1 })
        }
    }
}

fn misused(error: &anyhow::Error) -> anyhow::Error {
    Misused(format!("{error:#}")).into()
}

fn load(cli: &Cli) -> anyhow::Result<Config> {
    let defaults = Config {
        data_dir: clickmill_config::DATA_DIR.into(),
        store: Store::default(),
        files: Files::default(),
        retention: Retention::default(),
        reconcile: Reconcile::default(),
    };
    let mut config = clickmill_config::load(&defaults, cli.config.as_deref())?;
    if let Some(password) = clickmill_config::password_of_environment() {
        config.store.password = Some(password);
    }
    if let Some(secret) = clickmill_config::secret_access_key_of_environment() {
        config.files.s3.secret_access_key = Some(secret);
    }
    if let Some(dir) = &cli.data_dir {
        config.data_dir.clone_from(dir);
    }
    config.store.check()?;
    config.files.check()?;
    config.reconcile.check()?;
    Ok(config)
}

fn open_store(config: &Config) -> anyhow::Result<Arc<dyn AggregateStore>> {
    match config.store.kind {
        StoreKind::Embedded => {
            let dir = config.data_dir.join("store");
            let store = EmbeddedStore::open_read_only(&dir, clickmill_store::embedded::Options::default());
            Ok(Arc::new(store.with_context(|| format!("opening the store in {}", dir.display()))?))
        }
        StoreKind::Cassandra => {
            let options = config.store.cassandra(&config.retention)?;
            let store = CassandraStore::open(&options);
            Ok(Arc::new(store.map_err(|error| {
                if error.is_lasting() { misused(&error.into()) } else { anyhow::Error::from(error) }
            })?))
        }
    }
}

fn open_files(config: &Config) -> anyhow::Result<FileStore> {
    match config.files.place(&config.data_dir).map_err(|error| misused(&error))? {
        Place::Folder(folder) => {
            let what = || format!("opening the files in {}", folder.display());
            let root = folder.canonicalize().with_context(what)?;
            let store = Arc::new(LocalFileSystem::new_with_prefix(&root).with_context(what)?);
            Ok(FileStore { store, root: root.display().to_string() })
        }
        Place::Store { store, root } => Ok(FileStore { store, root }),
    }
}

/// Reconciles, reports, and returns the exit status.
fn run(cli: &Cli) -> anyhow::Result<u8> {
    let span = cli.span().map_err(Misused)?;
    let config = load(cli).map_err(|error| misused(&error))?;
    let clickmill = Clickmill::find(cli.common())?;
    let folder = cli.report.as_deref().map(ReportFolder::open).transpose()?;
    let store = open_store(&config)?;
    until_closed(&*store, span, cli.wait)?;
    let auditor = Auditor { cli, config: &config, clickmill, files: open_files(&config)? };
    let mut report = auditor.reconcile(&*store, span)?;
    if cli.repair && report.verdict == Verdict::Differs {
        report = auditor.repair(&*store, report)?;
    }
    let page = folder.map(|folder| folder.add(&report)).transpose()?;
    tell(cli, &report, page.as_deref())?;
    // Last, so that a verdict that is told has its report.
    write_verdict(&config, &told(&report, page))?;
    Ok(match report.verdict {
        Verdict::Differs => 3,
        Verdict::Agrees | Verdict::WithinThreshold if !report.files.skipped.is_empty() => 4,
        Verdict::Agrees | Verdict::WithinThreshold => 0,
    })
}

/// The verdict, as the API tells it.
fn told(report: &Report, page: Option<PathBuf>) -> Told {
    let page = page.map(|page| page.canonicalize().unwrap_or(page));
    Told {
        agrees: report.verdict == Verdict::Agrees,
        exceeds: report.verdict == Verdict::Differs,
        from: report.from,
        to: report.to,
        made_at: now(),
        differing: report.differing(),
        raw_clicks: report.raw_clicks,
        lacks: report.clicks.lacks,
        surplus: report.clicks.surplus,
        report: page.map(|page| page.display().to_string()),
    }
}

/// Notes the verdict in the store, which was opened for reading only until now.
fn write_verdict(config: &Config, told: &Told) -> anyhow::Result<()> {
    let written = match config.store.kind {
        StoreKind::Embedded => {
            let options = clickmill_store::embedded::Options::default();
            EmbeddedStore::open(&config.data_dir.join("store"), options).and_then(|store| store.write_verdict(told))
        }
        StoreKind::Cassandra => open_store(config)?.write_verdict(told),
    };
    written.context("noting the verdict in the store")
}

/// Refuses a span of which minutes are open, or of which figures may be gone.
fn until_closed(store: &dyn AggregateStore, (from, to): (Minute, Minute), wait: bool) -> anyhow::Result<()> {
    loop {
        let Some(newest) = store.definitions()?.into_iter().max_by_key(|definition| definition.version) else {
            bail!("the pipeline has no definition yet: it has not counted anything");
        };
        let progress = store.progress().context("reading how far the store is complete")?;
        let until = progress.complete_until(newest.partitions);
        if let Some(gone) = progress.counts_from.max(progress.rankings_from).filter(|gone| *gone > from) {
            bail!("figures before {gone} may have been deleted, being past their retention: reconcile from there on");
        }
        if until.is_some_and(|until| until >= to) {
            return Ok(());
        }
        if !wait {
            let open = until.map_or_else(
                || "no minute is closed yet".to_owned(),
                |until| format!("the minutes from {until} on are still open"),
            );
            bail!("{open}; give --wait to wait for {to}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

struct Auditor<'a> {
    cli: &'a Cli,
    config: &'a Config,
    clickmill: Clickmill,
    files: FileStore,
}

impl Auditor<'_> {
    fn reconcile(&self, store: &dyn AggregateStore, (from, to): (Minute, Minute)) -> anyhow::Result<Report> {
        let request = Request {
            written: self.clickmill.written(self.cli.wait)?,
            skip_damaged: self.cli.skip_damaged,
            lines: self.cli.lines,
            ..Request::new(from, to)
        };
        let found = audit(store, &self.files, &request)?;
        Ok(Report::new(found, self.cli.threshold, &self.config.reconcile, now()))
    }

    /// Recalculates the spans that differ, and reconciles the whole again.
    fn repair(&self, store: &dyn AggregateStore, before: Report) -> anyhow::Result<Report> {
        let spans = before.differing_spans.clone();
        for (from, to) in &spans {
            // What reaches behind the span that was reconciled is of windows that began there.
            self.clickmill.recalculate(*from, *to, self.cli.skip_damaged).context("repairing")?;
        }
        let mut after = self.reconcile(store, (before.from, before.to))?;
        after.repair = Some(Repair { spans, verdict_before: before.verdict, before: before.by_kind });
        Ok(after)
    }
}

#[allow(clippy::print_stdout)]
fn tell(cli: &Cli, report: &Report, page: Option<&Path>) -> anyhow::Result<()> {
    if cli.json {
        println!("{}", serde_json::to_string_pretty(report).context("writing the report to stdout")?);
        return Ok(());
    }
    println!("{}", report.sentence());
    if let Some(money) = &report.money {
        println!(
            "at {} {} a click: {:.2} not billed, {:.2} billed too much",
            money.price_per_click, money.currency, money.not_billed, money.billed_too_much
        );
    }
    for skipped in &report.files.skipped {
        println!("left out: {}: {}", skipped.path, skipped.why);
    }
    for note in &report.notes {
        println!("note: {note}");
    }
    if let Some(page) = page {
        println!("report: {}", page.display());
    }
    Ok(())
}
