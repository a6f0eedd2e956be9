//! The stream of clicks: draws them in the order of their times, counts them, holds some back, and writes them as lines.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use clickmill_model::{Minute, Timestamp};

use crate::options::Plan;
use crate::places::{PLACE_BITS, Place, places};
use crate::random::{Random, scatter};
use crate::text::{Click, LineWriter};
use crate::zipf::Zipf;
use crate::{GenerateError, Summary};

/// Lines for one file.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Lines that are not on disk yet.
    pub(crate) bytes: Vec<u8>,
    /// Places in `bytes` where the file shall be cut.
    pub(crate) cuts: Vec<usize>,
    lines: u64,
}

/// A line that is held back: released in the order of `at`, then `turn`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: i64,
    turn: u64,
    click: Click,
    file: u32,
    json: bool,
}

/// Clicks of which one is held back on average, where there is disorder.
const HELD_MASK: u64 = 7;

/// Of the duplicates, one in four is written as JSON.
const JSON_MASK: u64 = 3;

/// How many clicks are drawn before the first of them is written: enough to hide the time that memory takes.
const DRAWN: usize = 32;

#[derive(Debug)]
pub(crate) struct Stream {
    plan: Plan,
    zipf: Zipf,
    places: Vec<Place>,
    clicks: Random,
    twists: Random,
    writer: LineWriter,
    outputs: Vec<Output>,
    held: BinaryHeap<Reverse<Held>>,
    made: u64,
    duplicates: u64,
    /// Counts of the minutes of which lines may still be held back, oldest first, by ad.
    open: VecDeque<(Minute, Vec<u32>)>,
    closed: Vec<(Minute, Vec<u32>)>,
    spare: Vec<Vec<u32>>,
}

impl Stream {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            zipf: Zipf::new(plan.ads),
            places: places(plan.seed),
            clicks: Random::new(plan.seed, 2),
            twists: Random::new(plan.seed, 3),
            writer: LineWriter::new(plan.ad_digits),
            outputs: (0..plan.files).map(|_| Output::default()).collect(),
            held: BinaryHeap::new(),
            made: 0,
            duplicates: 0,
            open: VecDeque::new(),
            closed: Vec::new(),
            spare: Vec::new(),
            plan: plan.clone(),
        }
    }

    /// How many clicks were made.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Makes the next `n` clicks.
    pub(crate) fn make(&mut self, n: u64) {
        let until = self.made + n;
        let mut drawn = [(0, 0); DRAWN];
        while self.made < until {
            let drawn = &mut drawn[..((until - self.made) as usize).min(DRAWN)];
            for draw in drawn.iter_mut() {
                *draw = (self.clicks.next(), self.clicks.next());
                self.zipf.prefetch(draw.0);
            }
            for (ad, other) in drawn {
                self.click(self.zipf.pick(*ad), *other);
            }
        }
        self.close_minutes();
    }

    /// Writes what is held back, and closes every minute.
    pub(crate) fn finish(&mut self) {
        self.release(i64::MAX);
        self.closed.extend(self.open.drain(..));
    }

    fn click(&mut self, ad: u32, random: u64) {
        let at = self.plan.time_of(self.made);
        let time = Timestamp::from_micros(at);
        let user = scatter(self.made, self.plan.user_bits) as u32;
        self.made += 1;
        self.release(at);
        self.count(time.minute(), ad);
        let place = (random & ((1 << PLACE_BITS) - 1)) as u16;
        let random = random >> PLACE_BITS;
        let file = (((random & 0xffff) * u64::from(self.plan.files)) >> 16) as u32;
        let click = Click { second: at.div_euclid(1_000_000), ad, user, place };
        if self.plan.disorder > 0 && (random >> 16) & HELD_MASK == 0 {
            self.hold(at, click, file, false);
        } else {
            self.write(&click, file, false);
        }
        // The upper 32 bits: they overlap with none of those above.
        if (random >> 20) & 0xffff_ffff < self.plan.duplicates {
            self.duplicates += 1;
            let twist = self.twists.next();
            let file = (((twist >> 32) * u64::from(self.plan.files)) >> 32) as u32;
            self.hold(at, click, file, twist & JSON_MASK == 0);
        }
    }

    fn hold(&mut self, at: i64, click: Click, file: u32, json: bool) {
        let at = at + self.twists.below(self.plan.disorder) as i64;
        self.held.push(Reverse(Held { at, turn: self.made, click, file, json }));
    }

    #[inline]
    fn release(&mut self, until: i64) {
        while self.held.peek().is_some_and(|Reverse(next)| next.at <= until) {
            let Some(Reverse(Held { click, file, json, .. })) = self.held.pop() else { break };
            self.write(&click, file, json);
        }
    }

    #[inline]
    fn write(&mut self, click: &Click, file: u32, json: bool) {
        let output = &mut self.outputs[file as usize];
        let place = &self.places[usize::from(click.place)];
        if json {
            self.writer.json(&mut output.bytes, click, place);
        } else {
            self.writer.text(&mut output.bytes, click, place);
        }
        output.lines += 1;
        if self.plan.rotate_lines.is_some_and(|most| output.lines.is_multiple_of(most)) {
            output.cuts.push(output.bytes.len());
        }
    }

    #[inline]
    fn count(&mut self, minute: Minute, ad: u32) {
        if self.open.back().is_none_or(|(last, _)| *last != minute) {
            let counts = self.spare.pop().unwrap_or_else(|| vec![0; self.plan.ads as usize]);
            self.open.push_back((minute, counts));
        }
        if let Some((_, counts)) = self.open.back_mut() {
            counts[ad as usize] += 1;
        }
    }

    fn close_minutes(&mut self) {
        let now = self.plan.time_of(self.made);
        let disorder = self.plan.disorder as i64;
        while self.open.front().is_some_and(|(minute, _)| minute.end().as_micros().saturating_add(disorder) <= now) {
            // What is due by now must be out before its minute counts as written.
            self.release(now);
            self.closed.extend(self.open.pop_front());
        }
    }

    /// True where [`Stream::take_closed`] has something to give.
    pub(crate) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Hands over the minutes of which every line is written, oldest first, each with its counts by ad.
    pub(crate) fn take_closed(
        &mut self,
        mut take: impl FnMut(Minute, &[u32]) -> Result<(), GenerateError>,
    ) -> Result<(), GenerateError> {
        for (minute, mut counts) in self.closed.drain(..) {
            take(minute, &counts)?;
            counts.fill(0);
            self.spare.push(counts);
        }
        Ok(())
    }

    /// The lines that were written, by file.
    pub(crate) fn outputs(&mut self) -> &mut [Output] {
        &mut self.outputs
    }

    /// The lines by file, where none was taken away.
    pub(crate) fn into_bytes(self) -> Vec<Vec<u8>> {
        self.outputs.into_iter().map(|output| output.bytes).collect()
    }

    /// What was made; the bytes are left out.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            lines: self.outputs.iter().map(|output| output.lines).sum(),
            clicks: self.made,
            duplicates: self.duplicates,
            bytes: 0,
        }
    }
}
