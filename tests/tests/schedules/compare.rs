//! Everything that the pipeline made, against the slow model.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use clickmill_db_writer::late::LATE_FOLDER;
use clickmill_db_writer::raw::{FileSpan, Part, RAW_FOLDER, read};
use clickmill_model::records::{DEAD_LETTERS, FilterSpan, LATE_CLICKS, SetAsideBatch};
use clickmill_model::{FilterId, Minute, RawPartition, Span, SpanKind, Watermark, Window};
use clickmill_queue::{Queue, TopicPartition};
use clickmill_store::{AggregateStore, MinuteRange, View};
use clickmill_tests::model::{LinePlace, Model};

use crate::world::World;

/// The aggregator keeps so many minutes at least, from which it sums up a window that is configured later.
const KEPT_MINUTES: i64 = 60;

/// So many minutes behind a click are rankings looked at: behind the end of every window that schedules have, but for days.
const LOOKED_BEYOND: i64 = 91;

impl World {
    /// What a topic holds of lines set aside, by raw partition, offset and place.
    pub(crate) fn set_aside(&self, topic: &str) -> Vec<LinePlace> {
        let mut lines = Vec::new();
        for p in 0..self.queue.partitions(topic).unwrap().unwrap() {
            let of = TopicPartition::new(topic, p);
            let mut from = self.queue.range(&of).unwrap().start;
            loop {
                let records = self.queue.read(&of, from, 1 << 20).unwrap();
                let Some(last) = records.last() else { break };
                from = last.offset.next();
                for fetched in &records {
                    let batch = SetAsideBatch::decode(&fetched.record.value).unwrap();
                    lines.extend(batch.lines.iter().map(|l| (batch.raw.clone(), l.offset, l.line_number as usize)));
                }
            }
        }
        lines.sort();
        lines
    }

    pub(crate) fn late(&self) -> Vec<LinePlace> {
        self.set_aside(LATE_CLICKS)
    }

    pub(crate) fn rejected(&self) -> Vec<LinePlace> {
        self.set_aside(DEAD_LETTERS)
    }

    /// The lines in the Parquet files of a folder, whichever file they are in.
    pub(crate) fn in_files(&self, folder: &str) -> Vec<(LinePlace, Vec<u8>)> {
        let mut found = Vec::new();
        for file in self.files.list(folder).unwrap() {
            let span = FileSpan::read(&self.files, &file.path).unwrap();
            let part = Part { path: file.path, read_from: span.first_offset, span };
            let end = read::rows(&self.files, &part, |row| {
                let place = (RawPartition::new(row.topic, row.partition), row.offset, row.line_number as usize);
                found.push((place, row.line.to_vec()));
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(end.unwrap(), None);
        }
        found.sort();
        found
    }

    /// Every line that was sent is in `raw/` once, every late one in `late/`.
    ///
    /// # Panics
    /// Where that is not so.
    pub(crate) fn compare_files(&self, model: &Model, context: &str) {
        let mut sent = Vec::new();
        for (raw, fetched) in self.sent().iter().flat_map(|(raw, all)| all.iter().map(move |fetched| (raw, fetched))) {
            let is_heartbeat = fetched.record.value.is_empty() && !fetched.record.headers.is_empty();
            let lines = fetched.record.value.split(|byte| *byte == b'\n').filter(|_| !is_heartbeat);
            sent.extend(lines.enumerate().map(|(i, line)| ((raw.clone(), fetched.offset, i), line.to_vec())));
        }
        sent.sort();
        assert_eq!(self.in_files(RAW_FOLDER), sent, "{context}: raw lines in Parquet");
        let late: Vec<LinePlace> = self.in_files(LATE_FOLDER).into_iter().map(|(place, _)| place).collect();
        let mut expected = model.late().to_vec();
        expected.sort();
        assert_eq!(late, expected, "{context}: late lines in Parquet");
    }

    /// Every figure of the store against the model, for the minutes that are complete.
    ///
    /// # Panics
    /// Where one differs, with what differs.
    pub(crate) fn compare(&self, model: &Model, context: &str) {
        let progress = self.store.progress().unwrap();
        let partitions = self.definitions[0].partitions;
        let Some(until) = progress.counts_until(partitions) else {
            assert!(model.counts().is_empty() || self.watermark() == Watermark::NONE, "{context}: nothing is complete");
            return;
        };
        assert_eq!(until, self.watermark().open_from(), "{context}: counts are complete as far as time has come");
        assert_eq!(progress.rankings_until(partitions), Some(until), "{context}: rankings too");
        let filters: BTreeSet<FilterId> =
            self.definitions.iter().flat_map(|d| d.filters.iter().map(|f| f.id)).collect();
        for filter in filters {
            let told = progress.filters.iter().find(|span| span.filter == filter).copied();
            assert_eq!(told, span_of(model, filter, until), "{context}: filter {filter}");
            self.compare_counts(model, filter, until, context);
            self.compare_totals(model, filter, until, context);
            self.compare_rankings(model, filter, until, context);
        }
    }

    fn compare_counts(&self, model: &Model, filter: FilterId, until: Minute, context: &str) {
        let ads: BTreeSet<&str> = model.counts().keys().map(|(.., ad)| ad.as_str()).collect();
        let ads: Vec<&str> = ads.into_iter().collect();
        for minute in minutes(model).into_iter().filter(|m| *m < until) {
            let range = MinuteRange { from: minute, to: minute.next() };
            let stored = self.store.counts(&View::STREAM, &ads, filter, range).unwrap();
            let expected = model.totals(filter, range.from, range.to);
            for (ad, count) in ads.iter().zip(stored) {
                let right = expected.get(*ad).copied().unwrap_or(0);
                assert_eq!(count, right, "{context}: {ad} in {minute} under filter {filter}");
            }
        }
    }

    /// The totals of whole hours and days: what long ranges are answered from.
    fn compare_totals(&self, model: &Model, filter: FilterId, until: Minute, context: &str) {
        let told = self.slow_store.totals();
        for kind in [SpanKind::Hour, SpanKind::Day] {
            let spans: BTreeSet<Span> = minutes(model).into_iter().map(|m| Span::holding(kind, m)).collect();
            for span in spans.into_iter().filter(|span| span.end() <= until) {
                // A filter that is no longer counted has no totals of the span in which it ended.
                let has_totals = model.is_published(filter, span.last());
                let expected = if has_totals { model.span(filter, span) } else { Default::default() };
                let found = told.get(&(span, filter)).cloned().unwrap_or_default();
                assert_eq!(found, expected, "{context}: {kind:?} {} under filter {filter}", span.start);
            }
        }
    }

    fn compare_rankings(&self, model: &Model, filter: FilterId, until: Minute, context: &str) {
        let windows = self.definitions.iter().flat_map(|d| d.windows.iter().copied());
        let windows: BTreeSet<Window> = windows.chain([Window::MINUTE, Window::HOUR, Window::DAY]).collect();
        // A clock of 1969 makes for years without a click: only where something may stand.
        let clicked = minutes(model).into_iter();
        let looked_at: BTreeSet<Minute> = clicked.flat_map(|m| (0..=LOOKED_BEYOND).map(move |n| m.plus(n))).collect();
        for minute in looked_at.into_iter().filter(|minute| *minute < until) {
            for window in &windows {
                self.compare_ranking(model, filter, *window, minute, context);
            }
        }
    }

    fn compare_ranking(&self, model: &Model, filter: FilterId, window: Window, minute: Minute, context: &str) {
        let context = format!("{context}: ranking of {window} at {minute} for filter {filter}");
        let stored = self.store.rankings(&View::STREAM, filter, &[(window, minute)]).unwrap().remove(0).here();
        let definition = model.in_force(minute);
        let stands = window == Window::MINUTE
            || definition.windows.contains(&window)
            || ([Window::HOUR, Window::DAY].contains(&window) && window.is_aligned_at(minute));
        let expected = if stands && model.is_published(filter, minute) {
            model.ranking(filter, window, minute)
        } else {
            Vec::new()
        };
        let first = window.first(minute);
        if let Some(since) = standing_since(model, window, minute)
            && first < since.plus(-KEPT_MINUTES)
        {
            // It reaches further back than what was kept when it was configured: it may lack that, and says so.
            assert!(
                stored.is_none_or(|ranking| !ranking.complete || ranking.ads == cut(&expected, definition.depth()))
            );
            return;
        }
        match stored {
            None => assert!(expected.is_empty(), "{context}: there is none, not {expected:?}"),
            Some(ranking) => {
                assert_eq!(ranking.ads, cut(&expected, definition.depth()), "{context}");
                assert_eq!(ranking.whole, expected.len() <= definition.depth(), "{context}");
                assert_eq!(ranking.complete, is_published_throughout(model, filter, first, minute), "{context}");
            }
        }
    }
}

fn cut(ranking: &[(String, u64)], depth: usize) -> &[(String, u64)] {
    &ranking[..ranking.len().min(depth)]
}

/// The minutes with clicks.
fn minutes(model: &Model) -> BTreeSet<Minute> {
    model.counts().keys().map(|(minute, ..)| *minute).collect()
}

fn is_published_throughout(model: &Model, filter: FilterId, first: Minute, last: Minute) -> bool {
    let changes = model.changes();
    let inside = changes.range(first..=last).copied();
    inside.chain([first]).all(|minute| model.is_published(filter, minute))
}

/// From when to when a filter is published, as far as minutes before `until` tell: the last time that it came and went.
fn span_of(model: &Model, filter: FilterId, until: Minute) -> Option<FilterSpan> {
    let mut span: Option<FilterSpan> = None;
    let changes = model.changes();
    for minute in [Minute::MIN].into_iter().chain(changes.range(..until).copied()) {
        match (model.is_published(filter, minute), &mut span) {
            (true, Some(FilterSpan { until: None, .. })) => {}
            (true, _) => span = Some(FilterSpan { filter, from: minute, until: None }),
            (false, Some(span)) => span.until = span.until.or(Some(minute)),
            (false, None) => {}
        }
    }
    span
}

/// The first minute of those up to this one in which the window stood as it does now: at every minute, or at the ends of whole hours and days only. `None` where it always did.
fn standing_since(model: &Model, window: Window, minute: Minute) -> Option<Minute> {
    let slides = |minute| model.in_force(minute).windows.contains(&window);
    let changes = model.changes();
    let mut since = minute;
    for change in changes.range(..=minute).rev().copied().chain([Minute::MIN]) {
        if slides(change) != slides(minute) {
            return Some(since);
        }
        since = change;
    }
    None
}

/// In order.
pub(crate) fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values
}
