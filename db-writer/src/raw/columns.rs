//! Columns that are being filled, without an allocation a value. A row that gets no value is null; it costs nothing until the next value or the end of the batch.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::NullBufferBuilder;
use arrow_array::types::{ArrowPrimitiveType, Int32Type};
use arrow_array::{ArrayRef, BinaryArray, DictionaryArray, PrimitiveArray, StringArray};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use parquet::errors::Result;

/// Which rows have a value: told of runs only, so that a column without nulls costs nothing.
#[derive(Debug)]
struct Presence(NullBufferBuilder);

impl Default for Presence {
    fn default() -> Self {
        Self(NullBufferBuilder::new(0))
    }
}

impl Presence {
    /// Notes that the rows up to `filled` have a value where nothing was said of them, and those from there to `row` have none.
    fn pad(&mut self, filled: usize, row: usize) {
        let known = self.0.len();
        self.0.append_n_non_nulls(filled - known.min(filled));
        self.0.append_n_nulls(row - filled.min(row));
    }
}

/// A column of numbers.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    presence: Presence,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self { values: Vec::new(), presence: Presence::default() }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    #[cold]
    fn pad(&mut self, row: usize) {
        self.presence.pad(self.values.len(), row);
        self.values.resize(row, T::Native::default());
    }

    /// Sets the value of a row behind all others that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: T::Native) {
        if self.values.len() != row {
            self.pad(row);
        }
        self.values.push(value);
    }

    /// Sets the values of rows behind all others that have one.
    pub(super) fn set_all(&mut self, rows: Range<usize>, value: T::Native) {
        if self.values.len() != rows.start {
            self.pad(rows.start);
        }
        self.values.resize(rows.end, value);
    }

    /// The column, of this many rows. It is empty afterwards.
    pub(super) fn take(&mut self, rows: usize) -> PrimitiveArray<T> {
        self.pad(rows);
        let next = Vec::with_capacity(rows);
        PrimitiveArray::new(ScalarBuffer::from(std::mem::replace(&mut self.values, next)), self.presence.0.finish())
    }
}

/// A column of texts, or of bytes.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// Where each value ends.
    ends: Vec<i32>,
    presence: Presence,
}

impl Texts {
    #[cold]
    fn pad(&mut self, row: usize) {
        self.presence.pad(self.ends.len(), row);
        self.ends.resize(row, self.bytes.len() as i32);
    }

    /// Sets the value of a row behind all others that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, value: &[u8]) {
        if self.ends.len() != row {
            self.pad(row);
        }
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len() as i32);
    }

    /// The column, of this many rows. It is empty afterwards.
    pub(super) fn take(&mut self, rows: usize) -> Result<ArrayRef> {
        self.pad(rows);
        let next = Vec::with_capacity(self.bytes.len());
        let bytes = Buffer::from_vec(std::mem::replace(&mut self.bytes, next));
        let offsets: Vec<i32> = std::iter::once(0).chain(self.ends.drain(..)).collect();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(BinaryArray::try_new(offsets, bytes, self.presence.0.finish())?))
    }
}

/// How many words a column remembers from batch to batch.
const MOST_WORDS: usize = 4096;

/// The number of a word in its column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(i32);

/// A column of few words, each of which is looked up once for many rows.
#[derive(Debug, Default)]
pub(super) struct Words {
    keys: Numbers<Int32Type>,
    words: Vec<Arc<str>>,
    known: HashMap<Arc<str>, i32>,
}

impl Words {
    /// The number of a word, until [`Words::trim`].
    pub(super) fn word(&mut self, word: &str) -> Word {
        if let Some(key) = self.known.get(word) {
            return Word(*key);
        }
        let key = self.words.len() as i32;
        let word: Arc<str> = word.into();
        self.words.push(Arc::clone(&word));
        self.known.insert(word, key);
        Word(key)
    }

    /// Sets the value of a row behind all others that have one.
    #[inline]
    pub(super) fn set(&mut self, row: usize, word: Word) {
        self.keys.set(row, word.0);
    }

    /// Sets the values of rows behind all others that have one.
    pub(super) fn set_all(&mut self, rows: Range<usize>, word: Word) {
        self.keys.set_all(rows, word.0);
    }

    /// The column, of this many rows. It is empty afterwards; the words keep their numbers.
    pub(super) fn take(&mut self, rows: usize) -> Result<ArrayRef> {
        let words = StringArray::from_iter_values(&self.words);
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(self.keys.take(rows), Arc::new(words))?))
    }

    /// Forgets the words where they are too many. No row may be under way, and no [`Word`] be used again.
    pub(super) fn trim(&mut self) {
        if self.words.len() > MOST_WORDS {
            self.words.clear();
            self.known.clear();
        }
    }
}
