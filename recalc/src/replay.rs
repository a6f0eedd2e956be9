//! The loop: slice by slice, raw partitions are mapped side by side, aggregators close the slice's minutes, the reducer merges.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use clickmill_aggregator::{AggregateError, Aggregator, Closing};
use clickmill_db_writer::raw::{Files, FilesError, RAW_FOLDER, scan};
use clickmill_mapper::{BatchMapper, Combiner, Counts, Lines, WasCounted};
use clickmill_model::records::{CandidateRecord, Candidates, PartialBlock, Ranking, ResultBody};
use clickmill_model::{Announced, Columns, Minute, Offset, Partition, Timestamp, Watermark};
use clickmill_reducer::Reducer;
use parking_lot::Mutex;

use crate::RecalcError;
use crate::left_out::LeftOut;
use crate::plan::{Plan, announced, stand_in};
use crate::slices::slices;
use crate::source::{Finder, Source, Sources};

/// What the recalculation tells, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The counts of a minute, or of an hour or a day that lies inside the span. A span may come in several parts, each with other ads; an ad has a row where it was clicked.
    Counts {
        /// The aggregator partition that the ads belong to.
        partition: Partition,
        /// The counts.
        columns: Columns,
        /// When the oldest click in it arrived.
        oldest_arrival: Option<Timestamp>,
    },
    /// Rankings whose windows lie inside the span.
    Rankings {
        /// By minute, filter and window.
        rankings: Vec<Ranking>,
        /// When the oldest click in them arrived.
        oldest_arrival: Option<Timestamp>,
    },
    /// Everything before this minute has been told.
    Until(Minute),
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that were read so far.
    pub rows: u64,
    /// Rows that are to be read, those twice that are read twice.
    pub of_rows: u64,
    /// Everything before this minute has been told.
    pub until: Minute,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// What became of the lines. A line that was read for several slices was elsewhere in all but one of them.
    pub lines: Lines,
    /// Files that were read.
    pub files: u64,
    /// What it went on without, as asked.
    pub left_out: Vec<LeftOut>,
}

/// Counts a span again and hands the figures to `tell`, which may end it with an error of its own. Setting `stop` ends it.
pub fn recalculate<E: From<RecalcError>>(
    files: &Files,
    plan: &Plan,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
    mut tell: impl FnMut(Told) -> Result<(), E>,
) -> Result<Summary, E> {
    Prepared::new(files, plan)?.run(stop, &mut progress, &mut tell)
}

/// A recalculation whose lines were found: what is missing or cannot be read is known before anything is told.
pub struct Prepared<'a> {
    files: &'a Files,
    plan: &'a Plan,
    replay: Replay,
    finder: Finder<'a>,
    sources: Sources,
}

/// How often files are looked for anew within one slice. Each time another one went, or was left out.
const MOST_LOOKS: u32 = 1000;

impl<'a> Prepared<'a> {
    /// Finds the lines.
    pub fn new(files: &'a Files, plan: &'a Plan) -> Result<Self, RecalcError> {
        let Range { start: from, end: to } = plan.minutes;
        if from >= to {
            return Err(RecalcError::EmptySpan { from, to });
        }
        let replay = Replay::new(plan)?;
        let mut finder = Finder::new(files, plan)?;
        let sources = finder.find(Vec::new())?;
        if sources.values().flatten().all(|source| source.stretches.is_empty()) {
            return Err(RecalcError::NoRawData { from, to });
        }
        Ok(Self { files, plan, replay, finder, sources })
    }

    /// Counts the span and hands the figures to `tell`, which may end it with an error of its own. Setting `stop` ends it.
    pub fn run<E: From<RecalcError>>(
        mut self,
        stop: &AtomicBool,
        progress: &mut impl FnMut(Progress),
        tell: &mut impl FnMut(Told) -> Result<(), E>,
    ) -> Result<Summary, E> {
        let plan = self.plan;
        let Range { start: from, end: to } = plan.minutes;
        let all = |sources: &Sources| -> Vec<((Minute, Minute), u64)> {
            let stretches = sources.values().flatten().flat_map(|source| &source.stretches);
            stretches.map(|(stretch, minutes)| (*minutes, stretch.rows.len() as u64)).collect()
        };
        let stretches = all(&self.sources);
        let slices = slices(&plan.minutes, stretches.iter().copied(), plan.slice_rows);
        let touched = |slice: &Range<Minute>| -> u64 {
            stretches.iter().filter(|(of, _)| overlap(*of, slice)).map(|(_, rows)| rows).sum()
        };
        let of_rows = slices.iter().map(touched).sum();
        let mut summary = Summary { files: self.sources.values().map(|s| s.len() as u64).sum(), ..Summary::default() };
        let mut rows = 0;
        for slice in slices {
            let counts = self.map(&slice, stop)?;
            counts.iter().for_each(|counts| summary.lines += counts.lines);
            self.replay.apply(counts, slice.end).map_err(RecalcError::from)?;
            self.replay.close(&slice, &plan.minutes, tell)?;
            tell(Told::Until(slice.end))?;
            rows += touched(&slice);
            progress(Progress { rows, of_rows, until: slice.end });
        }
        if summary.lines.counted == 0 {
            return Err(RecalcError::NoRawData { from, to }.into());
        }
        summary.left_out = self.finder.left_out;
        Ok(summary)
    }

    /// Counts a slice in all files. Where one is gone its lines must stand in another one by now.
    fn map(&mut self, slice: &Range<Minute>, stop: &AtomicBool) -> Result<Vec<Counts>, RecalcError> {
        let known = self.finder.left_out.len();
        for _ in 0..MOST_LOOKS {
            let (path, error) = match self.replay.map(self.files, &self.sources, slice, stop) {
                Err(RecalcError::File { path, error, .. }) => (path, error),
                done => return done,
            };
            let planned = self.sources.values().flatten().find(|source| source.part.path == path);
            let span = planned.map(|source| source.part.span.clone());
            let gone = match (error, span) {
                (FilesError::Gone { .. }, Some(span)) => vec![(path, span)],
                (error, span) => {
                    self.finder.leave_out(&path, error, span.as_ref())?;
                    Vec::new()
                }
            };
            self.sources = self.finder.find(gone)?;
            if slice.start > self.plan.minutes.start {
                for left in self.finder.left_out.iter_mut().skip(known) {
                    left.counted_until.get_or_insert(slice.start);
                }
            }
        }
        Err(RecalcError::Files(FilesError::Unavailable {
            what: "reading",
            path: self.files.shown(RAW_FOLDER),
            why: "files go faster than they can be read".into(),
        }))
    }
}

fn overlap((first, last): (Minute, Minute), slice: &Range<Minute>) -> bool {
    first < slice.end && slice.start <= last
}

/// What a thread maps with.
struct Worker {
    mapper: BatchMapper,
    combiner: Combiner,
}

/// The operators of all stages.
struct Replay {
    announced: Vec<Announced>,
    workers: Vec<Worker>,
    aggregators: Vec<AggregatorState>,
    reducer: Reducer,
}

struct AggregatorState {
    aggregator: Aggregator,
    /// Blocks have no offsets of their own here; they are numbered.
    next: Offset,
}

impl Replay {
    fn new(plan: &Plan) -> Result<Self, RecalcError> {
        let eras = plan.eras()?;
        let newest = plan.newest();
        let definitions: Vec<_> = eras.iter().map(|(_, definition)| definition.clone()).collect();
        let worker = || Worker { mapper: BatchMapper::new(&eras), combiner: Combiner::new(newest.partitions) };
        let aggregator = |partition| AggregatorState {
            aggregator: Aggregator::new(Partition(partition), &definitions),
            next: Offset(0),
        };
        Ok(Self {
            announced: announced(&eras),
            workers: (0..plan.threads.max(1)).map(|_| worker()).collect(),
            aggregators: (0..newest.partitions).map(aggregator).collect(),
            reducer: Reducer::new(newest.partitions),
        })
    }

    /// Maps the lines of a slice, raw partitions side by side. Returns what was counted in each.
    fn map(
        &mut self,
        files: &Files,
        sources: &Sources,
        slice: &Range<Minute>,
        stop: &AtomicBool,
    ) -> Result<Vec<Counts>, RecalcError> {
        let touches = |source: &&Source| source.stretches.iter().any(|(_, minutes)| overlap(*minutes, slice));
        let tasks: Vec<Vec<&Source>> = sources
            .values()
            .map(|of| of.iter().filter(touches).collect())
            .filter(|of: &Vec<_>| !of.is_empty())
            .collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(tasks.len()));
        let work = |worker: &mut Worker| {
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let counts = worker.map(files, task, slice, stop);
                let failed = counts.is_err();
                done.lock().push(counts);
                if failed {
                    // Nothing that comes after it matters.
                    next.store(tasks.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            let mut workers = self.workers.iter_mut().take(tasks.len().max(1));
            let own = workers.next();
            for worker in workers {
                scope.spawn(|| work(worker));
            }
            own.map(&work);
        });
        done.into_inner().into_iter().collect()
    }

    /// Hands each aggregator its counts, which are all that there are before `end`.
    fn apply(&mut self, counts: Vec<Counts>, end: Minute) -> Result<(), AggregateError> {
        let mut of_each: Vec<Vec<(Option<Timestamp>, Columns)>> = vec![Vec::new(); self.aggregators.len()];
        for Counts { partitions, oldest_arrivals, .. } in counts {
            for (of_one, minutes) in of_each.iter_mut().zip(partitions) {
                let oldest = |columns: &Columns| oldest_arrivals.get(&columns.span.start).copied();
                of_one.extend(minutes.into_iter().map(|columns| (oldest(&columns), columns)));
            }
        }
        let announced = &self.announced;
        let all = side_by_side(self.workers.len(), self.aggregators.iter_mut().zip(of_each), |(state, counts)| {
            for (oldest_arrival, columns) in counts {
                state.take_in(announced, Watermark::NONE, oldest_arrival, vec![columns])?;
            }
            state.take_in(announced, Watermark::at(end.start()), None, Vec::new())
        });
        all.into_iter().collect()
    }

    /// Closes the minutes of a slice and tells what lies inside the span.
    fn close<E: From<RecalcError>>(
        &mut self,
        slice: &Range<Minute>,
        span: &Range<Minute>,
        tell: &mut impl FnMut(Told) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            // All go on together, so that little waits in the reducer.
            let behind =
                (0_u32..).zip(&mut self.aggregators).filter(|(_, of)| of.aggregator.closed_until() < slice.end);
            let closings = side_by_side(self.workers.len(), behind, |(partition, state)| {
                state.aggregator.close(Offset(0)).map(|closing| (Partition(partition), closing))
            });
            if closings.iter().all(Option::is_none) {
                return Ok(());
            }
            for (partition, closing) in closings.into_iter().flatten() {
                self.tell(partition, closing, span, tell)?;
            }
        }
    }

    fn tell<E: From<RecalcError>>(
        &mut self,
        partition: Partition,
        closing: Closing,
        span: &Range<Minute>,
        tell: &mut impl FnMut(Told) -> Result<(), E>,
    ) -> Result<(), E> {
        let Closing { results, candidates, until, oldest_arrival, .. } = closing;
        for result in results {
            if let ResultBody::Counts { partition, oldest_arrival, columns } = result.body
                && span.start <= columns.span.start
            {
                tell(Told::Counts { partition, columns, oldest_arrival })?;
            }
        }
        let inside = |of: &Candidates| of.window.first(of.minute) >= span.start && of.minute < span.end;
        let rankings = candidates.into_iter().filter(inside).collect();
        self.reducer.apply(Offset(0), CandidateRecord { partition, closed_until: until, oldest_arrival, rankings });
        while let Some(published) = self.reducer.publish() {
            if !published.rankings.is_empty() {
                let (rankings, oldest_arrival) = (published.rankings, published.oldest_arrival);
                tell(Told::Rankings { rankings, oldest_arrival })?;
            }
        }
        Ok(())
    }
}

/// Does the same to each of these in so many threads. In their order.
fn side_by_side<T: Send, R: Send>(
    threads: usize,
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items = Mutex::new(items.enumerate().collect::<Vec<_>>());
    let done = Mutex::new(Vec::new());
    let take = || {
        // Taken apart from the work, which must not hold the others up.
        let next = || items.lock().pop();
        while let Some((at, item)) = next() {
            let result = work(item);
            done.lock().push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(take);
        }
        take();
    });
    let mut done = done.into_inner();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

impl AggregatorState {
    fn take_in(
        &mut self,
        announced: &[Announced],
        watermark: Watermark,
        oldest_arrival: Option<Timestamp>,
        minutes: Vec<Columns>,
    ) -> Result<(), AggregateError> {
        let (from, to) = (self.next, self.next.next());
        let definitions = announced.to_vec();
        let block = PartialBlock { raw: stand_in(), from, to, watermark, oldest_arrival, definitions, minutes };
        self.aggregator.apply(from, &block)?;
        self.next = to;
        Ok(())
    }
}

impl Worker {
    /// Counts the lines of a slice in the files of one raw partition, in the order of their offsets.
    fn map(
        &mut self,
        files: &Files,
        sources: &[&Source],
        slice: &Range<Minute>,
        stop: &AtomicBool,
    ) -> Result<Counts, RecalcError> {
        let Self { mapper, combiner } = self;
        mapper.begin(slice.clone(), combiner);
        for source in sources {
            let touched = source.stretches.iter().filter(|(_, minutes)| overlap(*minutes, slice));
            let stretches: Vec<_> = touched.map(|(stretch, _)| stretch).collect();
            if stop.load(Ordering::Relaxed) {
                return Err(RecalcError::Stopped);
            }
            let read = scan::lines(files, &source.part, &stretches, |line| {
                if source.until.is_some_and(|until| line.offset >= until) {
                    return Ok(());
                }
                let was_counted = if line.is_rejected { WasCounted::No } else { WasCounted::Yes };
                let minute = mapper.line(line.line, (line.arrival, was_counted), combiner);
                if !line.is_rejected && minute.is_some() && minute != line.minute {
                    // It was looked for by the minute in its columns, and may be missed by it.
                    return Err(format!("the line of offset {} tells another minute than its columns", line.offset));
                }
                Ok(())
            });
            read.map_err(|error| source.failed(error))?;
        }
        Ok(mapper.take(combiner))
    }
}
