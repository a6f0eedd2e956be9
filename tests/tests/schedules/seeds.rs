//! Schedules that a seed draws.

use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{Definition, Filter, FilterId, InputTopic, TimeSettings, Window};

use crate::world::{KINDS, Random, START, World, at};

fn usa() -> Filter {
    Filter { id: FilterId(1), country: vec!["USA".into()], ..Filter::default() }
}

fn user() -> Filter {
    Filter { id: FilterId(2), user_id: vec!["u1".into(), "u2".into()], ..Filter::default() }
}

fn definition(random: &mut Random) -> Definition {
    let windows: &[u32] = [&[1, 5, 60][..], &[5, 15], &[1], &[3]][random.below(4) as usize];
    Definition {
        filters: vec![Filter::all(), usa(), user()],
        windows: windows.iter().map(|w| Window(*w)).collect(),
        n: 1 + random.below(120) as u32,
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 1 + random.below(3) as u32 }],
        partitions: 1 + random.below(3) as u32,
        // No source falls silent here: the model is not told of empty fetches, which count as silence.
        time: TimeSettings { source_timeout: Duration::from_secs(86_400), ..TimeSettings::default() },
        ..Definition::default()
    }
}

/// A log watcher whose lines are out of order by less than `max_disorder`.
struct Source {
    name: String,
    /// Seconds that it has come to.
    time: i64,
    stopped: bool,
}

fn line(random: &mut Random, seconds: i64) -> String {
    let ad = random.below(6) * random.below(6);
    let time = at(seconds).to_string().replace('T', " ").replace('Z', "");
    let country = ["USA", "France", "Chad"][random.below(3) as usize];
    match random.below(40) {
        0 => "no click".into(),
        1 => format!("[AdClickEvent] ad{ad}, 2099-01-01 00:00:00, u, 1.1.1.1, {country}"),
        2 => format!(
            r#"{{"ad_id":"ad{ad}","click_timestamp":"{time}","user_id":"u{}","ip":"::1","country":"{country}","event_id":"e{}"}}"#,
            random.below(4),
            random.below(5)
        ),
        _ => format!("[AdClickEvent] ad{ad}, {time}, u{}, 1.2.3.{}, {country}", random.below(4), random.below(3)),
    }
}

/// One schedule: sources at different speeds, garbage, wrong clocks, idle spells; processes killed, suspended and woken as zombies; commits that fail, and that
/// only seem to.
fn run(seed: u64) {
    let context = format!("seed {seed}");
    let mut random = Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let definition = definition(&mut random);
    let partitions = u64::from(definition.inputs[0].partitions);
    let mut world = World::new(definition);
    let processes = 1 + random.below(2) as u32;
    let mut sources: Vec<Source> =
        (0..1 + random.below(3)).map(|i| Source { name: format!("w{i}"), time: 0, stopped: false }).collect();
    let calm = random.one_in(4);
    for _ in 0..150 + random.below(150) {
        match random.below(12) {
            0..4 => {
                let place = random.below(sources.len() as u64) as usize;
                let source = &mut sources[place];
                if source.stopped {
                    continue;
                }
                source.time += random.below(25) as i64;
                let (name, time) = (source.name.clone(), source.time);
                // Arrivals are never before what they tell.
                let now = world.now().as_micros() / 1_000_000 - START;
                if time > now {
                    world.clock.set(at(time));
                }
                for partition in 0..partitions {
                    let n = if random.one_in(3) { 0 } else { random.below(6) };
                    let lines: Vec<String> = (0..n)
                        .map(|_| {
                            let t = time - random.below(30) as i64;
                            line(&mut random, t)
                        })
                        .collect();
                    world.send(partition as u32, Some((&name, SourceMark::At(at(time - 30)))), &lines);
                }
            }
            4 => world.clock.advance(Duration::from_millis(random.below(3000))),
            5 if !calm => {
                let who = (KINDS[random.below(4) as usize], random.below(processes.into()) as u32);
                world.fault(&mut random);
                world.step(who);
                world.queue.forget_faults();
            }
            6 if !calm => {
                let who = (KINDS[random.below(4) as usize], random.below(processes.into()) as u32);
                if random.one_in(2) { world.kill(who) } else { world.suspend(who) }
            }
            7 if !calm => {
                let place = random.below(world.zombies.len().max(1) as u64) as usize;
                world.wake(place);
            }
            8 if random.one_in(40) => {
                let place = random.below(sources.len() as u64) as usize;
                sources[place].stopped = sources.len() > 1;
            }
            _ => {
                let who = (KINDS[random.below(4) as usize], random.below(processes.into()) as u32);
                world.step(who);
            }
        }
    }
    world.settle(processes);
    // Everything that anybody still waits for: the sources end where the latest one is.
    let end = sources.iter().map(|s| s.time).max().unwrap_or(0) + 600;
    world.clock.set(at(end + 60));
    for partition in 0..partitions {
        for source in &sources {
            world.send(partition as u32, Some((&source.name, SourceMark::At(at(end)))), &[]);
        }
    }
    world.settle(processes);

    let model = world.model();
    assert_eq!(world.late(), sorted(model.late()), "{context}: late");
    assert_eq!(world.rejected(), sorted(model.rejected()), "{context}: rejected");
    let mut books = clickmill_model::records::Books::default();
    for (_, checkpoint) in world.checkpoints() {
        assert!(checkpoint.books.balance(), "{context}");
        books.add(&checkpoint.books);
    }
    let slow = model.books();
    assert_eq!(
        (books.lines, books.counted, books.duplicates, books.late, books.rejected_total()),
        (slow.lines, slow.counted, slow.duplicates, slow.late, slow.rejected),
        "{context}: books"
    );
    world.compare(&model, &context);
}

fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_seed_gives_what_the_slow_model_says() {
    if let Some(seed) = number("CLICKMILL_TEST_SEED") {
        run(seed);
        return;
    }
    let seeds = number("CLICKMILL_TEST_SEEDS").unwrap_or(2000);
    let workers = 2;
    std::thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                for seed in (worker..seeds).step_by(workers as usize) {
                    let outcome = std::panic::catch_unwind(|| run(seed));
                    assert!(outcome.is_ok(), "replay with CLICKMILL_TEST_SEED={seed}");
                }
            });
        }
    });
}
