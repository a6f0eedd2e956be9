//! The independent count: clicks without their duplicates, by ad, minute and filter, in SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use clickmill_model::{Filter, Minute, RawPartition};
use hashbrown::DefaultHashBuilder;
use serde::Serialize;

use crate::ads::Ads;
use crate::clicks::{CLICKS, Disagreements, Judge, Judged, RAW_COLUMNS, Which, ads as ads_of, numbers};
use crate::engine::Engine;
use crate::error::{ReconcileError, Result};
use crate::files::{Catalog, FileStore, RawFile, Skipped, skip};
use crate::filters::{column_of, condition};
use crate::slices::Density;
use crate::time::minute_of;

/// Offsets from here on are those of imported lines, as `docs/raw-files.md` says.
pub(crate) const FIRST_IMPORTED: i64 = 1 << 62;

/// How many strays are held at most.
const MOST_STRAYS: usize = 4 << 20;

/// Lines of the span that are looked for in files that arrived this long after it, though their columns tell another time: what a parser moves by more is missed.
const MOVED_BY_MINUTES: i64 = 1440;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// Lines looked at; some twice.
    pub lines: u64,
    /// Lines that are clicks of the span.
    pub clicks: u64,
    /// Of these, what is left without duplicates.
    pub counted: u64,
    /// Clicks that were told again within their raw partition.
    pub duplicates: u64,
    /// Clicks that were told in several raw partitions: counted in each, since duplicates are removed within one.
    pub across_partitions: u64,
    /// Some of these.
    pub across_examples: Vec<String>,
    /// Where the stream's parser and this one disagree.
    pub disagreements: Disagreements,
}

/// How many examples of clicks in several partitions are kept.
const MOST_EXAMPLES: usize = 20;

/// How it is counted.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) filters: Vec<Filter>,
    /// Whether a click told twice counts once.
    pub(crate) dedup: bool,
    pub(crate) skew_of_counted: i64,
    pub(crate) skew_of_refused: i64,
    /// How many rows a slice has at most, about.
    pub(crate) slice_rows: u64,
}

/// Counts slices of a span.
pub(crate) struct Counter<'a> {
    engine: &'a Engine,
    files: &'a FileStore,
    rules: Rules,
    catalog: Catalog,
    judge: Arc<Judge>,
    /// Where lines are that tell another minute than their columns.
    strays: Vec<RecordBatch>,
    pub(crate) density: Density,
    pub(crate) books: Books,
    pub(crate) skipped: Vec<Skipped>,
    skip_damaged: bool,
    names: Vec<RawPartition>,
}

impl<'a> Counter<'a> {
    /// Looks through the files for what belongs to `[from, to)`.
    pub(crate) fn new(
        engine: &'a Engine,
        files: &'a FileStore,
        ads: &Arc<Ads>,
        catalog: Catalog,
        rules: Rules,
        (from, to): (Minute, Minute),
        skip_damaged: bool,
    ) -> Result<Self> {
        let mut names: Vec<RawPartition> = catalog.files.iter().map(|file| file.raw.clone()).collect();
        names.dedup();
        let partitions: BTreeMap<RawPartition, i32> = names.iter().cloned().zip(0..).collect();
        let Rules { skew_of_counted, skew_of_refused, .. } = rules;
        let (ads, prints) = (Arc::clone(ads), DefaultHashBuilder::default());
        let judge = Arc::new(Judge { partitions, ads, prints, skew_of_counted, skew_of_refused });
        let mut density = Density::new(from, to);
        catalog.files.iter().flat_map(|file| &file.groups).for_each(|group| density.add(group));
        let skipped = catalog.skipped.clone();
        let mut counter = Self {
            engine,
            files,
            rules,
            catalog,
            judge,
            strays: Vec::new(),
            density,
            books: Books::default(),
            skipped,
            skip_damaged,
            names,
        };
        counter.find_strays(from, to)?;
        Ok(counter)
    }

    /// Lines that are kept are read wherever they may tell a minute of the span, whatever their columns say.
    fn find_strays(&mut self, from: Minute, to: Minute) -> Result<()> {
        let skew = self.rules.skew_of_counted.max(self.rules.skew_of_refused);
        let may_hold = |file: &RawFile| {
            let is_early = file.arrivals.1.as_micros().saturating_add(skew) < from.start().as_micros();
            let is_late = minute_of(file.arrivals.0.as_micros()) >= to.plus(MOVED_BY_MINUTES);
            !is_early && (!is_late || file.rejected > 0) || touches(file.minutes, from, to)
        };
        let keeps = |file: &RawFile| file.groups.iter().any(|group| group.keeps_lines);
        let places: Vec<usize> = (0..self.catalog.files.len())
            .filter(|place| self.catalog.files.get(*place).is_some_and(|file| keeps(file) && may_hold(file)))
            .collect();
        let judged = self.read(&places, "line IS NOT NULL", Which::Strays, (from, to))?;
        self.books.lines += judged.lines;
        self.books.disagreements.add(judged.disagreements);
        if judged.batches.iter().map(RecordBatch::num_rows).sum::<usize>() > MOST_STRAYS {
            return Err(ReconcileError::TooManyStrays(MOST_STRAYS));
        }
        self.strays = judged.batches;
        self.engine.set_rows("strays", &CLICKS, self.strays.clone())
    }

    /// Reads the clicks of `[from, to)` among the rows of files that fulfil a condition. A file that cannot be read is named, or left out as asked.
    fn read(&mut self, places: &[usize], rows: &str, which: Which, span: (Minute, Minute)) -> Result<Judged> {
        loop {
            let chosen = places.iter().filter_map(|place| self.catalog.files.get(*place));
            let chosen: Vec<&RawFile> = chosen.filter(|file| !file.take.is_empty()).collect();
            let error = match read_files(self.engine, &self.judge, &chosen, rows, which, span) {
                Ok(judged) => return Ok(judged),
                Err(error) => error,
            };
            let Some((location, damage)) = find_damage(self.engine, self.files, &chosen) else { return Err(error) };
            skip(&mut self.skipped, damage, self.skip_damaged)?;
            // Its place stays, so that others keep theirs; nothing is taken from it any more.
            for file in self.catalog.files.iter_mut().filter(|file| *file.meta.location.as_ref() == *location) {
                file.take = 0..0;
            }
        }
    }

    /// Counts `[from, to)`: a row for each ad and minute, and a column for each filter. The clicks stay in the table `clicks`.
    pub(crate) fn count(&mut self, from: Minute, to: Minute) -> Result<Vec<RecordBatch>> {
        let of_slice = |file: &RawFile| !file.take.is_empty() && touches(file.minutes, from, to);
        let places: Vec<usize> = (0..self.catalog.files.len())
            .filter(|place| self.catalog.files.get(*place).is_some_and(of_slice))
            .collect();
        let rows = format!("reason IS NULL AND {}", within("click_timestamp", from, to));
        let judged = self.read(&places, &rows, Which::Settled, (from, to))?;
        let strays = self.engine.rows(&format!("SELECT * FROM strays WHERE {}", minutes("minute", from, to)))?;
        self.books.lines += judged.lines;
        self.books.disagreements.add(judged.disagreements);
        let clicks: Vec<RecordBatch> = judged.batches.into_iter().chain(strays).collect();
        let number = clicks.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
        self.engine.set_rows("clicks", &CLICKS, clicks)?;
        // A click that is told again has the same print: only what shares its print with another is compared as a whole.
        self.engine.keep("shared", "SELECT print FROM clicks GROUP BY print HAVING count(*) > 1")?;
        let with = |join: &str| format!("clicks c LEFT {join} JOIN shared s ON c.print = s.print");
        let suspects = self.engine.keep("suspects", &format!("SELECT c.* FROM {}", with("SEMI")))?;
        let firsts = self.engine.keep("firsts", &self.without_duplicates())?;
        let duplicates = suspects - firsts;
        self.books.clicks += number;
        self.books.counted += number - duplicates;
        self.books.duplicates += duplicates;
        self.look_across_partitions()?;
        let counted = "minute, ad, user_id, ip, country";
        self.engine.rows(&format!(
            "SELECT minute, ad, {} FROM (SELECT {counted} FROM {} UNION ALL SELECT {counted} FROM firsts) GROUP BY minute, ad",
            self.sums(),
            with("ANTI")
        ))
    }

    /// One column for each filter.
    pub(crate) fn sums(&self) -> String {
        let of = |filter: &Filter| format!("count(*) FILTER (WHERE {}) AS {}", condition(filter), column_of(filter.id));
        self.rules.filters.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    /// The first line of each of the clicks that are suspects, by the order of its partition. Without an event id a click is all of its fields; with one it is event, ad and time, and what the first line says
    /// besides counts.
    fn without_duplicates(&self) -> String {
        let fields = "raw, minute, micros, ad, user_id, ip, country, event_id";
        if !self.rules.dedup {
            return format!("SELECT {fields} FROM suspects");
        }
        format!(
            "SELECT {fields} FROM suspects WHERE event_id IS NULL GROUP BY {fields} \
             UNION ALL SELECT raw, minute, micros, ad, {}, {}, {}, event_id FROM suspects WHERE event_id IS NOT NULL \
             GROUP BY raw, minute, micros, ad, event_id",
            first("user_id"),
            first("ip"),
            first("country")
        )
    }

    /// Notes clicks that stand in several partitions.
    fn look_across_partitions(&mut self) -> Result<()> {
        if self.names.len() < 2 {
            return Ok(());
        }
        let twice = format!(
            "SELECT ad, micros, event_id, count(DISTINCT raw) AS partitions FROM firsts \
             GROUP BY ad, micros, event_id, {}, {}, {} HAVING count(DISTINCT raw) > 1",
            unless_event("user_id"),
            unless_event("ip"),
            unless_event("country")
        );
        for batch in
            self.engine.rows(&format!("SELECT CAST(coalesce(sum(partitions - 1), 0) AS BIGINT) FROM ({twice})"))?
        {
            let more = batch.columns().first().map(numbers).transpose()?.map_or(0, |column| column.value(0));
            if more == 0 {
                return Ok(());
            }
            self.books.across_partitions += more.unsigned_abs();
        }
        let left = MOST_EXAMPLES.saturating_sub(self.books.across_examples.len());
        for batch in self.engine.rows(&format!("SELECT ad, micros FROM ({twice}) ORDER BY 2, 1 LIMIT {left}"))? {
            let [ads, times] = batch.columns() else { continue };
            let known = self.judge.ads.read();
            for (ad, time) in ads_of(ads)?.values().iter().zip(numbers(times)?.values()) {
                let time = clickmill_model::Timestamp::from_micros(*time);
                self.books.across_examples.push(format!("ad {} at {time}", known.name(*ad)));
            }
        }
        Ok(())
    }

    /// The rules.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many files are read.
    pub(crate) fn files(&self) -> usize {
        self.catalog.files.len()
    }

    /// How many of them have clicks of these minutes.
    pub(crate) fn files_of(&self, from: Minute, to: Minute) -> usize {
        self.catalog.files.iter().filter(|file| touches(file.minutes, from, to)).count()
    }

    /// The raw partition of this number.
    pub(crate) fn partition(&self, number: i64) -> Option<&RawPartition> {
        self.names.get(usize::try_from(number).ok()?)
    }

    /// The files that may hold a record of the raw partition of this number.
    pub(crate) fn files_with(&self, number: i64, offset: i64) -> Vec<&RawFile> {
        let Some((raw, offset)) = self.partition(number).zip(u64::try_from(offset).ok()) else { return Vec::new() };
        self.catalog.files.iter().filter(|file| file.raw == *raw && file.take.contains(&offset)).collect()
    }

    /// The clicks of the table `clicks` whose first line came when its minute was closed, by minute and ad under each filter: it stands in the table `late`, or was imported.
    pub(crate) fn late_sql(&self) -> String {
        let marked = format!(
            "SELECT c.*, l.raw IS NOT NULL OR c.\"offset\" >= {FIRST_IMPORTED} AS is_late FROM clicks c \
             LEFT JOIN (SELECT DISTINCT raw, arrival, \"offset\", line_number FROM late) l \
             ON c.raw = l.raw AND c.arrival = l.arrival AND c.\"offset\" = l.\"offset\" AND c.line_number = l.line_number"
        );
        let firsts = if self.rules.dedup {
            let columns: Vec<String> = ["user_id", "ip", "country", "is_late"].map(first).to_vec();
            let key = ["user_id", "ip", "country"].map(unless_event).join(", ");
            format!(
                "SELECT minute, ad, {} FROM ({marked}) GROUP BY raw, minute, micros, ad, event_id, {key}",
                columns.join(", ")
            )
        } else {
            marked
        };
        format!("SELECT minute, ad, {} FROM ({firsts}) WHERE is_late GROUP BY minute, ad", self.sums())
    }

    /// The clicks of these minutes that stand in `late/`.
    pub(crate) fn read_late(&mut self, late: &Catalog, from: Minute, to: Minute) -> Result<Vec<RecordBatch>> {
        let chosen: Vec<&RawFile> = late.files.iter().filter(|file| touches(file.minutes, from, to)).collect();
        let rows = within("click_timestamp", from, to);
        match read_files(self.engine, &self.judge, &chosen, &rows, Which::Settled, (from, to)) {
            Ok(judged) => Ok(judged.batches),
            Err(error) => match find_damage(self.engine, self.files, &chosen) {
                None => Err(error),
                Some((_, damage)) => {
                    skip(&mut self.skipped, damage, self.skip_damaged)?;
                    Ok(Vec::new())
                }
            },
        }
    }
}

/// What the first line of a click says in a column, by the order of its partition: imported ones come last, import by import.
fn first(column: &str) -> String {
    let import = format!("greatest(\"offset\", {FIRST_IMPORTED})");
    format!("first_value({column} ORDER BY {import}, arrival, \"offset\", line_number) AS {column}")
}

/// A column that is part of a click's identity where it has no event id.
fn unless_event(column: &str) -> String {
    format!("CASE WHEN event_id IS NULL THEN {column} END")
}

fn touches(minutes: Option<(Minute, Minute)>, from: Minute, to: Minute) -> bool {
    minutes.is_some_and(|(first, last)| first < to && from <= last)
}

/// A condition on a column of times.
pub(crate) fn within(column: &str, from: Minute, to: Minute) -> String {
    let time =
        |minute: Minute| format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", minute.start().as_micros());
    format!("{column} >= {} AND {column} < {}", time(from), time(to))
}

/// A condition on a column of minutes.
pub(crate) fn minutes(column: &str, from: Minute, to: Minute) -> String {
    format!("{column} >= {} AND {column} < {}", from.as_epoch(), to.as_epoch())
}

fn read_files(
    engine: &Engine,
    judge: &Arc<Judge>,
    files: &[&RawFile],
    rows: &str,
    which: Which,
    span: (Minute, Minute),
) -> Result<Judged> {
    let mut all = Judged::default();
    if files.is_empty() {
        return Ok(all);
    }
    engine.set_raw("raw", files)?;
    let sql =
        format!("SELECT {RAW_COLUMNS} FROM raw WHERE \"offset\" >= take_from AND \"offset\" < take_until AND {rows}");
    for judged in engine.side_by_side(&sql, |stream| Arc::clone(judge).judge(stream, which, span))? {
        all.batches.extend(judged.batches);
        all.lines += judged.lines;
        all.disagreements.add(judged.disagreements);
    }
    Ok(all)
}

/// Reads each of these files to its end, and names the first that cannot be.
fn find_damage(engine: &Engine, files: &FileStore, chosen: &[&RawFile]) -> Option<(String, ReconcileError)> {
    for file in chosen {
        let read = || {
            engine.set_raw("checked", &[file])?;
            engine.each_batch("SELECT * FROM checked", |_| Ok(()))
        };
        if read().is_ok() {
            continue;
        }
        let location = file.meta.location.to_string();
        // Where its bytes cannot be had, nothing is known of what is in them.
        if let Err(error) = engine.block_on(files.fetch(&file.meta)) {
            return Some((location.clone(), files.unreadable(&location, Some(file), &error)));
        }
        if let Err(error) = read() {
            let damage =
                ReconcileError::Damaged { path: files.shown(&location), minutes: file.minutes, why: error.to_string() };
            return Some((location, damage));
        }
    }
    None
}
