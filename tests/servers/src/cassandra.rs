//! Apache Cassandra: one node, or several on 127.0.0.1, 127.0.0.2 and so on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::fetch::{self, Server};
use crate::process::{self, ServerProcess, Signal};
use crate::proxy::{Network, Proxy};
use crate::{Result, certificates, doing, write};

/// Names a running node that the tests shall use.
pub const INSTEAD: &str = "CLICKMILL_TEST_CASSANDRA";

const SERVER: Server = Server { profile: "cassandra", instead: INSTEAD };

/// What says that a node is ready for clients.
const READY: &str = "Starting listening for CQL clients";

/// How long a start may take, on a machine that is busy with something else.
const START_WITHIN: Duration = Duration::from_secs(180);

const LOGBACK: &str = r#"<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %p %logger{0}: %m%n</pattern></encoder></appender>
  <root level="WARN"><appender-ref ref="out"/></root>
  <logger name="org.apache.cassandra.transport" level="INFO"/>
  <logger name="org.apache.cassandra.auth" level="INFO"/>
  <logger name="org.apache.cassandra.service.StorageService" level="DEBUG"/>
  <logger name="org.apache.cassandra.gms.Gossiper" level="INFO"/>
</configuration>
"#;

/// What Cassandra reaches into, and Java 17 closes.
const JVM_ARGUMENTS: &str = "\
--add-exports java.base/jdk.internal.misc=ALL-UNNAMED
--add-exports java.base/jdk.internal.ref=ALL-UNNAMED
--add-exports java.base/sun.nio.ch=ALL-UNNAMED
--add-exports java.base/java.lang.ref=ALL-UNNAMED
--add-exports java.management.rmi/com.sun.jmx.remote.internal.rmi=ALL-UNNAMED
--add-exports java.rmi/sun.rmi.registry=ALL-UNNAMED
--add-exports java.rmi/sun.rmi.server=ALL-UNNAMED
--add-exports java.sql/java.sql=ALL-UNNAMED
--add-exports jdk.unsupported/sun.misc=ALL-UNNAMED
--add-opens java.base/java.lang=ALL-UNNAMED
--add-opens java.base/java.lang.module=ALL-UNNAMED
--add-opens java.base/java.lang.reflect=ALL-UNNAMED
--add-opens java.base/java.io=ALL-UNNAMED
--add-opens java.base/java.nio=ALL-UNNAMED
--add-opens java.base/java.util=ALL-UNNAMED
--add-opens java.base/java.util.concurrent=ALL-UNNAMED
--add-opens java.base/java.util.concurrent.atomic=ALL-UNNAMED
--add-opens java.base/jdk.internal.loader=ALL-UNNAMED
--add-opens java.base/jdk.internal.ref=ALL-UNNAMED
--add-opens java.base/jdk.internal.reflect=ALL-UNNAMED
--add-opens java.base/jdk.internal.math=ALL-UNNAMED
--add-opens java.base/jdk.internal.module=ALL-UNNAMED
--add-opens java.base/jdk.internal.util.jar=ALL-UNNAMED
--add-opens java.base/sun.nio.ch=ALL-UNNAMED
--add-opens jdk.management/com.sun.management.internal=ALL-UNNAMED
";

/// What makes a small node quick for tests, and keep what it acknowledged when it is killed: with `periodic`, which is usual, it replays its log only to the last sync.
const QUICK: &str = "\
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: batch
commitlog_segment_size: 8MiB
endpoint_snitch: SimpleSnitch
num_tokens: 1
auto_snapshot: false
auto_bootstrap: false
hinted_handoff_enabled: true
concurrent_reads: 16
concurrent_writes: 16
memtable_heap_space: 96MiB
memtable_offheap_space: 64MiB
file_cache_size: 32MiB
";

/// How a cluster shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, each on an address of its own.
    pub nodes: u8,
    /// True where clients must give a user and a password: `cassandra` and `cassandra` at first.
    pub passwords: bool,
    /// True where clients must speak TLS; [`Cassandra::certificate`] is what they trust then.
    pub tls: bool,
    /// The most memory that a node's heap may take, in MiB.
    pub heap_mib: u32,
    /// True where it shall run long and fast, as nodes usually do: the compiler takes its time at the start, and the log is synced every ten seconds.
    pub optimise: bool,
    /// True where [`Cassandra::network`] shall be able to stall and to cut what comes and goes between clients and a node.
    pub cuttable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 1, passwords: false, tls: false, heap_mib: 640, optimise: false, cuttable: false }
    }
}

/// A Cassandra cluster.
#[derive(Debug)]
pub struct Cassandra {
    addresses: Vec<String>,
    certificate: Option<PathBuf>,
    nodes: Vec<Node>,
    /// Empty where the cluster was not started here.
    _folder: Option<TempDir>,
}

#[derive(Debug)]
struct Node {
    name: String,
    address: SocketAddr,
    folder: PathBuf,
    jars: PathBuf,
    options: Options,
    is_first: bool,
    makes_user: bool,
    process: Option<ServerProcess>,
    network: Option<Proxy>,
}

impl Cassandra {
    /// The cluster that all tests of this process share: one node, started by the first who asks and ended with the process; or the one that `CLICKMILL_TEST_CASSANDRA` names.
    /// Tests keep out of each other's way by the names of their keyspaces.
    ///
    /// # Panics
    /// Where there is none to be had, with the reason.
    #[allow(clippy::panic)]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cassandra> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(INSTEAD) {
            Ok(address) => Self { addresses: vec![address], certificate: None, nodes: Vec::new(), _folder: None },
            Err(_) => {
                Self::start(&Options::default()).unwrap_or_else(|error| panic!("no Cassandra for the tests: {error}"))
            }
        })
    }

    /// Starts a cluster of its own, and waits until it is ready.
    pub fn start(options: &Options) -> Result<Self> {
        let jars = fetch::jars(SERVER)?;
        let folder = process::folder("clickmill-cassandra-")?;
        let hosts: Vec<Ipv4Addr> = (1..=options.nodes.max(1)).map(|n| Ipv4Addr::new(127, 0, 0, n)).collect();
        // Where clients find them: where the network between can be cut, the nodes themselves are somewhere else.
        let net = if options.cuttable { 1 } else { 0 };
        let fronts: Vec<Ipv4Addr> = (1..=options.nodes.max(1)).map(|n| Ipv4Addr::new(127, 0, net, n)).collect();
        // Nodes find each other, and clients find them, by the port of the first.
        let native = free_port(&[&hosts[..], &fronts].concat(), &[])?;
        let storage = free_port(&hosts, &[native])?;
        let mut cluster = Self {
            addresses: fronts.iter().map(|host| format!("{host}:{native}")).collect(),
            certificate: options.tls.then(|| folder.path().join("node.pem")),
            nodes: Vec::new(),
            _folder: None,
        };
        if options.tls {
            certificates::make(folder.path(), "node", &hosts)?;
        }
        let seeds: Vec<String> = hosts.iter().map(|host| format!("{host}:{storage}")).collect();
        for ((number, host), front) in (0_u64..).zip(&hosts).zip(&fronts) {
            // Evenly around the ring, and none at its very beginning, which clients take for its end.
            let share = u64::MAX / hosts.len() as u64;
            let token = i64::MIN.wrapping_add((share * number + share / 2) as i64);
            let own = format!(
                "initial_token: {token}\nlisten_address: {host}\nrpc_address: {host}\nbroadcast_rpc_address: {front}\nnative_transport_port: {native}\nstorage_port: {storage}\n\
                 seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    parameters:\n      - seeds: \"{}\"\n",
                seeds.join(",")
            );
            let node = Node {
                name: format!("Cassandra node {host}"),
                address: SocketAddr::from((*host, native)),
                folder: folder.path().join(number.to_string()),
                jars: jars.clone(),
                options: options.clone(),
                is_first: number == 0,
                makes_user: false,
                process: None,
                network: options
                    .cuttable
                    .then(|| Proxy::start((*front, native).into(), (*host, native).into()))
                    .transpose()?,
            };
            node.prepare(&own, folder.path())?;
            cluster.nodes.push(node);
        }
        // One after the other: each finds the ones before it in the ring.
        for node in &mut cluster.nodes {
            node.spawn()?;
            node.wait_until_ready()?;
        }
        for own in 0..hosts.len() {
            let others = hosts.iter().enumerate().filter(|(other, _)| *other != own);
            let others: Vec<String> = others.map(|(_, host)| format!("/{host}:{storage}")).collect();
            cluster.node(own)?.wait_until_it_knows(&others)?;
        }
        cluster._folder = Some(folder);
        Ok(cluster)
    }

    /// Where clients connect: `host:port`, of each node.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The certificate (PEM) that clients trust, where they must speak TLS.
    pub fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// Makes a certificate (PEM) that no node has, in this folder.
    pub fn certificate_of_nobody(folder: &Path) -> Result<PathBuf> {
        Ok(certificates::make(folder, "nobody", &[Ipv4Addr::LOCALHOST])?.certificate)
    }

    /// Kills node `number` (from 0) as a power failure would.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        match self.node(number)?.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts node `number` (from 0) again, where and as it was.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.kill(number)?;
        let node = self.node(number)?;
        node.spawn()?;
        node.wait_until_ready()
    }

    /// Sends a signal to node `number` (from 0): [`Signal::STOP`] makes it hang until [`Signal::CONT`].
    pub fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        match &self.node(number)?.process {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Changes the network between clients and node `number` (from 0) of a cluster that is [`Options::cuttable`].
    pub fn network(&mut self, number: usize, network: Network) -> Result<()> {
        match &self.node(number)?.network {
            Some(proxy) => proxy.set(network),
            None => {
                return Err(doing("changing the network to node", number.to_string())(std::io::Error::other(
                    "it is not cuttable",
                )));
            }
        }
        Ok(())
    }

    fn node(&mut self, number: usize) -> Result<&mut Node> {
        let none = || std::io::Error::other("there is no such node among those that were started here");
        self.nodes.get_mut(number).ok_or_else(|| doing("looking for node", number.to_string())(none()))
    }
}

/// A port that is free on each of these addresses.
fn free_port(hosts: &[Ipv4Addr], taken: &[u16]) -> Result<u16> {
    loop {
        let port = process::free_port(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        if !taken.contains(&port) && hosts.iter().all(|host| TcpListener::bind((*host, port)).is_ok()) {
            return Ok(port);
        }
    }
}

impl Node {
    /// Writes its configuration.
    fn prepare(&self, own: &str, shared: &Path) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(doing("making the folder", &self.folder))?;
        write(&self.folder.join("logback.xml"), LOGBACK)?;
        write(&self.folder.join("jvm.args"), JVM_ARGUMENTS)?;
        let mut yaml = format!("cluster_name: clickmill\n{QUICK}{own}");
        if self.options.optimise {
            yaml = yaml.replace("commitlog_sync: batch", "commitlog_sync: periodic\ncommitlog_sync_period: 10s");
        }
        for (key, name) in [
            ("commitlog_directory", "commitlog"),
            ("hints_directory", "hints"),
            ("saved_caches_directory", "saved_caches"),
            ("cdc_raw_directory", "cdc_raw"),
        ] {
            yaml += &format!("{key}: {}\n", self.folder.join(name).display());
        }
        yaml += &format!("data_file_directories:\n  - {}\n", self.folder.join("data").display());
        if self.options.passwords {
            yaml += "authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer\n";
        }
        if self.options.tls {
            yaml += &format!(
                "client_encryption_options:\n  enabled: true\n  optional: false\n  keystore: {}\n  keystore_password: {}\n  store_type: PKCS12\n",
                shared.join("node.p12").display(),
                certificates::PASSWORD
            );
        }
        write(&self.folder.join("cassandra.yaml"), &yaml)
    }

    fn spawn(&mut self) -> Result<()> {
        // The first user is made by the first node when it first starts, a moment after clients are let in.
        self.makes_user = self.options.passwords && self.is_first && !self.folder.join("data").exists();
        let mut java = Command::new("java");
        let heap = self.options.heap_mib;
        java.current_dir(&self.folder).args([format!("-Xms{heap}m"), format!("-Xmx{heap}m"), "-Xss384k".into()]);
        if !self.options.optimise {
            java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        }
        java.arg(format!("-javaagent:{}", self.jars.join("jamm-0.4.0.jar").display())).arg("@jvm.args");
        let file = |name| format!("file://{}", self.folder.join(name).display());
        java.arg(format!("-Dcassandra.config={}", file("cassandra.yaml")));
        java.arg(format!("-Dlogback.configurationFile={}", file("logback.xml")));
        java.arg(format!("-Dcassandra.storagedir={}", self.folder.display()));
        java.args([
            "-Dcassandra-foreground=yes",
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=100",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.initial_token_validation=false",
            "-Djdk.attach.allowAttachSelf=true",
            "-cp",
        ]);
        java.arg(self.jars.join("*")).arg("org.apache.cassandra.service.CassandraDaemon");
        self.process = Some(ServerProcess::start(&self.name, java, &self.folder.join("server.log"))?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let (makes_user, address) = (self.makes_user, self.address);
        match &mut self.process {
            // It says that it will listen a moment before it does.
            Some(process) => process.wait_until(START_WITHIN, |log| {
                log.contains(READY)
                    && (!makes_user || log.contains("Created default superuser"))
                    && TcpStream::connect(address).is_ok()
            }),
            None => Ok(()),
        }
    }

    /// Waits until it has learnt of these other nodes, by gossip: one that has not tells clients of fewer.
    fn wait_until_it_knows(&mut self, others: &[String]) -> Result<()> {
        let knows = |log: &str, other: &String| {
            log.contains(&format!("{other} is now UP")) && log.contains(&format!("{other} state NORMAL"))
        };
        match &mut self.process {
            Some(process) => process.wait_until(START_WITHIN, |log| others.iter().all(|other| knows(log, other))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_node_starts_hangs_and_starts_again() {
        let mut cassandra = Cassandra::start(&Options::default()).unwrap();
        let connects = |cassandra: &Cassandra| std::net::TcpStream::connect(&cassandra.addresses()[0]).is_ok();
        assert!(connects(&cassandra));
        cassandra.signal(0, Signal::STOP).unwrap();
        cassandra.signal(0, Signal::CONT).unwrap();
        cassandra.kill(0).unwrap();
        assert!(!connects(&cassandra));
        cassandra.restart(0).unwrap();
        assert!(connects(&cassandra));
        assert!(cassandra.kill(1).is_err());
    }
}
