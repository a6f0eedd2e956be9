//! The schedules that are known to break pipelines, each by its number, as far as the operators show them.

use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{Definition, Filter, FilterId, InputTopic, Minute, Offset, TimeSettings, Watermark, Window};
use clickmill_queue::{Queue, StageError, TopicPartition, topology};
use clickmill_store::{AggregateStore, MinuteRange};

use crate::world::{KINDS, Kind, START, World, at};

fn definition(partitions: u32) -> Definition {
    Definition {
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions }],
        partitions: 2,
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

impl World {
    /// Time passes, second by second, at the end of every partition.
    fn idle(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.step((Kind::Mapper, 0));
        }
    }

    fn set(&mut self, seconds: i64) {
        self.clock.set(at(seconds));
    }

    fn heartbeat(&mut self, source: &str, to: SourceMark) {
        for partition in 0..self.definitions[0].inputs[0].partitions {
            self.send(partition, Some((source, to)), &[]);
        }
    }

    fn rest(&mut self) {
        self.settle(1);
    }

    fn assert_nothing_late(&self) {
        assert_eq!(self.late(), [], "nothing is late");
    }

    fn count(&self, ad: &str, from: i64, to: i64) -> u64 {
        let range = MinuteRange { from: minute(from), to: minute(to) };
        self.store.counts(&[ad], FilterId::ALL, range).unwrap()[0]
    }

    fn complete_until(&self) -> Option<Minute> {
        let progress = self.store.progress().unwrap();
        progress.counts_until(2).min(progress.rankings_until(2))
    }
}

#[test]
fn schedule_01_files_of_2021_are_not_late_although_the_mapper_was_there_first() {
    let mut world = World::new(definition(2));
    world.idle(600);
    world.heartbeat("w", SourceMark::Holding);
    world.idle(60);
    let years_ago = -5 * 365 * 86_400;
    world.send(0, Some(("w", mark(years_ago - 30))), &[line("a", years_ago), line("a", years_ago + 60)]);
    world.heartbeat("w", mark(years_ago + 30));
    world.rest();
    world.send(1, Some(("w", mark(years_ago + 60))), &[line("a", years_ago + 65)]);
    world.rest();
    world.heartbeat("w", mark(world_seconds(&world) - 30));
    world.rest();
    world.assert_nothing_late();
    assert_eq!(world.count("a", years_ago / 60, years_ago / 60 + 5), 3);
}

fn world_seconds(world: &World) -> i64 {
    world.now().as_micros() / 1_000_000 - START
}

#[test]
fn schedule_02_a_foreign_loader_may_pause() {
    let mut world = World::new(definition(1));
    let yesterday = -86_400;
    world.send(0, None, &[line("a", yesterday)]);
    world.idle(10);
    world.send(0, None, &[line("a", yesterday + 40), line("a", yesterday + 15)]);
    world.rest();
    world.assert_nothing_late();
}

#[test]
fn schedule_03_after_an_outage_nobodys_backlog_is_late() {
    let mut world = World::new(definition(1));
    for second in 0..60 {
        world.set(second);
        world.heartbeat("w1", mark(second - 30));
        world.heartbeat("w2", mark(second - 30));
        world.step((Kind::Mapper, 0));
    }
    // For ten minutes nobody reaches the queue, neither those who send nor those who read.
    world.clock.advance(Duration::from_secs(600));
    world.heartbeat("w1", mark(630));
    world.step((Kind::Mapper, 0));
    world.clock.advance(Duration::from_millis(200));
    world.send(0, Some(("w2", mark(30))), &[line("a", 61), line("a", 300)]);
    world.rest();
    world.assert_nothing_late();
}

#[test]
fn schedule_04_a_watcher_that_was_away_for_the_night_finds_its_minute_open() {
    let mut world = World::new(definition(2));
    world.heartbeat("w", mark(-30));
    world.idle(8 * 3600);
    world.send(0, Some(("w", mark(-20))), &[line("a", 5)]);
    world.rest();
    world.assert_nothing_late();
    assert_eq!(world.watermark(), Watermark::at(at(-30)), "partition 1 has not heard more");
}

#[test]
fn schedule_05_after_the_watcher_foreign_producers_close_minutes() {
    let mut world = World::new(definition(2));
    world.heartbeat("w", mark(-30));
    world.idle(300);
    let mut second = world_seconds(&world);
    for _ in 0..300 {
        second += 1;
        world.set(second);
        world.send(0, None, &[line("a", second)]);
        world.step((Kind::Mapper, 0));
    }
    world.rest();
    assert!(
        world.complete_until().unwrap() > minute(second / 60 - 5),
        "while they send: {:?} {:?}",
        world.complete_until(),
        world.checkpoints()
    );
    world.idle(400);
    world.rest();
    assert!(world.complete_until().unwrap() > minute(second / 60), "and after they stopped");
    world.assert_nothing_late();
}

#[test]
fn schedule_06_a_watcher_that_is_gone_for_good_is_not_waited_for() {
    let mut world = World::new(definition(1));
    world.heartbeat("dead", mark(-30));
    for _ in 0..3 {
        let now = world_seconds(&world);
        world.send(0, Some(("w", mark(now - 30))), &[]);
        world.idle(90);
    }
    let now = world_seconds(&world);
    world.send(0, Some(("w", mark(now - 30))), &[]);
    world.rest();
    assert_eq!(world.watermark(), Watermark::at(at(now - 30)), "with a record every 90 seconds");

    let mut world = World::new(definition(1));
    world.heartbeat("dead", mark(-30));
    for second in 0..7200 {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line("a", second)]);
    }
    world.rest();
    assert!(world.watermark() >= Watermark::at(at(7100)), "in the middle of a backlog");
}

#[test]
fn schedule_09_one_line_of_2099_and_one_of_1969_change_nothing() {
    for foreign in [false, true] {
        let mut world = World::new(definition(1));
        let source = |seconds| if foreign { None } else { Some(("w", mark(seconds))) };
        let odd = |year: &str| vec![line("a", 10).replace("2026", year)];
        world.send(0, source(-3_000_000_000), &odd("2099"));
        world.send(0, source(-3_000_000_000), &odd("1969"));
        for second in 0..300 {
            world.set(second);
            world.send(0, source(second - 30), &[line("a", second)]);
            world.rest_now();
        }
        world.send(0, source(270), &odd("2099"));
        world.send(0, source(270), &odd("1969"));
        world.rest();
        assert_eq!(world.rejected().len(), 2, "2099 is a wrong clock");
        assert_eq!(world.late().len(), 1, "1969 is late once time has passed it");
        assert_eq!(world.complete_until(), Some(minute(4)));
        assert_eq!(world.count("a", 0, 4), 240);
        assert!(world.kept_records() < 2000);
    }
}

impl World {
    fn rest_now(&mut self) {
        for kind in KINDS {
            self.step((kind, 0));
        }
    }
}

#[test]
fn schedule_10_a_foreign_client_whose_clock_is_at_1970_holds_nobody_up() {
    let mut world = World::new(definition(1));
    for second in 0..900_i64 {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line("a", second)]);
        if second % 60 == 7 {
            let wrong = format!("[AdClickEvent] b, 1970-01-01 00:{:02}:00, u, 1.1.1.1, USA", second / 60);
            world.send(0, None, &[wrong]);
        }
        world.step((Kind::Mapper, 0));
    }
    world.rest();
    assert!(world.watermark() >= Watermark::at(at(840)), "{}", world.watermark());
}

#[test]
fn schedule_12_a_drain_closes_the_minute_of_a_clock_that_is_ahead() {
    let mut world = World::new(definition(1));
    world.send(0, Some(("w", mark(-30))), &[line("a", 290)]);
    let end = at(290).minute().end();
    world.send(0, Some(("w", SourceMark::Drained(end))), &[]);
    world.rest();
    assert_eq!(world.complete_until(), Some(end.minute()));
    assert_eq!(world.count("a", 4, 5), 1);
}

#[test]
fn schedule_14_a_source_that_never_comes_holds_the_first_closing_but_not_a_drain() {
    let sources = ["w".into(), "never".into()].into();
    let mut world = World::new(Definition { sources, ..definition(1) });
    for second in 0..600 {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line("a", second)]);
        world.step((Kind::Mapper, 0));
    }
    world.rest();
    assert_eq!(world.watermark(), Watermark::NONE);
    let end = at(599).minute().end();
    world.send(0, Some(("w", SourceMark::Drained(end))), &[]);
    world.rest();
    assert_eq!(world.complete_until(), Some(end.minute()));
    assert_eq!(world.count("a", 0, 10), 600);
}

#[test]
fn schedule_20_a_partition_that_never_had_a_record_holds_nobody_up() {
    let mut world = World::new(definition(2));
    for second in 0..200 {
        world.set(second);
        if second < 80 {
            world.send(1, None, &[line("b", second)]);
        }
        world.send(0, None, &[line("a", second)]);
        world.step((Kind::Mapper, 0));
    }
    world.idle(600);
    world.rest();
    assert!(world.complete_until().unwrap() > minute(3), "the last one, two minutes before: {:?}", world.checkpoints());
    let mut world = World::new(definition(2));
    for second in 0..200 {
        world.set(second);
        world.send(0, None, &[line("a", second)]);
        world.step((Kind::Mapper, 0));
    }
    world.idle(600);
    world.rest();
    assert!(world.complete_until().unwrap() > minute(3), "never");
    world.assert_nothing_late();
}

#[test]
fn schedule_21_a_mapper_that_restarts_in_an_outage_still_waits_for_the_second_watcher() {
    let mut world = World::new(definition(1));
    for second in 0..60 {
        world.set(second);
        world.heartbeat("w1", mark(second - 30));
        world.heartbeat("w2", mark(second - 30));
        world.step((Kind::Mapper, 0));
    }
    world.kill((Kind::Mapper, 0));
    world.clock.advance(Duration::from_secs(600));
    world.heartbeat("w1", mark(630));
    world.idle(5);
    world.send(0, Some(("w2", mark(31))), &[line("a", 61)]);
    world.rest();
    world.assert_nothing_late();
}

/// Ten minutes of two watchers over two partitions.
fn ten_minutes(world: &mut World, mut after: impl FnMut(&mut World, i64)) {
    for i in 0..40 {
        let second = i * 15;
        world.set(second);
        for (source, behind) in [("w1", 30), ("w2", 45)] {
            for partition in 0..2 {
                let ad = format!("ad{}", (i + behind + i64::from(partition)) % 5);
                let lines = [line(&ad, second - behind + 20), line(&ad, second - 5), line(&ad, second - 5)];
                world.send(partition, Some((source, mark(second - behind))), &lines);
            }
        }
        after(world, i);
    }
    world.set(1300);
    world.heartbeat("w1", mark(1200));
    world.heartbeat("w2", mark(1200));
    world.settle(2);
}

fn check_ten_minutes(world: &World, context: &str) {
    let model = world.model();
    assert_eq!(model.late(), []);
    world.assert_nothing_late();
    world.compare(&model, context);
    assert_eq!(world.complete_until(), Some(minute(20)), "{context}");
}

#[test]
fn schedule_22_a_crash_after_any_step_of_any_stage_changes_nothing() {
    for kind in KINDS {
        for crash in 0..40 {
            let mut world = World::new(definition(2));
            ten_minutes(&mut world, |world, i| {
                world.rest_now();
                if i == crash {
                    world.kill((kind, 0));
                }
            });
            check_ten_minutes(&world, &format!("{kind:?} killed after step {crash}"));
        }
    }
}

#[test]
fn schedule_22_a_commit_that_failed_or_only_seemed_to_changes_nothing() {
    use clickmill_queue::memory::CommitFault::{AppliedButReportedFailed, LostBefore, NotApplied};
    for fault in [AppliedButReportedFailed, LostBefore, NotApplied] {
        for crash in 0..40 {
            let mut world = World::new(definition(2));
            ten_minutes(&mut world, |world, i| {
                if i == crash {
                    world.queue.fail_next_commit(fault);
                }
                world.rest_now();
                world.queue.forget_faults();
            });
            check_ten_minutes(&world, &format!("{fault:?} at step {crash}"));
        }
    }
}

#[test]
fn schedule_23_a_zombie_of_any_stage_commits_nothing() {
    for kind in KINDS {
        for stop in (0..38).step_by(3) {
            let mut world = World::new(definition(2));
            ten_minutes(&mut world, |world, i| {
                world.rest_now();
                if i == stop {
                    world.suspend((kind, 0));
                }
                // Another one takes over; the zombie wakes while it works.
                for kind in KINDS {
                    world.step((kind, 1));
                }
                if i > stop {
                    world.wake(0);
                }
            });
            check_ten_minutes(&world, &format!("{kind:?} suspended after step {stop}"));
        }
    }
}

fn start_again(world: &mut World, kind: Kind) -> Result<(), StageError> {
    world.running.clear();
    world.try_step((kind, 0))
}

#[test]
fn schedule_27_a_replay_below_the_logs_start_is_refused() {
    let mut world = World::new(definition(2));
    ten_minutes(&mut world, |world, _| world.rest_now());
    world.send(0, Some(("w1", mark(1200))), &[line("a", 1250)]);
    world.send(0, Some(("w1", mark(1200))), &[line("a", 1251)]);
    world.rest();
    let raw = TopicPartition::new("ad-clicks", 0);
    let end = world.queue.range(&raw).unwrap().end;
    world.queue.truncate(&raw, end);
    let error = start_again(&mut world, Kind::Mapper).unwrap_err().to_string();
    assert!(error.contains("ad-clicks/0"), "{error}");
}

#[test]
fn schedule_27_offsets_that_have_expired_are_refused() {
    for (kind, group) in
        [(Kind::Mapper, topology::MAPPER), (Kind::Aggregator, topology::AGGREGATOR), (Kind::Reducer, topology::REDUCER)]
    {
        let mut world = World::new(definition(2));
        ten_minutes(&mut world, |world, _| world.rest_now());
        for (topic, p) in [("ad-clicks", 0), ("ad-clicks", 1)] {
            // What everybody has read is deleted in time.
            let of = TopicPartition::new(topic, p);
            let end = world.queue.range(&of).unwrap().end;
            world.queue.truncate(&of, Offset(end.0 / 2));
        }
        world.queue.delete_offsets(group);
        let error = start_again(&mut world, kind).unwrap_err().to_string();
        assert!(error.contains("offset") && error.contains(group), "{kind:?}: {error}");
    }
}

#[test]
fn schedule_29_a_restart_at_half_past_eleven_keeps_the_days_ranking() {
    // The run begins at 23:00.
    let mut world = World::new(definition(1));
    for second in (0..3900).step_by(20) {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line(&format!("ad{}", second % 7), second)]);
        world.rest_now();
        if (1800..1840).contains(&second) {
            for kind in KINDS {
                world.kill((kind, 0));
            }
        }
    }
    world.set(4000);
    world.heartbeat("w", mark(3960));
    world.rest();
    let model = world.model();
    world.compare(&model, "over midnight");
    let last = minute(59);
    assert!(Window::DAY.is_aligned_at(last));
    let day = world.store.rankings(FilterId::ALL, &[(Window::DAY, last)]).unwrap().remove(0).unwrap();
    assert_eq!(day.ads, model.ranking(FilterId::ALL, Window::DAY, last));
}

#[test]
fn schedule_30_an_aggregator_without_a_click_holds_nobody_up() {
    let mut world = World::new(definition(1));
    for second in 0..600 {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line("only", second)]);
        if second % 10 == 0 {
            world.rest_now();
        }
    }
    world.rest();
    assert_eq!(world.complete_until(), Some(minute(9)));
    assert_eq!(world.count("only", 0, 9), 540);
}

fn usa() -> Filter {
    Filter { id: FilterId(1), country: vec!["USA".into()], ..Filter::default() }
}

#[test]
fn schedule_32_a_new_filter_is_published_where_everybody_counted_it() {
    let mut world = World::new(definition(2));
    let with = Definition { filters: vec![Filter::all(), usa()], ..definition(2) };
    for i in 0..600_i64 {
        let second = i * 10;
        world.set(second);
        // W1 is three minutes ahead of W2, and the two feed different partitions; a second mapper lags.
        world.send(0, Some(("w1", mark(second - 30))), &[line("a", second)]);
        world.send(1, Some(("w2", mark(second - 210))), &[line("a", second - 180)]);
        if i == 100 {
            world.define(&with);
        }
        if i == 130 {
            world.kill((Kind::Mapper, 0));
        }
        world.rest_now();
        if i % 17 == 0 {
            world.step((Kind::Mapper, 1));
        }
    }
    world.settle(2);
    let progress = world.store.progress().unwrap();
    let span = progress.filters.iter().find(|f| f.filter == FilterId(1)).unwrap();
    let from = span.from;
    assert!(from > minute(1000 / 60) && from < minute(1000 / 60 + 8), "{from}");
    let until = world.complete_until().unwrap();
    let mut m = from;
    while m < until {
        let range = MinuteRange { from: m, to: m.next() };
        let all = world.store.counts(&["a"], FilterId::ALL, range).unwrap();
        assert_eq!(world.store.counts(&["a"], FilterId(1), range).unwrap(), all, "{m}: every click is of the USA");
        let hour = world.store.rankings(FilterId(1), &[(Window::HOUR, m)]).unwrap().remove(0).unwrap();
        assert_eq!(hour.complete, m.minus(from) >= 59, "{m}");
        m = m.next();
    }
    let before = MinuteRange { from: minute(0), to: from };
    assert_eq!(world.store.counts(&["a"], FilterId(1), before).unwrap(), [0], "nothing half counted is published");
    world.assert_nothing_late();
}

#[test]
fn schedule_33_a_filter_goes_a_window_comes_and_an_id_means_one_predicate() {
    let first = Definition { filters: vec![Filter::all(), usa()], windows: vec![Window(5)], n: 1, ..definition(1) };
    let mut world = World::new(first.clone());
    let other = Filter { country: vec!["France".into()], ..usa() };
    let changed = Definition { filters: vec![Filter::all(), other], ..first.clone() };
    assert!(changed.following(&world.definitions).is_err());
    let second = Definition { filters: vec![Filter::all()], windows: vec![Window(5), Window(10)], n: 150, ..first };
    for i in 0..180_i64 {
        let now = i * 10;
        world.set(now);
        let lines: Vec<String> = (0..3).map(|k| line(&format!("ad{:03}", (i * 3 + k) % 400), now)).collect();
        world.send(0, Some(("w", mark(now - 30))), &lines);
        if i == 60 {
            world.define(&second);
        }
        world.rest_now();
    }
    world.rest();
    let model = world.model();
    let span = world.store.progress().unwrap().filters.into_iter().find(|f| f.filter == FilterId(1)).unwrap();
    let until = span.until.expect("the filter ended");
    assert!(until >= minute(10) && until <= minute(12), "{until}");
    for m in 0..28 {
        let m = minute(m);
        let expected = model.ranking(FilterId::ALL, Window(10), m);
        let stored = world.store.rankings(FilterId::ALL, &[(Window(10), m)]).unwrap().remove(0);
        assert_eq!(stored.is_some(), m >= until, "the new window begins with the new definition: {m}");
        if let Some(stored) = stored {
            assert_eq!(stored.ads, expected[..expected.len().min(300)], "{m}");
            assert!(stored.complete, "the minutes before were kept long enough");
        }
    }
}

#[test]
fn schedule_37_an_old_writer_that_writes_last_changes_nothing() {
    let mut world = World::new(definition(1));
    for second in 0..300 {
        world.set(second);
        world.send(0, Some(("w", mark(second - 30))), &[line("a", second)]);
        world.rest_now();
        if second == 120 {
            world.suspend((Kind::DbWriter, 0));
        }
    }
    world.rest_now();
    let before = (world.store.progress().unwrap(), world.count("a", 0, 4));
    for _ in 0..100 {
        world.wake(0);
    }
    assert_eq!((world.store.progress().unwrap(), world.count("a", 0, 4)), before);
}

#[test]
fn schedule_39_clicks_of_2021_are_kept_by_their_arrival() {
    let mut world = World::new(Definition { time: TimeSettings::default(), ..definition(1) });
    let years_ago = -5 * 365 * 86_400;
    world.send(0, Some(("w", mark(years_ago - 30))), &[line("a", years_ago)]);
    world.send(0, Some(("w", mark(-30))), &[]);
    world.rest();
    let keep = Duration::from_secs(400 * 86_400);
    world.store.expire(world.now().before(keep), world.now().before(keep)).unwrap();
    assert_eq!(world.count("a", years_ago / 60, years_ago / 60 + 1), 1);
    let progress = world.store.progress().unwrap();
    assert!(progress.counts_from.is_none_or(|from| from <= minute(years_ago / 60)));
}
