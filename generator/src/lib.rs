//! Makes log lines with a known truth: what a pipeline that reads them must report, to the click.
//!
//! In go [`Options`]; out come log files in a folder and, beside them, `truth.csv` with the clicks of each minute and ad, duplicates counted
//! once. What it promises:
//! - **The same bytes from the same seed**, however fast or slow they are written and wherever the files are cut.
//! - **An exact truth**: no two clicks are alike by accident, because all clicks of a second have different users by construction.
//! - **Bounded disorder**: a line's time is never more than [`Options::disorder`] behind that of a line before it, in any file.
//!
//! The way of a click: `options` become a plan, `stream` draws clicks from it (ads by `zipf`, addresses and countries by
//! `places`), holds some of them back for a while and writes them as lines (`text`); `truth` counts them; `files` puts lines on disk.
//! `stream` and what it uses know no clock and no file.

mod files;
mod options;
mod places;
mod random;
mod stream;
mod text;
mod truth;
mod zipf;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clickmill_model::Timestamp;
use thiserror::Error;

pub use options::{Options, Start};
pub use truth::{TRUTH_FILE, Truth};

use files::Files;
use options::Plan;
use stream::Stream;
use truth::TruthFile;

/// Why lines could not be made.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// An option that cannot be.
    #[error("{option}: {why}")]
    BadOption {
        /// The option's name.
        option: &'static str,
        /// What would be right.
        why: String,
    },
    /// A file did not do what it should. One that is there already is never written over.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A truth that is none.
    #[error("{}, line {line}: not a minute, an ad and a count", path.display())]
    BadTruth {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Lines written, duplicates among them.
    pub lines: u64,
    /// Different clicks.
    pub clicks: u64,
    /// Lines that told a click again.
    pub duplicates: u64,
    /// Bytes of log lines.
    pub bytes: u64,
}

/// Clicks made between two looks at the clock, the stop flag and the buffers: their lines stay in the processor's cache.
const BATCH: u64 = 4096;

/// How long paced writing sleeps when nothing is due.
const TICK: Duration = Duration::from_millis(20);

/// How often a running generator lets out what is certain of its truth.
const PUBLISH_EVERY: Duration = Duration::from_secs(3);

/// Writes log files and `truth.csv` to a folder, which is made if it is not there.
///
/// `now` tells the time for [`Start::Now`]; `progress` hears now and then how many clicks were made. Setting `stop` ends it early but in order: the truth is that
/// of the lines written.
///
/// With [`Options::rate`], `truth.csv` is replaced every few seconds by one that holds the minutes of which every line is in the files; after a kill
/// it is right for those.
pub fn generate(
    options: &Options,
    now: impl Fn() -> Timestamp,
    mut progress: impl FnMut(u64),
    stop: &AtomicBool,
) -> Result<Summary, GenerateError> {
    let plan = Plan::new(options, &now)?;
    let mut stream = Stream::new(&plan);
    let mut files = Files::create(options, plan.rotate_lines)?;
    let mut truth = TruthFile::create(&options.out, plan.ad_digits)?;
    let began = Instant::now();
    let mut published = Instant::now();
    while stream.made() < plan.clicks && !stop.load(Ordering::Relaxed) {
        let due = plan.due(began.elapsed(), &now).saturating_sub(stream.made());
        stream.make(due.min(BATCH));
        progress(stream.made());
        if due > BATCH {
            files.write_full(stream.outputs())?;
        } else {
            files.write_ragged(stream.outputs())?;
        }
        // Lines first: a truth that is out speaks of lines that can be read.
        if stream.has_closed() {
            files.write_all(stream.outputs())?;
            stream.take_closed(|minute, counts| truth.add(minute, counts))?;
        }
        if options.rate.is_some() && published.elapsed() >= PUBLISH_EVERY {
            truth.publish()?;
            published = Instant::now();
        }
        if due <= BATCH && stream.made() < plan.clicks {
            std::thread::sleep(TICK);
        }
    }
    stream.finish();
    files.write_all(stream.outputs())?;
    stream.take_closed(|minute, counts| truth.add(minute, counts))?;
    truth.finish()?;
    progress(stream.made());
    Ok(Summary { bytes: files.bytes(), ..stream.summary() })
}

/// The lines of all files in the order in which they are written, and their truth; nothing touches the disk.
///
/// [`Options::out`] and [`Options::rate`] mean nothing here, and [`Start::Now`] is refused: there is no clock.
pub fn lines(options: &Options) -> Result<(Vec<u8>, Truth), GenerateError> {
    let (mut files, truth) = lines_by_file(&Options { files: 1, ..options.clone() })?;
    Ok((files.pop().unwrap_or_default(), truth))
}

/// As [`lines`], with the lines of each file apart.
pub fn lines_by_file(options: &Options) -> Result<(Vec<Vec<u8>>, Truth), GenerateError> {
    if let Start::Now { .. } = options.start {
        return Err(GenerateError::BadOption { option: "start", why: "lines in memory need a first minute".into() });
    }
    let plan = Plan::new(&Options { rate: None, rotate_lines: None, ..options.clone() }, &|| Timestamp::EPOCH)?;
    let mut stream = Stream::new(&plan);
    stream.make(plan.clicks);
    stream.finish();
    let mut truth = Truth::default();
    stream.take_closed(|minute, counts| {
        truth.add(minute, counts, plan.ad_digits);
        Ok(())
    })?;
    Ok((stream.into_bytes(), truth))
}
