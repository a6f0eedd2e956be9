//! The watcher on the queue that `clickmill up` gives it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clickmill_log_watcher::Watcher;
use clickmill_queue::embedded::{EmbeddedQueue, Options};
use clickmill_queue::{Clock, Queue, Stage, SystemClock};
use common::{append, config, lines, topics};

#[test]
fn killed_again_and_again_it_sends_each_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new());
    let path = folder.path().join("a.log");
    let config = config(vec![path.to_str().unwrap().to_owned()], 2);
    for round in 0..6 {
        let text: String = (0..5000).map(|n| format!("line {:06}\n", round * 5000 + n)).collect();
        append(&path, text.as_bytes());
        let queue = EmbeddedQueue::open(&folder.path().join("queue"), clock.clone(), Options::default()).unwrap();
        queue.create_topics(&topics(2, 0)).unwrap();
        let mut watcher = Watcher::start(Arc::new(queue.clone()), config.clone(), clock.now()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // Odd rounds end before anything is read.
        while round % 2 == 0 && lines(&queue, 2).len() < (round + 1) * 5000 {
            assert!(Instant::now() < deadline, "{:?}", watcher.report());
            watcher.step(clock.now(), Duration::from_millis(10)).unwrap();
        }
    }
    let queue = EmbeddedQueue::open(&folder.path().join("queue"), clock.clone(), Options::default()).unwrap();
    let mut watcher = Watcher::start(Arc::new(queue.clone()), config, clock.now()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while lines(&queue, 2).len() < 30_000 && Instant::now() < deadline {
        watcher.step(clock.now(), Duration::from_millis(10)).unwrap();
    }
    let mut texts: Vec<String> = lines(&queue, 2).into_iter().map(|line| line.text).collect();
    texts.sort();
    assert_eq!(texts, (0..30_000).map(|n| format!("line {n:06}")).collect::<Vec<_>>());
}
