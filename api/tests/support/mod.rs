//! A store and a queue made of maps, a server on a free port, and a client that sees the bytes.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where anything fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clickmill_api::{Limits, Sources, StageBoard};
use clickmill_model::records::{FilterSpan, Ranking};
use clickmill_model::{
    Definition, Filter, FilterId, Minute, Offset, Partition, Revision, Span, SpanKind, Timestamp, Window,
};
use clickmill_queue::{
    Committed, Consumer, Fetched, ManualClock, OffsetRange, Producer, Queue, QueueError, Record, TopicPartition,
    TopicSpec,
};
use clickmill_store::{
    AggregateStore, Began, ClosedWrite, EachCount, MinuteRange, RankedBy, RankedWrite, Recalculation, Result,
    RevisionRow, RevisionState, StoreError, StoreProgress, StoredRanking, Switch, TopAds, Verdict, View,
};
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use serde_json::Value;

pub(crate) fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

/// The definition of all tests: filter 0 and 1, four partitions, windows of 1, 5 and 60 minutes.
pub(crate) fn definition() -> Definition {
    let usa = Filter { id: FilterId(1), name: "USA".into(), country: vec!["USA".into()], ..Filter::default() };
    Definition { filters: vec![Filter::all(), usa], ..Definition::default() }
}

/// Clicks by filter, ad and minute.
pub(crate) type Clicks = BTreeMap<(FilterId, String, Minute), u64>;

/// Clicks by filter, ad and minute, and all answers worked out from them the slow way.
#[derive(Default)]
pub(crate) struct MapStore {
    pub(crate) clicks: Mutex<Clicks>,
    pub(crate) progress: Mutex<StoreProgress>,
    pub(crate) definitions: Mutex<Vec<Definition>>,
    /// Recalculations with clicks of their own. What is in `clicks` is the stream's.
    pub(crate) revisions: Mutex<Vec<(RevisionRow, Clicks)>>,
    pub(crate) verdict: Mutex<Option<Verdict>>,
    /// How many ads a stored ranking has.
    pub(crate) depth: usize,
    /// The longest range that can be merged, in minutes.
    pub(crate) longest_merge: i64,
    /// A window whose rankings stand only from this minute on.
    pub(crate) late_window: Option<(Window, Minute)>,
    /// What lies before it is deleted while figures are read.
    pub(crate) expires_when_read: Option<Minute>,
    pub(crate) broken: AtomicBool,
    /// How often it was asked anything.
    pub(crate) asked: AtomicUsize,
    /// Answers wait while someone holds this.
    pub(crate) pause: Mutex<()>,
}

impl MapStore {
    /// Complete up to `until`, for both filters.
    pub(crate) fn complete_until(until: &str) -> Self {
        let until = minute(until);
        let all = || (0..4).map(|p| (Partition(p), until)).collect();
        let span = |id| FilterSpan { filter: FilterId(id), from: Minute::MIN, until: None };
        let progress = StoreProgress {
            counts: all(),
            rankings: all(),
            filters: vec![span(0), span(1)],
            ..StoreProgress::default()
        };
        Self {
            progress: Mutex::new(progress),
            definitions: Mutex::new(vec![definition()]),
            depth: 200,
            longest_merge: i64::MAX,
            ..Self::default()
        }
    }

    pub(crate) fn click(&self, filter: u16, ad: &str, at: &str, count: u64) {
        *self.clicks.lock().entry((FilterId(filter), ad.to_owned(), minute(at))).or_default() += count;
    }

    /// Every ad with a click, most clicked first.
    pub(crate) fn ranking(&self, filter: FilterId, from: Minute, to: Minute) -> TopAds {
        self.ranking_seen(&View::STREAM, filter, from, to)
    }

    /// The same, as a view shows it.
    pub(crate) fn ranking_seen(&self, view: &View, filter: FilterId, from: Minute, to: Minute) -> TopAds {
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for (ad, _, count) in self.seen(view, filter, from, to) {
            *totals.entry(ad).or_default() += count;
        }
        let mut ads: TopAds = totals.into_iter().collect();
        ads.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ads
    }

    /// Each minute's clicks, from the revision that the view shows it by.
    fn seen(&self, view: &View, filter: FilterId, from: Minute, to: Minute) -> Vec<(String, Minute, u64)> {
        let (stream, revisions) = (self.clicks.lock(), self.revisions.lock());
        let mut seen = Vec::new();
        for (piece, revision) in view.pieces(filter, MinuteRange { from, to }) {
            let own = revisions.iter().find(|(row, _)| row.revision == revision).map_or(&*stream, |(_, clicks)| clicks);
            let inside = own.iter().filter(|((f, _, at), _)| *f == filter && piece.from <= *at && *at < piece.to);
            seen.extend(inside.map(|((_, ad, at), count)| (ad.clone(), *at, *count)));
        }
        seen
    }

    fn check(&self) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.pause.lock());
        if self.broken.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable {
                what: "reading /secret/store.db".into(),
                why: "disk on fire".into(),
            });
        }
        Ok(())
    }

    fn stored(&self, view: &View, filter: FilterId, window: Window, last: Minute) -> Option<Ranking> {
        let definitions = self.definitions.lock();
        let standing = [Window::MINUTE, Window::HOUR, Window::DAY].contains(&window) && window.is_aligned_at(last);
        if !(standing || definitions.iter().any(|d| d.windows.contains(&window))) {
            return None;
        }
        if self.late_window.is_some_and(|(late, from)| late == window && last < from) {
            return None;
        }
        if last >= self.progress.lock().rankings_until(4)? {
            return None;
        }
        let mut ads = self.ranking_seen(view, filter, window.first(last), last.next());
        let whole = ads.len() <= self.depth;
        ads.truncate(self.depth);
        (!ads.is_empty()).then_some(Ranking { filter, window, minute: last, whole, complete: true, ads })
    }
}

impl MapStore {
    /// Retention passes over the figures before `expires_when_read`, if set, while somebody reads.
    fn expire_meanwhile(&self) {
        if let Some(before) = self.expires_when_read {
            self.clicks.lock().retain(|(_, _, at), _| *at >= before);
            let mut progress = self.progress.lock();
            (progress.counts_from, progress.rankings_from) = (Some(before), Some(before));
        }
    }
}

impl AggregateStore for MapStore {
    fn write_closed(&self, _: &ClosedWrite) -> Result<()> {
        Ok(())
    }

    fn write_ranked(&self, _: &RankedWrite) -> Result<()> {
        Ok(())
    }

    fn write_verdict(&self, verdict: &Verdict) -> Result<()> {
        *self.verdict.lock() = Some(verdict.clone());
        Ok(())
    }

    fn last_verdict(&self) -> Result<Option<Verdict>> {
        self.check()?;
        Ok(self.verdict.lock().clone())
    }

    fn write_definition(&self, _: &Definition) -> Result<()> {
        Ok(())
    }

    fn definitions(&self) -> Result<Vec<Definition>> {
        self.check()?;
        Ok(self.definitions.lock().clone())
    }

    fn progress_of(&self, _: Revision) -> Result<StoreProgress> {
        self.check()?;
        Ok(self.progress.lock().clone())
    }

    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        self.check()?;
        Ok(self.revisions.lock().iter().map(|(row, _)| row.clone()).collect())
    }

    fn begin_revision(&self, _: &Recalculation) -> Result<Began> {
        Err(StoreError::Broken("no query begins one".to_owned()))
    }

    fn switch_revision(&self, _: Revision, _: Switch) -> Result<Option<RevisionState>> {
        Err(StoreError::Broken("no query switches one".to_owned()))
    }

    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        self.check()?;
        self.expire_meanwhile();
        let totals: BTreeMap<String, u64> = self.ranking_seen(view, filter, range.from, range.to).into_iter().collect();
        Ok(ads.iter().map(|ad| totals.get(*ad).copied().unwrap_or(0)).collect())
    }

    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        self.check()?;
        self.expire_meanwhile();
        let mut spans: BTreeMap<Minute, u64> = BTreeMap::new();
        for (known, at, count) in self.seen(view, filter, range.from, range.to) {
            if known == ad {
                *spans.entry(Span::holding(step, at).start).or_default() += count;
            }
        }
        Ok(spans.into_iter().collect())
    }

    fn each_count(&self, _: &View, _: SpanKind, _: FilterId, _: MinuteRange, _: &mut EachCount<'_>) -> Result<()> {
        Err(StoreError::Broken("no query needs it".to_owned()))
    }

    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        self.check()?;
        self.expire_meanwhile();
        let find = |(window, last): &(Window, Minute)| match view.ranked_by(filter, *window, *last) {
            RankedBy::Nobody => StoredRanking::NotToBeHad,
            RankedBy::Revision(_) => {
                self.stored(view, filter, *window, *last).map_or(StoredRanking::Nothing, StoredRanking::Here)
            }
        };
        Ok(which.iter().map(find).collect())
    }

    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
        self.check()?;
        self.expire_meanwhile();
        let mut ads = self.ranking_seen(view, filter, range.from, range.to);
        ads.truncate(n);
        Ok((range.to.minus(range.from) <= self.longest_merge).then_some(ads))
    }

    fn expire(&self, _: Timestamp, _: Timestamp) -> Result<u64> {
        Ok(0)
    }
}

/// Records by partition, and what groups have committed.
#[derive(Default)]
pub(crate) struct MapQueue {
    pub(crate) records: BTreeMap<TopicPartition, Vec<Fetched>>,
    pub(crate) committed: BTreeMap<(String, String), Vec<(Partition, Committed)>>,
    /// The first offset that is still there.
    pub(crate) start: u64,
}

impl MapQueue {
    pub(crate) fn send(&mut self, to: TopicPartition, value: Vec<u8>) {
        let records = self.records.entry(to).or_default();
        let offset = records.last().map_or(Offset(self.start), |last| last.offset.next());
        records.push(Fetched { offset, arrival: Timestamp::EPOCH, record: Record::of(value) });
    }
}

fn cannot(what: &str) -> QueueError {
    QueueError::Unavailable { what: what.into(), why: "it only reads".into() }
}

impl Queue for MapQueue {
    fn create_topics(&self, _: &[TopicSpec]) -> Result<(), QueueError> {
        Ok(())
    }

    fn partitions(&self, topic: &str) -> Result<Option<u32>, QueueError> {
        let all = self.records.keys().filter(|at| &*at.topic == topic).map(|at| at.partition.0 + 1);
        Ok(all.max())
    }

    fn producer(&self, _: &str) -> Result<Box<dyn Producer>, QueueError> {
        Err(cannot("a producer"))
    }

    fn consumer(&self, _: &str, _: &[&str]) -> Result<Box<dyn Consumer>, QueueError> {
        Err(cannot("a consumer"))
    }

    fn range(&self, of: &TopicPartition) -> Result<OffsetRange, QueueError> {
        let records = self.records.get(of).map_or(&[][..], Vec::as_slice);
        let end = records.last().map_or(Offset(self.start), |last| last.offset.next());
        Ok(OffsetRange { start: Offset(self.start), end })
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<(Partition, Committed)>, QueueError> {
        Ok(self.committed.get(&(group.to_owned(), topic.to_owned())).cloned().unwrap_or_default())
    }

    fn read(&self, of: &TopicPartition, from: Offset, _: usize) -> Result<Vec<Fetched>, QueueError> {
        if from.0 < self.start {
            return Err(QueueError::Broken(format!("{of}@{from} was deleted")));
        }
        // Few at once, so that readers must go on.
        let records = self.records.get(of).map_or(&[][..], Vec::as_slice);
        Ok(records.iter().filter(|fetched| fetched.offset >= from).take(3).cloned().collect())
    }
}

/// This process's metrics: there can be one recorder only.
pub(crate) fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| clickmill_api::install_metrics().unwrap()).clone()
}

/// A server on a free port, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) fn of(store: Arc<MapStore>) -> Self {
        Self::with(Limits::default(), sources(store, None))
    }

    pub(crate) fn with(limits: Limits, sources: Sources) -> Self {
        Self::run(move |listener, stopped| async move {
            clickmill_api::serve(listener, limits, sources, stopped).await.unwrap();
        })
    }

    pub(crate) fn run<F: Future<Output = ()>>(
        serve: impl FnOnce(tokio::net::TcpListener, Stopped) -> F + Send + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = Box::pin(async move {
                    stopped.await.ok();
                });
                serve(listener, stopped).await;
            });
            runtime.shutdown_background();
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        // The server may refuse, and close, before it has read everything.
        stream.write_all(request.as_bytes()).ok();
        Answer::read(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The JSON at this path, which must be there.
    pub(crate) fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        answer.json()
    }
}

pub(crate) type Stopped = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn sources(store: Arc<MapStore>, queue: Option<Arc<MapQueue>>) -> Sources {
    Sources {
        store,
        queue: queue.map(|queue| queue as Arc<dyn Queue>),
        clock: Arc::new(ManualClock::new(minute("202101020000").start().after(Duration::from_millis(1500)))),
        metrics: metrics(),
        stages: Arc::new(StageBoard::new()),
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer is the server's right.
        stream.read_to_end(&mut bytes).ok();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The problem that this must be: its status, and the parameter that it names.
    pub(crate) fn problem(&self) -> (u16, Option<String>) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {problem}");
        }
        if self.status == 503 || self.status == 429 {
            assert!(self.header("retry-after").is_some(), "{self:?}");
        }
        (self.status, problem["parameter"].as_str().map(str::to_owned))
    }
}

/// Waits until something holds, for ten seconds at most.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "still waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
