//! A span counted again from raw Parquet, without a store: clicks a second, CPU time and memory.
//!
//! `cargo bench -p clickmill-recalc --bench replay -- FILES FROM TO`, where `FILES` is the folder `files` of a pipeline that has drained logs. With `MIMALLOC_PURGE_DELAY=-1` it keeps freed memory, as the program does. `docs/performance/recalc.py` has DuckDB do its part of the same.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clickmill_db_writer::raw::Files;
use clickmill_model::{Definition, Filter, Minute, Window};
use clickmill_recalc::{Plan, RecalcError, Told, recalculate};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The most memory that this process ever had, in MiB.
fn most_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [files, from, to] = &args[..] else {
        println!("no folder and span are given: nothing is measured");
        return;
    };
    let minute = |text: &str| Minute::parse(text).unwrap();
    let filter = |json: &str| serde_json::from_str::<Filter>(json).unwrap();
    let definition = Definition {
        filters: vec![
            Filter::all(),
            filter(r#"{"id":1,"country":["USA"]}"#),
            filter(r#"{"id":2,"exclude_country":["USA","India"]}"#),
            filter(r#"{"id":3,"ip":["207.148.0.0/16","2001:db8:8::/45"]}"#),
        ],
        windows: vec![Window(1), Window(5), Window(60)],
        ..Definition::default()
    };
    let files = Files::local(Path::new(files)).unwrap();
    let plan = Plan::new(minute(from)..minute(to), &[definition]);
    let (began, used) = (Instant::now(), cpu());
    let (mut rows, mut rankings) = (0, 0);
    let summary = recalculate::<RecalcError>(
        &files,
        &plan,
        &AtomicBool::new(false),
        |_| (),
        |told| {
            match told {
                Told::Counts { columns, .. } => rows += columns.ads.len(),
                Told::Rankings { rankings: all, .. } => rankings += all.len(),
                Told::Until(_) => {}
            }
            Ok(())
        },
    );
    let clicks = summary.unwrap().lines.counted;
    let (took, cpu) = (began.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
    println!(
        "{clicks} clicks in {took:.1} s: {:.2} M/s, {:.2} µs of CPU a click, at most {} MiB; {rows} rows of counts, {rankings} rankings",
        clicks as f64 / took / 1e6,
        cpu / clicks as f64 * 1e6,
        most_memory_mib(),
    );
}
