//! A file that is being filled: consecutive records of one partition become rows, row groups, a footer.

use std::sync::Arc;

use clickmill_model::{Offset, RawPartition, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;

use super::batch::{Batch, FileName, Line, Place};
use super::files::{Files, FilesError, Published, Sink};
use super::schema::{IN_MEMORY, in_file, properties};
use super::span::{Before, FileSpan};

/// What became of a complete file.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) published: Published,
    pub(super) span: FileSpan,
    pub(super) path: String,
}

/// A file under way.
pub(super) struct FileBuilder {
    writer: ArrowWriter<Sink>,
    batch: Batch,
    span: FileSpan,
    path: String,
    /// The path in errors.
    shown: String,
}

impl FileBuilder {
    /// Begins the file of `folder` whose first line is in the record with this offset and arrival.
    pub(super) fn begin(
        files: &Files,
        sink: Sink,
        folder: &str,
        from: RawPartition,
        first_offset: Offset,
        first_arrival: Timestamp,
    ) -> Result<Self, FilesError> {
        let path = FileSpan::path(folder, &from, first_offset, first_arrival);
        let shown = files.shown(&path);
        let fault = |error| unwritable(&shown, &error);
        let options = ArrowWriterOptions::new()
            .with_properties(properties())
            .with_parquet_schema(in_file().map_err(fault)?)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, Arc::clone(&IN_MEMORY), options).map_err(fault)?;
        let span = FileSpan {
            from,
            first_offset,
            last_offset: first_offset,
            first_arrival,
            last_arrival: first_arrival,
            rows: 0,
            rejected: 0,
            minutes: None,
            before: Before::Unknown,
        };
        Ok(Self { writer, batch: Batch::default(), span, path, shown })
    }

    /// Notes which file was before this one.
    pub(super) fn follows(&mut self, before: Before) {
        self.span.before = before;
    }

    /// Begins with the lines of a record.
    pub(super) fn place(&mut self, place: &Place<'_>) {
        self.batch.place(place);
    }

    /// Looks up a file that lines of the record come from.
    pub(super) fn file(&mut self, name: &str) -> FileName {
        self.batch.file(name)
    }

    /// Adds a line of the record that was begun last.
    #[inline]
    pub(super) fn push(&mut self, line: &Line<'_>) -> Result<(), FilesError> {
        self.batch.push(line);
        self.span.rows += 1;
        if line.reason.is_some() {
            self.span.rejected += 1;
        } else if let Some(click) = &line.click {
            let minute = click.timestamp.minute();
            self.span.minutes = Some(match self.span.minutes {
                Some((first, last)) => (first.min(minute), last.max(minute)),
                None => (minute, minute),
            });
        }
        if self.batch.is_full() { self.encode() } else { Ok(()) }
    }

    /// Notes that the file holds every line of the records up to this one.
    pub(super) fn cover(&mut self, offset: Offset, arrival: Timestamp) {
        self.span.last_offset = offset;
        self.span.last_arrival = arrival;
    }

    fn encode(&mut self) -> Result<(), FilesError> {
        let batch = self.batch.take().map_err(|error| unwritable(&self.shown, &error))?;
        self.writer.write(&batch).map_err(|error| unwritable(&self.shown, &error))
    }

    /// What it holds so far.
    pub(super) fn span(&self) -> &FileSpan {
        &self.span
    }

    /// How large the file will be, about, if it ends here.
    pub(super) fn file_bytes(&self) -> usize {
        // What is not encoded yet shrinks to about a fifth.
        self.writer.bytes_written() + self.writer.in_progress_size() + self.batch.size_bytes() / 5
    }

    /// How much memory it takes, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let written = if self.writer.inner().is_in_memory() { self.writer.bytes_written() } else { 0 };
        written + self.writer.memory_size() + self.batch.size_bytes()
    }

    /// Completes the file and gives it its name, unless another one has it.
    pub(super) fn publish(mut self, files: &Files) -> Result<Outcome, FilesError> {
        self.encode()?;
        for pair in self.span.to_metadata() {
            self.writer.append_key_value_metadata(pair);
        }
        let sink = self.writer.into_inner().map_err(|error| unwritable(&self.shown, &error))?;
        let published = files.publish(sink, &self.path)?;
        Ok(Outcome { published, span: self.span, path: self.path })
    }
}

pub(super) fn unwritable(path: &str, error: &ParquetError) -> FilesError {
    FilesError::Unavailable { what: "writing", path: path.to_owned(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use clickmill_model::{Partition, RejectReason};

    use super::*;

    #[test]
    fn a_full_disk_is_a_passing_fault_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::local(dir.path()).unwrap();
        let from = RawPartition::new("ad-clicks", Partition(0));
        let (offset, arrival) = (Offset(1), Timestamp::from_secs(1_609_459_200));
        let place = Place { topic: "ad-clicks", partition: Partition(0), offset, arrival, source: None };
        let line = Line { number: 0, origin: None, bytes: b"", click: None, reason: Some(RejectReason::Empty) };
        let mut file = FileBuilder::begin(&files, Sink::on_full_disk(), "raw", from, offset, arrival).unwrap();
        file.place(&place);
        file.push(&line).unwrap();
        let error = file.publish(&files).unwrap_err();
        let expected = dir.path().canonicalize().unwrap().join("raw/date=2021-01-01/ad-clicks-0-");
        let text = error.to_string();
        assert!(matches!(error, FilesError::Unavailable { .. }), "{text}");
        assert!(text.contains("No space left") && text.contains(expected.to_str().unwrap()), "{text}");
    }
}
