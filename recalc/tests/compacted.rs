//! Files are merged while a span is counted again: the same lines, the same figures.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::atomic::AtomicBool;

use clickmill_db_writer::raw::compact::{Done, Settled, compact, plan as merging};
use clickmill_db_writer::raw::{Files, FilesError, spans};
use clickmill_model::{Offset, RawPartition};
use clickmill_recalc::{Plan, Prepared, RecalcError, Told, recalculate};

use common::{Figures, World, definition, figures, minute};

/// All lines are settled.
struct All;

impl Settled for All {
    fn before(&self, _: &RawPartition) -> Option<Offset> {
        None
    }
}

fn merge(files: &Files) -> Done {
    let work = merging(&spans(files, "raw").unwrap(), &All);
    compact(files, &work, &AtomicBool::new(false), |_| ()).unwrap()
}

/// One click a second for ten minutes, in four files of each partition.
fn fill(world: &mut World) {
    for quarter in 0..4 {
        let line = |n: u64| {
            let second = quarter * 150 + n;
            let (minute, second) = (second / 60, second % 60);
            format!("[AdClickEvent] ad{:03}, 2021-01-01 00:{minute:02}:{second:02}, user {n}, 1.2.3.4, USA", n % 7)
        };
        let lines: Vec<String> = (0..150).map(line).collect();
        world.send_all(lines.iter().map(|line| line.as_bytes()), 10);
        world.write(1 << 20);
    }
}

fn worlds() -> Vec<(Option<tempfile::TempDir>, World)> {
    let folder = tempfile::tempdir().unwrap();
    let local = World::in_folder(&definition(), folder.path());
    let mut worlds = vec![(Some(folder), local), (None, World::in_memory(&definition()))];
    worlds.iter_mut().for_each(|(_, world)| fill(world));
    worlds
}

fn plan(world: &World) -> Plan {
    Plan { slice_rows: 60, threads: 2, ..world.plan(minute("202101010000")..minute("202101010010")) }
}

#[test]
fn merged_files_tell_the_same_figures() {
    for (_folder, world) in worlds() {
        let plan = plan(&world);
        let before = figures(&world.files, &plan).unwrap().0;
        assert_eq!(merge(&world.files), Done { written: 3, deleted: 12 });
        assert!(figures(&world.files, &plan).unwrap().0 == before);
        world.check(&plan);
    }
}

#[test]
fn files_that_are_merged_after_they_were_listed_or_in_the_middle_are_found_again() {
    for skip_damaged in [false, true] {
        for at in [None, Some("202101010001"), Some("202101010005"), Some("202101010009")] {
            for (_folder, world) in worlds() {
                let plan = Plan { skip_damaged, ..plan(&world) };
                let before = figures(&world.files, &plan).unwrap().0;
                let prepared = Prepared::new(&world.files, &plan).unwrap();
                if at.is_none() {
                    merge(&world.files);
                }
                let mut found = Figures::default();
                let summary = prepared.run::<RecalcError>(
                    &AtomicBool::new(false),
                    &mut |progress| {
                        if at.is_some_and(|at| progress.until == minute(at)) {
                            assert_eq!(merge(&world.files).written, 3);
                        }
                    },
                    &mut |told: Told| {
                        found.take_in(told);
                        Ok(())
                    },
                );
                assert_eq!(summary.unwrap().left_out, Vec::new());
                assert!(found == before, "{at:?}");
            }
        }
    }
}

/// A merged file that went too takes its lines with it: that is found out, whoever else is there.
#[test]
fn a_file_that_goes_with_its_lines_is_named() {
    for (_folder, world) in worlds() {
        let plan = plan(&world);
        let end = recalculate::<RecalcError>(
            &world.files,
            &plan,
            &AtomicBool::new(false),
            |progress| {
                if progress.until == minute("202101010008") {
                    merge(&world.files);
                    // The last file of its partition, which no other one tells of.
                    let path = world.files.list("raw").unwrap().remove(0).path;
                    world.files.delete(&path).unwrap();
                }
            },
            |_| Ok(()),
        );
        let error = end.map(|_| ()).unwrap_err();
        assert!(
            matches!(error, RecalcError::File { error: FilesError::Gone { .. }, .. } | RecalcError::Missing { .. }),
            "{error}"
        );
    }
}
