//! The stages as processes of their own, on one data folder: started, asked to end, killed, stopped for so long that others take over.

use std::time::{Duration, Instant};

use clickmill_model::Minute;
use clickmill_model::line::parse_timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::answers::{assert_everything, wait_for_lines};
use crate::process::{LONG, Running, Site, wait_for};
use crate::traffic::{Traffic, live};

/// In what time a process that is told to must be gone.
pub const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Longer than the session of a process lasts that says nothing.
const STOPPED_FOR: Duration = Duration::from_secs(15);

/// The stages that work on the queue, in the order in which a click meets them.
pub const STAGES: [&str; 5] = ["log-watcher", "mapper", "aggregator", "reducer", "db-writer"];

/// Starts a stage and looks whether it serves what every process serves.
///
/// # Panics
/// Where it does not.
pub fn start<'a>(site: &'a Site, stage: &str) -> Running<'a> {
    let process = site.serve(&[stage], LONG);
    assert_eq!(process.try_get("/healthz").unwrap().0, 200, "{stage}");
    let (status, metrics) = process.try_get("/metrics").unwrap();
    assert!(status == 200 && metrics.contains("clickmill_"), "{stage}: {metrics}");
    assert!(process.stderr().contains(&format!("runs stage=\"{stage}\"")), "{}", process.stderr());
    process
}

fn logged(process: &Running<'_>, what: &str) -> bool {
    process.stderr().contains(what)
}

/// The first of two processes of a stage, the second, and the first one's successor share the work whatever happens to each.
///
/// # Panics
/// Where a figure is not what it must be, or something takes too long.
pub fn work_through_every_fate(site: &Site) {
    let traffic = Traffic::start(live(&site.logs(), 1000));
    let mut first: Vec<Running<'_>> = STAGES.iter().map(|stage| start(site, stage)).collect();
    let second: Vec<Running<'_>> = STAGES[1..].iter().map(|stage| start(site, stage)).collect();
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    let wait_for_share = |which: &str, processes: &[Running<'_>]| {
        for (stage, process) in STAGES[1..].iter().zip(processes) {
            wait_for(&format!("the {which} {stage} to get its share"), LONG, || {
                logged(process, "took over").then_some(())
            });
        }
    };
    wait_for_share("second", &second);
    wait_for_lines(&api, 2000, LONG);

    // Each is asked to end, and hands over what it has; each is killed.
    for (i, stage) in STAGES.iter().enumerate() {
        let asked = std::mem::replace(&mut first[i], start_later(site, stage));
        let began = Instant::now();
        let log = asked.log();
        let status = asked.terminate(GONE_WITHIN);
        assert!(status.success(), "{stage}: {status} after {:?}\n{}", began.elapsed(), log.read());
        wait_for_lines(&api, 300, LONG);
        first[i].wait_until_ready(LONG);
        std::mem::replace(&mut first[i], start_later(site, stage)).kill();
        first[i].wait_until_ready(LONG);
        wait_for_lines(&api, 300, LONG);
    }

    // All of them are stopped for longer than a session lasts, and their seconds take over; then they wake.
    wait_for_share("last", &first[1..]);
    // Until what the killed ones had is shared anew, a group waits for who says nothing.
    std::thread::sleep(STOPPED_FOR);
    let taken = |process: &Running<'_>| process.stderr().matches("took over").count();
    let taken_before: Vec<usize> = second.iter().map(taken).collect();
    for process in &first {
        process.signal(Signal::STOP);
    }
    std::thread::sleep(STOPPED_FOR);
    for ((stage, process), before) in STAGES[1..].iter().zip(&second).zip(taken_before) {
        let what = format!("the second {stage} to take over from the one that says nothing");
        wait_for(&what, LONG, || (taken(process) > before).then_some(()));
    }
    for process in &first {
        process.signal(Signal::CONT);
    }
    wait_for_lines(&api, 3000, LONG);
    for (stage, process) in STAGES[1..].iter().zip(&first[1..]) {
        let began = Instant::now();
        // One that was stopped while it committed does not know what came of it, and begins anew.
        while !["lost to another", "fenced", "starting over"].iter().any(|words| logged(process, words)) {
            assert!(
                began.elapsed() < LONG,
                "the first {stage} does not find that it lost what it had:\n{}",
                process.stderr()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    let made = traffic.stop();
    for process in first.into_iter().chain(second) {
        let log = process.log();
        let status = process.terminate(GONE_WITHIN);
        assert!(status.success(), "{status}\n{}", log.read());
    }
    drop(api);
    assert_everything(site, &made, LONG);
}

fn start_later<'a>(site: &'a Site, stage: &str) -> Running<'a> {
    site.start(&[stage])
}

/// Waits until one more minute can be read. Returns how long after its watermark that was; `None` for the first one.
///
/// # Panics
/// Where none could be by the deadline.
pub fn watch_a_minute(api: &Running<'_>, at_most: Duration) -> Option<Duration> {
    let minute = |status: &Value| status["rankings_complete_until"].as_u64();
    let before = minute(&api.get("/v1/status"));
    let mut passed: Option<(Minute, Instant)> = None;
    let deadline = Instant::now() + at_most;
    while Instant::now() < deadline {
        let status = api.get("/v1/status");
        let asked = Instant::now();
        if let Some(watermark) = status["watermark"].as_str().and_then(|w| parse_timestamp(w.as_bytes())) {
            let open = watermark.minute();
            if passed.is_none_or(|(minute, _)| minute < open) {
                passed = Some((open, asked));
            }
        }
        if minute(&status) > before
            && let (Some((_, at)), Some(_)) = (passed, before)
        {
            // The status is up to a quarter of a second old for both, so that their difference is right to about that.
            return Some(at.elapsed());
        }
        if before.is_none() && minute(&status).is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no minute closed in {at_most:?}");
}
