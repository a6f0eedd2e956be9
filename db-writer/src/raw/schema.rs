//! The columns of `raw/` and `late/`, and how they are encoded.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, SchemaDescriptor};

/// How many rows a row group has at most: what a reader holds at once, and what a writer holds before it reaches the file.
const ROW_GROUP_ROWS: usize = 128 << 10;

/// How many bytes a row group has at most, about: reached only by lines that are kept as they were.
const ROW_GROUP_BYTES: usize = 16 << 20;

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema(text: &DataType) -> SchemaRef {
    let word = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let text = || text.clone();
    Arc::new(Schema::new(vec![
        Field::new("topic", word(), false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("line_number", DataType::Int32, false),
        Field::new("arrival", time(), false),
        Field::new("source", word(), true),
        Field::new("file", word(), true),
        Field::new("byte_offset", DataType::Int64, true),
        Field::new("ad_id", text(), true),
        Field::new("click_timestamp", time(), true),
        Field::new("user_id", text(), true),
        Field::new("ip", text(), true),
        Field::new("country", text(), true),
        Field::new("event_id", text(), true),
        Field::new("reason", text(), true),
        Field::new("line", DataType::Binary, true),
    ]))
}

/// The columns as they are filled: texts as bytes, which saves checking again that they are UTF-8.
pub(super) static IN_MEMORY: LazyLock<SchemaRef> = LazyLock::new(|| schema(&DataType::Binary));

/// The columns as they stand in the file. Arrow's own schema is not beside them, so that every reader sees plain strings, integers, and timestamps in UTC.
pub(super) fn in_file() -> Result<SchemaDescriptor> {
    ArrowSchemaConverter::new().convert(&schema(&DataType::Utf8))
}

/// How the columns are written: zstd throughout; dictionaries where few values come again and again; numbers as differences. Statistics where they let a reader pass over something: the
/// other columns have every value in every row group.
pub(super) fn properties() -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_write_batch_size(8192)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_created_by(concat!("clickmill ", env!("CARGO_PKG_VERSION")).to_owned());
    for name in ["topic", "source", "file", "country", "reason"] {
        properties = properties.set_column_dictionary_enabled(column(name), true);
    }
    for name in ["partition", "offset", "line_number", "arrival", "byte_offset", "click_timestamp"] {
        properties = properties.set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["ad_id", "ip", "event_id", "line"] {
        properties = properties.set_column_encoding(column(name), Encoding::DELTA_LENGTH_BYTE_ARRAY);
    }
    // Users most often begin alike ("user 1", "user 2").
    properties = properties.set_column_encoding(column("user_id"), Encoding::DELTA_BYTE_ARRAY);
    // Packed differences, with nothing left to squeeze out of them.
    properties = properties.set_column_compression(column("byte_offset"), Compression::UNCOMPRESSED);
    for name in ["offset", "arrival", "click_timestamp"] {
        properties = properties.set_column_statistics_enabled(column(name), EnabledStatistics::Page);
    }
    for name in ["partition", "event_id", "reason", "line"] {
        properties = properties.set_column_statistics_enabled(column(name), EnabledStatistics::Chunk);
    }
    properties.build()
}
