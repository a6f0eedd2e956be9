//! Exactly once: schedules 22 to 30, as far as the operators show them.

use clickmill_model::{FilterId, Offset, Window};
use clickmill_queue::{Queue, StageError, TopicPartition, topology};
use clickmill_store::{AggregateStore, View};

use crate::words::{definition, line, mark, minute};
use crate::world::{KINDS, Kind, World};

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
    let day =
        world.store.rankings(&View::STREAM, FilterId::ALL, &[(Window::DAY, last)]).unwrap().remove(0).here().unwrap();
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
