//! A keyspace for each test on the node that all tests share, emptied rather than made anew: Cassandra takes about a second to agree on new tables.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use clickmill_servers::Cassandra;
use clickmill_store::cassandra::{Options, Replication, create_schema};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// Those that were made and are in use by nobody.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a test writes to.
const TABLES: [&str; 6] = ["counts", "rankings", "progress", "retention", "definitions", "revisions"];

/// A keyspace with empty tables, given back when dropped.
pub(crate) struct Keyspace(String);

impl Keyspace {
    /// An empty one.
    pub(crate) fn take() -> Self {
        let free = FREE.lock().unwrap().pop();
        if let Some(name) = free {
            let statements = TABLES.map(|table| format!("TRUNCATE {name}.{table}"));
            cql(&statements.each_ref().map(String::as_str));
            return Self(name);
        }
        let keyspace = Self(new_name());
        create_schema(&keyspace.options(), false).unwrap();
        keyspace
    }

    /// How its store is opened.
    pub(crate) fn options(&self) -> Options {
        Options {
            nodes: Cassandra::shared().addresses().to_vec(),
            keyspace: self.0.clone(),
            replication: Some(Replication::Everywhere(1)),
            // Few, so that each holds several ads, and no multiple of the partitions.
            buckets: Some(5),
            ..Options::default()
        }
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        FREE.lock().unwrap().push(self.0.clone());
    }
}

/// A name that nobody else has, also where the node has served other tests before.
pub(crate) fn new_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("t{}_{}_{}", since.as_secs(), std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs statements on the shared node.
pub(crate) fn cql(statements: &[&str]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let session: Session =
            SessionBuilder::new().known_nodes(Cassandra::shared().addresses()).build().await.unwrap();
        for statement in statements {
            session.query_unpaged(*statement, ()).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    });
}
