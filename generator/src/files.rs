//! The log files on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::stream::Output;
use crate::{GenerateError, Options};

/// Bytes that are gathered for a file before they are written.
const BUFFER_BYTES: usize = 128 << 10;

/// Bytes that are left back at most to end a piece within a line: less than the shortest line has.
const RAGGED_BYTES: usize = 50;

/// What became of a file, as an error of ours.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> GenerateError {
    let path = path.to_owned();
    move |source| GenerateError::File { path, source }
}

/// A new file; one that is there already is an error.
pub(crate) fn create_new(path: &Path) -> Result<File, GenerateError> {
    OpenOptions::new().append(true).create_new(true).open(path).map_err(at(path))
}

pub(crate) struct Files {
    files: Vec<LogFile>,
    bytes: u64,
    keep_rotated: Option<u32>,
    ragged_turn: bool,
}

struct LogFile {
    folder: PathBuf,
    stem: String,
    path: PathBuf,
    file: File,
    rotated: u64,
}

impl Files {
    pub(crate) fn create(options: &Options, rotate_lines: Option<u64>) -> Result<Self, GenerateError> {
        fs::create_dir_all(&options.out).map_err(at(&options.out))?;
        let files = (0..options.files)
            .map(|number| {
                let stem = format!("clicks-{number:02}");
                let path = options.out.join(format!("{stem}.log"));
                if rotate_lines.is_some() {
                    let first = rotated(&options.out, &stem, 1);
                    if first.exists() {
                        return Err(at(&first)(io::ErrorKind::AlreadyExists.into()));
                    }
                }
                let file = create_new(&path)?;
                Ok(LogFile { folder: options.out.clone(), stem, path, file, rotated: 0 })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { files, bytes: 0, keep_rotated: options.keep_rotated, ragged_turn: false })
    }

    /// Writes what has gathered for files for which enough has.
    pub(crate) fn write_full(&mut self, outputs: &mut [Output]) -> Result<(), GenerateError> {
        self.write(outputs, |output| if output.bytes.len() >= BUFFER_BYTES { output.bytes.len() } else { 0 })
    }

    /// Writes everything, but for every other time a part of the last line.
    pub(crate) fn write_ragged(&mut self, outputs: &mut [Output]) -> Result<(), GenerateError> {
        self.ragged_turn = !self.ragged_turn;
        let ragged = self.ragged_turn;
        self.write(outputs, |output| {
            let len = output.bytes.len();
            if ragged { len - (len % RAGGED_BYTES).min(len) } else { len }
        })
    }

    /// Writes everything.
    pub(crate) fn write_all(&mut self, outputs: &mut [Output]) -> Result<(), GenerateError> {
        self.write(outputs, |output| output.bytes.len())
    }

    fn write(&mut self, outputs: &mut [Output], how_much: impl Fn(&Output) -> usize) -> Result<(), GenerateError> {
        for (file, output) in self.files.iter_mut().zip(outputs) {
            let end = how_much(output);
            if end == 0 {
                continue;
            }
            let mut written = 0;
            let cuts = output.cuts.iter().take_while(|cut| **cut <= end).count();
            for cut in output.cuts.drain(..cuts) {
                file.append(&output.bytes[written..cut])?;
                file.rotate(self.keep_rotated)?;
                written = cut;
            }
            file.append(&output.bytes[written..end])?;
            self.bytes += end as u64;
            output.bytes.drain(..end);
            for cut in &mut output.cuts {
                *cut -= end;
            }
        }
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn rotated(folder: &Path, stem: &str, number: u64) -> PathBuf {
    folder.join(format!("{stem}.{number:06}.log"))
}

impl LogFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), GenerateError> {
        self.file.write_all(bytes).map_err(at(&self.path))
    }

    fn rotate(&mut self, keep: Option<u32>) -> Result<(), GenerateError> {
        self.rotated += 1;
        let name = |number| rotated(&self.folder, &self.stem, number);
        fs::rename(&self.path, name(self.rotated)).map_err(at(&self.path))?;
        self.file = create_new(&self.path)?;
        if let Some(old) = keep.and_then(|keep| self.rotated.checked_sub(u64::from(keep))).filter(|old| *old > 0) {
            fs::remove_file(name(old)).map_err(at(&name(old)))?;
        }
        Ok(())
    }
}
