//! Reads a gzip file that may still be growing: several members one after the other, each possibly cut where the file ends for now.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// How much is decompressed at a time.
const STEP_BYTES: usize = 64 * 1024;

/// The file's bytes. Its end is no end but a "not yet", so that the decoder keeps its state and goes on when more comes.
struct Growing {
    file: File,
    read_bytes: u64,
}

impl Read for Growing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        if n == 0 && !buf.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.read_bytes += n as u64;
        Ok(n)
    }
}

enum State {
    Between(BufReader<Growing>),
    Member(Box<GzDecoder<BufReader<Growing>>>),
    /// After an error. What follows cannot be read.
    Broken,
}

/// What a decompressing file has for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// There is more.
    More,
    /// It is at its end.
    Whole,
    /// It ends in the middle of a compressed member.
    Cut,
}

/// A gzip file's content, read from front to back.
pub(crate) struct Gunzip {
    state: State,
    /// Decompressed bytes that were not asked for or may be asked for again.
    window: Vec<u8>,
    /// The content's offset of the window's first byte.
    window_at: u64,
}

impl Gunzip {
    pub(crate) fn new(file: File) -> Self {
        let state = State::Between(BufReader::with_capacity(STEP_BYTES, Growing { file, read_bytes: 0 }));
        Self { state, window: Vec::new(), window_at: 0 }
    }

    /// Fills `buf` with the content from `offset` on. An offset before that of the last call is an error.
    pub(crate) fn fill(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<(usize, End)> {
        let Some(mut skip) = offset.checked_sub(self.window_at) else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a compressed file cannot be read backwards"));
        };
        loop {
            let drop = skip.min(self.window.len() as u64);
            self.window.drain(..drop as usize);
            self.window_at += drop;
            skip -= drop;
            let end = if skip == 0 && self.window.len() >= buf.len() { End::More } else { self.decompress()? };
            let done = skip == 0 && self.window.len() >= buf.len();
            if done || end != End::More {
                let n = if skip == 0 { self.window.len().min(buf.len()) } else { 0 };
                buf[..n].copy_from_slice(&self.window[..n]);
                let all = n == self.window.len() || skip > 0;
                return Ok((n, if all && end != End::More { end } else { End::More }));
            }
        }
    }

    /// How much of the compressed file was used up.
    pub(crate) fn read_bytes(&self) -> u64 {
        match &self.state {
            State::Between(reader) => reader.get_ref().read_bytes - reader.buffer().len() as u64,
            State::Member(decoder) => decoder.get_ref().get_ref().read_bytes - decoder.get_ref().buffer().len() as u64,
            State::Broken => 0,
        }
    }

    /// The file, for a look at its size.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.state {
            State::Between(reader) => Some(&reader.get_ref().file),
            State::Member(decoder) => Some(&decoder.get_ref().get_ref().file),
            State::Broken => None,
        }
    }

    /// Puts a bit more of the content into the window.
    fn decompress(&mut self) -> io::Result<End> {
        loop {
            match std::mem::replace(&mut self.state, State::Broken) {
                State::Broken => return Err(io::Error::new(ErrorKind::InvalidData, "the compressed data is damaged")),
                State::Between(mut reader) => {
                    // Some programs fill up the last block of a file with zeros.
                    let padding = match reader.fill_buf() {
                        Ok(bytes) => bytes.iter().take_while(|byte| **byte == 0).count(),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            self.state = State::Between(reader);
                            return Ok(End::Whole);
                        }
                        Err(error) => return Err(error),
                    };
                    if padding > 0 {
                        reader.consume(padding);
                        self.state = State::Between(reader);
                    } else {
                        self.state = State::Member(Box::new(GzDecoder::new(reader)));
                    }
                }
                State::Member(mut decoder) => {
                    let before = self.window.len();
                    self.window.resize(before + STEP_BYTES, 0);
                    let read = decoder.read(&mut self.window[before..]);
                    self.window.truncate(before + read.as_ref().copied().unwrap_or(0));
                    match read {
                        Ok(0) => self.state = State::Between(decoder.into_inner()),
                        Ok(_) => {
                            self.state = State::Member(decoder);
                            return Ok(End::More);
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            self.state = State::Member(decoder);
                            return Ok(End::Cut);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn content(lines: usize) -> Vec<u8> {
        (0..lines).map(|i| format!("line {i}\n")).collect::<String>().into_bytes()
    }

    #[test]
    fn a_file_that_grows_byte_by_byte_gives_its_content_as_it_comes() {
        let all = content(3000);
        let (first, second) = all.split_at(all.len() / 3);
        let bytes = [gzip(first), vec![0; 100], gzip(second)].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut gunzip = Gunzip::new(File::open(file.path()).unwrap());
        let mut writer = file.as_file();
        let mut out = Vec::new();
        let mut buf = vec![0; 777];
        for byte in bytes.chunks(1) {
            writer.write_all(byte).unwrap();
            loop {
                let (n, end) = gunzip.fill(out.len() as u64, &mut buf).unwrap();
                out.extend_from_slice(&buf[..n]);
                if end != End::More {
                    break;
                }
            }
        }
        assert_eq!(out, all);
        assert_eq!(gunzip.fill(out.len() as u64, &mut buf).unwrap(), (0, End::Whole));
        assert_eq!(gunzip.read_bytes(), bytes.len() as u64);
    }

    #[test]
    fn it_begins_in_the_middle_and_says_where_it_is_cut() {
        let all = content(200_000);
        let bytes = gzip(&all);
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(&bytes[..bytes.len() - 9]).unwrap();
        let mut gunzip = Gunzip::new(File::open(file.path()).unwrap());
        let mut buf = vec![0; 100];
        assert_eq!(gunzip.fill(1_000_000, &mut buf).unwrap(), (100, End::More));
        assert_eq!(buf, all[1_000_000..1_000_100]);
        assert!(gunzip.fill(0, &mut buf).is_err());
        assert_eq!(gunzip.fill(all.len() as u64 + 5, &mut buf).unwrap(), (0, End::Cut));
        file.as_file().write_all(&bytes[bytes.len() - 9..]).unwrap();
        assert_eq!(gunzip.fill(all.len() as u64 + 5, &mut buf).unwrap(), (0, End::Whole));
    }

    #[test]
    fn damage_is_an_error_each_time() {
        let mut bytes = gzip(&content(20_000));
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xff);
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(&bytes).unwrap();
        let mut gunzip = Gunzip::new(File::open(file.path()).unwrap());
        let mut buf = vec![0; 1 << 20];
        assert!(gunzip.fill(0, &mut buf).is_err());
        assert!(gunzip.fill(0, &mut buf).is_err());
    }
}
