//! What raw Parquet holds, read row by row by column names alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clickmill_model::Timestamp;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

/// A line of raw Parquet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawLine {
    /// The topic that it came through.
    pub topic: String,
    /// The partition of the topic.
    pub partition: i64,
    /// The offset of its record.
    pub offset: i64,
    /// Its place in the record.
    pub line_number: i64,
    /// The line as it was read.
    pub line: Vec<u8>,
    /// Why it is no click.
    pub reason: Option<String>,
}

/// Every line of the Parquet files in a folder and the folders in it, by topic, partition, offset and place.
///
/// # Panics
/// Where a file cannot be read.
pub fn read(folder: &Path) -> Vec<RawLine> {
    let mut lines = Vec::new();
    for path in parquet_files(folder) {
        let file = SerializedFileReader::new(File::open(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for row in file.get_row_iter(None).unwrap() {
            lines.push(raw_line(&row.unwrap_or_else(|error| panic!("{}: {error}", path.display()))));
        }
    }
    lines.sort();
    lines
}

/// Demands that every one of these (sorted) lines stands in raw Parquet of a data folder once, and none else.
///
/// # Panics
/// Where that is not so.
pub fn assert_raw(data: &Path, lines: &[Vec<u8>]) {
    let raw = read(&data.join("files/raw"));
    let places: BTreeSet<_> = raw.iter().map(|r| (&r.topic, r.partition, r.offset, r.line_number)).collect();
    assert_eq!(places.len(), raw.len(), "a place in the queue stands twice in raw Parquet");
    let mut found: Vec<&[u8]> = raw.iter().map(|raw| raw.line.as_slice()).collect();
    found.sort_unstable();
    assert_eq!(found.len(), lines.len(), "lines in raw Parquet and in the logs");
    let different = found.iter().zip(lines).find(|(found, line)| **found != line.as_slice());
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    assert_eq!(different.map(|(found, line)| (text(found), text(line))), None);
}

/// The Parquet files in a folder and the folders in it.
///
/// # Panics
/// Where a folder cannot be read.
pub fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    files
}

fn raw_line(row: &Row) -> RawLine {
    let field = |name: &str| {
        let found = row.get_column_iter().find(|(column, _)| *column == name);
        found.unwrap_or_else(|| panic!("no column {name}")).1
    };
    let number = |name: &str| match field(name) {
        Field::Int(number) => i64::from(*number),
        Field::UInt(number) => i64::from(*number),
        Field::Long(number) => *number,
        Field::ULong(number) => i64::try_from(*number).unwrap(),
        other => panic!("{name} is no number: {other}"),
    };
    let text = |name: &str| match field(name) {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => Some(bytes.as_utf8().unwrap().to_owned()),
        other => panic!("{name} is no text: {other}"),
    };
    let line = match field("line") {
        Field::Bytes(bytes) => bytes.data().to_vec(),
        Field::Str(text) => text.clone().into_bytes(),
        _ => written_back(&text, field("click_timestamp")),
    };
    RawLine {
        topic: text("topic").unwrap(),
        partition: number("partition"),
        offset: number("offset"),
        line_number: number("line_number"),
        line,
        reason: text("reason"),
    }
}

/// The text line that the columns tell: what a line is where the column `line` is empty.
fn written_back(text: &dyn Fn(&str) -> Option<String>, time: &Field) -> Vec<u8> {
    let time = match time {
        Field::TimestampMicros(micros) => Timestamp::from_micros(*micros).to_string(),
        other => panic!("click_timestamp is no time in microseconds: {other}"),
    };
    let time = time.replace('T', " ").replace('Z', "");
    let [ad, user, ip, country] = ["ad_id", "user_id", "ip", "country"].map(|name| text(name).unwrap());
    format!("[AdClickEvent] {ad}, {time}, {user}, {ip}, {country}").into_bytes()
}
