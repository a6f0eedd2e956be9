//! The store on a real Cassandra: the suite, and what only it has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

mod common;

use std::time::{Duration, Instant};

use clickmill_model::records::Ranking;
use clickmill_model::{Columns, Definition, FilterId, Minute, Partition, Revision, Span, SpanKind, Timestamp, Window};
use clickmill_store::cassandra::{Consistency, Options, Replication, create_schema};
use clickmill_store::conformance::Store;
use clickmill_store::{
    AggregateStore, Began, CassandraStore, ClosedWrite, EachCount, MinuteRange, RankedWrite, Recalculation, Result,
    RevisionRow, RevisionState, StoreProgress, StoredRanking, Switch, TopAds, View,
};

use common::Keyspace;

/// Writes through one connection and reads through another, as a writer and an API do.
struct Apart {
    writer: CassandraStore,
    reader: CassandraStore,
}

impl Apart {
    fn open(options: &Options) -> Self {
        Self { writer: CassandraStore::open(options).unwrap(), reader: CassandraStore::open(options).unwrap() }
    }
}

impl AggregateStore for Apart {
    fn write_closed(&self, write: &ClosedWrite) -> Result<()> {
        self.writer.write_closed(write)
    }
    fn write_ranked(&self, write: &RankedWrite) -> Result<()> {
        self.writer.write_ranked(write)
    }
    fn write_verdict(&self, verdict: &clickmill_store::Verdict) -> Result<()> {
        self.writer.write_verdict(verdict)
    }
    fn last_verdict(&self) -> Result<Option<clickmill_store::Verdict>> {
        self.reader.last_verdict()
    }
    fn write_definition(&self, definition: &Definition) -> Result<()> {
        self.writer.write_definition(definition)
    }
    fn definitions(&self) -> Result<Vec<Definition>> {
        self.reader.definitions()
    }
    fn progress_of(&self, revision: Revision) -> Result<StoreProgress> {
        self.reader.progress_of(revision)
    }
    fn revisions(&self) -> Result<Vec<RevisionRow>> {
        self.reader.revisions()
    }
    fn begin_revision(&self, new: &Recalculation) -> Result<Began> {
        self.writer.begin_revision(new)
    }
    fn switch_revision(&self, revision: Revision, switch: Switch) -> Result<Option<RevisionState>> {
        self.writer.switch_revision(revision, switch)
    }
    fn counts(&self, view: &View, ads: &[&str], filter: FilterId, range: MinuteRange) -> Result<Vec<u64>> {
        self.reader.counts(view, ads, filter, range)
    }
    fn series(
        &self,
        view: &View,
        ad: &str,
        filter: FilterId,
        range: MinuteRange,
        step: SpanKind,
    ) -> Result<Vec<(Minute, u64)>> {
        self.reader.series(view, ad, filter, range, step)
    }
    fn each_count(
        &self,
        view: &View,
        kind: SpanKind,
        filter: FilterId,
        range: MinuteRange,
        visit: &mut EachCount<'_>,
    ) -> Result<()> {
        self.reader.each_count(view, kind, filter, range, visit)
    }
    fn rankings(&self, view: &View, filter: FilterId, which: &[(Window, Minute)]) -> Result<Vec<StoredRanking>> {
        self.reader.rankings(view, filter, which)
    }
    fn top(&self, view: &View, filter: FilterId, range: MinuteRange, n: usize) -> Result<Option<TopAds>> {
        self.reader.top(view, filter, range, n)
    }
    fn expire(&self, counts_before: Timestamp, rankings_before: Timestamp) -> Result<u64> {
        self.writer.expire(counts_before, rankings_before)
    }
}

fn with_cassandra(case: fn(&Store)) {
    let keyspace = Keyspace::take();
    let mut store = Store::new(Apart::open(&keyspace.options()));
    store.merges_counts = false;
    case(&store);
}

clickmill_store::conformance_suite!(with_cassandra, figures_go_by_themselves);

fn minute(text: &str) -> Minute {
    Minute::parse(text).unwrap()
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::EPOCH.after(since)
}

/// One click of an ad in a minute, and a ranking that says so.
fn write(store: &CassandraStore, at: Minute, ad: &str, arrival: Timestamp) {
    let mut columns = Columns::new(Span::minute(at), vec![FilterId::ALL]);
    columns.ads.push(ad.as_bytes());
    columns.counts[0].push(1);
    let closed = ClosedWrite {
        revision: Revision::STREAM,
        partition: Partition(0),
        counts: vec![(columns, Some(arrival))],
        until: at.next(),
        filters: vec![],
    };
    store.write_closed(&closed).unwrap();
    let ranking = Ranking {
        filter: FilterId::ALL,
        window: Window::MINUTE,
        minute: at,
        whole: true,
        complete: true,
        ads: vec![(ad.to_owned(), 1)],
    };
    let rankings = vec![(ranking, Some(arrival))];
    let ranked = RankedWrite { revision: Revision::STREAM, partition: Partition(0), rankings, until: at.next() };
    store.write_ranked(&ranked).unwrap();
}

/// Clicks of an ad in a minute, and whether its ranking is there.
fn read(store: &CassandraStore, at: Minute, ad: &str) -> (u64, bool) {
    let count = store.counts(&View::STREAM, &[ad], FilterId::ALL, MinuteRange { from: at, to: at.next() }).unwrap();
    let ranking = store.rankings(&View::STREAM, FilterId::ALL, &[(Window::MINUTE, at)]).unwrap();
    (count[0], ranking[0].is_here())
}

fn kept_from(store: &CassandraStore) -> (Option<Minute>, Option<Minute>) {
    let progress = store.progress().unwrap();
    (progress.counts_from, progress.rankings_from)
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn retention_counts_from_arrival_whatever_the_clicks_are_of() {
    let keyspace = Keyspace::take();
    let keep = Some(400 * DAY);
    let open =
        || CassandraStore::open(&Options { keep_counts: keep, keep_rankings: keep, ..keyspace.options() }).unwrap();
    let (old, older) = (minute("202101010000"), minute("202006010000"));
    let store = open();
    write(&store, old, "a", now());
    assert_eq!(read(&store, old, "a"), (1, true));
    assert_eq!(kept_from(&store), (None, None));
    // As when a writer has been away for that long.
    write(&store, older, "a", now().before(402 * DAY));
    assert_eq!(read(&store, older, "a"), (0, false));
    assert_eq!(kept_from(&open()), (Some(older.next()), Some(older.next())));
    assert_eq!(store.expire(now(), now()).unwrap(), 0, "nothing is deleted by hand");
    assert_eq!(read(&store, old, "a"), (1, true));
}

#[test]
fn figures_go_by_themselves_and_readers_know_it_before() {
    let keyspace = Keyspace::take();
    // What arrived two days ago is taken away in some seconds; that is an hour after readers are told.
    let arrival = now().before(2 * DAY);
    let seconds = |time: Timestamp| time.as_micros() / 1_000_000;
    let end_of_day = (seconds(arrival) / 86_400 + 1) * 86_400;
    let keep = Some(Duration::from_secs((seconds(now()) + 5 - 3600 - end_of_day) as u64));
    let store =
        CassandraStore::open(&Options { keep_counts: keep, keep_rankings: keep, ..keyspace.options() }).unwrap();
    let (goes, stays) = (minute("202101010000"), minute("202101010001"));
    write(&store, goes, "a", arrival);
    assert_eq!(read(&store, goes, "a"), (1, true));
    assert_eq!(kept_from(&store), (Some(goes.next()), Some(goes.next())));
    write(&store, stays, "a", now());
    let deadline = Instant::now() + Duration::from_secs(60);
    while read(&store, goes, "a") != (0, false) {
        assert!(Instant::now() < deadline, "it is still there: {:?}", read(&store, goes, "a"));
        std::thread::sleep(Duration::from_millis(50));
    }
    // A writer that was replaced without knowing it does not bring it back.
    write(&store, goes, "a", arrival);
    assert_eq!(read(&store, goes, "a"), (0, false));
    assert_eq!(read(&store, stays, "a"), (1, true));
    assert_eq!(kept_from(&store), (Some(goes.next()), Some(goes.next())));
}

fn refused(options: &Options) -> String {
    let error = CassandraStore::open(options).unwrap_err();
    assert!(error.is_lasting(), "{error}");
    error.to_string()
}

#[test]
fn a_schema_is_made_once_and_another_one_is_refused() {
    let name = common::new_name();
    let options = Options { buckets: None, keyspace: name.clone(), ..Keyspace::take().options() };
    assert!(refused(&options).contains("clickmill schema create"));
    let wanted = create_schema(&options, true).unwrap();
    assert!(wanted[0].starts_with(&format!("CREATE KEYSPACE IF NOT EXISTS {name} ")), "{wanted:?}");
    assert!(refused(&options).contains("is not there"), "a dry run makes nothing");
    assert_eq!(create_schema(&options, false).unwrap(), wanted);
    assert_eq!(create_schema(&options, false).unwrap(), Vec::<String>::new());
    CassandraStore::open(&options).unwrap();

    let buckets = Options { buckets: Some(7), ..options.clone() };
    let copies = Options { replication: Some(Replication::Everywhere(2)), ..options.clone() };
    let two = Options { read: Consistency::Two, write: Consistency::Two, ..options.clone() };
    let elsewhere = Options { local_dc: Some("mars".into()), ..options.clone() };
    assert!(refused(&buckets).contains("store.buckets"));
    assert!(refused(&two).contains("store.consistency"));
    assert!(refused(&elsewhere).contains("store.local_dc"));
    for (options, part) in
        [(&buckets, "store.buckets"), (&copies, "store.replication"), (&two, "store.consistency"), (&elsewhere, "mars")]
    {
        let error = create_schema(options, false).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let too_many =
        Options { replication: Some(Replication::Everywhere(3)), keyspace: common::new_name(), ..options.clone() };
    let error = create_schema(&too_many, false).unwrap_err().to_string();
    assert!(error.contains("store.replication") && error.contains("has 1 nodes"), "{error}");

    common::cql(&[&format!("UPDATE {name}.settings SET value = '99' WHERE name = 'version'")]);
    assert!(refused(&options).contains("a newer clickmill"));
    assert!(create_schema(&options, false).unwrap_err().to_string().contains("a newer clickmill"));
    // One of the first version has no recalculations: it must be brought up to date.
    common::cql(&[
        &format!("UPDATE {name}.settings SET value = '1' WHERE name = 'version'"),
        &format!("DROP TABLE {name}.revisions"),
    ]);
    let error = refused(&options);
    assert!(error.contains("has version 1") && error.contains("clickmill schema create"), "{error}");
    assert_eq!(create_schema(&options, false).unwrap().len(), 2);
    assert_eq!(CassandraStore::open(&options).unwrap().revisions().unwrap(), []);
    // Made not quite to the end: it is made to the end.
    common::cql(&[&format!("DELETE FROM {name}.settings WHERE name = 'version'")]);
    assert!(refused(&options).contains("not made to the end"));
    create_schema(&options, false).unwrap();
    CassandraStore::open(&options).unwrap();
}

#[test]
fn a_keyspace_of_somebody_else_is_left_alone() {
    let (name, three) = (common::new_name(), common::new_name());
    let copies = "WITH replication = {'class': 'SimpleStrategy', 'replication_factor':";
    common::cql(&[
        &format!("CREATE KEYSPACE {name} {copies} 1}}"),
        &format!("CREATE TABLE {name}.customers (id int PRIMARY KEY)"),
        &format!("CREATE KEYSPACE {three} {copies} 3}}"),
    ]);
    let options =
        |keyspace: &str| Options { keyspace: keyspace.to_owned(), replication: None, ..Keyspace::take().options() };
    let error = create_schema(&options(&name), false).unwrap_err().to_string();
    assert!(error.contains("customers") && error.contains("store.keyspace"), "{error}");
    assert!(refused(&options(&name)).contains("holds no figures of clickmill"));
    // Three copies, of which reads and writes would ask one.
    let one = Options { read: Consistency::One, write: Consistency::One, ..options(&three) };
    assert!(refused(&one).contains("a read may miss a write"));
    assert!(create_schema(&one, false).unwrap_err().to_string().contains("a read may miss a write"));
}
