//! The mapper's operator beside the slow model: the same records and silences, seed after seed; after each, both must say the same.
//!
//! `CLICKMILL_TEST_SEED=n` runs one seed, `CLICKMILL_TEST_SEEDS=n` the first n.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

use std::collections::BTreeMap;
use std::time::Duration;

use clickmill_mapper::{Combiner, Mapped, Others, PartitionMapper};
use clickmill_model::records::{MapperCheckpoint, Origin, SourceHeader, SourceMark};
use clickmill_model::{
    Definition, Filter, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, SourceName, Timestamp,
};
use clickmill_queue::{Fetched, Record};
use clickmill_tests::dice::{Dice, seeds};
use clickmill_tests::model::{Model, SlowBooks};

const PARTITIONS: u32 = 2;

/// A watcher of the schedule.
struct Watcher {
    name: &'static str,
    /// How far behind the queue's clock its lines are.
    lag: Duration,
    is_away: bool,
}

/// One run: operators, model, and the log that a restart reads.
struct Run {
    dice: Dice,
    definition: Definition,
    model: Model,
    mappers: Vec<PartitionMapper>,
    committed: Vec<(Offset, Option<MapperCheckpoint>)>,
    logs: Vec<Vec<Fetched>>,
    combiner: Combiner,
    counts: BTreeMap<(Minute, FilterId, String), u64>,
    set_aside: [usize; 2],
    now: Timestamp,
    watchers: Vec<Watcher>,
    said: Vec<String>,
    /// How far behind the clocks of foreign producers are.
    foreign_lag: Duration,
    has_crashes: bool,
}

fn raw(partition: usize) -> RawPartition {
    RawPartition::new("ad-clicks", Partition(partition as u32))
}

fn definition(dice: &mut Dice) -> Definition {
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    Definition {
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: PARTITIONS }],
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA"],"ip":["10.0.0.0/9","2001:db8::/32"]}"#),
            filter(r#"{"id":3,"user_id":["user 1","user 2"]}"#),
        ],
        sources: if dice.one_in(8) { ["w1".to_owned()].into() } else { [].into() },
        dedup: !dice.one_in(8),
        ..Definition::default()
    }
}

impl Run {
    fn new(seed: u64, has_crashes: bool) -> Self {
        let mut dice = Dice::new(seed);
        let definition = definition(&mut dice);
        let count = dice.below(4) as usize;
        let names = ["w1", "w2", "w3"].into_iter().take(count);
        let watchers = names
            .map(|name| Watcher { name, lag: Duration::from_secs(dice.below(90)), is_away: dice.one_in(4) })
            .collect();
        Self {
            model: Model::new(&definition),
            mappers: (0..PARTITIONS as usize).map(|p| PartitionMapper::new(raw(p), &definition, Offset(0))).collect(),
            committed: vec![(Offset(0), None); PARTITIONS as usize],
            logs: vec![Vec::new(); PARTITIONS as usize],
            combiner: Combiner::new(3),
            counts: BTreeMap::new(),
            set_aside: [0, 0],
            // Half a minute before a new year.
            now: Timestamp::from_secs(1_609_459_170),
            watchers,
            said: Vec::new(),
            foreign_lag: Duration::from_secs(if dice.one_in(3) { 86_400 * 365 } else { 0 }),
            has_crashes,
            dice,
            definition,
        }
    }

    /// A line of about this time, or one that was said before.
    fn line(&mut self, around: Timestamp) -> String {
        if self.dice.one_in(4) && !self.said.is_empty() {
            let latest = self.said.len() as u64 - 1;
            return self.said[(latest - self.dice.below(latest.min(10) + 1)) as usize].clone();
        }
        let line = self.new_line(around);
        self.said.push(line.clone());
        line
    }

    fn new_line(&mut self, around: Timestamp) -> String {
        let dice = &mut self.dice;
        let micros = match dice.below(40) {
            0 => around.as_micros() + 400_000_000,
            1 => 0,
            2 => around.minute().start().as_micros(),
            3 => around.minute().start().as_micros() - 1,
            _ => around.as_micros() - dice.below(30_000_000) as i64,
        };
        // Few values, so that duplicates come by themselves; whole seconds for the same reason.
        let time = Timestamp::from_micros(if dice.one_in(4) { micros } else { micros / 5_000_000 * 5_000_000 });
        let text = time.to_string();
        let ad = ["ad1", "ad2", "ad/3 %", "реклама"][dice.below(4) as usize];
        let user = format!("user {}", dice.below(3));
        let country = ["USA", "France"][dice.below(2) as usize];
        let ip =
            ["10.1.2.3", "10.200.2.3", "2001:db8::1", "2001:DB8:0:0::1", "::ffff:10.1.2.3"][dice.below(5) as usize];
        match dice.below(12) {
            0 => format!("[AdClickEvent] {ad}, {text}, {user}, {ip}"),
            1 => String::new(),
            2 | 3 => {
                let event = if dice.one_in(2) { ",\"event_id\":\"e1\"" } else { "" };
                format!(
                    r#"{{"ad_id":"{ad}","click_timestamp":"{text}","user_id":"{user}","ip":"{ip}","country":"{country}"{event}}}"#
                )
            }
            _ => format!("[AdClickEvent] {ad}, {}, {user},  {ip}, {country} ", text.replace('T', " ")),
        }
    }

    fn send(&mut self, partition: usize, header: Option<&SourceHeader>, lines: &[String]) {
        let headers = header.map(|header| (SourceHeader::KEY.to_owned(), header.encode()));
        let record = Record { headers: headers.into_iter().collect(), ..Record::of(lines.join("\n").into_bytes()) };
        let offset = self.logs[partition].last().map_or(Offset(0), |last| last.offset.next());
        // Transaction markers leave gaps.
        let offset = if self.dice.one_in(5) { offset.next() } else { offset };
        let fetched = Fetched { offset, arrival: self.now, record };
        self.model.record(&raw(partition), offset, self.now, header, &fetched.record.value);
        self.mappers[partition].apply(std::slice::from_ref(&fetched), &mut self.combiner).unwrap();
        self.logs[partition].push(fetched);
    }

    fn watcher_speaks(&mut self, watcher: usize) {
        let Watcher { name, lag, .. } = self.watchers[watcher];
        let around = self.now.before(lag);
        let partition = self.dice.below(u64::from(PARTITIONS)) as usize;
        let mark = match self.dice.below(30) {
            0 => SourceMark::Holding,
            1 => SourceMark::At(around.after(Duration::from_secs(3600))),
            2 => SourceMark::Drained(around.minute().end()),
            _ => SourceMark::At(around.before(self.definition.time.max_disorder)),
        };
        let lines: Vec<String> = (0..self.dice.below(4)).map(|_| self.line(around)).collect();
        let runs = if lines.is_empty() { vec![] } else { vec![("log".to_owned(), vec![0; lines.len()])] };
        let header = SourceHeader { source: SourceName::from(name), mark, origin: Origin { runs } };
        self.send(partition, Some(&header), &lines);
    }

    fn foreigner_speaks(&mut self) {
        let partition = self.dice.below(u64::from(PARTITIONS)) as usize;
        let lines: Vec<String> =
            (0..1 + self.dice.below(3)).map(|_| self.line(self.now.before(self.foreign_lag))).collect();
        self.send(partition, None, &lines);
    }

    fn idle(&mut self, partition: usize) {
        let checkpoints: Vec<MapperCheckpoint> = (0..self.mappers.len()).map(|p| self.commit(p)).collect();
        let others = Others {
            lowest_live: checkpoints.iter().filter(|c| c.has_live_source).map(|c| c.watermark).min(),
            last_heard: checkpoints.iter().filter_map(|c| c.last_heard).max(),
        };
        self.model.idle(&raw(partition), self.now);
        self.mappers[partition].tick(self.now, others);
    }

    fn commit(&mut self, partition: usize) -> MapperCheckpoint {
        let Mapped { blocks, late, rejected, offset, checkpoint } = self.mappers[partition].take(&mut self.combiner);
        for columns in blocks.iter().flat_map(|block| &block.minutes) {
            for (filter, counts) in columns.filters.iter().zip(&columns.counts) {
                for (ad, count) in columns.ads.iter().zip(counts).filter(|(_, count)| **count > 0) {
                    let ad = String::from_utf8(ad.to_vec()).unwrap();
                    *self.counts.entry((columns.span.start, *filter, ad)).or_default() += count;
                }
            }
        }
        self.set_aside[0] += late.map_or(0, |batch| batch.lines.len());
        self.set_aside[1] += rejected.map_or(0, |batch| batch.lines.len());
        let encoded = MapperCheckpoint::decode(&checkpoint.encode()).unwrap();
        self.committed[partition] = (offset, Some(encoded));
        checkpoint
    }

    /// Loses what was not committed, and goes on from what was.
    fn crash(&mut self, partition: usize) {
        let (offset, checkpoint) = self.committed[partition].clone();
        let mut mapper = match &checkpoint {
            None => PartitionMapper::new(raw(partition), &self.definition, Offset(0)),
            Some(checkpoint) => {
                let definitions = std::slice::from_ref(&self.definition);
                PartitionMapper::restore(raw(partition), definitions, offset, checkpoint).unwrap()
            }
        };
        let replay_from = checkpoint.map_or(offset, |checkpoint| checkpoint.replay_from);
        for record in &self.logs[partition] {
            if record.offset >= offset {
                mapper.apply(std::slice::from_ref(record), &mut self.combiner).unwrap();
            } else if record.offset >= replay_from {
                mapper.replay(record).unwrap();
            }
        }
        self.mappers[partition] = mapper;
    }

    fn pass(&mut self) {
        let by = match self.dice.below(60) {
            0 => 600_000,
            1..4 => 10_000 + self.dice.below(60_000),
            _ => self.dice.below(3000),
        };
        self.now = self.now.after(Duration::from_millis(by));
    }

    fn step(&mut self) {
        self.pass();
        match self.dice.below(20) {
            0..8 if !self.watchers.is_empty() => {
                let watcher = self.dice.below(self.watchers.len() as u64) as usize;
                if self.dice.one_in(40) {
                    self.watchers[watcher].is_away = !self.watchers[watcher].is_away;
                }
                if !self.watchers[watcher].is_away {
                    self.watcher_speaks(watcher);
                }
            }
            8..10 => self.foreigner_speaks(),
            10..12 if !self.has_crashes => {
                // A long time at the end, now and then.
                let times = if self.dice.one_in(20) { 100 } else { 1 + self.dice.below(4) };
                let partition = self.dice.below(u64::from(PARTITIONS)) as usize;
                for _ in 0..times {
                    self.pass();
                    self.idle(partition);
                }
            }
            12..14 => {
                let partition = self.dice.below(u64::from(PARTITIONS)) as usize;
                self.commit(partition);
                if self.has_crashes {
                    self.crash(partition);
                }
            }
            14 if self.has_crashes => {
                let partition = self.dice.below(u64::from(PARTITIONS)) as usize;
                self.crash(partition);
            }
            _ => {}
        }
    }

    fn compare(&self, seed: u64, step: usize) {
        let place = format!("CLICKMILL_TEST_SEED={seed}, step {step}");
        for (p, mapper) in self.mappers.iter().enumerate() {
            assert_eq!(mapper.watermark(), self.model.watermark(&raw(p)), "watermark of partition {p}, {place}");
        }
        let mut books = SlowBooks::default();
        for mapper in &self.mappers {
            let its = mapper.books();
            assert!(its.balance(), "{its:?}, {place}");
            books.lines += its.lines;
            books.counted += its.counted;
            books.duplicates += its.duplicates;
            books.late += its.late;
            books.rejected += its.rejected_total();
        }
        assert_eq!(books, self.model.books(), "{place}");
    }
}

fn check(seed: u64, has_crashes: bool) -> SlowBooks {
    let mut run = Run::new(seed, has_crashes);
    for step in 0..300 {
        run.step();
        run.compare(seed, step);
    }
    for partition in 0..PARTITIONS as usize {
        run.commit(partition);
    }
    assert_eq!(&run.counts, run.model.counts(), "CLICKMILL_TEST_SEED={seed}");
    let set_aside = [run.model.late().len(), run.model.rejected().len()];
    assert_eq!(run.set_aside, set_aside, "CLICKMILL_TEST_SEED={seed}");
    run.model.books()
}

/// Runs every seed; together they must have seen something of everything.
fn check_all(has_crashes: bool) {
    let seeds = seeds(400);
    let mut seen = SlowBooks::default();
    for seed in &seeds {
        let books = check(*seed, has_crashes);
        seen.counted += books.counted;
        seen.duplicates += books.duplicates;
        seen.late += books.late;
        seen.rejected += books.rejected;
    }
    let least = seen.counted.min(seen.duplicates).min(seen.late).min(seen.rejected);
    assert!(least > seeds.len() as u64 || seeds.len() == 1, "the schedules show too little: {seen:?}");
}

#[test]
fn mapper_and_model_agree_on_every_line_and_every_watermark() {
    check_all(false);
}

#[test]
fn mapper_and_model_agree_when_it_crashes_at_any_step() {
    check_all(true);
}
