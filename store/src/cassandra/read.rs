//! Reading figures: each piece of a range is one sum, made where it is stored; pieces and buckets are asked at once.

use std::collections::BTreeMap;

use clickmill_model::records::Ranking;
use clickmill_model::{FilterId, Minute, Revision, Span, SpanKind, Window};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Cluster;
use super::error::{explain, explain_pages, garbled};
use super::keys::{bucket, kind_number, period, tier};
use super::pieces::{Piece, by_period, pieces};
use super::progress::Totals;
use super::ranked;
use crate::{EachCount, MinuteRange, RankedBy, Result, StoreError, StoredRanking, View};

/// How many requests of one read are on their way at once.
const AT_ONCE: usize = 64;

/// The most ads, or rankings, that one request asks for.
const MOST_IN: usize = 100;

const COUNTS: &str = "reading counts";
const RANKINGS: &str = "reading rankings";

/// Ads of one bucket, each once.
type Ads<'a> = Vec<&'a str>;

impl Cluster {
    /// What a range is read from, as a view shows it.
    async fn pieces(
        &self,
        view: &View,
        filter: FilterId,
        range: MinuteRange,
        longest: SpanKind,
    ) -> Result<Vec<(Revision, Piece)>> {
        let known = self.known().await?;
        let of_stream = Totals::of(&known, filter);
        let mut all = Vec::new();
        for (piece, revision) in view.pieces(filter, range) {
            let totals = if revision == Revision::STREAM { of_stream } else { Totals::of_recalculated(&known, piece) };
            all.extend(pieces(piece, longest, totals).into_iter().map(|piece| (revision, piece)));
        }
        Ok(all)
    }

    /// Clicks of each ad.
    pub(super) async fn counts(
        &self,
        view: &View,
        ads: &[&str],
        filter: FilterId,
        range: MinuteRange,
    ) -> Result<Vec<u64>> {
        if ads.is_empty() || range.from >= range.to {
            return Ok(vec![0; ads.len()]);
        }
        let pieces = self.pieces(view, filter, range, SpanKind::Day).await?;
        let mut buckets: BTreeMap<i32, Ads<'_>> = BTreeMap::new();
        for ad in ads {
            buckets.entry(bucket(ad.as_bytes(), self.settings.buckets)).or_default().push(ad);
        }
        let mut requests = Vec::new();
        for (bucket, mut ads) in buckets {
            ads.sort_unstable();
            ads.dedup();
            for ads in ads.chunks(MOST_IN) {
                requests.extend(pieces.iter().map(|piece| (bucket, ads.to_vec(), *piece)));
            }
        }
        let answers = stream::iter(requests).map(|(bucket, ads, piece)| self.sums(filter, bucket, ads, piece));
        let found: Vec<Vec<(String, i64)>> = answers.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (ad, sum) in found.into_iter().flatten() {
            let sum = u64::try_from(sum)
                .map_err(|_| StoreError::Broken(format!("the clicks of ad {ad} add up to more than can be")))?;
            let total = sums.entry(ad).or_default();
            *total = total.saturating_add(sum);
        }
        Ok(ads.iter().map(|ad| sums.get(*ad).copied().unwrap_or(0)).collect())
    }

    async fn sums(
        &self,
        filter: FilterId,
        bucket: i32,
        ads: Ads<'_>,
        (revision, piece): (Revision, Piece),
    ) -> Result<Vec<(String, i64)>> {
        let revision = revision.0 as i32;
        let kind = kind_number(piece.kind);
        let filter = i32::from(filter.0);
        if let [ad] = ads[..] {
            let key = (revision, kind, filter, piece.period, bucket, ad, piece.from, piece.to);
            let answer = self.session.execute_unpaged(&self.statements.sum, key).await;
            let rows = answer.map_err(|error| explain(COUNTS, &error))?.into_rows_result();
            let rows = rows.map_err(|error| garbled(COUNTS, &error))?;
            let (sum,) = rows.single_row::<(Option<i64>,)>().map_err(|error| garbled(COUNTS, &error))?;
            return Ok(vec![(ad.to_owned(), sum.unwrap_or(0))]);
        }
        let key = (revision, kind, filter, piece.period, bucket, ads, piece.from, piece.to);
        let answer = self.session.execute_unpaged(&self.statements.sums, key).await;
        let rows = answer.map_err(|error| explain(COUNTS, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(COUNTS, &error))?;
        let rows = rows.rows::<(String, Option<i64>)>().map_err(|error| garbled(COUNTS, &error))?;
        let sums = rows.map(|row| row.map(|(ad, sum)| (ad, sum.unwrap_or(0))).map_err(|error| garbled(COUNTS, &error)));
        sums.collect()
    }

    /// An ad's clicks for each span that the range touches.
    pub(super) async fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        let mut series: BTreeMap<i64, u64> = BTreeMap::new();
        let mut at = range.from;
        while at < range.to {
            let span = Span::holding(step, at);
            series.insert(span.start.as_epoch(), 0);
            at = span.end();
        }
        if series.is_empty() {
            return Ok(Vec::new());
        }
        let pieces = self.pieces(view, filter, range, step).await?;
        let answers = stream::iter(pieces).map(|piece| self.rows(ad, filter, piece));
        let found: Vec<Vec<(i64, i64)>> = answers.buffer_unordered(AT_ONCE).try_collect().await?;
        for (start, clicks) in found.into_iter().flatten() {
            let span = Span::holding(step, Minute::from_epoch(start));
            let sum = series.entry(span.start.as_epoch()).or_default();
            *sum = sum.saturating_add(u64::try_from(clicks).unwrap_or(0));
        }
        Ok(series.into_iter().map(|(start, clicks)| (Minute::from_epoch(start), clicks)).collect())
    }

    async fn rows(&self, ad: &str, filter: FilterId, (revision, piece): (Revision, Piece)) -> Result<Vec<(i64, i64)>> {
        let bucket = bucket(ad.as_bytes(), self.settings.buckets);
        let kind = kind_number(piece.kind);
        let revision = revision.0 as i32;
        let key = (revision, kind, i32::from(filter.0), piece.period, bucket, ad, piece.from, piece.to);
        let answer = self.session.execute_unpaged(&self.statements.series, key).await;
        let rows = answer.map_err(|error| explain(COUNTS, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(COUNTS, &error))?;
        let rows = rows.rows::<(i64, i64)>().map_err(|error| garbled(COUNTS, &error))?;
        rows.map(|row| row.map_err(|error| garbled(COUNTS, &error))).collect()
    }

    /// Every count of the spans of a kind that begin in the range: all of each partition is read where they stand.
    pub(super) async fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        let mut partitions = Vec::new();
        for (starts, revision) in view.spans(kind, filter, range) {
            let mut pieces = Vec::new();
            by_period(kind, starts.from.as_epoch(), starts.to.as_epoch(), &mut pieces);
            partitions.extend(pieces.into_iter().map(|piece| (revision, piece)));
        }
        for piece in partitions {
            let buckets = 0..self.settings.buckets as i32;
            let mut answers =
                stream::iter(buckets).map(|bucket| self.each_of(filter, bucket, piece)).buffer_unordered(AT_ONCE);
            while let Some(rows) = answers.try_next().await? {
                for (ad, start, clicks) in rows {
                    let clicks = u64::try_from(clicks)
                        .map_err(|_| StoreError::Broken(format!("ad {ad} has {clicks} clicks, fewer than none")))?;
                    visit(Minute::from_epoch(start), ad.as_bytes(), clicks);
                }
            }
        }
        Ok(())
    }

    async fn each_of(
        &self,
        filter: FilterId,
        bucket: i32,
        (revision, piece): (Revision, Piece),
    ) -> Result<Vec<(String, i64, i64)>> {
        let kind = kind_number(piece.kind);
        let key = (revision.0 as i32, kind, i32::from(filter.0), piece.period, bucket, piece.from, piece.to);
        let pages = self.session.execute_iter(self.statements.each.clone(), key).await;
        let pages = pages.map_err(|error| explain_pages(COUNTS, &error))?;
        let rows = pages.rows_stream::<(String, i64, i64)>().map_err(|error| garbled(COUNTS, &error))?;
        rows.map_err(|error| garbled(COUNTS, &error)).try_collect().await
    }

    /// The stored rankings of a filter that end at these minutes.
    pub(super) async fn rankings(
        &self,
        view: &View,
        filter: FilterId,
        which: &[(Window, Minute)],
    ) -> Result<Vec<StoredRanking>> {
        let mut partitions: BTreeMap<(Revision, i8, Window, i32), Vec<i64>> = BTreeMap::new();
        for (window, minute) in which {
            let RankedBy::Revision(revision) = view.ranked_by(filter, *window, *minute) else { continue };
            let tier = tier(*window, *minute);
            let key = (revision, kind_number(tier), *window, period(tier, *minute));
            partitions.entry(key).or_default().push(minute.as_epoch());
        }
        let mut requests = Vec::new();
        for (key, mut minutes) in partitions {
            minutes.sort_unstable();
            minutes.dedup();
            requests.extend(minutes.chunks(MOST_IN).map(|minutes| (key, minutes.to_vec())));
        }
        let answers = stream::iter(requests).map(|(key, minutes)| self.rankings_of(filter, key, minutes));
        let found: Vec<Vec<Ranking>> = answers.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut by_place: BTreeMap<(Window, Minute), Ranking> = BTreeMap::new();
        for ranking in found.into_iter().flatten() {
            by_place.insert((ranking.window, ranking.minute), ranking);
        }
        let find = |(window, minute): &(Window, Minute)| match view.ranked_by(filter, *window, *minute) {
            RankedBy::Nobody => StoredRanking::NotToBeHad,
            RankedBy::Revision(_) => {
                let found = by_place.get(&(*window, *minute)).cloned();
                found.map_or(StoredRanking::Nothing, StoredRanking::Here)
            }
        };
        Ok(which.iter().map(find).collect())
    }

    async fn rankings_of(
        &self,
        filter: FilterId,
        (revision, tier, window, period): (Revision, i8, Window, i32),
        minutes: Vec<i64>,
    ) -> Result<Vec<Ranking>> {
        let key = (revision.0 as i32, tier, i32::from(filter.0), window.0 as i32, period, minutes);
        let answer = self.session.execute_unpaged(&self.statements.rankings, key).await;
        let rows = answer.map_err(|error| explain(RANKINGS, &error))?.into_rows_result();
        let rows = rows.map_err(|error| garbled(RANKINGS, &error))?;
        let rows = rows.rows::<(i64, &[u8])>().map_err(|error| garbled(RANKINGS, &error))?;
        let decoded = rows.map(|row| {
            let (minute, packed) = row.map_err(|error| garbled(RANKINGS, &error))?;
            let minute = Minute::from_epoch(minute);
            ranked::decode(packed, filter, window, minute).map_err(|error| {
                StoreError::Broken(format!(
                    "table rankings, revision {revision}, filter {filter}, window {window}, minute {minute}: {error}"
                ))
            })
        });
        decoded.collect()
    }
}
