//! Counts of one span, in columns: an ad id a row, a count a row and filter.

use crate::codec::{CodecError, Reader, Writer};
use crate::ids::FilterId;
use crate::time::Minute;
use crate::window::{Span, SpanKind};

/// Ad ids end to end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdColumn {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl AdColumn {
    /// Makes room for `ads` more.
    pub fn reserve(&mut self, ads: usize) {
        self.ends.reserve(ads);
        self.bytes.reserve(ads * 8);
    }

    /// Adds an ad id.
    pub fn push(&mut self, ad: &[u8]) {
        self.bytes.extend_from_slice(ad);
        self.ends.push(self.bytes.len() as u32);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The ad id of this row; empty where there is none.
    pub fn get(&self, row: usize) -> &[u8] {
        let Some(end) = self.ends.get(row) else { return &[] };
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }
}

/// Counts of one span.
///
/// On the wire: the span's kind (0 minute, 1 hour, 2 day), its first minute (zigzag, since the epoch), the number of filters and their ids, the
/// number of rows, the length of each ad id, all ad ids end to end, then filter by filter the count of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// What the counts are for.
    pub span: Span,
    /// The filters that were counted.
    pub filters: Vec<FilterId>,
    /// The ads, each once.
    pub ads: AdColumn,
    /// `counts[i][row]`: clicks of `filters[i]` on the ad of that row; 0 where none matched.
    pub counts: Vec<Vec<u64>>,
}

impl Columns {
    /// No rows yet.
    pub fn new(span: Span, filters: Vec<FilterId>) -> Self {
        let counts = vec![Vec::new(); filters.len()];
        Self { span, filters, ads: AdColumn::default(), counts }
    }

    /// Writes them.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(match self.span.kind {
            SpanKind::Minute => 0,
            SpanKind::Hour => 1,
            SpanKind::Day => 2,
        });
        out.int(self.span.start.as_epoch());
        out.uint(self.filters.len() as u64);
        for filter in &self.filters {
            out.uint(filter.0.into());
        }
        out.uint(self.ads.len() as u64);
        let mut start = 0;
        for end in &self.ads.ends {
            out.uint(u64::from(end - start));
            start = *end;
        }
        out.raw(&self.ads.bytes);
        for column in &self.counts {
            for count in column {
                out.uint(*count);
            }
        }
    }

    /// Reads them.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        let kind = match input.u8()? {
            0 => SpanKind::Minute,
            1 => SpanKind::Hour,
            2 => SpanKind::Day,
            _ => return Err(input.corrupt("an unknown span")),
        };
        let start = Minute::from_epoch(input.int()?);
        let filters = (0..input.count(1)?).map(|_| filter_id(input)).collect::<Result<Vec<_>, _>>()?;
        let rows = input.count(1)?;
        let mut ends = Vec::with_capacity(rows);
        let mut end = 0_u32;
        for _ in 0..rows {
            end = end.checked_add(input.u32()?).ok_or_else(|| input.corrupt("ad ids of more than 4 GiB"))?;
            ends.push(end);
        }
        let bytes = input.raw(end as usize)?.to_vec();
        let mut counts = Vec::with_capacity(filters.len());
        for _ in &filters {
            let mut column = Vec::with_capacity(rows);
            for _ in 0..rows {
                column.push(input.uint()?);
            }
            counts.push(column);
        }
        Ok(Self { span: Span { kind, start }, filters, ads: AdColumn { ends, bytes }, counts })
    }
}

/// A filter id.
pub(crate) fn filter_id(input: &mut Reader<'_>) -> Result<FilterId, CodecError> {
    u16::try_from(input.uint()?).map(FilterId).map_err(|_| input.corrupt("a filter id of more than 16 bits"))
}
