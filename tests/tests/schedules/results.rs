//! Results: schedules 37 and 39, as far as the operators show them.

use std::time::Duration;

use clickmill_model::{Definition, TimeSettings};
use clickmill_store::AggregateStore;

use crate::words::{definition, line, mark, minute};
use crate::world::{Kind, World};

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
