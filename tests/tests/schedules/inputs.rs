//! Schedule 34: input topics come and go while the pipeline runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clickmill_model::records::{Books, Origin, SourceHeader, SourceMark};
use clickmill_model::{Definition, FilterId, InputTopic, Minute, Offset, Partition, RawPartition, TimeSettings};
use clickmill_queue::inputs::RawTopics;
use clickmill_queue::memory::CommitFault;
use clickmill_queue::{Queue, Record, TopicPartition, Transaction, topology};
use clickmill_store::{AggregateStore, MinuteRange, View};
use clickmill_tests::dice::{Dice, SEED, seeds};
use clickmill_tests::model::Model;

use crate::world::{Kind, START, World, at};

/// The writers of files are left out: what they have passed would be gone from the raw topics, which the model reads.
const KINDS: [Kind; 4] = [Kind::Mapper, Kind::Aggregator, Kind::Reducer, Kind::DbWriter];

fn reading(topics: &[&str]) -> Definition {
    let inputs = topics.iter().map(|topic| InputTopic { topic: (*topic).into(), partitions: 2 }).collect();
    Definition {
        inputs,
        partitions: 2,
        // No source falls silent here: the model is not told of empty fetches, which count as silence.
        time: TimeSettings { source_timeout: Duration::from_secs(86_400), ..TimeSettings::default() },
        ..Definition::default()
    }
}

fn line(ad: &str, seconds: i64) -> String {
    let time = at(seconds).to_string().replace('T', " ").replace('Z', "");
    format!("[AdClickEvent] {ad}, {time}, user 1, 1.2.3.4, USA")
}

fn mark(seconds: i64) -> SourceMark {
    SourceMark::At(at(seconds))
}

fn minute(n: i64) -> Minute {
    at(n * 60).minute()
}

/// A world in which topics come and go, with a note of when the mappers began with each partition.
struct Inputs {
    world: World,
    /// Of each partition that came later: the first minute in which it counts.
    begins: BTreeMap<RawPartition, Minute>,
}

impl Inputs {
    fn new(topics: &[&str], others: &[&str]) -> Self {
        let world = World::new(reading(topics));
        world.queue.create_topics(&topology::topics(&reading(others))).unwrap();
        Self { world, begins: BTreeMap::new() }
    }

    fn send(&self, topic: &str, partition: u32, (name, to): (&str, SourceMark), lines: &[String]) {
        let runs = if lines.is_empty() { vec![] } else { vec![("log".to_owned(), vec![0; lines.len()])] };
        let header = SourceHeader { source: name.into(), mark: to, origin: Origin { runs } };
        let headers = vec![(SourceHeader::KEY.to_owned(), header.encode())];
        let mut transaction = Transaction::default();
        let record = Record { key: None, headers, value: lines.join("\n").into_bytes() };
        transaction.send(TopicPartition::new(topic, partition), record);
        self.world.queue.producer(&format!("{name}-{topic}")).unwrap().commit(&transaction, None).unwrap();
    }

    fn step(&mut self, kind: Kind, name: u32) {
        self.world.step((kind, name));
        if kind == Kind::Mapper {
            self.note_begins();
        }
    }

    /// Looks up in which minute each partition that nobody has read yet will begin to count.
    fn note_begins(&mut self) {
        let RawTopics { read, committed, .. } = self.world.raw_topics();
        let unread = read.first_minutes.into_iter().filter(|(raw, _)| !committed.contains_key(raw));
        self.begins.extend(unread);
    }

    /// Until everybody has followed every definition, and nothing more happens.
    fn settle(&mut self, processes: u32) {
        for _ in 0..12 {
            self.world.queue.forget_faults();
            self.world.zombies.clear();
            let mut quiet = 0;
            while quiet < 4 {
                let mut worked = false;
                for kind in KINDS {
                    for name in 0..processes {
                        worked |= self.world.step((kind, name));
                        self.note_begins();
                    }
                }
                quiet = if worked { 0 } else { quiet + 1 };
            }
            self.world.clock.advance(Duration::from_secs(1));
        }
    }

    /// The model of every record that the mappers have committed.
    fn model(&self) -> Model {
        let mut inputs: Vec<InputTopic> = self.world.definitions.iter().flat_map(|d| d.inputs.clone()).collect();
        inputs.sort();
        inputs.dedup();
        let all = Definition { inputs, ..self.world.definitions.last().unwrap().clone() };
        let mut model = Model::new(&all);
        for input in &all.inputs {
            for (partition, committed) in self.world.queue.committed(topology::MAPPER, &input.topic).unwrap() {
                let raw = RawPartition::new(&input.topic, partition);
                let of = TopicPartition::new(input.topic.as_str(), partition.0);
                if let Some(first) = self.begins.get(&raw) {
                    model.begin_at(&raw, *first);
                }
                for fetched in self.world.queue.read(&of, Offset(0), usize::MAX >> 1).unwrap() {
                    if fetched.offset >= committed.offset {
                        break;
                    }
                    let header = fetched.record.header(SourceHeader::KEY).map(|h| SourceHeader::decode(h).unwrap());
                    model.record(&raw, fetched.offset, fetched.arrival, header.as_ref(), &fetched.record.value);
                }
            }
        }
        model
    }

    fn check(&self, context: &str) -> Model {
        let model = self.model();
        let mut late = model.late().to_vec();
        late.sort();
        assert_eq!(self.world.late(), late, "{context}: late");
        let mut books = Books::default();
        for (_, checkpoint) in self.world.checkpoints() {
            assert!(checkpoint.books.balance(), "{context}");
            books.add(&checkpoint.books);
        }
        let slow = model.books();
        assert_eq!(
            (books.lines, books.counted, books.duplicates, books.late),
            (slow.lines, slow.counted, slow.duplicates, slow.late),
            "{context}: books"
        );
        self.world.compare(&model, context);
        model
    }

    fn count(&self, ad: &str, from: i64, to: i64) -> u64 {
        let range = MinuteRange { from: minute(from), to: minute(to) };
        self.world.store.counts(&View::STREAM, &[ad], FilterId::ALL, range).unwrap()[0]
    }
}

const STEP: i64 = 15;

/// Twenty minutes of one watcher a topic. `more-clicks` has an hour of backlog, comes at five minutes and stays alone from twelve minutes on; what is sent to
/// `ad-clicks` after thirteen minutes is nobody's.
fn a_topic_comes_and_another_goes(mut after: impl FnMut(&mut Inputs, i64)) -> Inputs {
    let mut inputs = Inputs::new(&["ad-clicks"], &["more-clicks"]);
    for m in -60..0 {
        for partition in 0..2 {
            inputs.send("more-clicks", partition, ("w2", mark(m * 60 - 30)), &[line("old", m * 60)]);
        }
    }
    for i in 0..80 {
        let second = i * STEP;
        inputs.world.clock.set(at(second));
        for partition in 0..2 {
            let ad = format!("ad{}", (i + i64::from(partition)) % 5);
            let lines = [line(&ad, second - 20), line(&ad, second - 5), line(&ad, second - 5)];
            if i < 54 {
                inputs.send("ad-clicks", partition, ("w1", mark(second - 30)), &lines);
            } else if i == 60 {
                inputs.send("ad-clicks", partition, ("w1", mark(second - 30)), &[line("unread", second - 5)]);
            }
            inputs.send("more-clicks", partition, ("w2", mark(second - 30)), &[line("more", second - 10)]);
        }
        if i == 20 {
            inputs.world.define(&reading(&["ad-clicks", "more-clicks"]));
        }
        if i == 48 {
            inputs.world.define(&reading(&["more-clicks"]));
        }
        after(&mut inputs, i);
    }
    inputs.world.clock.set(at(80 * STEP + 100));
    for partition in 0..2 {
        inputs.send("more-clicks", partition, ("w2", mark(80 * STEP)), &[]);
    }
    inputs.settle(2);
    inputs
}

fn steps(inputs: &mut Inputs) {
    for _ in 0..3 {
        inputs.step(Kind::Mapper, 0);
    }
    for kind in KINDS {
        inputs.step(kind, 0);
    }
}

fn check_both(inputs: &Inputs, context: &str) {
    inputs.check(context);
    let until = inputs.world.store.progress().unwrap().counts_until(2);
    assert_eq!(until, Some(minute(20)), "{context}: nothing hangs");
    let topics: Vec<String> = inputs.world.raw_topics().of_mapper().into_iter().collect();
    assert_eq!(topics, ["more-clicks"], "{context}: the retired one is not read any more");
    assert_eq!(inputs.count("unread", 0, 20), 0, "{context}");
}

#[test]
fn schedule_34_a_topic_with_an_hour_of_backlog_comes_and_another_goes() {
    let inputs = a_topic_comes_and_another_goes(|inputs, _| steps(inputs));
    check_both(&inputs, "without a fault");
    // Defined at 5:00, when the slowest partition stood at 4:30 or so: minute 4 was open, and an hour and four minutes were closed.
    let firsts: Vec<Minute> = (0..2).map(|p| inputs.begins[&RawPartition::new("more-clicks", Partition(p))]).collect();
    assert_eq!(firsts, [minute(4), minute(4)]);
    assert_eq!((inputs.count("old", -60, 0), inputs.count("more", 0, 4)), (0, 0), "closed minutes keep their figures");
    // From the line at 4:05 on, four a minute and partition.
    assert_eq!(inputs.count("more", 4, 20), 2 * (80 - 17));
    assert_eq!(inputs.world.late().len(), 2 * (60 + 17));
    // What came before it was retired counts to the last line.
    let ads: u64 = (0..5).map(|n| inputs.count(&format!("ad{n}"), -1, 20)).sum();
    let read = inputs.world.queue.committed(topology::MAPPER, "ad-clicks").unwrap();
    assert!(read.iter().all(|(_, at)| (49..=51).contains(&at.offset.0)), "{read:?}");
    assert_eq!(ads, read.iter().map(|(_, at)| at.offset.0 * 2).sum::<u64>());
}

#[test]
fn schedule_34_a_crash_after_any_step_changes_nothing() {
    for kind in KINDS {
        for crash in (16..60).step_by(2) {
            let inputs = a_topic_comes_and_another_goes(|inputs, i| {
                steps(inputs);
                if i == crash || i == crash + 1 {
                    inputs.world.kill((kind, 0));
                }
            });
            check_both(&inputs, &format!("{kind:?} killed after step {crash}"));
        }
    }
}

#[test]
fn schedule_34_a_commit_that_failed_or_only_seemed_to_changes_nothing() {
    for fault in [CommitFault::AppliedButReportedFailed, CommitFault::LostBefore, CommitFault::NotApplied] {
        for crash in 18..56 {
            let inputs = a_topic_comes_and_another_goes(|inputs, i| {
                if i == crash {
                    inputs.world.queue.fail_next_commit(fault);
                }
                steps(inputs);
                inputs.world.queue.forget_faults();
            });
            check_both(&inputs, &format!("{fault:?} at step {crash}"));
        }
    }
}

#[test]
fn schedule_34_a_zombie_that_reads_by_the_old_definition_commits_nothing() {
    for kind in [Kind::Mapper, Kind::Aggregator] {
        for stop in (16..54).step_by(3) {
            let inputs = a_topic_comes_and_another_goes(|inputs, i| {
                steps(inputs);
                if i == stop {
                    inputs.world.suspend((kind, 0));
                }
                for kind in KINDS {
                    inputs.step(kind, 1);
                }
                if i > stop + 5 {
                    inputs.world.wake(0);
                }
            });
            check_both(&inputs, &format!("{kind:?} suspended after step {stop}"));
        }
    }
}

#[test]
fn schedule_34_a_topic_that_takes_the_place_of_another_goes_on_in_the_open_minute() {
    let mut inputs = Inputs::new(&["ad-clicks"], &["more-clicks"]);
    for i in 0..40 {
        let second = i * STEP;
        inputs.world.clock.set(at(second));
        // The watcher is configured anew at 5:00, and the mapper is behind by a minute then.
        let topic = if i < 20 { "ad-clicks" } else { "more-clicks" };
        for partition in 0..2 {
            inputs.send(topic, partition, ("w", mark(second - 30)), &[line("a", second)]);
        }
        if i == 20 {
            inputs.world.define(&reading(&["more-clicks"]));
        }
        if !(16..=20).contains(&i) {
            steps(&mut inputs);
        }
    }
    inputs.settle(1);
    inputs.check("moved");
    assert_eq!(inputs.world.late(), [], "nothing is late");
    assert_eq!(inputs.count("a", 0, 9), 2 * 36);
}

/// A world in which definitions with other inputs come as a seed says, in the middle of everything that goes wrong.
fn run(seed: u64) {
    const TOPICS: [&str; 3] = ["ad-clicks", "more-clicks", "old-clicks"];
    let context = format!("seed {seed}");
    let mut random = Dice::new(seed);
    let mut inputs = Inputs::new(&TOPICS[..1], &TOPICS);
    let processes = 1 + random.below(2) as u32;
    let mut times = [0_i64; 3];
    for _ in 0..200 + random.below(200) {
        match random.below(12) {
            0..4 => {
                let place = random.below(3) as usize;
                times[place] += random.below(30) as i64;
                let time = times[place];
                if time > inputs.world.now().as_micros() / 1_000_000 - START {
                    inputs.world.clock.set(at(time));
                }
                for partition in 0..2 {
                    let lines: Vec<String> = (0..random.below(4))
                        .map(|_| line(&format!("ad{}", random.below(5)), time - random.below(30) as i64))
                        .collect();
                    inputs.send(TOPICS[place], partition, ("w", mark(time - 30)), &lines);
                }
            }
            4 => inputs.world.clock.advance(Duration::from_millis(random.below(3000))),
            5 => {
                let kind = KINDS[random.below(4) as usize];
                inputs.world.fault(&mut random);
                inputs.step(kind, random.below(processes.into()) as u32);
                inputs.world.queue.forget_faults();
            }
            6 => {
                let who = (KINDS[random.below(4) as usize], random.below(processes.into()) as u32);
                if random.one_in(2) { inputs.world.kill(who) } else { inputs.world.suspend(who) }
            }
            7 => {
                let place = random.below(inputs.world.zombies.len().max(1) as u64) as usize;
                inputs.world.wake(place);
                inputs.note_begins();
            }
            8 if random.one_in(4) => {
                let topics: Vec<&str> = TOPICS.into_iter().filter(|_| random.one_in(2)).collect();
                let proposal = reading(&topics);
                let may = !topics.is_empty() && proposal.following(&inputs.world.definitions).is_ok();
                // As `clickmill define` has it: one change after the other.
                if may && inputs.world.raw_topics().are_those_of(inputs.world.definitions.last().unwrap()) {
                    inputs.world.define(&proposal);
                }
            }
            _ => {
                // Twice as often as anything else: who is always behind shows little.
                let kind = if random.one_in(2) { Kind::Mapper } else { KINDS[random.below(4) as usize] };
                inputs.step(kind, random.below(processes.into()) as u32);
            }
        }
    }
    inputs.settle(processes);
    let end = times.into_iter().max().unwrap_or(0) + 600;
    inputs.world.clock.set(at(end + 60));
    for topic in TOPICS {
        for partition in 0..2 {
            inputs.send(topic, partition, ("w", mark(end)), &[]);
        }
    }
    inputs.settle(processes);
    inputs.check(&context);
    let progress = inputs.world.store.progress().unwrap();
    assert_eq!(progress.counts_until(2), Some(at(end).minute()), "{context}: nothing hangs");
    let read = inputs.world.raw_topics().of_mapper();
    let newest: BTreeSet<String> =
        inputs.world.definitions.last().unwrap().inputs.iter().map(|input| input.topic.clone()).collect();
    assert_eq!(read, newest, "{context}: everybody has followed");
}

#[test]
fn schedule_34_topics_come_and_go_as_any_seed_says() {
    for seed in seeds(400) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "replay with {SEED}={seed}");
    }
}
