//! Raw files in an object store that speaks S3: whatever it answers, each line is in one file, and nothing of it is taken for what it is not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use clickmill_config::Secret;
use clickmill_db_writer::raw::{FileSpan, Files, FilesError, parts, read, scan};
use clickmill_model::Offset;
use clickmill_s3::{BUCKET, Fault, S3, SECRET_KEY};
use common::{Rig, files_of, in_s3, line, settings};

fn send(rig: &Rig, from: usize, records: usize) {
    for i in from..from + records {
        rig.send_lines(&[line(i).as_bytes()]);
    }
}

/// Demands lines 0 to `records`, each once, for every reader.
fn check(rig: &Rig, records: usize) {
    for found in [rig.lines("raw"), rig.lines_of_every_file("raw")] {
        let found: Vec<_> = found.into_iter().map(|(_, _, offset, _, _, bytes)| (offset, bytes)).collect();
        assert_eq!(found, (0..records).map(|i| (i as u64, line(i).into_bytes())).collect::<Vec<_>>());
    }
    assert_eq!(rig.committed(), Some(Offset(records as u64)));
}

const MANY: usize = 1000;

#[test]
fn whatever_the_store_answers_to_a_writer_each_line_is_there_once() {
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(403),
        Fault::LostAnswer,
        Fault::Slow(Duration::from_secs(3)),
    ];
    for fault in faults {
        for times in [1, MANY] {
            let s3 = S3::start().unwrap();
            let rig = Rig::new(in_s3(&s3, "a/b"));
            send(&rig, 0, 3);
            rig.drain("a").unwrap();
            send(&rig, 3, 3);
            s3.fail("PUT", "/a/b/raw/", fault, 0, times);
            let ended = rig.drain("b");
            if times == MANY {
                let text = ended.unwrap_err().to_string();
                assert!(text.contains("writing s3://clicks/a/b/raw/date=2021-01-01/ad-clicks-0-"), "{fault:?}: {text}");
                assert!(!text.contains(SECRET_KEY), "{text}");
            }
            s3.heal();
            for member in rig.queue.members(common::GROUP) {
                rig.queue.expire_member(common::GROUP, &member);
            }
            send(&rig, 6, 1);
            rig.drain("c").unwrap();
            check(&rig, 7);
        }
    }
}

#[test]
fn of_two_writers_of_one_name_the_second_goes_on_behind_the_first() {
    let s3 = S3::start().unwrap();
    let rig = Rig::new(in_s3(&s3, "a"));
    send(&rig, 0, 3);
    // The file is there, and its offsets are not committed.
    rig.queue.fail_next_commit(clickmill_queue::memory::CommitFault::NotApplied);
    rig.drain("a").unwrap_err();
    let [path] = rig.paths("raw").try_into().unwrap();
    let first = fs::read(s3.file(&format!("a/{path}"))).unwrap();
    send(&rig, 3, 3);
    for member in rig.queue.members(common::GROUP) {
        rig.queue.expire_member(common::GROUP, &member);
    }
    rig.drain("b").unwrap();
    assert_eq!(fs::read(s3.file(&format!("a/{path}"))).unwrap(), first, "it was replaced");
    check(&rig, 6);
}

/// What each reader says of the one file.
fn readers(files: &Files) -> Vec<FilesError> {
    let whole = parts(files, "raw");
    let part = match &whole {
        Ok(parts) => parts.first().cloned(),
        Err(_) => None,
    };
    let mut errors: Vec<FilesError> = whole.err().into_iter().collect();
    if let Some(part) = part {
        errors.extend(FileSpan::read(files, &part.path).err());
        errors.extend(read::rows(files, &part, |_| ControlFlow::<()>::Continue(())).err());
        errors.extend(read::verify(files, &part.path).err());
        match scan::stretches(files, &part) {
            Err(error) => errors.push(error),
            Ok(all) => {
                let all: Vec<_> = all.iter().collect();
                errors.extend(scan::lines(files, &part, &all, |_| Ok(())).err());
            }
        }
    }
    errors
}

/// A bucket with one file of more than a block.
fn large() -> (S3, Rig, String) {
    let s3 = S3::start().unwrap();
    let rig = Rig::new(in_s3(&s3, "a"));
    let noise = |i: usize| (0..100).map(|k| char::from(b'a' + ((i * 7919 + k * 104_729 + i * k) % 26) as u8)).collect();
    for i in 0..60 {
        let lines: Vec<String> = (0..1000).map(|j| noise(i * 1000 + j)).collect();
        rig.send_lines(&lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
    }
    rig.drain("a").unwrap();
    let [path] = rig.paths("raw").try_into().unwrap();
    (s3, rig, path)
}

#[test]
fn a_store_that_is_away_is_never_taken_for_a_damaged_file() {
    let (s3, rig, _) = large();
    assert!(readers(&rig.files).is_empty());
    let impatient = clickmill_config::S3 { timeout: Duration::from_millis(300), ..settings(&s3) };
    let impatient = files_of(format!("s3://{BUCKET}/a"), impatient);
    // From the first request on, or in the middle of a file.
    for fault in [Fault::Status(503), Fault::Status(500), Fault::CutBody, Fault::HalfBody, Fault::LostAnswer] {
        for method in ["HEAD", "GET"] {
            for after in [0, 1, 3] {
                s3.fail(method, ".parquet", fault, after, MANY);
                let errors = readers(&impatient);
                s3.heal();
                for error in errors {
                    let text = error.to_string();
                    assert!(matches!(error, FilesError::Unavailable { .. }), "{method} {fault:?} {after}: {text}");
                    assert!(text.contains("s3://clicks/a/raw/date=2021-01-01/ad-clicks-0-"), "{text}");
                }
            }
        }
    }
    s3.fail("GET", "list-type", Fault::Status(503), 0, MANY);
    let text = parts(&rig.files, "raw").unwrap_err().to_string();
    assert!(text.contains("listing s3://clicks/a/raw") && text.contains("503"), "{text}");
    s3.heal();
    // What fails once is asked again.
    s3.fail("GET", ".parquet", Fault::Status(503), 0, 1);
    s3.fail("GET", ".parquet", Fault::CutBody, 2, 1);
    assert!(readers(&rig.files).is_empty());
}

#[test]
fn a_file_that_is_damaged_or_gone_is_told_as_such() {
    let (s3, rig, path) = large();
    let file = s3.file(&format!("a/{path}"));
    let good = fs::read(&file).unwrap();
    let part = parts(&rig.files, "raw").unwrap().remove(0);
    for bytes in [&good[..0], &good[..5], &good[..good.len() / 2], &good[..good.len() - 1]] {
        fs::write(&file, bytes).unwrap();
        let error = FileSpan::read(&rig.files, &path).unwrap_err();
        assert!(matches!(error, FilesError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("s3://clicks/a/raw/"), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let end = read::rows(&rig.files, &part, |_| ControlFlow::<()>::Continue(()));
    assert!(matches!(end, Err(FilesError::Gone { .. })));
    fs::write(&file, good).unwrap();
    assert!(readers(&rig.files).is_empty());
}

#[test]
fn a_file_is_read_in_few_requests() {
    let (s3, rig, path) = large();
    let size = fs::metadata(s3.file(&format!("a/{path}"))).unwrap().len();
    let before = s3.requests("GET", ".parquet");
    read::verify(&rig.files, &path).unwrap();
    let requests = s3.requests("GET", ".parquet") - before;
    assert!(requests as u64 <= size / (4 << 20) + 3, "{requests} for {size} bytes");
    let before = s3.requests("GET", ".parquet");
    FileSpan::read(&rig.files, &path).unwrap();
    assert_eq!(s3.requests("GET", ".parquet") - before, 1, "a footer is one request");
}

#[test]
fn who_may_not_is_told_so_at_once() {
    let s3 = S3::start().unwrap();
    in_s3(&s3, "a").check().unwrap();
    let wrong = Secret("wrong-4712".into());
    let wrong_secret = clickmill_config::S3 { secret_access_key: Some(wrong), ..settings(&s3) };
    let wrong_key = clickmill_config::S3 { access_key_id: Some("nobody".into()), ..settings(&s3) };
    for (url, s3) in [
        (format!("s3://{BUCKET}/a"), wrong_secret),
        (format!("s3://{BUCKET}"), wrong_key),
        ("s3://no-such-bucket/a".to_owned(), settings(&s3)),
    ] {
        let error = files_of(url.clone(), s3).check().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FilesError::Refused { .. }), "{text}");
        assert!(text.contains(&url) && !text.contains("4711") && !text.contains("4712"), "{text}");
    }
    // Nobody there: that may pass.
    let nobody = clickmill_config::S3 { endpoint: Some("http://127.0.0.1:1".into()), ..settings(&s3) };
    let error = files_of(format!("s3://{BUCKET}"), nobody).check().unwrap_err();
    assert!(matches!(error, FilesError::Unavailable { .. }), "{error}");
}
