//! How a record stands in the database: the bytes of its `body`, and its `checksum`.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version: 1 |
//! | 1 | form of the content: 0 as it is, 1 as an LZ4 block |
//! | varint | bytes of the content, before compression |
//! | varint | bytes of the value, with which the content begins |
//! | the rest | the content |
//!
//! The content: the value; a byte 0 (no key), or 1 and the key (varint length, bytes); then, up to the end, each header's name and value (varint length,
//! bytes, both). Varints are unsigned LEB128.
//!
//! The checksum is XXH3 (64 bits) of 32 bytes: XXH3 of the body, then the record's id, arrival and `bytes_before`, each little-endian.
//! So a body that was changed is noticed, and one that stands in the wrong place.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use xxhash_rust::xxh3::xxh3_64;

use crate::types::Record;

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// Content shorter than this is not worth compressing.
const COMPRESS_FROM: usize = 128;

/// The most that a record may hold: SQLite's own limit for a blob is 10⁹ bytes.
pub(super) const MAX_CONTENT_BYTES: usize = 512 << 20;

/// Buffers larger than this are not kept for the next record.
const SPARE_BYTES: usize = 16 << 20;

/// A record, ready to be stored.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: u64,
}

/// Makes bodies, using the same buffers again.
pub(super) struct Encoder {
    content: Vec<u8>,
    /// Only ever grows: what stands in it before a block is compressed means nothing.
    block: Vec<u8>,
    table: CompressTable,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { content: Vec::new(), block: Vec::new(), table: CompressTable::default() }
    }

    pub(super) fn encode(&mut self, record: &Record) -> Body {
        let content = &mut self.content;
        content.clear();
        content.extend_from_slice(&record.value);
        match &record.key {
            None => content.push(0),
            Some(key) => {
                content.push(1);
                put_bytes(content, key);
            }
        }
        for (name, value) in &record.headers {
            put_bytes(content, name.as_bytes());
            put_bytes(content, value);
        }

        let compressed =
            if content.len() < COMPRESS_FROM { None } else { compress(content, &mut self.block, &mut self.table) };
        let (form, block) = compressed.map_or((PLAIN, content.as_slice()), |block| (LZ4, block));
        let mut bytes = Vec::with_capacity(block.len() + 12);
        bytes.extend_from_slice(&[VERSION, form]);
        put_uint(&mut bytes, content.len() as u64);
        put_uint(&mut bytes, record.value.len() as u64);
        bytes.extend_from_slice(block);
        if content.capacity() > SPARE_BYTES {
            (self.content, self.block) = (Vec::new(), Vec::new());
        }
        Body { hash: xxh3_64(&bytes), bytes }
    }
}

/// The content as an LZ4 block, if that is shorter.
fn compress<'a>(content: &[u8], block: &'a mut Vec<u8>, table: &mut CompressTable) -> Option<&'a [u8]> {
    let room = get_maximum_output_size(content.len());
    if block.len() < room {
        block.resize(room, 0);
    }
    let bytes = compress_into_with_table(content, block, table).ok()?;
    block.get(..bytes).filter(|block| block.len() < content.len())
}

fn put_uint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// The checksum of a body in its place.
pub(super) fn checksum(body_hash: u64, id: i64, arrival: i64, bytes_before: i64) -> i64 {
    let mut place = [0; 32];
    let parts = [body_hash.to_le_bytes(), id.to_le_bytes(), arrival.to_le_bytes(), bytes_before.to_le_bytes()];
    for (to, from) in place.chunks_exact_mut(8).zip(parts) {
        to.copy_from_slice(&from);
    }
    xxh3_64(&place).cast_signed()
}

/// Reads a body back. The error says what is wrong with it.
pub(super) fn decode(body: &[u8]) -> Result<Record, String> {
    let [version, form, rest @ ..] = body else { return Err("it is cut short".into()) };
    if *version > VERSION {
        return Err(format!("it has format version {version}, this clickmill reads up to {VERSION}: use a newer one"));
    }
    let mut rest = rest;
    let (content_bytes, value_bytes) = sizes(&mut rest).ok_or("its sizes cannot be")?;
    let mut content = match *form {
        PLAIN => rest.to_vec(),
        LZ4 => {
            let mut bytes = vec![0; content_bytes];
            let n = decompress_into(rest, &mut bytes).map_err(|error| error.to_string())?;
            bytes.truncate(n);
            bytes
        }
        other => return Err(format!("its content has the unknown form {other}")),
    };
    if content.len() != content_bytes {
        return Err(format!("its content has {} bytes, and should have {content_bytes}", content.len()));
    }
    let (key, headers) =
        content.get(value_bytes..).and_then(parse_names).ok_or("its key or its headers are cut short")?;
    content.truncate(value_bytes);
    Ok(Record { key, headers, value: content })
}

/// Bytes of the content and of the value.
fn sizes(rest: &mut &[u8]) -> Option<(usize, usize)> {
    let content = usize::try_from(take_uint(rest)?).ok()?;
    let value = usize::try_from(take_uint(rest)?).ok()?;
    (content <= MAX_CONTENT_BYTES && value < content).then_some((content, value))
}

/// How many bytes the content of a stored body has.
pub(super) fn content_bytes(body: &[u8]) -> usize {
    body.get(2..).and_then(|mut rest| sizes(&mut rest)).map_or(0, |(content, _)| content)
}

type Names = (Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

fn parse_names(mut rest: &[u8]) -> Option<Names> {
    let (has_key, behind) = rest.split_first()?;
    rest = behind;
    let key = match has_key {
        0 => None,
        1 => Some(take_bytes(&mut rest)?.to_vec()),
        _ => return None,
    };
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let name = std::str::from_utf8(take_bytes(&mut rest)?).ok()?;
        headers.push((name.to_owned(), take_bytes(&mut rest)?.to_vec()));
    }
    Some((key, headers))
}

fn take_uint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = usize::try_from(take_uint(rest)?).ok()?;
    let (taken, behind) = rest.split_at_checked(n)?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by version 1. A body that was once written is read for ever.
    const FIXTURE_PLAIN: &[u8] = b"\x01\x00\x0d\x05hello\x01\x01k\x01h\x02\x00\xff";

    fn record() -> Record {
        Record { key: Some(b"k".to_vec()), headers: vec![("h".into(), vec![0, 255])], value: b"hello".to_vec() }
    }

    #[test]
    fn a_small_record_is_written_as_documented() {
        assert_eq!(Encoder::new().encode(&record()).bytes, FIXTURE_PLAIN);
        assert_eq!(decode(FIXTURE_PLAIN), Ok(record()));
    }

    #[test]
    fn a_compressed_record_of_version_1_is_read() {
        // Content: 200 times "a", no key, no headers. The LZ4 block: a literal "a", a match of 199 bytes at distance 1, a literal tail.
        let fixture = b"\x01\x01\xc9\x01\xc8\x01\x1f\x61\x01\x00\xaf\x60\x61\x61\x61\x61\x61\x00";
        assert_eq!(decode(fixture), Ok(Record::of(vec![b'a'; 200])));
    }

    #[test]
    fn a_newer_or_cut_or_changed_body_is_refused() {
        let refused = |body: &[u8], why: &str| {
            let error = decode(body).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(b"", "cut short");
        refused(b"\x02\x00\x01\x00\x00", "version 2");
        refused(b"\x01\x07\x01\x00\x00", "form 7");
        refused(b"\x01\x00\x02\x00\x00", "has 1 bytes");
        refused(b"\x01\x00\x01\x01\x00", "sizes");
        refused(b"\x01\x00\x01\x00\x05", "key");
        refused(&[1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0], "sizes");
        refused(FIXTURE_PLAIN.strip_suffix(b"\xff").unwrap(), "has 12 bytes");
    }

    proptest::proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            key: Option<Vec<u8>>, headers: Vec<(String, Vec<u8>)>, mut value: Vec<u8>, again in 0..400_usize,
        ) {
            value.extend(value.clone().iter().cycle().take(if value.is_empty() { 0 } else { again }));
            let record = Record { key, headers, value };
            let body = Encoder::new().encode(&record);
            proptest::prop_assert_eq!(body.hash, xxh3_64(&body.bytes));
            proptest::prop_assert!(content_bytes(&body.bytes) >= record.size_bytes());
            proptest::prop_assert_eq!(decode(&body.bytes), Ok(record));
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = decode(&body);
            let _ = decode(&[&[1, 1], body.as_slice()].concat());
        }
    }
}
