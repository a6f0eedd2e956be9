//! Random actions on a real folder against a model in memory: every completed line exactly once, in order.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;

use clickmill_queue::memory::CommitFault;
use common::{World, gzip};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Action {
    /// Whole lines, then a part of one.
    Append {
        log: usize,
        lines: usize,
        half: bool,
    },
    Rename {
        log: usize,
    },
    CopyTruncate {
        log: usize,
    },
    DeleteRead {
        log: usize,
    },
    DeleteOldest {
        log: usize,
    },
    Gzip {
        log: usize,
        slow: bool,
    },
    CopyBack {
        log: usize,
    },
    Steps(usize),
    Pass(u64),
    Kill,
    Fault(CommitFault),
}

fn action() -> impl Strategy<Value = Action> {
    let log = 0_usize..3;
    prop_oneof![
        8 => (log.clone(), 0_usize..40, any::<bool>())
            .prop_map(|(log, lines, half)| Action::Append { log, lines, half }),
        3 => log.clone().prop_map(|log| Action::Rename { log }),
        2 => log.clone().prop_map(|log| Action::CopyTruncate { log }),
        1 => log.clone().prop_map(|log| Action::DeleteRead { log }),
        1 => log.clone().prop_map(|log| Action::DeleteOldest { log }),
        2 => (log.clone(), any::<bool>()).prop_map(|(log, slow)| Action::Gzip { log, slow }),
        1 => log.prop_map(|log| Action::CopyBack { log }),
        5 => (1_usize..4).prop_map(Action::Steps),
        1 => (1_u64..8).prop_map(Action::Pass),
        3 => Just(Action::Kill),
        1 => prop_oneof![
            Just(CommitFault::NotApplied),
            Just(CommitFault::AppliedButReportedFailed),
            Just(CommitFault::LostBefore)
        ]
        .prop_map(Action::Fault),
    ]
}

/// What a writer wrote.
#[derive(Default)]
struct Log {
    written: usize,
    /// A line was begun.
    half: bool,
    /// Rotated files, oldest first, by name, and whether they are compressed.
    rotated: Vec<(String, bool)>,
    rotations: usize,
    /// The first line of each of its files.
    begins: Vec<usize>,
}

struct Model {
    world: World,
    logs: Vec<Log>,
}

fn line(log: usize, n: usize) -> String {
    match n % 5 {
        0 => format!("garbage {log} {n:05}"),
        _ => format!("[AdClickEvent] ad {log} {n:05}, 2021-01-01 00:00:{:02}, user {n}, 1.1.1.1, USA", n % 60),
    }
}

impl Model {
    fn step(&mut self) {
        if self.world.watcher.is_none() && self.world.try_start().is_err() {
            return;
        }
        if self.world.try_step().is_err() {
            self.world.kill();
        }
        self.world.clock.advance(std::time::Duration::from_millis(100));
    }

    fn steps(&mut self, n: usize) {
        (0..n).for_each(|_| self.step());
    }

    /// Until everything that is there was sent.
    fn read_all(&mut self) {
        for _ in 0..200 {
            self.step();
            let expected: usize = self.logs.iter().map(|log| log.written).sum();
            if self.world.lines().len() >= expected {
                self.steps(2);
                return;
            }
        }
        let all: Vec<_> = self.world.lines().iter().map(|l| (l.file.clone(), l.offset)).collect();
        panic!("not everything was sent: {:?}, {}", self.world.report(), all.len());
    }

    fn name(log: usize) -> String {
        format!("w{log}x.log")
    }

    /// A writer ends its line before its file is rotated.
    fn end_line(&mut self, log: usize) {
        if std::mem::take(&mut self.logs[log].half) {
            let n = self.logs[log].written;
            self.world.append(&Self::name(log), &line(log, n)[7..]);
            self.world.append(&Self::name(log), "\n");
            self.logs[log].written += 1;
        }
    }

    fn begin_file(&mut self, log: usize) {
        let n = self.logs[log].written;
        self.logs[log].begins.push(n);
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Append { log, lines, half } => {
                self.end_line(log);
                let n = self.logs[log].written;
                let text: String = (n..n + lines).map(|n| line(log, n) + "\n").collect();
                self.world.append(&Self::name(log), text);
                self.logs[log].written += lines;
                if half {
                    self.world.append(&Self::name(log), &line(log, n + lines)[..7]);
                    self.logs[log].half = true;
                }
            }
            Action::Rename { log } => {
                self.end_line(log);
                let name = Self::name(log);
                if self.world.path(&name).exists() {
                    self.logs[log].rotations += 1;
                    let to = format!("{name}.{}", self.logs[log].rotations);
                    self.world.rename(&name, &to);
                    self.logs[log].rotated.push((to, false));
                    self.begin_file(log);
                }
            }
            Action::CopyTruncate { log } => {
                self.end_line(log);
                let name = Self::name(log);
                if self.world.path(&name).exists() {
                    self.read_all();
                    self.logs[log].rotations += 1;
                    let to = format!("{name}.{}", self.logs[log].rotations);
                    fs::copy(self.world.path(&name), self.world.path(&to)).unwrap();
                    self.steps(log);
                    fs::write(self.world.path(&name), "").unwrap();
                    self.logs[log].rotated.push((to, false));
                    self.begin_file(log);
                }
            }
            Action::DeleteRead { log } => {
                self.end_line(log);
                self.read_all();
                self.begin_file(log);
                let _ = fs::remove_file(self.world.path(&Self::name(log)));
            }
            Action::DeleteOldest { log } => {
                self.read_all();
                if !self.logs[log].rotated.is_empty() {
                    let (name, _) = self.logs[log].rotated.remove(0);
                    fs::remove_file(self.world.path(&name)).unwrap();
                }
            }
            Action::Gzip { log, slow } => {
                let Some(last) = self.logs[log].rotated.iter_mut().rev().find(|(_, gzip)| !gzip) else { return };
                let (from, to) = (last.0.clone(), format!("{}.gz", last.0));
                *last = (to.clone(), true);
                let content = fs::read(self.world.path(&from)).unwrap();
                let bytes = gzip(&content);
                let (first, second) = bytes.split_at(bytes.len() / 2);
                self.world.append(&to, first);
                if slow {
                    self.steps(2);
                }
                self.world.append(&to, second);
                if slow {
                    self.steps(1);
                }
                fs::remove_file(self.world.path(&from)).unwrap();
            }
            Action::CopyBack { log } => {
                let name = Self::name(log);
                let Ok(content) = fs::read(self.world.path(&name)) else { return };
                fs::remove_file(self.world.path(&name)).unwrap();
                self.steps(log);
                fs::write(self.world.path(&name), content).unwrap();
            }
            Action::Steps(n) => self.steps(n),
            Action::Pass(seconds) => self.steps(seconds as usize * 10),
            Action::Kill => self.world.kill(),
            Action::Fault(fault) => self.world.queue.fail_next_commit(fault),
        }
    }

    fn check(&mut self) {
        self.world.queue.forget_faults();
        self.read_all();
        self.steps(200);
        self.world.kill();
        self.steps(100);
        let mut found: HashMap<String, u32> = HashMap::new();
        let mut order: BTreeMap<(u32, usize, usize), usize> = BTreeMap::new();
        for sent in self.world.lines() {
            *found.entry(sent.text.clone()).or_default() += 1;
            let (log, n) = sent.text.split(", ").next().unwrap().rsplit_once(' ').unwrap();
            let log: usize = log.rsplit_once(' ').unwrap().1.parse().unwrap();
            let n: usize = n.parse().unwrap();
            let file = self.logs[log].begins.partition_point(|begin| *begin <= n);
            if let Some(before) = order.insert((sent.partition, log, file), n) {
                assert!(before < n, "{} came after {before}", sent.text);
            }
        }
        for (log, writer) in self.logs.iter().enumerate() {
            for n in 0..writer.written {
                assert_eq!(found.remove(&line(log, n)), Some(1), "{}", line(log, n));
            }
        }
        assert!(found.is_empty(), "{found:?}");
    }
}

fn run(actions: &[Action]) {
    let logs = (0..3).map(|_| Log::default()).collect();
    let mut model = Model { world: World::of(&["*.log", "*.log.*"]), logs };
    for action in actions {
        model.act(action);
    }
    model.check();
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn every_completed_line_is_sent_exactly_once_and_in_order(actions in prop::collection::vec(action(), 1..40)) {
        run(&actions);
    }
}

/// More of them by `CLICKMILL_CASES`.
fn cases() -> u32 {
    std::env::var("CLICKMILL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

/// What the model found once, each for a reason of its own.
#[test]
fn schedules_that_once_failed() {
    use Action::{Append, CopyBack, CopyTruncate, DeleteRead, Gzip, Kill, Pass, Rename, Steps};
    let append = |log, lines, half| Append { log, lines, half };
    let (gzip_slowly, gzip_at_once) = (|log| Gzip { log, slow: true }, |log| Gzip { log, slow: false });
    for actions in [
        // The copy has grown before it is seen.
        vec![append(0, 1, false), Steps(1), CopyBack { log: 0 }, append(0, 0, true), append(0, 0, false)],
        // An empty file gets the inode of one that is copied back.
        vec![
            append(2, 0, false),
            append(0, 1, false),
            Steps(1),
            Kill,
            DeleteRead { log: 2 },
            CopyBack { log: 0 },
            append(1, 0, false),
        ],
        // Half a compressed file.
        vec![append(0, 0, true), Rename { log: 0 }, Pass(5), gzip_slowly(0)],
        // A half line goes and comes back.
        vec![Pass(5), append(2, 0, true), Steps(1), CopyBack { log: 2 }],
        vec![append(0, 1, false), DeleteRead { log: 1 }, append(0, 0, true), CopyBack { log: 0 }],
        // Copied, truncated, written and renamed between two looks.
        vec![append(0, 1, false), CopyTruncate { log: 0 }, append(0, 1, false), Rename { log: 0 }],
        // The compressed copy gets the inode of its original.
        vec![append(1, 54, false), Steps(1), CopyBack { log: 1 }, Rename { log: 1 }, Kill, gzip_slowly(1)],
        // Another file's half line, at the inode of one.
        vec![append(1, 0, true), CopyBack { log: 1 }, append(0, 0, true), Kill, append(1, 0, false)],
        // A rotated file that begins as the new one does.
        vec![append(1, 15, false), Rename { log: 1 }, gzip_at_once(1), append(1, 0, true)],
    ] {
        run(&actions);
    }
}
