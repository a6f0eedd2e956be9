//! Schedules that a seed draws.

use std::time::Duration;

use clickmill_model::records::{Books, SourceMark};
use clickmill_model::{Definition, Filter, FilterId, InputTopic, TimeSettings, Window};
use clickmill_tests::dice::{Dice, SEED, seeds};

use crate::compare::sorted;
use crate::world::{Kind, World, at};

/// Filters that come and go, each id with one predicate for good.
fn filters(dice: &mut Dice) -> Vec<Filter> {
    let net = |text: &str| vec![text.parse().unwrap()];
    let country = |name: &str| vec![name.to_owned()];
    let pool = [
        Filter { id: FilterId(1), country: country("USA"), ..Filter::default() },
        Filter { id: FilterId(2), user_id: vec!["u1".into(), "u2".into()], ..Filter::default() },
        Filter { id: FilterId(3), exclude_country: country("France"), ip: net("1.2.3.0/31"), ..Filter::default() },
        Filter { id: FilterId(4), ip: net("::/64"), ..Filter::default() },
    ];
    [Filter::all()].into_iter().chain(pool.into_iter().filter(|_| !dice.one_in(3))).collect()
}

fn windows(dice: &mut Dice) -> Vec<Window> {
    let windows: &[u32] = [&[1, 5, 60][..], &[5, 15], &[1], &[3], &[2, 60], &[5, 90]][dice.below(6) as usize];
    windows.iter().map(|w| Window(*w)).collect()
}

fn definition(dice: &mut Dice, plan: &Plan) -> Definition {
    let source_timeout = Duration::from_secs(if plan.nobody_is_silent { 120 } else { 86_400 });
    Definition {
        filters: filters(dice),
        windows: windows(dice),
        n: 1 + dice.below(120) as u32,
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions: 1 + dice.below(3) as u32 }],
        partitions: 1 + dice.below(3) as u32,
        time: TimeSettings { source_timeout, ..TimeSettings::default() },
        dedup: !dice.one_in(10),
        sources: if dice.one_in(8) { ["w0".to_owned()].into() } else { [].into() },
        ..Definition::default()
    }
}

/// What may follow it.
fn redefined(dice: &mut Dice, plan: &Plan, before: &Definition) -> Definition {
    let mut next = before.clone();
    for _ in 0..1 + dice.below(3) {
        match dice.below(8) {
            0..4 => next.filters = filters(dice),
            4 | 5 => next.windows = windows(dice),
            6 => next.n = 1 + dice.below(120) as u32,
            // What a foreign source's mark is before a restart, and after it, may differ by this.
            _ if !plan.has_foreigners => next.time.max_disorder = Duration::from_secs(10 + dice.below(50)),
            _ => next.dedup = !next.dedup,
        }
    }
    next
}

/// What a schedule may hold.
struct Plan {
    /// No process fails.
    is_calm: bool,
    has_foreigners: bool,
    redefines: bool,
    /// Sources time out as they usually do, so that an outage of all may be told from the silence of one. The model is not told of empty fetches, which count as silence: in these
    /// schedules every source speaks in time, in the others no source ever falls silent.
    nobody_is_silent: bool,
}

/// A source may be silent while the clock moves so often: each move counts two seconds of silence at most.
const MOST_MOVES: u32 = 40;

/// A log watcher whose lines are out of order by less than `max_disorder`, most of them.
struct Source {
    name: String,
    /// Seconds that it has come to.
    time: i64,
    is_stopped: bool,
    holds: bool,
    /// How far its clock is wrong, in seconds.
    wrong_by: i64,
    moves_since: u32,
}

fn line(dice: &mut Dice, seconds: i64) -> String {
    let ad = dice.below(6) * dice.below(6);
    let time = at(seconds).to_string().replace('T', " ").replace('Z', "");
    let country = ["USA", "France", "Chad"][dice.below(3) as usize];
    match dice.below(60) {
        0 => "no click".into(),
        1 => format!("[AdClickEvent] ad{ad}, 2099-01-01 00:00:00, u, 1.1.1.1, {country}"),
        2 => format!("[AdClickEvent] ad{ad}, 1969-12-31 23:59:59, u, 1.1.1.1, {country}"),
        3..6 => format!(
            r#"{{"ad_id":"ad{ad}","click_timestamp":"{time}","user_id":"u{}","ip":"::1","country":"{country}","event_id":"e{}"}}"#,
            dice.below(4),
            dice.below(5)
        ),
        _ => format!("[AdClickEvent] ad{ad}, {time}, u{}, 1.2.3.{}, {country}", dice.below(4), dice.below(3)),
    }
}

/// One schedule: sources at different speeds, garbage, late clicks, wrong clocks, idle spells, outages of all; processes started, ended, killed, suspended and woken as zombies, at rest and at
/// work; commits and writes that fail, that only seem to, and that arrive when nobody expects them any more; definitions that change.
struct Schedule {
    dice: Dice,
    plan: Plan,
    world: World,
    processes: u32,
    sources: Vec<Source>,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let nobody_is_silent = dice.one_in(3);
        let plan = Plan {
            is_calm: dice.one_in(4),
            has_foreigners: !nobody_is_silent && dice.one_in(3),
            redefines: dice.one_in(2),
            nobody_is_silent,
        };
        let world = World::new(definition(&mut dice, &plan));
        // Hours and days end within many runs.
        let begin = dice.below(3600) as i64;
        world.clock.set(at(begin));
        let processes = 1 + dice.below(2) as u32;
        let sources = (0..1 + dice.below(3)).map(|i| Source {
            name: format!("w{i}"),
            time: begin,
            is_stopped: false,
            holds: false,
            wrong_by: if dice.one_in(10) { 3600 } else { 0 },
            moves_since: 0,
        });
        let sources = sources.collect();
        Self { dice, plan, world, processes, sources }
    }

    fn clock_moves(&mut self) {
        for source in &mut self.sources {
            source.moves_since += 1;
        }
    }

    /// Arrivals are never before what they tell.
    fn catch_up(&mut self, time: i64) {
        if time > self.world.seconds() {
            self.world.clock.set(at(time));
            self.clock_moves();
        }
    }

    fn lines(&mut self, time: i64) -> Vec<String> {
        let count = if self.dice.one_in(3) { 0 } else { self.dice.below(6) };
        let mut lines = Vec::new();
        for _ in 0..count {
            let back = if self.dice.one_in(40) { self.dice.below(600) } else { self.dice.below(30) };
            lines.push(line(&mut self.dice, time - back as i64));
        }
        lines
    }

    fn source_speaks(&mut self, place: usize) {
        if self.sources[place].is_stopped {
            return;
        }
        self.sources[place].time += self.dice.below(25) as i64;
        let time = self.sources[place].time;
        self.catch_up(time);
        let source = &mut self.sources[place];
        source.moves_since = 0;
        source.holds = !source.holds && self.dice.one_in(30);
        let claimed = at(time - 30 + source.wrong_by);
        let mark = match self.dice.below(60) {
            _ if source.holds => SourceMark::Holding,
            0 if !self.plan.nobody_is_silent => SourceMark::Drained(claimed.minute().end()),
            _ => SourceMark::At(claimed),
        };
        let name = source.name.clone();
        for partition in 0..self.world.partitions() {
            let lines = self.lines(time);
            self.world.send(partition, Some((&name, mark)), &lines);
        }
    }

    fn foreigner_speaks(&mut self) {
        let now = self.world.seconds();
        // Some are ahead, as far as is legal and further; some live in 1970.
        let time = match self.dice.below(12) {
            0 => now + self.dice.below(400) as i64,
            1 => self.dice.below(1000) as i64 - crate::world::START,
            _ => now - self.dice.below(40) as i64,
        };
        let partition = self.dice.below(self.world.partitions().into()) as u32;
        let mut lines = self.lines(time);
        lines.push(line(&mut self.dice, time));
        self.world.send(partition, None, &lines);
    }

    /// Nobody reaches the queue for ten minutes, or the clock that stamps its records goes wrong by an hour.
    fn something_rare(&mut self) {
        match self.dice.below(4) {
            0 => {
                self.world.clock.advance(Duration::from_secs(600));
                self.clock_moves();
                // One of them is back before the others.
                let place = self.dice.below(self.sources.len() as u64) as usize;
                self.sources[place].time = self.world.seconds() - self.dice.below(30) as i64;
                self.source_speaks(place);
            }
            1 => {
                let back = at(self.world.seconds() - 3600);
                self.world.clock.set(back);
            }
            2 if !self.plan.nobody_is_silent => {
                let place = self.dice.below(self.sources.len() as u64) as usize;
                self.sources[place].is_stopped = self.sources.len() > 1;
            }
            _ => {}
        }
    }

    fn someone(&mut self) -> (Kind, u32) {
        let kind = match self.dice.below(10) {
            0..3 => Kind::Mapper,
            3..5 => Kind::Aggregator,
            5 => Kind::Reducer,
            6 => Kind::DbWriter,
            7 | 8 => Kind::RawWriter,
            _ => Kind::LateWriter,
        };
        (kind, self.dice.below(self.processes.into()) as u32)
    }

    fn act(&mut self) {
        match self.dice.below(24) {
            0..6 => {
                let place = self.dice.below(self.sources.len() as u64) as usize;
                self.source_speaks(place);
            }
            6 => {
                let by = self.dice.below(3000);
                self.world.clock.advance(Duration::from_millis(by));
                self.clock_moves();
            }
            7 if self.plan.has_foreigners => self.foreigner_speaks(),
            8 if self.dice.one_in(10) => self.something_rare(),
            9 if self.plan.redefines && self.dice.one_in(4) => {
                let next = redefined(&mut self.dice, &self.plan, self.world.definitions.last().unwrap());
                self.world.define(&next);
            }
            10 | 11 if !self.plan.is_calm => {
                let who = self.someone();
                self.world.fault(&mut self.dice);
                self.world.step(who);
                self.world.forget_faults();
            }
            12 if !self.plan.is_calm => {
                let who = self.someone();
                match self.dice.below(4) {
                    0 => self.world.stop(who),
                    1 => self.world.kill(who),
                    2 => self.world.suspend(who),
                    _ => self.world.suspend_at_work(who),
                }
            }
            13 if !self.plan.is_calm => {
                let place = self.dice.below(self.world.zombies.len().max(1) as u64) as usize;
                self.world.wake(place);
            }
            14 if self.dice.one_in(2) => {
                self.world.deliver();
            }
            _ => {
                let who = self.someone();
                self.world.step(who);
            }
        }
        if self.plan.nobody_is_silent {
            for place in 0..self.sources.len() {
                if self.sources[place].moves_since >= MOST_MOVES {
                    self.source_speaks(place);
                }
            }
        }
    }

    /// Everything that anybody still waits for: the sources end where the latest one is.
    fn end(&mut self) {
        self.world.settle(self.processes);
        let latest = self.sources.iter().map(|source| source.time).max().unwrap_or(0);
        let end = latest.max(self.world.seconds()) + 600;
        self.world.clock.set(at(end + 60));
        for partition in 0..self.world.partitions() {
            for source in &self.sources {
                self.world.send(partition, Some((&source.name, SourceMark::At(at(end)))), &[]);
            }
            if self.plan.has_foreigners {
                let last = format!("[AdClickEvent] last, {}, u, 1.1.1.1, USA", at(end + 30));
                self.world.send(partition, None, &[last]);
            }
        }
        self.world.settle(self.processes);
        self.world.flush(self.processes);
    }

    fn check(&self, context: &str) {
        let model = self.world.model();
        assert_eq!(self.world.late(), sorted(model.late()), "{context}: late");
        assert_eq!(self.world.rejected(), sorted(model.rejected()), "{context}: rejected");
        let mut books = Books::default();
        for (_, checkpoint) in self.world.checkpoints() {
            assert!(checkpoint.books.balance(), "{context}");
            books.add(&checkpoint.books);
        }
        let slow = model.books();
        assert_eq!(
            (books.lines, books.counted, books.duplicates, books.late, books.rejected_total()),
            (slow.lines, slow.counted, slow.duplicates, slow.late, slow.rejected),
            "{context}: books"
        );
        self.world.compare(&model, context);
        self.world.compare_files(&model, context);
    }
}

fn run(seed: u64) {
    let mut schedule = Schedule::new(seed);
    for _ in 0..250 + schedule.dice.below(250) {
        schedule.act();
    }
    schedule.end();
    schedule.check(&format!("seed {seed}"));
}

#[test]
fn every_seed_gives_what_the_slow_model_says() {
    let seeds = seeds(2000);
    let workers = 2;
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let seeds = &seeds;
            scope.spawn(move || {
                for seed in seeds.iter().skip(worker).step_by(workers) {
                    let outcome = std::panic::catch_unwind(|| run(*seed));
                    assert!(outcome.is_ok(), "replay with {SEED}={seed}");
                }
            });
        }
    });
}
