//! What breaks other tailers, one test each.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

use clickmill_queue::{QueueError, StageError};
use common::{World, append, at, click, gzip};

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n:06}")).collect()
}

fn text(range: std::ops::Range<usize>) -> String {
    numbered(range).into_iter().map(|line| line + "\n").collect()
}

#[test]
fn lines_are_sent_as_they_come_with_file_and_offset() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\r\n\n");
    world.pass(1);
    assert_eq!(world.texts(), ["", "one", "two\r"]);
    world.append("a.log", "three\n");
    world.append("b.log", "four\n");
    world.step();
    let mut lines: Vec<_> = world.lines().into_iter().map(|line| (line.file, line.offset, line.text)).collect();
    lines.sort();
    let expected =
        [("a.log", 0, "one"), ("a.log", 4, "two\r"), ("a.log", 9, ""), ("a.log", 10, "three"), ("b.log", 0, "four")];
    assert_eq!(lines, expected.map(|(file, offset, text)| (file.to_owned(), offset, text.to_owned())));
}

#[test]
fn a_half_line_is_sent_once_it_is_whole() {
    let mut world = World::new();
    world.append("a.log", "one\ntw");
    world.pass(20);
    assert_eq!(world.texts(), ["one"]);
    world.append("a.log", "o\nth");
    world.step();
    assert_eq!(world.texts(), ["one", "two"]);
    world.kill();
    world.append("a.log", "ree\n");
    world.pass(1);
    assert_eq!(world.texts(), ["one", "three", "two"]);
}

#[test]
fn the_last_line_without_newline_is_taken_once_the_file_is_rotated_away_and_quiet() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo");
    world.pass(10);
    world.rename("a.log", "a.log.1");
    world.append("a.log", "three");
    world.pass(2);
    world.append("a.log.1", "!");
    world.pass(4);
    assert_eq!(world.texts(), ["one"], "the writer may hold back more");
    world.pass(3);
    assert_eq!(world.texts(), ["one", "two!"]);
    fs::remove_file(world.path("a.log")).unwrap();
    world.pass(6);
    assert_eq!(world.texts(), ["one", "three", "two!"], "deleted while it was open");
}

#[test]
fn a_drain_takes_the_last_line_without_newline() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo");
    world.drain();
    assert_eq!(world.texts(), ["one", "two"]);
}

#[test]
fn rotation_by_rename_loses_and_doubles_nothing() {
    let mut world = World::new();
    let mut written = 0;
    for round in 0..20 {
        world.append("a.log", text(written..written + 10));
        if round % 3 == 0 {
            world.step();
        }
        world.append("a.log", text(written + 10..written + 15));
        for n in (1..4).rev().filter(|n| world.path(&format!("a.log.{n}")).exists()) {
            world.rename(&format!("a.log.{n}"), &format!("a.log.{}", n + 1));
        }
        world.rename("a.log", "a.log.1");
        written += 15;
        if round % 7 == 0 {
            world.kill();
        }
        if round % 2 == 0 {
            world.pass(1);
        } else {
            world.step();
        }
    }
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..written));
}

#[test]
fn lines_written_to_a_file_after_its_rotation_are_read() {
    let mut world = World::of(&["a.log"]);
    world.append("a.log", text(0..5));
    world.pass(1);
    world.rename("a.log", "elsewhere");
    world.append("a.log", text(100..105));
    world.append("elsewhere", text(5..10));
    world.pass(3);
    world.append("elsewhere", text(10..12));
    world.pass(1);
    assert_eq!(world.texts(), [numbered(0..12), numbered(100..105)].concat());
}

#[test]
fn rotation_while_stopped_loses_and_doubles_nothing() {
    let mut world = World::new();
    world.append("a.log", text(0..100));
    world.pass(1);
    world.kill();
    world.append("a.log", text(100..150));
    world.rename("a.log", "a.log.1");
    world.append("a.log", text(150..200));
    world.rename("a.log.1", "a.log.2");
    world.rename("a.log", "a.log.1");
    world.append("a.log", text(200..250));
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..250));
}

#[test]
fn a_copy_that_is_listed_saves_what_copy_truncate_would_lose() {
    let mut world = World::new();
    world.append("a.log", text(0..200));
    world.pass(1);
    world.append("a.log", text(200..220));
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.step();
    world.append("a.log", text(220..230));
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    fs::write(world.path("a.log"), "").unwrap();
    world.pass(1);
    world.append("a.log", text(230..240));
    world.pass(10);
    assert_eq!(world.texts(), numbered(0..240));
    assert_eq!(world.report().unread_bytes, 0);
}

#[test]
fn copy_truncate_is_noticed_and_what_it_lost_is_counted() {
    let mut world = World::of(&["a.log"]);
    world.append("a.log", text(0..100));
    world.pass(1);
    world.append("a.log", "half");
    world.pass(1);
    fs::write(world.path("a.log"), text(100..300)).unwrap();
    world.pass(10);
    assert_eq!(world.texts(), numbered(0..300), "it has grown beyond the old position already");
    assert_eq!(world.report().unread_bytes, 4);
    world.kill();
    fs::write(world.path("a.log"), text(300..310)).unwrap();
    world.pass(10);
    assert_eq!(world.texts(), numbered(0..310), "while stopped");
}

#[test]
fn a_file_that_is_overwritten_with_as_many_bytes_is_read_again() {
    let mut world = World::new();
    world.append("a.log", text(0..10));
    world.pass(1);
    std::thread::sleep(Duration::from_millis(20));
    fs::write(world.path("a.log"), text(10..20)).unwrap();
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..20));
}

#[test]
fn an_inode_used_again_is_another_file() {
    let mut world = World::new();
    let (mut reused, mut written) = (0, 0);
    let mut last = 0;
    for round in 0..30 {
        let name = format!("{}.log", round % 2);
        let lines = 5 + round % 4;
        world.append(&name, text(written..written + lines));
        written += lines;
        let inode = fs::metadata(world.path(&name)).unwrap().ino();
        reused += u32::from(inode == last);
        last = inode;
        world.pass(1);
        world.kill();
        fs::remove_file(world.path(&name)).unwrap();
    }
    assert_eq!(world.texts(), numbered(0..written));
    // Not every file system gives the inode of a deleted file to the next one; where it does, this is what it is about.
    println!("{reused} of 30 files had the inode of the one before");
}

#[test]
fn a_compressed_file_is_read_whole_and_once() {
    let mut world = World::new();
    let many = text(0..50_000);
    let members = [gzip(&many.as_bytes()[..200_007]), gzip(&many.as_bytes()[200_007..])].concat();
    fs::write(world.path("a.log.gz"), members).unwrap();
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..50_000));
    world.kill();
    world.pass(1);
    assert_eq!(world.texts().len(), 50_000);
    let last = world.lines().into_iter().max_by_key(|line| line.offset).unwrap();
    assert_eq!((last.offset, last.text), (many.len() as u64 - 12, "line 049999".to_owned()), "offset of its content");
}

#[test]
fn a_compressed_file_is_gone_on_with_in_its_middle() {
    let mut world = World::of(&["*.gz"]);
    let bytes = gzip(text(0..30_000).as_bytes());
    append(&world.path("a.log.gz"), &bytes[..bytes.len() / 2]);
    world.pass(7);
    let before = world.texts().len();
    assert!((1000..29_000).contains(&before), "{before}");
    world.kill();
    append(&world.path("a.log.gz"), &bytes[bytes.len() / 2..]);
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..30_000));
}

#[test]
fn the_gz_of_a_file_that_was_read_is_not_read_again() {
    for lines in [3, 10_000] {
        for kill in [false, true] {
            let mut world = World::new();
            world.append("a.log", text(0..lines));
            world.pass(1);
            world.append("a.log", text(lines..lines + 2));
            if kill {
                world.kill();
            }
            world.rename("a.log", "a.log.1");
            world.append("a.log", text(lines + 2..lines + 4));
            world.gzip("a.log.1", "a.log.1.gz");
            if !kill {
                world.pass(1);
            }
            fs::remove_file(world.path("a.log.1")).unwrap();
            world.pass(10);
            world.kill();
            world.pass(1);
            assert_eq!(world.texts(), numbered(0..lines + 4), "{lines} lines, killed: {kill}");
            assert_eq!(world.report().unread_bytes, 0);
        }
    }
}

#[test]
fn a_file_moved_to_another_disk_or_copied_back_keeps_its_position() {
    for lines in [3, 1000] {
        let mut world = World::new();
        world.append("a.log", text(0..lines));
        world.pass(1);
        let content = fs::read(world.path("a.log")).unwrap();
        fs::remove_file(world.path("a.log")).unwrap();
        world.pass(10);
        fs::write(world.path("a.log"), &content).unwrap();
        world.pass(1);
        world.append("a.log", text(lines..lines + 5));
        world.pass(1);
        assert_eq!(world.texts(), numbered(0..lines + 5), "{lines} lines");
    }
}

#[test]
fn two_files_with_the_same_lines_are_two_files() {
    let mut world = World::new();
    world.append("web-a.log", text(0..500));
    world.append("web-b.log", text(0..500));
    world.pass(1);
    assert_eq!(world.texts().len(), 1000);
}

#[test]
fn a_file_is_read_once_by_whatever_names_and_patterns_it_is_found() {
    let mut world = World::of(&["real/*.log", "real", "*.log", "real/a.log"]);
    fs::create_dir(world.path("real")).unwrap();
    world.append("real/a.log", text(0..3));
    symlink(world.path("real/a.log"), world.path("link.log")).unwrap();
    fs::hard_link(world.path("real/a.log"), world.path("hard.log")).unwrap();
    world.pass(1);
    world.append("link.log", text(3..5));
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..5));
    assert_eq!(world.report().files, 1);
}

#[test]
fn a_symbolic_link_that_is_turned_to_the_next_file_is_followed() {
    let mut world = World::of(&["current"]);
    for day in 0..4 {
        let name = format!("day-{day}");
        world.append(&name, text(day * 10..day * 10 + 5));
        let _ = fs::remove_file(world.path("current"));
        symlink(world.path(&name), world.path("current")).unwrap();
        world.pass(1);
        world.append(&name, text(day * 10 + 5..day * 10 + 10));
    }
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..40));
}

#[test]
fn what_is_not_utf_8_is_sent_byte_by_byte() {
    let mut world = World::new();
    world.append("a.log", b"caf\xe9\nok\n\0\0\n");
    world.pass(1);
    assert_eq!(world.texts(), ["\0\0", "caf\u{fffd}", "ok"]);
}

#[test]
fn a_line_of_megabytes_is_cut_whatever_happens_meanwhile() {
    let mut world = World::new();
    world.append("a.log", "before\n");
    for part in 0..40 {
        world.append("a.log", "x".repeat(100_000));
        if part % 10 == 0 {
            world.pass(1);
        }
        if part % 15 == 0 {
            world.kill();
        }
    }
    world.append("a.log", "\nafter\n");
    world.pass(1);
    let mut lengths: Vec<usize> = world.texts().iter().map(String::len).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [5, 6, clickmill_model::line::MAX_LINE_BYTES + 1]);
    assert_eq!(world.lines().iter().find(|line| line.text == "after").unwrap().offset, 7 + 4_000_000 + 1);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_then_let_go() {
    let mut world = World::new();
    world.append("a.log", text(0..5));
    world.pass(1);
    let mut open = fs::OpenOptions::new().append(true).open(world.path("a.log")).unwrap();
    fs::remove_file(world.path("a.log")).unwrap();
    std::io::Write::write_all(&mut open, text(5..9).as_bytes()).unwrap();
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..9));
    let holds = |inode: u64| {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|fd| fs::metadata(fd.path()).is_ok_and(|m| m.ino() == inode))
            .count()
    };
    let inode = open.metadata().unwrap().ino();
    assert_eq!(holds(inode), 2);
    world.pass(6);
    assert_eq!(holds(inode), 1, "only the writer has it open");
    assert_eq!(world.report().files, 0);
}

#[test]
fn bytes_of_a_file_that_went_away_while_stopped_are_counted() {
    let mut world = World::new();
    world.append("a.log", text(0..5) + "half");
    world.pass(2);
    world.kill();
    fs::remove_file(world.path("a.log")).unwrap();
    world.pass(10);
    assert_eq!(world.report().unread_bytes, 4);
    world.kill();
    world.pass(10);
    assert_eq!(world.report().unread_bytes, 0, "once");
}

#[test]
fn a_file_that_may_not_be_read_is_told_and_tried_again() {
    let mut world = World::new();
    fs::write(world.path("a.log"), [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]).unwrap();
    world.append("b.log", text(0..3));
    world.pass(2);
    assert_eq!((world.report().files_unreadable, world.texts().len()), (1, 3));
    fs::write(world.path("a.log"), text(3..6)).unwrap();
    world.pass(2);
    assert_eq!((world.report().files_unreadable, world.texts()), (0, numbered(0..6)));
}

#[test]
fn files_that_come_later_are_found() {
    let mut world = World::of(&["**/*.log"]);
    world.pass(2);
    assert!(world.texts().is_empty());
    fs::create_dir(world.path("new")).unwrap();
    append(&world.path("new/a.log"), text(0..3).as_bytes());
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..3));
}

#[test]
fn a_drain_of_patterns_that_match_nothing_is_an_error_that_names_them() {
    let mut world = World::of(&["none-*.log"]);
    world.config.drain = true;
    world.start();
    match world.try_step() {
        Err(StageError::Broken(why)) => assert!(why.contains("none-*.log"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_files_at_once_are_read_lowest_event_time_first() {
    let mut world = World::new();
    for file in 0..10 {
        let lines: String = (0..40_000).map(|i| click(at(i / 60, i % 60), (file * 40_000 + i) as u64) + "\n").collect();
        world.append(&format!("{file}.log"), lines);
    }
    world.pass(20);
    let all = world.said();
    assert_eq!(all.iter().map(|said| said.lines.len()).sum::<usize>(), 400_000);
    for partition in 0..2 {
        let mut mark = clickmill_model::Timestamp::MIN;
        let mut parser = clickmill_model::LineParser::new();
        let mut most_open = 0;
        for said in all.iter().filter(|said| said.partition == partition) {
            for line in &said.lines {
                let time = parser.parse(line.as_bytes()).unwrap().timestamp;
                assert!(time >= mark, "{time} is late: {mark}");
                if mark > clickmill_model::Timestamp::MIN {
                    most_open = most_open.max(time.since(mark).as_secs());
                }
            }
            if let clickmill_model::records::SourceMark::At(time) = said.mark {
                mark = time;
            }
        }
        assert!(most_open < 120 * 60, "{most_open} s open of 666 minutes");
    }
}

#[test]
fn a_second_watcher_of_the_name_takes_over_and_the_first_names_it() {
    let mut world = World::new();
    world.append("a.log", text(0..3));
    world.pass(1);
    let mut first = world.watcher.take().unwrap();
    world.clock.advance(Duration::from_secs(60));
    world.start();
    world.append("a.log", text(3..6));
    let now = world.now();
    match clickmill_queue::Stage::step(&mut *first, now, Duration::ZERO) {
        Err(StageError::Queue(QueueError::Fenced(why))) => {
            assert!(why.contains("web-1") && why.contains(&format!("process {}", std::process::id())), "{why}");
        }
        other => panic!("{other:?}"),
    }
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..6));
}

#[test]
fn a_hundred_idle_files_cost_next_to_nothing() {
    let mut world = World::new();
    for file in 0..100 {
        world.append(&format!("{file}.log"), text(0..100));
    }
    world.pass(10);
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = cpu();
    for _ in 0..100 {
        world.step();
        world.clock.advance(Duration::from_millis(100));
    }
    // Ten seconds: one percent of a core, in a build that is not optimised.
    let used = cpu() - before;
    assert!(used < Duration::from_millis(100), "{used:?}");
    println!("{used:?} in 10 s");
}

#[test]
fn files_that_begin_alike_and_go_on_differently_are_different_files() {
    let mut world = World::new();
    world.append("a.log", text(0..300));
    world.pass(1);
    fs::remove_file(world.path("a.log")).unwrap();
    world.append("a.log", text(0..200) + &text(1000..1200));
    world.pass(1);
    assert_eq!(world.texts().len(), 700);
    world.kill();
    // In place, behind what is compared first.
    let file = fs::OpenOptions::new().write(true).open(world.path("a.log")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, text(2000..2010).as_bytes(), 390 * 12).unwrap();
    world.pass(1);
    assert_eq!(world.texts().len(), 1100);
}

#[test]
fn the_hole_that_copy_truncate_leaves_is_no_part_of_the_first_line() {
    let mut world = World::of(&["a.log"]);
    let mut writer = fs::File::create(world.path("a.log")).unwrap();
    std::io::Write::write_all(&mut writer, text(0..200_000).as_bytes()).unwrap();
    world.pass(1);
    writer.set_len(0).unwrap();
    // It does not append: it goes on where it was.
    std::io::Write::write_all(&mut writer, text(200_000..200_010).as_bytes()).unwrap();
    world.pass(1);
    world.kill();
    std::io::Write::write_all(&mut writer, text(200_010..200_020).as_bytes()).unwrap();
    world.pass(1);
    assert_eq!(world.texts(), numbered(0..200_020));
}

#[test]
fn a_rotated_file_that_begins_like_the_short_new_one_is_no_copy_of_it() {
    for compressed in [false, true] {
        let mut world = World::new();
        let rotated = "# clicks\n".to_owned() + &text(0..5);
        let (name, bytes) =
            if compressed { ("a.log.1.gz", gzip(rotated.as_bytes())) } else { ("a.log.1", rotated.into()) };
        fs::write(world.path(name), bytes).unwrap();
        world.append("a.log", "# clicks\n");
        world.pass(1);
        assert_eq!(world.texts().len(), 7, "{name}");
    }
}
