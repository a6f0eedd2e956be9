//! How fast lines are made: `cargo run --release -p clickmill-generator --example measure [ADS] [CLICKS] [FOLDER]`. Without a folder they stay in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clickmill_generator::{Options, generate, lines};
use clickmill_model::Timestamp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let ads = args.next().map_or(Ok(100_000), |ads| ads.parse())?;
    let clicks = args.next().map_or(Ok(10_000_000), |clicks| clicks.parse())?;
    let folder = args.next();
    let options = Options {
        clicks,
        ads,
        disorder: Duration::from_secs(30),
        files: 4,
        ..Options::new(folder.clone().unwrap_or_default())
    };
    let began = Instant::now();
    let lines = match folder {
        Some(_) => generate(&options, || Timestamp::EPOCH, |_| (), &AtomicBool::new(false))?.lines,
        None => lines(&options)?.0.split(|byte| *byte == b'\n').count() as u64 - 1,
    };
    let seconds = began.elapsed().as_secs_f64();
    println!("{lines} lines in {seconds:.2} s: {:.2} M lines/s", lines as f64 / seconds / 1e6);
    Ok(())
}
