//! Time: schedules 1 to 21, as far as the operators show them.

use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{Definition, Watermark};

use crate::words::{definition, line, mark, minute};
use crate::world::{Kind, World, at};

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
    world.heartbeat("w", mark(world.seconds() - 30));
    world.rest();
    world.assert_nothing_late();
    assert_eq!(world.count("a", years_ago / 60, years_ago / 60 + 5), 3);
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
fn schedule_03_after_the_laptop_slept_nobodys_backlog_is_late() {
    let mut world = World::new(definition(1));
    for second in 0..60 {
        world.set(second);
        world.heartbeat("w1", mark(second - 30));
        world.heartbeat("w2", mark(second - 30));
        world.step((Kind::Mapper, 0));
    }
    // Everything stood still for ten minutes. The mapper is awake first, and finds nothing; then W1, then W2.
    world.clock.advance(Duration::from_secs(600));
    for _ in 0..10 {
        world.step((Kind::Mapper, 0));
        world.clock.advance(Duration::from_millis(50));
    }
    world.heartbeat("w1", mark(630));
    world.step((Kind::Mapper, 0));
    world.clock.advance(Duration::from_millis(200));
    world.send(0, Some(("w2", mark(30))), &[line("a", 31), line("a", 300)]);
    world.rest();
    world.assert_nothing_late();
    assert_eq!(world.watermark(), Watermark::at(at(30)));
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
    let mut second = world.seconds();
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
    let mut world = World::new(definition(2));
    world.heartbeat("dead", mark(-30));
    for second in 0..180 {
        world.set(second);
        world.heartbeat("w", mark(second - 30));
        world.step((Kind::Mapper, 0));
        if (5..115).contains(&second) {
            assert_eq!(world.watermark(), Watermark::at(at(-30)), "it is waited for: {second}");
        }
    }
    world.rest();
    assert_eq!(world.watermark(), Watermark::at(at(149)), "while others go on");

    let mut world = World::new(definition(1));
    world.heartbeat("dead", mark(-30));
    for _ in 0..3 {
        let now = world.seconds();
        world.send(0, Some(("w", mark(now - 30))), &[]);
        world.idle(90);
    }
    let now = world.seconds();
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
fn schedule_08_what_a_watcher_sends_that_was_stopped_for_ten_minutes_is_not_late() {
    let mut world = World::new(definition(2));
    for second in 0..60 {
        world.set(second);
        world.heartbeat("w", mark(second - 30));
        world.step((Kind::Mapper, 0));
    }
    // The mapper goes on, and hears nothing.
    world.idle(600);
    let ten_minutes: Vec<String> = (30..660).map(|second| line("a", second)).collect();
    world.send(0, Some(("w", mark(29))), &ten_minutes[..300]);
    world.send(0, Some(("w", mark(330))), &ten_minutes[300..]);
    world.heartbeat("w", mark(630));
    world.rest();
    world.assert_nothing_late();
    assert_eq!(world.count("a", 0, 10), 570);
    assert_eq!(world.complete_until(), Some(minute(10)));
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

/// The clock is that of the machine that stamps the records; what the watchers of others say goes on. (That clickmill's own clock follows a step only when it lasts, `queue` shows.)
#[test]
fn schedule_11_a_clock_that_steps_an_hour_and_back_makes_nothing_late() {
    for (step, lasts) in [(3600, 1), (3600, 600), (-3600, 1), (-3600, 600)] {
        let mut world = World::new(definition(1));
        for second in 0..1500 {
            let is_wrong = (300..300 + lasts).contains(&second);
            world.set(if is_wrong { second + step } else { second });
            world.send(0, Some(("w", mark(second - 30))), &[line("a", second), line("b", second - 29)]);
            if second % 5 == 0 {
                world.rest_now();
            }
        }
        world.rest();
        world.assert_nothing_late();
        // Arrivals never go back: while they stand, clicks come to be further ahead of them than a clock may be.
        let rejected = world.rejected().len() as u64;
        assert_eq!(rejected > 0, (step, lasts) == (-3600, 600), "{step} {lasts}: {rejected}");
        assert_eq!(world.model().books().counted, 3000 - rejected);
        assert_eq!(world.complete_until(), Some(minute(24)));
        world.compare(&world.model(), &format!("{step} {lasts}"));
    }
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
