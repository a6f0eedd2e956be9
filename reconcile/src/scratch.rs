//! Counts that wait on disk: what the raw lines say, and what the store says, an hour a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use clickmill_model::{FilterId, Minute};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::ads::Ads;
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
    let keys = [number("minute".into()), Field::new("ad", DataType::UInt32, false)];
    Arc::new(Schema::new(keys.into_iter().chain(filters.iter().map(|f| number(column_of(*f)))).collect::<Vec<_>>()))
}

/// The columns of what the store says of a filter: a row for each span and ad.
pub(crate) fn stored_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![number("start"), Field::new("ad", DataType::UInt32, false), number("clicks")]))
}

/// Rows of [`stored_schema`] on their way into a file.
pub(crate) struct StoredRows {
    file: ScratchFile,
    ads: Arc<Ads>,
    starts: Vec<i64>,
    names: StringBuilder,
    clicks: Vec<i64>,
}

impl StoredRows {
    pub(crate) fn create(path: &Path, ads: &Arc<Ads>) -> Result<Self> {
        let file = ScratchFile::create(path, &stored_schema())?;
        let (starts, names, clicks) = Default::default();
        Ok(Self { file, ads: Arc::clone(ads), starts, names, clicks })
    }

    pub(crate) fn push(&mut self, start: Minute, ad: &str, clicks: u64) -> Result<()> {
        self.starts.push(start.as_epoch());
        self.names.append_value(ad);
        self.clicks.push(i64::try_from(clicks).unwrap_or(i64::MAX));
        if self.starts.len() < ROWS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let names = self.names.finish();
        let names: Vec<&str> = names.iter().flatten().collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(std::mem::take(&mut self.starts))),
            Arc::new(UInt32Array::from(self.ads.numbers(&names))),
            Arc::new(Int64Array::from(std::mem::take(&mut self.clicks))),
        ];
        self.file.write(&RecordBatch::try_new(stored_schema(), columns)?)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.file.finish()
    }
}
