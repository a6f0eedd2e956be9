//! Lines become records: each line goes to its partition, and each record tells where its lines stood.

use std::sync::Arc;

use clickmill_model::codec::Writer;
use clickmill_model::line::MAX_LINE_BYTES;
use clickmill_model::records::{SourceHeader, SourceMark};
use clickmill_model::{LineParser, Partition, PartitionBy, SourceName, Timestamp, partition};
use clickmill_queue::Record;
use memchr::memchr;

/// A record is closed once it has so many bytes of lines.
const RECORD_BYTES: usize = 256 * 1024;

/// What bounds a chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// A click later than this comes from a wrong clock and moves nothing.
    pub(crate) latest: Timestamp,
    /// Stop behind the first click later than this, once `least_bytes` were taken.
    pub(crate) stop_after: Option<Timestamp>,
    /// See `stop_after`.
    pub(crate) least_bytes: usize,
    /// Take the last line though it has no newline.
    pub(crate) take_rest: bool,
    /// The chunk begins within a line that is too long, whose beginning was sent.
    pub(crate) in_long_line: bool,
}

/// What was taken of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    /// How many of its bytes.
    pub(crate) bytes: usize,
    /// How many lines.
    pub(crate) lines: u64,
    /// The lowest event time in it.
    pub(crate) lowest: Option<Timestamp>,
    /// The highest event time in it that no clock forbids.
    pub(crate) highest: Option<Timestamp>,
    /// It ends within a line that is too long.
    pub(crate) in_long_line: bool,
    /// It was left before the chunk's end, by [`Bounds::stop_after`].
    pub(crate) stopped: bool,
    /// Bytes of such lines that were cut off.
    pub(crate) cut_bytes: u64,
}

/// The lines that gather for a partition.
#[derive(Default)]
struct Lines {
    value: Vec<u8>,
    lines: u64,
    /// The closed runs as they go into the header.
    runs: Vec<u8>,
    run_count: u64,
    /// The open run: its file, its lines, their offsets.
    file: Option<Arc<str>>,
    run_lines: u64,
    run: Vec<u8>,
    before: u64,
    /// What the last record had, to make room for the next.
    last_bytes: usize,
}

/// A record but for its mark.
struct Sealed {
    partition: usize,
    value: Vec<u8>,
    runs: Vec<u8>,
    run_count: u64,
}

/// Packs lines into records.
pub(crate) struct Packer {
    source: SourceName,
    by: PartitionBy,
    parser: LineParser,
    scratch: Vec<u8>,
    partitions: Vec<Lines>,
    sealed: Vec<Sealed>,
}

impl Packer {
    pub(crate) fn new(source: SourceName, by: PartitionBy, partitions: u32) -> Self {
        let partitions = (0..partitions.max(1)).map(|_| Lines::default()).collect();
        Self { source, by, parser: LineParser::new(), scratch: Vec::new(), partitions, sealed: Vec::new() }
    }

    /// Takes the lines of `chunk`, which stands at `offset` of `file`. A line that is not ended by a newline stays, unless it is too long already.
    pub(crate) fn take(&mut self, file: &Arc<str>, offset: u64, chunk: &[u8], bounds: Bounds) -> Taken {
        let mut taken = Taken { in_long_line: bounds.in_long_line, ..Taken::default() };
        if taken.in_long_line {
            match memchr(b'\n', chunk) {
                None => {
                    taken.bytes = chunk.len();
                    taken.cut_bytes = chunk.len() as u64;
                    return taken;
                }
                Some(end) => {
                    taken.bytes = end + 1;
                    taken.cut_bytes = end as u64;
                    taken.in_long_line = false;
                }
            }
        }
        let Self { by, parser, scratch, partitions, sealed, .. } = self;
        while let Some(rest) = chunk.get(taken.bytes..)
            && !rest.is_empty()
        {
            let at = offset + taken.bytes as u64;
            let (line, parsed) = parser.parse_first(rest);
            let is_ended = line.len() < rest.len();
            if !is_ended && rest.len() > MAX_LINE_BYTES {
                taken.in_long_line = true;
            } else if !is_ended && !bounds.take_rest {
                break;
            }
            let kept = line.get(..MAX_LINE_BYTES + 1).unwrap_or(line);
            taken.cut_bytes += (line.len() - kept.len()) as u64;
            taken.bytes += line.len() + usize::from(is_ended);
            taken.lines += 1;
            let time = parsed.as_ref().ok().map(|click| click.timestamp);
            let Partition(to) = partition::of_line(kept, parsed.ok(), *by, partitions.len() as u32, scratch);
            if let Some(lines) = partitions.get_mut(to as usize) {
                lines.push(file, at, kept);
                if lines.value.len() >= RECORD_BYTES {
                    sealed.extend(lines.seal(to as usize));
                }
            }
            if let Some(time) = time {
                taken.lowest = Some(taken.lowest.map_or(time, |lowest| lowest.min(time)));
                if time <= bounds.latest {
                    taken.highest = taken.highest.max(Some(time));
                    if bounds.stop_after.is_some_and(|stop| time > stop) && taken.bytes >= bounds.least_bytes {
                        taken.stopped = taken.bytes < chunk.len();
                        break;
                    }
                }
            }
        }
        taken
    }

    /// Closes all records. The last one of a partition says `mark`, those before it `earlier`, since lines follow them.
    pub(crate) fn finish(&mut self, earlier: SourceMark, mark: SourceMark) -> Vec<(Partition, Record)> {
        for (to, lines) in self.partitions.iter_mut().enumerate() {
            self.sealed.extend(lines.seal(to));
        }
        let mut last = vec![true; self.partitions.len()];
        let mut records: Vec<_> = self
            .sealed
            .drain(..)
            .rev()
            .map(|sealed| {
                let is_last = last.get_mut(sealed.partition).is_some_and(std::mem::take);
                let mark = if is_last { mark } else { earlier };
                let header = header(&self.source, mark, sealed.run_count, &sealed.runs);
                (Partition(sealed.partition as u32), record(header, sealed.value))
            })
            .collect();
        records.reverse();
        records
    }
}

impl Lines {
    #[inline]
    fn push(&mut self, file: &Arc<str>, offset: u64, line: &[u8]) {
        if self.lines > 0 {
            self.value.push(b'\n');
        } else {
            self.value.reserve(self.last_bytes);
        }
        self.value.extend_from_slice(line);
        if !self.file.as_ref().is_some_and(|open| Arc::ptr_eq(open, file)) {
            self.end_run();
            self.file = Some(file.clone());
        }
        let distance = (offset as i64).wrapping_sub(self.before as i64);
        push_uint(&mut self.run, (distance << 1 ^ distance >> 63) as u64);
        self.before = offset;
        self.run_lines += 1;
        self.lines += 1;
    }

    fn end_run(&mut self) {
        if let Some(file) = self.file.take() {
            push_uint(&mut self.runs, file.len() as u64);
            self.runs.extend_from_slice(file.as_bytes());
            push_uint(&mut self.runs, self.run_lines);
            self.runs.append(&mut self.run);
            self.run_count += 1;
        }
        self.run_lines = 0;
        self.before = 0;
    }

    fn seal(&mut self, partition: usize) -> Option<Sealed> {
        if self.lines == 0 {
            return None;
        }
        self.end_run();
        self.lines = 0;
        self.last_bytes = self.value.len();
        let (value, runs) = (std::mem::take(&mut self.value), std::mem::take(&mut self.runs));
        Some(Sealed { partition, value, runs, run_count: std::mem::take(&mut self.run_count) })
    }
}

/// The event time of the first click of `head` that is not later than `latest`.
pub(crate) fn first_time(head: &[u8], latest: Timestamp) -> Option<Timestamp> {
    let mut parser = LineParser::new();
    head.split(|byte| *byte == b'\n')
        .find_map(|line| parser.parse(line).ok().map(|click| click.timestamp).filter(|time| *time <= latest))
}

#[inline]
fn push_uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A heartbeat: a record without lines.
pub(crate) fn heartbeat(source: &SourceName, mark: SourceMark) -> Record {
    record(header(source, mark, 0, &[]), Vec::new())
}

fn record(header: Vec<u8>, value: Vec<u8>) -> Record {
    Record { key: None, headers: vec![(SourceHeader::KEY.to_owned(), header)], value }
}

/// What [`SourceHeader::encode`] writes, from runs that are encoded already.
fn header(source: &SourceName, mark: SourceMark, run_count: u64, runs: &[u8]) -> Vec<u8> {
    let mut out = Writer::new(1);
    out.str(&source.0);
    match mark {
        SourceMark::Holding => out.u8(0),
        SourceMark::At(time) => {
            out.u8(1);
            out.int(time.as_micros());
        }
        SourceMark::Drained(time) => {
            out.u8(2);
            out.int(time.as_micros());
        }
    }
    out.uint(run_count);
    out.raw(runs);
    out.finish()
}

#[cfg(test)]
mod tests {
    use clickmill_model::records::{Origin, lines_of};

    use super::*;

    const BOUNDS: Bounds = Bounds {
        latest: Timestamp::from_secs(1_700_000_000),
        stop_after: None,
        least_bytes: 0,
        take_rest: false,
        in_long_line: false,
    };

    fn packer(partitions: u32) -> Packer {
        Packer::new("web".into(), PartitionBy::Identity, partitions)
    }

    fn click(second: u32, user: usize) -> String {
        format!("[AdClickEvent] ad1, 2021-01-01 00:00:{second:02}, user {user}, 1.1.1.1, USA")
    }

    /// The lines of all records with where they stood.
    fn lines(records: &[(Partition, Record)]) -> Vec<(Vec<u8>, String, u64)> {
        let mut all = Vec::new();
        for (_, record) in records {
            let bytes = record.header(SourceHeader::KEY).unwrap();
            let header = SourceHeader::decode(bytes).unwrap();
            assert_eq!(header.encode(), bytes, "as the reference writes it");
            for (i, line) in lines_of(&record.value, !header.origin.runs.is_empty()).enumerate() {
                let (file, offset) = header.origin.of_line(i).unwrap();
                all.push((line.to_vec(), file.to_owned(), offset));
            }
        }
        all.sort_by(|a, b| (&a.1, a.2).cmp(&(&b.1, b.2)));
        all
    }

    #[test]
    fn each_line_goes_out_once_with_where_it_stood() {
        let chunk = format!("{}\n\ngarbage\r\n{}\n\0\n{}", click(1, 1), click(2, 2), click(3, 3));
        let (a, b): (Arc<str>, Arc<str>) = ("/a.log".into(), "/b.log".into());
        for partitions in [1, 2, 7] {
            let mut packer = packer(partitions);
            let taken = packer.take(&a, 1000, chunk.as_bytes(), BOUNDS);
            assert_eq!((taken.lines, taken.bytes), (5, chunk.len() - click(3, 3).len()));
            packer.take(&b, 0, b"x\n", BOUNDS);
            packer.take(&a, 5000, b"y\nz", Bounds { take_rest: true, ..BOUNDS });
            let records = packer.finish(SourceMark::Holding, SourceMark::At(Timestamp::from_secs(5)));
            let second = 1000 + click(1, 1).len() as u64 + 1;
            let expected: Vec<(Vec<u8>, String, u64)> = [
                (click(1, 1), "/a.log", 1000),
                (String::new(), "/a.log", second),
                ("garbage\r".into(), "/a.log", second + 1),
                (click(2, 2), "/a.log", second + 10),
                ("\0".into(), "/a.log", second + 11 + click(2, 2).len() as u64),
                ("y".into(), "/a.log", 5000),
                ("z".into(), "/a.log", 5002),
                ("x".into(), "/b.log", 0),
            ]
            .map(|(line, file, offset): (String, &str, u64)| (line.into_bytes(), file.to_owned(), offset))
            .to_vec();
            assert_eq!(lines(&records), expected, "{partitions} partitions");
            assert!(packer.finish(SourceMark::Holding, SourceMark::Holding).is_empty());
        }
    }

    #[test]
    fn a_record_with_one_empty_line_is_no_heartbeat() {
        let mut packer = packer(1);
        packer.take(&"/a".into(), 0, b"\n", BOUNDS);
        let records = packer.finish(SourceMark::Holding, SourceMark::Holding);
        assert_eq!(lines(&records), [(Vec::new(), "/a".to_owned(), 0)]);
        let heartbeat = heartbeat(&"web".into(), SourceMark::Holding);
        let expected = SourceHeader { source: "web".into(), mark: SourceMark::Holding, origin: Origin::default() };
        assert_eq!(heartbeat.header(SourceHeader::KEY), Some(expected.encode().as_slice()));
    }

    #[test]
    fn clicks_of_one_identity_meet_in_one_partition_and_so_do_those_of_an_ad() {
        let text = click(1, 1);
        let json = r#"{"ad_id":"ad1","click_timestamp":"2021-01-01T00:00:01Z","user_id":"user 1","ip":"::ffff:1.1.1.1","country":"USA"}"#;
        let mut packer = packer(64);
        packer.take(&"/a".into(), 0, format!("{text}\n{json}\n  {text}\r\n").as_bytes(), BOUNDS);
        assert_eq!(packer.finish(SourceMark::Holding, SourceMark::Holding).len(), 1);
        let mut by_ad = Packer::new("web".into(), PartitionBy::AdId, 64);
        by_ad.take(&"/a".into(), 0, format!("{}\n{}\n", click(1, 1), click(2, 2)).as_bytes(), BOUNDS);
        let records = by_ad.finish(SourceMark::Holding, SourceMark::Holding);
        // murmur2("ad1") with its sign bit cleared, modulo 64, as Kafka's own partitioner gives it.
        assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), [partition::of_key(b"ad1", 64)]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_is_not_harmed() {
        let long = "x".repeat(MAX_LINE_BYTES + 1000);
        let chunk = format!("{long}\n{}\n", click(1, 1));
        let mut all = packer(1);
        let taken = all.take(&"/a".into(), 0, chunk.as_bytes(), BOUNDS);
        assert_eq!((taken.lines, taken.cut_bytes, taken.in_long_line), (2, 999, false));
        let whole = lines(&all.finish(SourceMark::Holding, SourceMark::Holding));
        assert_eq!(whole[0].0.len(), MAX_LINE_BYTES + 1);
        assert_eq!(whole[1], (click(1, 1).into_bytes(), "/a".to_owned(), long.len() as u64 + 1));

        let mut parts = packer(1);
        let (first, second) = chunk.as_bytes().split_at(MAX_LINE_BYTES + 500);
        let taken = parts.take(&"/a".into(), 0, first, BOUNDS);
        assert_eq!((taken.lines, taken.bytes, taken.in_long_line), (1, first.len(), true));
        let middle = parts.take(&"/a".into(), 0, b"xxx", Bounds { in_long_line: true, ..BOUNDS });
        assert_eq!((middle.lines, middle.bytes, middle.in_long_line, middle.cut_bytes), (0, 3, true, 3));
        let taken = parts.take(&"/a".into(), first.len() as u64, second, Bounds { in_long_line: true, ..BOUNDS });
        assert_eq!((taken.lines, taken.in_long_line), (1, false));
        assert_eq!(lines(&parts.finish(SourceMark::Holding, SourceMark::Holding)), whole);
    }

    #[test]
    fn times_beyond_the_clock_move_nothing() {
        let chunk = format!("{}\n{}\n{}\n", click(5, 1), click(3, 1), click(4, 1).replace("2021", "2099"));
        let taken = packer(1).take(&"/a".into(), 0, chunk.as_bytes(), BOUNDS);
        assert_eq!(taken.highest, Some(Timestamp::from_secs(1_609_459_205)));
        assert_eq!(taken.lowest, Some(Timestamp::from_secs(1_609_459_203)));
        let first = first_time(chunk.replace("2021", "2098").as_bytes(), BOUNDS.latest);
        assert_eq!(first, None);
    }

    #[test]
    fn a_chunk_stops_where_another_file_is_behind() {
        let chunk: String = (0..60).map(|second| click(second, 1) + "\n").collect();
        let stop_after = Some(Timestamp::from_secs(1_609_459_210));
        let mut packer = packer(1);
        let stop = |least_bytes| Bounds { stop_after, least_bytes, ..BOUNDS };
        assert_eq!(packer.take(&"/a".into(), 0, chunk.as_bytes(), stop(0)).lines, 12);
        let line = click(1, 1).len() + 1;
        assert_eq!(packer.take(&"/a".into(), 0, chunk.as_bytes(), stop(line * 30)).lines, 30);
    }

    #[test]
    fn only_the_last_record_of_a_partition_says_the_new_mark() {
        let mut packer = packer(1);
        let chunk: String = (0..10_000).map(|user| click(1, user) + "\n").collect();
        packer.take(&"/a".into(), 0, chunk.as_bytes(), BOUNDS);
        let (earlier, new) = (SourceMark::Holding, SourceMark::At(Timestamp::from_secs(1)));
        let records = packer.finish(earlier, new);
        let marks: Vec<SourceMark> = records
            .iter()
            .map(|(_, record)| SourceHeader::decode_mark(record.header(SourceHeader::KEY).unwrap()).unwrap().1)
            .collect();
        assert_eq!(marks, [earlier, earlier, new]);
        assert!(records.iter().all(|(_, record)| record.value.len() < RECORD_BYTES + MAX_LINE_BYTES));
    }
}
