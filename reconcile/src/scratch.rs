//! Counts that wait on disk: what the raw lines say, and what the store says, an hour a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use clickmill_model::FilterId;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::error::{ReconcileError, Result};
use crate::filters::column_of;

/// How many rows are gathered before they are written.
const ROWS: usize = 16 << 10;

/// How many rows a row group has at most.
const GROUP_ROWS: usize = 64 << 10;

/// A file under way. Nobody but this process reads it.
pub(crate) struct ScratchFile {
    path: PathBuf,
    writer: ArrowWriter<File>,
}

impl ScratchFile {
    pub(crate) fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        let file = File::create(path).map_err(|why| unwritable(path, &why))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let writer =
            ArrowWriter::try_new(file, Arc::clone(schema), Some(properties)).map_err(|why| unwritable(path, &why))?;
        Ok(Self { path: path.to_owned(), writer })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.write(batch).map_err(|why| unwritable(&self.path, &why))
    }

    pub(crate) fn finish(self) -> Result<()> {
        let path = self.path;
        self.writer.close().map(drop).map_err(|why| unwritable(&path, &why))
    }
}

fn unwritable(path: &Path, why: &dyn std::fmt::Display) -> ReconcileError {
    ReconcileError::Unavailable { what: format!("writing {}", path.display()), why: why.to_string() }
}

/// The columns of what the raw lines say: a row for each ad and minute, a column for each filter.
pub(crate) fn truth_schema(filters: &[FilterId]) -> SchemaRef {
    let number = |name: String| Field::new(name, DataType::Int64, false);
    let keys = [number("minute".into()), Field::new("ad_id", DataType::Utf8, false)];
    Arc::new(Schema::new(keys.into_iter().chain(filters.iter().map(|f| number(column_of(*f)))).collect::<Vec<_>>()))
}

/// The columns of what the store says: a row for each filter, span and ad.
pub(crate) fn stored_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let ad = Field::new("ad_id", DataType::Utf8, false);
    Arc::new(Schema::new(vec![number("filter_id"), number("start"), ad, number("clicks")]))
}

/// Rows of [`stored_schema`] on their way into a file.
pub(crate) struct StoredRows {
    file: ScratchFile,
    filter: Vec<i64>,
    start: Int64Builder,
    ad_id: StringBuilder,
    clicks: Int64Builder,
}

impl StoredRows {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = ScratchFile::create(path, &stored_schema())?;
        let (start, ad_id, clicks) = Default::default();
        Ok(Self { file, filter: Vec::new(), start, ad_id, clicks })
    }

    pub(crate) fn push(&mut self, filter: FilterId, start: i64, ad: &str, clicks: u64) -> Result<()> {
        self.filter.push(filter.0.into());
        self.start.append_value(start);
        self.ad_id.append_value(ad);
        self.clicks.append_value(i64::try_from(clicks).unwrap_or(i64::MAX));
        if self.filter.len() < ROWS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(arrow_array::Int64Array::from(std::mem::take(&mut self.filter))),
            Arc::new(self.start.finish()),
            Arc::new(self.ad_id.finish()),
            Arc::new(self.clicks.finish()),
        ];
        self.file.write(&RecordBatch::try_new(stored_schema(), columns)?)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.file.finish()
    }
}
