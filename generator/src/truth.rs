//! What is true of the lines: clicks by minute and ad, duplicates counted once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clickmill_model::Minute;

use crate::GenerateError;
use crate::files::{at, create_new};
use crate::text::{digits, fixed_digits};

/// The file beside the log files: `minute,ad_id,count`, the minute as `yyyyMMddHHmm`, sorted by minute, then ad.
pub const TRUTH_FILE: &str = "truth.csv";

const HEADER: &[u8] = b"minute,ad_id,count\n";

/// Clicks by minute and ad; those without clicks are not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Truth {
    /// The figures.
    pub counts: BTreeMap<(Minute, String), u64>,
}

impl Truth {
    /// Reads a `truth.csv`.
    pub fn read(path: &Path) -> Result<Self, GenerateError> {
        let text = fs::read_to_string(path).map_err(at(path))?;
        let counts = text.lines().enumerate().skip(1).map(|(number, line)| {
            let mut fields = line.split(',');
            let row = (|| {
                let minute = Minute::parse(fields.next()?)?;
                let ad = fields.next()?.to_owned();
                let count = fields.next()?.parse().ok()?;
                fields.next().is_none().then_some(((minute, ad), count))
            })();
            row.ok_or_else(|| GenerateError::BadTruth { path: path.to_owned(), line: number + 1 })
        });
        Ok(Self { counts: counts.collect::<Result<_, _>>()? })
    }

    /// All clicks.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn add(&mut self, minute: Minute, counts: &[u32], ad_digits: usize) {
        let clicked = (0_u32..).zip(counts).filter(|(_, count)| **count > 0);
        for (ad, count) in clicked {
            self.counts.insert((minute, format!("ad{:0ad_digits$}", ad + 1)), u64::from(*count));
        }
    }
}

/// Writes `truth.csv` minute by minute: rows gather in `truth.csv.part`, and [`TruthFile::publish`] shows them at once.
pub(crate) struct TruthFile {
    folder: PathBuf,
    part: PathBuf,
    rows: BufWriter<File>,
    ad_digits: usize,
    line: Vec<u8>,
    is_news: bool,
}

impl TruthFile {
    /// Refuses a folder that has a truth already.
    pub(crate) fn create(folder: &Path, ad_digits: usize) -> Result<Self, GenerateError> {
        // Claims the name; a reader finds no minute in it.
        let whole = folder.join(TRUTH_FILE);
        create_new(&whole)?.write_all(HEADER).map_err(at(&whole))?;
        let part = folder.join("truth.csv.part");
        let mut rows = BufWriter::with_capacity(1 << 18, File::create(&part).map_err(at(&part))?);
        rows.write_all(HEADER).map_err(at(&part))?;
        Ok(Self { folder: folder.to_owned(), part, rows, ad_digits, line: Vec::new(), is_news: false })
    }

    /// Adds a minute. They must come in order.
    pub(crate) fn add(&mut self, minute: Minute, counts: &[u32]) -> Result<(), GenerateError> {
        let start = format!("{minute},ad");
        // Most ads have no click in most minutes, where there are many of both.
        const BLOCK: usize = 64;
        for (block, counts) in counts.chunks(BLOCK).enumerate() {
            if counts.iter().all(|count| *count == 0) {
                continue;
            }
            for (number, count) in (1 + (block * BLOCK) as u32..).zip(counts) {
                if *count == 0 {
                    continue;
                }
                let (text, len) = digits(*count);
                self.line.clear();
                self.line.extend_from_slice(start.as_bytes());
                self.line.extend_from_slice(&fixed_digits(number, self.ad_digits)[..self.ad_digits]);
                self.line.push(b',');
                self.line.extend_from_slice(&text[..len]);
                self.line.push(b'\n');
                self.rows.write_all(&self.line).map_err(at(&self.part))?;
            }
        }
        self.is_news = true;
        Ok(())
    }

    /// Replaces `truth.csv` by all that was added.
    pub(crate) fn publish(&mut self) -> Result<(), GenerateError> {
        if self.is_news {
            self.rows.flush().map_err(at(&self.part))?;
            let copy = self.folder.join("truth.csv.new");
            fs::copy(&self.part, &copy).map_err(at(&copy))?;
            fs::rename(&copy, self.folder.join(TRUTH_FILE)).map_err(at(&copy))?;
            self.is_news = false;
        }
        Ok(())
    }

    /// Publishes all of it, and cleans up.
    pub(crate) fn finish(mut self) -> Result<(), GenerateError> {
        self.rows.flush().map_err(at(&self.part))?;
        fs::rename(&self.part, self.folder.join(TRUTH_FILE)).map_err(at(&self.part))
    }
}
