//! What the schedules that have a number share: short words for a world's usual moves.

use std::time::Duration;

use clickmill_model::records::SourceMark;
use clickmill_model::{Definition, Filter, FilterId, InputTopic, Minute};
use clickmill_store::{AggregateStore, MinuteRange, View};

use crate::world::{KINDS, Kind, START, World, at};

pub(crate) fn definition(partitions: u32) -> Definition {
    Definition {
        inputs: vec![InputTopic { topic: "ad-clicks".into(), partitions }],
        partitions: 2,
        ..Definition::default()
    }
}

pub(crate) fn line(ad: &str, seconds: i64) -> String {
    let time = at(seconds).to_string().replace('T', " ").replace('Z', "");
    format!("[AdClickEvent] {ad}, {time}, user 1, 1.2.3.4, USA")
}

pub(crate) fn mark(seconds: i64) -> SourceMark {
    SourceMark::At(at(seconds))
}

pub(crate) fn minute(n: i64) -> Minute {
    at(n * 60).minute()
}

impl World {
    /// Time passes, second by second, at the end of every partition.
    pub(crate) fn idle(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.step((Kind::Mapper, 0));
        }
    }

    pub(crate) fn set(&mut self, seconds: i64) {
        self.clock.set(at(seconds));
    }

    pub(crate) fn heartbeat(&mut self, source: &str, to: SourceMark) {
        for partition in 0..self.definitions[0].inputs[0].partitions {
            self.send(partition, Some((source, to)), &[]);
        }
    }

    pub(crate) fn rest(&mut self) {
        self.settle(1);
    }

    /// One step of every stage.
    pub(crate) fn rest_now(&mut self) {
        for kind in KINDS {
            self.step((kind, 0));
        }
    }

    /// What the clock shows.
    pub(crate) fn seconds(&self) -> i64 {
        self.now().as_micros() / 1_000_000 - START
    }

    pub(crate) fn assert_nothing_late(&self) {
        assert_eq!(self.late(), [], "nothing is late");
    }

    pub(crate) fn count(&self, ad: &str, from: i64, to: i64) -> u64 {
        let range = MinuteRange { from: minute(from), to: minute(to) };
        self.store.counts(&View::STREAM, &[ad], FilterId::ALL, range).unwrap()[0]
    }

    pub(crate) fn complete_until(&self) -> Option<Minute> {
        let progress = self.store.progress().unwrap();
        progress.counts_until(2).min(progress.rankings_until(2))
    }
}

pub(crate) fn usa() -> Filter {
    Filter { id: FilterId(1), country: vec!["USA".into()], ..Filter::default() }
}
