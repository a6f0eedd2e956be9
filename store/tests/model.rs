//! Random writes and reads, on the embedded store and on the one in memory: the same answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{FilterId, Minute, Partition, Revision, SpanKind, Timestamp, Window};
use clickmill_store::conformance::told::Told;
use clickmill_store::embedded::{EmbeddedStore, Options};
use clickmill_store::{AggregateStore, ClosedWrite, Holds, MemoryStore, MinuteRange, RankedWrite, View};
use proptest::prelude::*;

const PARTITIONS: u32 = 2;

#[derive(Debug, Clone)]
enum Step {
    /// So many minutes pass, with these clicks: minute, ad, filter, count.
    Clicks(i64, Vec<(i64, u32, u16, u64)>),
    /// A partition closes what passed.
    Close(u32),
    /// It writes again what it wrote that many writes ago.
    Again(prop::sample::Index),
    /// A reducer tells rankings: filter, window, minutes back, ads.
    Rank(u16, u32, i64, Vec<(u32, u64)>),
    /// Minutes are recalculated: how long ago the first was, how many, whether under both filters, and other clicks than before.
    Revise(i64, i64, bool, u64),
    /// What arrived that many minutes before now goes: counts, rankings.
    Expire(i64, i64),
    /// The process ends and another one begins.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let click = (0..200_i64, 0..30_u32, 0..3_u16, prop_oneof![1..5_u64, 1..u64::from(u32::MAX) * 8]);
    // Mostly minutes, sometimes hours, now and then a day passes.
    let minutes = prop_oneof![6 => 1..10_i64, 3 => 30..100_i64, 1 => 1000..3000_i64];
    prop_oneof![
        6 => (minutes, prop::collection::vec(click, 0..20)).prop_map(|(minutes, clicks)| Step::Clicks(minutes, clicks)),
        8 => (0..PARTITIONS).prop_map(Step::Close),
        2 => any::<prop::sample::Index>().prop_map(Step::Again),
        3 => (0..2_u16, prop_oneof![Just(1_u32), Just(5)], 0..5_i64, prop::collection::vec((0..40_u32, 1..1000_u64), 0..8))
            .prop_map(|(filter, window, back, ads)| Step::Rank(filter, window, back, ads)),
        2 => (0..3000_i64, prop_oneof![1..90_i64, 1..2000_i64], any::<bool>(), 1..1000_u64)
            .prop_map(|(back, length, both, seed)| Step::Revise(back, length, both, seed)),
        1 => (0..4000_i64, 0..4000_i64).prop_map(|(counts, rankings)| Step::Expire(counts, rankings)),
        1 => Just(Step::Restart),
    ]
}

struct World {
    dir: tempfile::TempDir,
    embedded: EmbeddedStore,
    memory: MemoryStore,
    told: Told,
    begin: Minute,
    now: Minute,
    until: Vec<Minute>,
    writes: Vec<ClosedWrite>,
    ranked: Minute,
    /// By rising revision.
    revised: Vec<(Revision, Holds)>,
}

impl World {
    fn new(begin: Minute) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
        let until = vec![begin; PARTITIONS as usize];
        let told = Told::new(PARTITIONS);
        Self {
            dir,
            embedded,
            memory: MemoryStore::new(),
            told,
            begin,
            now: begin,
            until,
            writes: vec![],
            ranked: begin,
            revised: vec![],
        }
    }

    fn closed(&self, write: &ClosedWrite) {
        self.embedded.write_closed(write).unwrap();
        self.memory.write_closed(write).unwrap();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Clicks(minutes, clicks) => {
                for (minute, ad, filter, count) in clicks {
                    self.told.add(self.now.plus(minute % minutes), &format!("ad{ad}"), FilterId(filter), count);
                }
                self.now = self.now.plus(minutes);
            }
            Step::Close(partition) => {
                let from = std::mem::replace(&mut self.until[partition as usize], self.now);
                let filters = vec![
                    FilterSpan { filter: FilterId(0), from: Minute::MIN, until: None },
                    FilterSpan { filter: FilterId(1), from, until: (partition == 1).then_some(self.now) },
                ];
                let write = ClosedWrite { filters, ..self.told.write(Partition(partition), from, self.now) };
                self.closed(&write);
                self.writes.push(write);
            }
            Step::Again(index) => {
                if !self.writes.is_empty() {
                    self.closed(index.get(&self.writes));
                }
            }
            Step::Rank(filter, window, back, ads) => {
                let ads = ads.into_iter().map(|(ad, count)| (format!("ad{ad}"), count)).collect();
                let minute = self.now.plus(-back);
                let ranking = Ranking {
                    filter: FilterId(filter),
                    window: Window(window),
                    minute,
                    whole: back % 2 == 0,
                    complete: window == 1,
                    ads,
                };
                self.ranked = self.ranked.max(self.now);
                let write = RankedWrite {
                    revision: Revision::STREAM,
                    partition: Partition(u32::from(filter)),
                    rankings: vec![(ranking, (window == 1).then_some(minute.end()))],
                    until: self.now,
                };
                self.embedded.write_ranked(&write).unwrap();
                self.memory.write_ranked(&write).unwrap();
            }
            Step::Revise(back, length, both, seed) => self.revise(back, length, both, seed),
            Step::Expire(counts, rankings) => {
                let before = |back: i64| self.now.plus(-back).start();
                let found = self.embedded.expire(before(counts), before(rankings)).unwrap();
                assert_eq!(found, self.memory.expire(before(counts), before(rankings)).unwrap());
            }
            Step::Restart => {
                self.embedded =
                    EmbeddedStore::open(self.dir.path(), Options { readers: 1, ..Options::default() }).unwrap();
            }
        }
    }

    fn revise(&mut self, back: i64, length: i64, both: bool, seed: u64) {
        let from = self.now.plus(-back);
        let to = from.plus(length).min(self.now);
        if from >= to {
            return;
        }
        let revision = Revision(self.revised.len() as u32 + 1);
        let filters = if both { vec![FilterId(0), FilterId(1)] } else { vec![FilterId(1)] };
        let mut told = Told::new(PARTITIONS);
        let mut rankings = Vec::new();
        for m in (0..to.minus(from)).filter(|m| (*m as u64 * 7 + seed).is_multiple_of(5)) {
            for filter in &filters {
                let (ad, clicks) = (format!("ad{}", (m as u64 * 3 + seed) % 30), seed + m as u64);
                told.add(from.plus(m), &ad, *filter, clicks);
                let (filter, minute) = (*filter, from.plus(m));
                let ads = vec![(ad, clicks)];
                rankings.push((Ranking { filter, window: Window(1), minute, whole: true, complete: true, ads }, None));
            }
        }
        for partition in (0..PARTITIONS).map(Partition) {
            let mut write = ClosedWrite { revision, ..told.write(partition, from, to) };
            write.counts.retain(|(columns, _)| from <= columns.span.start);
            self.closed(&write);
        }
        let write = RankedWrite { revision, partition: Partition(0), rankings, until: to };
        self.embedded.write_ranked(&write).unwrap();
        self.memory.write_ranked(&write).unwrap();
        let range = MinuteRange { from, to };
        let filters = filters.into_iter().map(|filter| (filter, range)).collect();
        self.revised.push((revision, Holds { range, filters, windows: [Window(1)].into() }));
    }

    /// As readers see it without recalculations, with all of them, and where every other one is undone.
    fn compare(&self, ranges: &[(prop::sample::Index, prop::sample::Index)]) {
        let undone = self.revised.iter().step_by(2).cloned();
        for view in [View::STREAM, View::of(self.revised.iter().cloned()), View::of(undone)] {
            self.compare_seen(&view, ranges);
        }
        for (revision, _) in &self.revised {
            assert_eq!(self.embedded.progress_of(*revision).unwrap(), self.memory.progress_of(*revision).unwrap());
        }
    }

    fn compare_seen(&self, view: &View, ranges: &[(prop::sample::Index, prop::sample::Index)]) {
        let (one, other) = (&self.embedded, &self.memory);
        let progress = one.progress().unwrap();
        assert_eq!(progress, other.progress().unwrap());
        // Before that figures may be deleted, or told once more as part of an hour's total: no store promises anything of them.
        let first = progress.counts_from.unwrap_or(Minute::MIN);
        let length = (self.now.minus(self.begin) + 60) as usize;
        let ads: Vec<String> = (0..32).map(|ad| format!("ad{ad}")).collect();
        let ads: Vec<&str> = ads.iter().map(String::as_str).collect();
        for (from, to) in ranges {
            let at = |index: &prop::sample::Index| self.begin.plus(index.index(length) as i64 - 30);
            let range = MinuteRange { from: at(from).min(at(to)).max(first), to: at(from).max(at(to)).max(first) };
            for filter in [FilterId(0), FilterId(1), FilterId(9)] {
                assert_eq!(
                    one.counts(view, &ads, filter, range).unwrap(),
                    other.counts(view, &ads, filter, range).unwrap()
                );
                assert_eq!(one.top(view, filter, range, 5).unwrap(), other.top(view, filter, range, 5).unwrap());
                for step in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
                    let series = one.series(view, "ad1", filter, range, step).unwrap();
                    assert_eq!(series, other.series(view, "ad1", filter, range, step).unwrap());
                }
                let minutes = (0..50).map(|back| self.now.plus(-back));
                let which: Vec<_> = minutes.flat_map(|minute| [(Window(1), minute), (Window(5), minute)]).collect();
                assert_eq!(one.rankings(view, filter, &which).unwrap(), other.rankings(view, filter, &which).unwrap());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_answers_as_the_one_in_memory(
        begin in prop_oneof![Just("202012312250"), Just("196912312345"), Just("202402281201")],
        steps in prop::collection::vec(step(), 1..40),
        ranges in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 6),
    ) {
        let mut world = World::new(Minute::parse(begin).unwrap());
        let half = steps.len() / 2;
        for (i, step) in steps.into_iter().enumerate() {
            world.step(step);
            if i == half {
                world.compare(&ranges);
            }
        }
        world.compare(&ranges);
        world.step(Step::Expire(-10_000, -10_000));
        world.compare(&ranges);
        // What has no arrival stays for ever.
        prop_assert_eq!(world.embedded.expire(Timestamp::from_secs(i64::MAX / 2), Timestamp::MIN).unwrap(), 0);
    }
}
