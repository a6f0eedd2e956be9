//! Random writes and reads, on the embedded store and on the one in memory: the same answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{FilterId, Minute, Partition, Revision, SpanKind, Timestamp, Window};
use clickmill_store::conformance::told::Told;
use clickmill_store::embedded::{EmbeddedStore, Options};
use clickmill_store::{AggregateStore, ClosedWrite, MemoryStore, MinuteRange, RankedWrite, View};
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

    fn compare(&self, ranges: &[(prop::sample::Index, prop::sample::Index)]) {
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
                    one.counts(&View::STREAM, &ads, filter, range).unwrap(),
                    other.counts(&View::STREAM, &ads, filter, range).unwrap()
                );
                assert_eq!(
                    one.top(&View::STREAM, filter, range, 5).unwrap(),
                    other.top(&View::STREAM, filter, range, 5).unwrap()
                );
                for step in [SpanKind::Minute, SpanKind::Hour, SpanKind::Day] {
                    let series = one.series(&View::STREAM, "ad1", filter, range, step).unwrap();
                    assert_eq!(series, other.series(&View::STREAM, "ad1", filter, range, step).unwrap());
                }
                let minutes = (0..50).map(|back| self.now.plus(-back));
                let which: Vec<_> = minutes.flat_map(|minute| [(Window(1), minute), (Window(5), minute)]).collect();
                assert_eq!(
                    one.rankings(&View::STREAM, filter, &which).unwrap(),
                    other.rankings(&View::STREAM, filter, &which).unwrap()
                );
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
