//! The alphabet of the binary records: unsigned LEB128 varints, zigzag for signed numbers, and byte strings with their
//! length before them (Protocol Buffers' encodings of the same names).
//!
//! Every record begins with one byte for its version. A reader refuses a higher version than it knows.

use thiserror::Error;

/// Why bytes are not the record that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The bytes end before the record does.
    #[error("{what} is cut short")]
    Truncated {
        /// The record's kind.
        what: &'static str,
    },
    /// A newer clickmill wrote it.
    #[error("{what} has format version {found}, this clickmill reads up to {known}: use a newer one")]
    TooNew {
        /// The record's kind.
        what: &'static str,
        /// The version it carries.
        found: u8,
        /// The highest version known here.
        known: u8,
    },
    /// A value that cannot be.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// The record's kind.
        what: &'static str,
        /// What is wrong.
        detail: &'static str,
    },
}

/// Writes a record.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins a record of this version.
    pub fn new(version: u8) -> Self {
        Self { bytes: vec![version] }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// An unsigned varint.
    #[inline]
    pub fn uint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// A zigzag varint.
    pub fn int(&mut self, value: i64) {
        self.uint((value << 1 ^ value >> 63) as u64);
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self, value: &[u8]) {
        self.uint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// Text with its length in bytes before it.
    pub fn str(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    /// Bytes as they are.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// How many bytes the record has so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a record has at least its version.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The record.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a record.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Begins to read `bytes` as a `what`, of which versions up to `known` can be read. Returns the version too.
    pub fn new(bytes: &'a [u8], what: &'static str, known: u8) -> Result<(Self, u8), CodecError> {
        let mut reader = Self { rest: bytes, what };
        let found = reader.u8()?;
        if found > known {
            return Err(CodecError::TooNew { what, found, known });
        }
        Ok((reader, found))
    }

    /// An error that says that this record is damaged.
    pub fn corrupt(&self, detail: &'static str) -> CodecError {
        CodecError::Corrupt { what: self.what, detail }
    }

    fn truncated(&self) -> CodecError {
        CodecError::Truncated { what: self.what }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(*first)
    }

    /// An unsigned varint of at most 64 bits.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, CodecError> {
        if let Some((first, rest)) = self.rest.split_first()
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return if shift == 63 && byte > 1 {
                    Err(self.corrupt("a number of more than 64 bits"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(self.corrupt("a number of more than 64 bits"))
    }

    /// An unsigned varint of at most 32 bits.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.uint()?).map_err(|_| self.corrupt("a number of more than 32 bits"))
    }

    /// A zigzag varint.
    pub fn int(&mut self) -> Result<i64, CodecError> {
        let value = self.uint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// How many things follow, each of which takes at least `each` bytes: never more than the record can hold, so that it is
    /// safe to make room for them.
    pub fn count(&mut self, each: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.uint()?).map_err(|_| self.truncated())?;
        if count.checked_mul(each.max(1)).is_none_or(|bytes| bytes > self.rest.len()) {
            return Err(self.truncated());
        }
        Ok(count)
    }

    /// `n` bytes as they are.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let n = self.count(1)?;
        self.raw(n)
    }

    /// Text with its length in bytes before it.
    pub fn str(&mut self) -> Result<&'a str, CodecError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("text that is not UTF-8"))
    }

    /// True where nothing is left.
    pub fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes behind the end.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.at_end() { Ok(()) } else { Err(self.corrupt("bytes behind its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_was_written_is_read(numbers: Vec<u64>, signed: Vec<i64>, texts: Vec<String>) {
            let mut writer = Writer::new(3);
            for n in &numbers { writer.uint(*n); }
            for n in &signed { writer.int(*n); }
            for t in &texts { writer.str(t); }
            let bytes = writer.finish();
            let (mut reader, version) = Reader::new(&bytes, "a test", 3).unwrap();
            proptest::prop_assert_eq!(version, 3);
            for n in &numbers { proptest::prop_assert_eq!(reader.uint(), Ok(*n)); }
            for n in &signed { proptest::prop_assert_eq!(reader.int(), Ok(*n)); }
            for t in &texts { proptest::prop_assert_eq!(reader.str(), Ok(t.as_str())); }
            proptest::prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(Reader::new(&[], "x", 1).unwrap_err(), CodecError::Truncated { what: "x" });
        assert_eq!(Reader::new(&[2], "x", 1).unwrap_err(), CodecError::TooNew { what: "x", found: 2, known: 1 });
        let (mut reader, _) =
            Reader::new(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], "x", 1).unwrap();
        assert!(matches!(reader.uint(), Err(CodecError::Corrupt { .. })));
        let (mut reader, _) = Reader::new(&[1, 200, 1, 7], "x", 1).unwrap();
        assert_eq!(reader.bytes(), Err(CodecError::Truncated { what: "x" }));
    }
}
