//! How far time has come in a raw partition, by the design's section "Time", rule by rule.
//!
//! Where the design leaves a choice, this is the one taken:
//! - a record's lines are judged by the watermark from before the record; its own mark, and the passing of time up to its arrival, count afterwards;
//! - silence grows at a record by the gap since the partition's last event, at an empty fetch at the end by the time since the event before
//!   if that was one too; either way by two seconds at most, so that neither an outage nor a sleeping machine counts;
//! - a foreign record whose clicks do not raise the foreign watermark is not heard; further back than `source_timeout`, neither is one whose clicks do not gain on
//!   the clock: who loads old lines gains, who has a wrong clock does not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickmill_model::records::{SourceHeader, SourceMark};
use clickmill_model::{Definition, Minute, TimeSettings, Timestamp, Watermark};

/// The most that one gap adds to a silence.
const MOST_OF_A_GAP: Duration = Duration::from_secs(2);

/// Who sends: a watcher by its name, or all foreign producers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Watcher(String),
    Foreign,
}

#[derive(Debug, Clone, Copy)]
struct State {
    says: Says,
    /// What the partition's clock of silence showed when the source was heard last.
    heard_at: Duration,
    /// What it showed when the source began to hold.
    holds_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Hold,
    At(Timestamp),
    Drained(Timestamp),
}

/// What a partition knows of all partitions when it looks for a watermark to go by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Others {
    /// The lowest watermark of the partitions that have live sources.
    lowest_live: Option<Watermark>,
    /// When the last record of any partition arrived, and whether a watcher sent it.
    last_heard: Option<(Timestamp, bool)>,
}

impl Others {
    /// What these partitions show.
    pub fn of<'a>(partitions: impl Iterator<Item = &'a PartitionTime> + Clone) -> Self {
        Self {
            lowest_live: partitions.clone().filter(|p| p.has_live_source()).map(PartitionTime::watermark).min(),
            last_heard: partitions.filter_map(|p| p.last_heard).max(),
        }
    }
}

/// The time of one raw partition.
#[derive(Debug)]
pub struct PartitionTime {
    settings: TimeSettings,
    watermark: Watermark,
    sources: BTreeMap<Source, State>,
    /// Named sources not heard yet, while they are waited for.
    awaited: BTreeSet<String>,
    /// The clock by which sources fall silent.
    silence: Duration,
    /// What an empty fetch counted already of the gap that the next record will end.
    counted_of_gap: Duration,
    last_arrival: Option<Timestamp>,
    last_idle: Option<Timestamp>,
    at_end_for: Duration,
    last_heard: Option<(Timestamp, bool)>,
    /// The highest time of foreign clicks, and when it arrived.
    highest_foreign: Option<(Timestamp, Timestamp)>,
}

impl PartitionTime {
    /// Nothing was heard.
    pub fn new(definition: &Definition) -> Self {
        Self {
            settings: definition.time,
            watermark: Watermark::NONE,
            sources: BTreeMap::new(),
            awaited: definition.sources.clone(),
            silence: Duration::ZERO,
            counted_of_gap: Duration::ZERO,
            last_arrival: None,
            last_idle: None,
            at_end_for: Duration::ZERO,
            last_heard: None,
            highest_foreign: None,
        }
    }

    /// Nothing before this minute is counted here: the partition came later, or came back.
    pub fn begin_at(&mut self, first: Minute) {
        if first > Minute::MIN {
            self.watermark = self.watermark.max(Watermark::at(first.start()));
        }
    }

    /// Other bounds hold from now on.
    pub fn follow(&mut self, settings: TimeSettings) {
        self.settings = settings;
    }

    /// How far time has come.
    pub fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// True where a source is waited for.
    pub fn has_live_source(&self) -> bool {
        self.live().next().is_some()
    }

    fn is_silent(&self, since: Duration) -> bool {
        self.silence - since >= self.settings.source_timeout
    }

    fn live(&self) -> impl Iterator<Item = &State> {
        self.sources.values().filter(|state| {
            !self.is_silent(state.heard_at) && !state.holds_since.is_some_and(|since| self.is_silent(since))
        })
    }

    /// A record arrived, with clicks of these times (those of wrong clocks left out).
    pub fn heard(&mut self, arrival: Timestamp, header: Option<&SourceHeader>, clicks: &[Timestamp]) {
        if let Some(last) = self.last_arrival {
            let gap = arrival.since(last).min(MOST_OF_A_GAP);
            self.silence += gap.saturating_sub(self.counted_of_gap);
        }
        self.last_arrival = Some(arrival);
        self.counted_of_gap = Duration::ZERO;
        self.last_idle = None;
        self.at_end_for = Duration::ZERO;
        match header {
            Some(header) => {
                let says = match header.mark {
                    SourceMark::Holding => Says::Hold,
                    SourceMark::At(time) => Says::At(time),
                    SourceMark::Drained(time) => Says::Drained(time),
                };
                self.speaks(Source::Watcher(header.source.0.to_string()), says);
                self.awaited.remove(&*header.source.0);
                if let Says::Drained(_) = says {
                    self.awaited.clear();
                }
                self.last_heard = Some((arrival, true));
            }
            None => self.foreigner_speaks(arrival, clicks),
        }
        self.advance();
    }

    fn foreigner_speaks(&mut self, arrival: Timestamp, clicks: &[Timestamp]) {
        let Some(highest) = clicks.iter().max().copied() else { return };
        let told = self.highest_foreign;
        if told.is_some_and(|(before, _)| highest <= before) {
            return;
        }
        self.highest_foreign = Some((highest, arrival));
        self.last_heard = Some((arrival, false));
        let says = Says::At(highest.before(self.settings.max_disorder));
        let is_behind = arrival.since(highest) > self.settings.source_timeout;
        let gains = told.is_none_or(|(before, then)| highest.since(before) > arrival.since(then));
        if !is_behind || gains {
            self.speaks(Source::Foreign, says);
        } else if let Some(state) = self.sources.get_mut(&Source::Foreign) {
            state.says = says;
        }
    }

    fn speaks(&mut self, source: Source, says: Says) {
        let held_before = self.sources.get(&source).and_then(|state| state.holds_since);
        let holds_since = (says == Says::Hold).then(|| held_before.unwrap_or(self.silence));
        self.sources.insert(source, State { says, heard_at: self.silence, holds_since });
    }

    /// A fetch at the partition's end came back empty.
    pub fn idle(&mut self, now: Timestamp, others: Others) {
        if let Some(last) = self.last_idle {
            let passed = now.since(last).min(MOST_OF_A_GAP);
            self.silence += passed;
            self.counted_of_gap += passed;
            self.at_end_for += passed;
        }
        self.last_idle = Some(now);
        self.advance();
        if self.has_live_source() || !self.awaited.is_empty() || self.at_end_for < self.settings.source_timeout {
            return;
        }
        let found = match others {
            Others { lowest_live: Some(watermark), .. } => Some(watermark),
            Others { last_heard: Some((_, is_watcher)), .. } => {
                (!is_watcher).then(|| Watermark::at(now.before(self.settings.source_timeout)))
            }
            Others { last_heard: None, .. } => None,
        };
        self.watermark = self.watermark.max(found.unwrap_or(Watermark::NONE));
    }

    /// The minimum over the live sources, capped by the latest arrival.
    fn advance(&mut self) {
        let Some(arrival) = self.last_arrival.filter(|_| self.awaited.is_empty()) else { return };
        let honest = arrival.before(self.settings.max_disorder);
        let last_legal_minute = arrival.after(self.settings.max_clock_skew).minute();
        let lowest = self
            .live()
            .map(|state| match state.says {
                Says::Hold => Timestamp::MIN,
                Says::At(time) => time.min(honest),
                Says::Drained(time) => time.min(last_legal_minute.end()),
            })
            .min();
        if let Some(lowest) = lowest {
            self.watermark = self.watermark.max(Watermark::at(lowest));
        }
    }
}
