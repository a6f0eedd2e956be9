//! One reconciliation: the raw lines of a span are counted anew, and the store is held against that.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use clickmill_model::records::LATE_CLICKS;
use clickmill_model::{Definition, Filter, FilterId, Minute, RawPartition, Span, SpanKind};
use clickmill_store::{AggregateStore, View};

use crate::ads::Ads;
use crate::clicks::{CLICKS, ads as ads_of, numbers};
use crate::compare::{CountDifference, Differing, Findings, Kind, Published, Stored, compare, name_of};
use crate::count::{Books, Counter, Rules};
use crate::engine::{Engine, join};
use crate::error::{Held, ReconcileError, Result};
use crate::files::{Catalog, FileStore, Skipped, Written, list, skip};
use crate::filters::column_of;
use crate::imports::{Imports, imports};
use crate::lines::{LineBehind, lines_behind};
use crate::rank::{Expected, Found, Ranker};
use crate::scratch::{ScratchFile, truth_schema};
use crate::slices::{hours, pieces};
use crate::time::{end_of, first_of, hour_of, start_of};

/// How many rows are held at once, about, unless asked otherwise.
const SLICE_ROWS: u64 = 1 << 20;

/// What is to be reconciled.
#[derive(Debug, Clone)]
pub struct Request {
    /// The minutes `[from, to)`. All of them are closed.
    pub span: (Minute, Minute),
    /// How far raw lines are written: what comes later is left out. Empty: all that is there is read.
    pub written: BTreeMap<RawPartition, Written>,
    /// Go on without files that cannot be read.
    pub skip_damaged: bool,
    /// How many lines behind each differing count are wanted.
    pub lines: usize,
    /// Where what does not fit into memory is kept meanwhile.
    pub scratch: PathBuf,
    /// How many rows are held at once, about.
    pub slice_rows: u64,
}

impl Request {
    /// These minutes, read as they are.
    pub fn new(from: Minute, to: Minute) -> Self {
        Self {
            span: (from, to),
            written: BTreeMap::new(),
            skip_damaged: false,
            lines: 0,
            scratch: std::env::temp_dir(),
            slice_rows: SLICE_ROWS,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The minutes `[from, to)`.
    pub span: (Minute, Minute),
    /// By which definition.
    pub definition: Definition,
    /// The filters whose figures were compared, with their names.
    pub filters: BTreeMap<FilterId, String>,
    /// What differs.
    pub findings: Findings,
    /// What was read.
    pub books: Books,
    /// How many raw files were read, and how many passed over because others hold their lines.
    pub files: (u64, u64),
    /// What was left out, as asked.
    pub skipped: Vec<Skipped>,
    /// Lines behind differing counts, as asked.
    pub lines: Vec<LineBehind>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// How often it begins anew where files were merged meanwhile.
const MOST_BEGINNINGS: usize = 10;

/// Counts the raw lines of a span and compares the store with that. Where a file is gone that it wants, it begins anew, and demands that another one holds its lines.
pub fn audit(store: &dyn AggregateStore, files: &FileStore, request: &Request) -> Result<Audit> {
    let mut gone: Vec<(String, Box<Held>)> = Vec::new();
    loop {
        match audit_once(store, files, request, &gone) {
            Err(ReconcileError::Gone { path, held: Some(held) }) if gone.len() < MOST_BEGINNINGS => {
                gone.push((path, held));
            }
            end => return end,
        }
    }
}

fn audit_once(
    store: &dyn AggregateStore,
    files: &FileStore,
    request: &Request,
    gone: &[(String, Box<Held>)],
) -> Result<Audit> {
    let engine = Engine::new(files, &request.scratch)?;
    let definitions = store.definitions()?;
    let newest = definitions.iter().max_by_key(|definition| definition.version).cloned().unwrap_or_default();
    // How far and of whom first, figures after.
    let (progress, view) = (store.progress()?, View::of_rows(&store.revisions()?));
    let expected = Expected::by(&definitions, &newest);
    let widest = definitions.iter().map(|definition| definition.time.max_clock_skew).max().unwrap_or_default();
    // No click is of a later minute than its arrival and what a clock may be ahead.
    let since = first_of(expected.longest(), request.span.0).start().before(widest);
    // Before the files: those of an import that is done by now are there. None brings late lines.
    let imports = engine.block_on(imports(files))?;
    let mut raw = engine.block_on(list(files, "raw", imports, since, request.skip_damaged))?;
    let mut late = engine.block_on(list(files, "late", Imports::default(), since, request.skip_damaged))?;
    for (path, held) in gone {
        let catalog = if *held.raw.topic == *LATE_CLICKS { &mut late } else { &mut raw };
        catalog.must_hold(path, held, request.skip_damaged)?;
    }
    // What a file of late lines is read from is its own offset, while its columns have those of the raw lines.
    late.files.iter_mut().for_each(|file| file.take = 0..u64::MAX);
    raw.skipped.append(&mut late.skipped);
    let mut notes = notes_on(&definitions, &newest);
    let start = begin(&mut raw, request, &expected, newest.time.max_clock_skew, &mut notes)?;
    let (from, to) = request.span;
    let published = Published::of(&progress.filters, &view, (start, to));
    let filters = filters_of(&definitions, &published)?;
    let rules = Rules {
        filters: filters.clone(),
        dedup: newest.dedup,
        skew_of_counted: micros(widest),
        skew_of_refused: micros(newest.time.max_clock_skew),
        slice_rows: request.slice_rows,
    };
    let ids: Vec<FilterId> = filters.iter().map(|filter| filter.id).collect();
    let ads = Arc::new(Ads::default());
    let covered = raw.covered;
    let counter = Counter::new(&engine, files, &ads, raw, rules, (start, to), request.skip_damaged)?;
    let ranker = Ranker::new(&engine, (store, &view), &ads, expected, published.clone(), ids.clone(), (start, from));
    let mut run = Run {
        engine: &engine,
        request,
        ads,
        published,
        store,
        view: &view,
        ids,
        late,
        counter,
        findings: Findings::default(),
        lines: Vec::new(),
    };
    run.all(ranker, start)?;
    let Run { counter, findings, lines, .. } = run;
    let (raw_clicks, stored_clicks) = findings.clicks.get(&FilterId::ALL).copied().unwrap_or_default();
    if raw_clicks == 0 && stored_clicks > 0 && counter.files_of(from, to) == 0 {
        return Err(ReconcileError::NoRawData(from, to));
    }
    Ok(Audit {
        span: request.span,
        definition: newest,
        filters: filters.into_iter().map(|filter| (filter.id, filter.name)).collect(),
        findings,
        files: (counter.files() as u64, covered),
        skipped: counter.skipped.clone(),
        books: counter.books,
        lines,
        notes,
    })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What is recorded nowhere, and so may be told as a difference.
fn notes_on(definitions: &[Definition], newest: &Definition) -> Vec<String> {
    let mut notes = Vec::new();
    if definitions.iter().any(|definition| definition.dedup != newest.dedup) {
        notes.push(
            "Removal of duplicates was switched on or off in the pipeline's life. All minutes are counted as it is now, since it is not recorded which ones followed the other rule.".to_owned(),
        );
    }
    if definitions.iter().any(|definition| definition.windows != newest.windows || definition.n != newest.n) {
        notes.push(
            "Windows or top.n changed in the pipeline's life: a ranking of a window that was not always configured may be missing, and may be as deep as any of the definitions says.".to_owned(),
        );
    }
    notes
}

/// Looks whether all files are there, and returns where the count begins: the longest window before the span, so that every ranking in it is proved; at the span itself where raw lines
/// before it are gone.
fn begin(
    raw: &mut Catalog,
    request: &Request,
    expected: &Expected,
    skew: Duration,
    notes: &mut Vec<String>,
) -> Result<Minute> {
    let (from, to) = request.span;
    for missing in raw.missing(&request.written, (from, to), skew) {
        skip(&mut raw.skipped, missing, request.skip_damaged)?;
    }
    raw.pin(&request.written);
    let earliest = first_of(expected.longest(), from);
    if earliest < from
        && raw.missing(&request.written, (earliest, to), skew).len()
            > raw.missing(&request.written, (from, to), skew).len()
    {
        notes.push(format!("Raw lines before {from} are gone: rankings whose window begins before are not compared."));
        return Ok(from);
    }
    Ok(earliest)
}

/// The filters that were published somewhere in the span.
fn filters_of(definitions: &[Definition], published: &Published) -> Result<Vec<Filter>> {
    let known = |id: &FilterId| definitions.iter().find_map(|definition| definition.filter(*id)).cloned();
    published.filters().map(|id| known(&id).ok_or(ReconcileError::UnknownFilter(id))).collect()
}

/// A reconciliation under way.
struct Run<'a> {
    engine: &'a Engine,
    request: &'a Request,
    ads: Arc<Ads>,
    published: Published,
    store: &'a dyn AggregateStore,
    view: &'a View,
    ids: Vec<FilterId>,
    late: Catalog,
    counter: Counter<'a>,
    findings: Findings,
    lines: Vec<LineBehind>,
}

impl Run<'_> {
    /// Counts and compares hour by hour, the store's figures being copied by the day. The rankings of an hour are made while the next one is counted.
    fn all(&mut self, ranker: Ranker<'_>, start: Minute) -> Result<()> {
        let to = self.request.span.1;
        let last = std::thread::scope(|scope| {
            let mut ranking = scope.spawn(move || Ok((ranker, Found::default())));
            for day in pieces(SpanKind::Day, start, to) {
                let stored = Stored::copy((self.store, self.view), self.engine, &self.ads, &self.ids, day)?;
                for hour in hours(day.0, day.1) {
                    self.hour(hour, &stored)?;
                    let (mut ranker, found) = join(ranking)?;
                    self.findings.rankings(found);
                    ranking = scope.spawn(move || ranker.advance(hour).map(|found| (ranker, found)));
                }
                self.totals(SpanKind::Day, day, &stored)?;
            }
            let (ranker, found) = join(ranking)?;
            self.findings.rankings(found);
            ranker.finish()
        })?;
        self.findings.rankings(last);
        Ok(())
    }

    /// Counts an hour, and compares its counts.
    fn hour(&mut self, (hour, end): (Minute, Minute), stored: &Stored) -> Result<()> {
        let from = self.request.span.0;
        let mut truth = ScratchFile::create(&Ranker::path(self.engine, hour), &truth_schema(&self.ids))?;
        for slice in self.counter.density.slices(hour, end, self.counter.rules().slice_rows) {
            // A slice that begins before the span is cut there.
            let cut = [(slice.0, slice.1.min(from)), (slice.0.max(from), slice.1)];
            for slice in cut.into_iter().filter(|(first, end)| first < end) {
                self.slice(slice, &mut truth, stored)?;
            }
        }
        truth.finish()?;
        self.totals(SpanKind::Hour, (hour, end), stored)
    }

    /// Counts a slice, and compares it.
    fn slice(&mut self, (first, end): (Minute, Minute), truth: &mut ScratchFile, stored: &Stored) -> Result<()> {
        let counted = self.counter.count(first, end)?;
        let counted = self.renamed(counted)?;
        for batch in &counted {
            truth.write(batch)?;
        }
        self.engine.set_rows("truth", &truth_schema(&self.ids), counted)?;
        let is_lead_in = first < self.request.span.0;
        let mut late = None;
        for (place, filter) in self.ids.clone().into_iter().enumerate() {
            let mut differing: Vec<Differing> = Vec::new();
            for within in self.published.within(filter, first, end) {
                let outcome = compare(self.engine, stored, SpanKind::Minute, filter, within)?;
                differing.extend(outcome.differing);
                if !is_lead_in {
                    self.findings.compared.counts += outcome.compared;
                    let clicks = self.findings.clicks.entry(filter).or_default();
                    *clicks = (clicks.0 + outcome.raw, clicks.1 + outcome.stored);
                }
            }
            if is_lead_in {
                // Not of the span, but of a window that ends in it: a ranking that differs follows from this.
                self.findings.minutes.extend(differing.into_iter().map(|found| (filter, found.start)));
                continue;
            }
            if differing.is_empty() {
                continue;
            }
            if late.is_none() {
                late = Some(self.late_clicks(first, end)?);
            }
            for (ad_id, Differing { start, ad, raw, stored }) in self.in_order(differing) {
                let of_ad = late.as_ref().and_then(|late| late.get(&(start, ad))?.get(place));
                let lacks = raw.saturating_sub(stored);
                let late_ones = of_ad.copied().unwrap_or_default().min(lacks);
                let kind = match lacks {
                    0 => Kind::Surplus,
                    _ if late_ones == lacks => Kind::Late,
                    _ => Kind::Missing,
                };
                let span = name_of(SpanKind::Minute);
                let difference = CountDifference { kind, span, start, filter, ad_id, raw, stored, late: late_ones };
                self.lines_behind(&difference, ad)?;
                self.findings.count(difference);
            }
        }
        Ok(())
    }

    /// Differing counts by time and name, each with its name.
    fn in_order(&self, differing: Vec<Differing>) -> Vec<(String, Differing)> {
        let ads = self.ads.read();
        let mut named: Vec<(String, Differing)> =
            differing.into_iter().map(|found| (ads.name(found.ad).to_owned(), found)).collect();
        named.sort_unstable_by(|(a, x), (b, y)| (x.start, a).cmp(&(y.start, b)));
        named
    }

    /// The same rows by the names and kinds that they have on disk.
    fn renamed(&self, counted: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let schema = truth_schema(&self.ids);
        let rename = |batch: RecordBatch| Ok(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?);
        counted.into_iter().map(rename).collect()
    }

    /// Compares the totals of the hours or days in `[first, end)`, where it is a whole one of the span.
    fn totals(&mut self, kind: SpanKind, (first, end): (Minute, Minute), stored: &Stored) -> Result<()> {
        if first < self.request.span.0 || start_of(kind, first) != first || end_of(kind, first) != end {
            return Ok(());
        }
        self.add_up(kind, first, end)?;
        for filter in self.ids.clone() {
            let is_told = self.view.has_total(filter, Span { kind, start: first });
            if !is_told || !self.published.whole(filter, first, end.previous()) {
                continue;
            }
            let outcome = compare(self.engine, stored, kind, filter, (first, end))?;
            self.findings.compared.totals += outcome.compared;
            for (ad_id, Differing { start, raw, stored, .. }) in self.in_order(outcome.differing) {
                let (kind, span) = (Kind::Total, name_of(kind));
                let difference = CountDifference { kind, span, start, filter, ad_id, raw, stored, late: 0 };
                self.findings.count(difference);
            }
        }
        Ok(())
    }

    /// Makes the totals of an hour, from its minutes, or of a day, from its hours, the table `truth`.
    fn add_up(&self, kind: SpanKind, first: Minute, end: Minute) -> Result<()> {
        let schema = truth_schema(&self.ids);
        let of_hour = |hour: Minute| self.engine.scratch().join(format!("truth-of-hour-{}.parquet", hour_of(hour)));
        let paths: Vec<PathBuf> = match kind {
            SpanKind::Day => hours(first, end).map(|(hour, _)| of_hour(hour)).collect(),
            _ => vec![Ranker::path(self.engine, first)],
        };
        self.engine.set_scratch("parts", &schema, &paths)?;
        let sum = |filter: &FilterId| format!("sum({0}) AS {0}", column_of(*filter));
        let sums = self.ids.iter().map(sum).collect::<Vec<_>>().join(", ");
        let added = self.engine.rows(&format!(
            "SELECT CAST({} AS BIGINT) AS minute, ad, {sums} FROM parts GROUP BY ad",
            first.as_epoch()
        ))?;
        let added = self.renamed(added)?;
        if kind == SpanKind::Hour {
            let mut file = ScratchFile::create(&of_hour(first), &schema)?;
            added.iter().try_for_each(|batch| file.write(batch))?;
            file.finish()?;
        }
        self.engine.set_rows("truth", &schema, added)
    }

    /// The clicks of these minutes whose first line was set aside as late, by minute and ad under each filter.
    fn late_clicks(&mut self, first: Minute, end: Minute) -> Result<HashMap<(Minute, u32), Vec<u64>>> {
        let late = self.counter.read_late(&self.late, first, end)?;
        self.engine.set_rows("late", &CLICKS, late)?;
        let mut all = HashMap::new();
        for batch in self.engine.rows(&self.counter.late_sql())? {
            let [minutes, ads, counts @ ..] = batch.columns() else { continue };
            let counts = counts.iter().map(numbers).collect::<Result<Vec<_>>>()?;
            for (row, (minute, ad)) in numbers(minutes)?.values().iter().zip(ads_of(ads)?.values()).enumerate() {
                let counts = counts.iter().map(|counts| counts.value(row).unsigned_abs()).collect();
                all.insert((Minute::from_epoch(*minute), *ad), counts);
            }
        }
        Ok(all)
    }

    fn lines_behind(&mut self, difference: &CountDifference, ad: u32) -> Result<()> {
        if self.request.lines > 0 && self.lines.len() < LineBehind::MOST {
            let filter = self.counter.rules().filters.iter().find(|filter| filter.id == difference.filter);
            let found = lines_behind(self.engine, &self.counter, filter, (difference, ad), self.request.lines)?;
            self.lines.extend(found);
        }
        Ok(())
    }
}
