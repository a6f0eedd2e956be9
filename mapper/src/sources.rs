//! The sources of one raw partition: who is live, and how far time has come by them.
//!
//! The rules are those of the design ("The mapper's watermark"). Silence is measured in the partition's own time: the sum of the gaps between arrivals, each counted
//! as [`LONGEST_GAP`] at most, so that an outage that silences everybody counts against nobody, and of the time spent at the partition's end with fetches answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{Offset, SourceName, TimeSettings, Timestamp, Watermark};

/// What a gap between two arrivals, or between two fetches at the end, counts at most.
const LONGEST_GAP: Duration = Duration::from_secs(2);

/// `None`: all foreign producers of the partition together.
type Who = Option<SourceName>;

#[derive(Debug)]
struct Source {
    /// How far it has come, as it says.
    mark: SourceMark,
    /// How long it was silent (foreign: how long its highest event time stood), in the partition's time.
    silent: Duration,
    /// How long it has been holding, in the partition's time.
    held: Duration,
    /// Its last record (foreign: the last that moved its mark).
    last: Offset,
}

/// The sources of one raw partition.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    all: BTreeMap<Who, Source>,
    heard: BTreeSet<SourceName>,
    drained: bool,
    last_arrival: Option<Timestamp>,
    /// Time at the end since the last arrival, which the gap to the next arrival must not count again.
    at_end: Duration,
    last_fetch_at_end: Option<Timestamp>,
    last_heard: Option<(Timestamp, bool)>,
    /// The highest event time of foreign records, and when it was told.
    highest_foreign: Option<(Timestamp, Timestamp)>,
}

impl Sources {
    /// Time passes to the arrival of the next record.
    pub(crate) fn arrive(&mut self, arrival: Timestamp) {
        if let Some(last) = self.last_arrival {
            self.pass(arrival.since(last).min(LONGEST_GAP).saturating_sub(self.at_end));
        }
        self.last_arrival = Some(self.last_arrival.map_or(arrival, |last| last.max(arrival)));
        self.at_end = Duration::ZERO;
        self.last_fetch_at_end = None;
    }

    /// Time passes at the partition's end: a fetch was answered, and nothing was there.
    pub(crate) fn at_end(&mut self, now: Timestamp) {
        if let Some(before) = self.last_fetch_at_end {
            let passed = now.since(before).min(LONGEST_GAP);
            self.pass(passed);
            self.at_end += passed;
        }
        self.last_fetch_at_end = Some(now);
    }

    fn pass(&mut self, time: Duration) {
        for source in self.all.values_mut() {
            source.silent += time;
            if source.mark == SourceMark::Holding {
                source.held += time;
            }
        }
    }

    /// A watcher spoke.
    pub(crate) fn watcher(&mut self, name: &str, mark: SourceMark, offset: Offset, arrival: Timestamp) {
        self.drained |= matches!(mark, SourceMark::Drained(_));
        let name = SourceName::from(name);
        if !self.heard.contains(&name) {
            self.heard.insert(name.clone());
        }
        let held = match self.all.get(&Some(name.clone())) {
            Some(before) if mark == SourceMark::Holding => before.held,
            _ => Duration::ZERO,
        };
        self.all.insert(Some(name), Source { mark, silent: Duration::ZERO, held, last: offset });
        self.last_heard = Some((arrival, true));
    }

    /// A foreign record came, whose latest click (none ahead of the clock) is `highest`. It is heard only where that rises, and, where it lies further back than
    /// `source_timeout`, only where it gains on time: a loader of old clicks does, a client whose clock is wrong does not, and is not waited for.
    pub(crate) fn foreign(
        &mut self,
        highest: Option<Timestamp>,
        offset: Offset,
        arrival: Timestamp,
        time: &TimeSettings,
    ) {
        let Some(highest) = highest.filter(|t| self.highest_foreign.is_none_or(|(before, _)| *t > before)) else {
            return;
        };
        let told_before = self.highest_foreign.replace((highest, arrival));
        let is_behind = arrival.since(highest) > time.source_timeout;
        let gains = told_before.is_none_or(|(before, then)| highest.since(before) > arrival.since(then));
        let mark = SourceMark::At(highest.before(time.max_disorder));
        if !is_behind || gains {
            self.all.insert(None, Source { mark, silent: Duration::ZERO, held: Duration::ZERO, last: offset });
        } else if let Some(source) = self.all.get_mut(&None) {
            // One that was forgotten stays so: it would hold the partition for another timeout each time.
            source.mark = mark;
        }
        self.last_heard = Some((arrival, false));
    }

    fn live(&self, time: &TimeSettings) -> impl Iterator<Item = &Source> {
        let timeout = time.source_timeout;
        self.all.values().filter(move |source| source.silent < timeout && source.held < timeout)
    }

    /// True where at least one source is waited for.
    pub(crate) fn has_live(&self, time: &TimeSettings) -> bool {
        self.live(time).next().is_some()
    }

    /// The first record that a restart must read to know the live sources again.
    pub(crate) fn replay_from(&self, time: &TimeSettings) -> Option<Offset> {
        self.live(time).map(|source| source.last).min()
    }

    /// True while one of `required` was never heard, and no drain has said that it need not be.
    pub(crate) fn awaits(&self, required: &BTreeSet<String>) -> bool {
        !self.drained && required.iter().any(|name| !self.heard.contains(&SourceName::from(name.as_str())))
    }

    /// How far the live sources have come: the slowest of them, capped by the latest arrival. `None` while one holds or there is none.
    pub(crate) fn watermark(&self, time: &TimeSettings) -> Option<Watermark> {
        let arrival = self.last_arrival?;
        let honest = arrival.before(time.max_disorder);
        let last_legal = arrival.after(time.max_clock_skew).minute().end();
        let reached = |source: &Source| match source.mark {
            SourceMark::Holding => None,
            SourceMark::At(at) => Some(at.min(honest)),
            SourceMark::Drained(at) => Some(at.min(last_legal)),
        };
        self.live(time).map(reached).min().flatten().map(Watermark::at)
    }

    /// Forgets the sources that are long gone, so that names that come and go do not pile up. One that held is remembered: should it come back and
    /// still hold, it is not waited for anew.
    pub(crate) fn forget_the_dead(&mut self, time: &TimeSettings) {
        let timeout = time.source_timeout;
        self.all.retain(|_, source| source.silent < timeout || source.mark == SourceMark::Holding);
    }

    /// Forgets every source: nobody is waited for any more.
    pub(crate) fn forget_all(&mut self) {
        self.all.clear();
    }

    /// True once the partition has stood at its end, without a live source, for the timeout.
    pub(crate) fn stands(&self, time: &TimeSettings) -> bool {
        !self.has_live(time) && self.at_end >= time.source_timeout
    }

    /// The arrival of the latest record, and whether a watcher sent it.
    pub(crate) fn last_heard(&self) -> Option<(Timestamp, bool)> {
        self.last_heard
    }

    /// Takes over from a checkpoint what the replay cannot show.
    pub(crate) fn restore(&mut self, last_heard: Option<(Timestamp, bool)>) {
        self.last_heard = last_heard;
    }
}
