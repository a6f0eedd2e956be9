//! Apache Kafka (KRaft): one broker, or several.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::fetch::{self, Server};
use crate::process::{self, ServerProcess, Signal, run};
use crate::proxy::{Network, Proxy};
use crate::{Result, ServerError, certificates, doing, write};

/// Names a running broker that the tests shall use.
pub const INSTEAD: &str = "CLICKMILL_TEST_KAFKA";

const SERVER: Server = Server { profile: "kafka", instead: INSTEAD };

/// What says that a broker is ready.
const READY: &str = "Kafka Server started";

/// How long a start may take, on a machine that is busy with something else.
const START_WITHIN: Duration = Duration::from_secs(120);

/// The id of every cluster that is made here.
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

const LOG4J: &str = r#"<Configuration status="WARN">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1}: %m%n"/></Console></Appenders>
  <Loggers>
    <Root level="WARN"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="INFO"/>
  </Loggers>
</Configuration>
"#;

/// What makes a small cluster quick for tests: it starts fast, and what it does from time to time it does often.
const QUICK: &str = "\
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
auto.create.topics.enable=false
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
";

/// How a cluster shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many brokers. With three, records are kept by all three and need two.
    pub brokers: u32,
    /// Properties for every broker, instead of or besides the usual ones.
    pub properties: Vec<(String, String)>,
    /// Users with their passwords, for SASL SCRAM-SHA-512.
    pub users: Vec<(String, String)>,
    /// The most memory that a broker's heap may take, in MiB.
    pub heap_mib: u32,
    /// True where it shall run long and fast: the compiler takes its time at the start.
    pub optimise: bool,
    /// True where [`Kafka::network`] shall be able to stall and to cut what comes and goes to a broker, from clients and other brokers.
    pub cuttable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { brokers: 1, properties: Vec::new(), users: Vec::new(), heap_mib: 512, optimise: false, cuttable: false }
    }
}

/// A Kafka cluster.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    brokers: Vec<Broker>,
    /// Empty where the cluster was not started here.
    _folder: Option<TempDir>,
    _certificates: Option<TempDir>,
}

#[derive(Debug)]
struct Broker {
    name: String,
    folder: PathBuf,
    jars: PathBuf,
    options: Options,
    process: Option<ServerProcess>,
    network: Option<Proxy>,
}

impl Kafka {
    /// The cluster that all tests of this process share: one broker, started by the first who asks and ended with the process; or the one that `CLICKMILL_TEST_KAFKA` names.
    /// Tests keep out of each other's way by the names of their topics and groups.
    ///
    /// # Panics
    /// Where there is none to be had, with the reason.
    #[allow(clippy::panic)]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var(INSTEAD) {
            Ok(bootstrap) => Self { bootstrap, brokers: Vec::new(), _folder: None, _certificates: None },
            Err(_) => {
                Self::start(&Options::default()).unwrap_or_else(|error| panic!("no Kafka for the tests: {error}"))
            }
        })
    }

    /// Starts a cluster of its own, and waits until it is ready.
    pub fn start(options: &Options) -> Result<Self> {
        let jars = fetch::jars(SERVER)?;
        let folder = process::folder("clickmill-kafka-")?;
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut ports = Vec::new();
        while ports.len() < options.brokers as usize * 3 {
            let port = process::free_port(local)?;
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let (listeners, ports) = ports.split_at(options.brokers as usize);
        let (controllers, hidden) = ports.split_at(options.brokers as usize);
        let voters =
            (1..).zip(controllers).map(|(id, port)| format!("{id}@{local}:{port}")).collect::<Vec<_>>().join(",");
        let mut cluster =
            Self { bootstrap: join(local, listeners), brokers: Vec::new(), _folder: None, _certificates: None };
        for (((id, listener), controller), hidden) in (1..).zip(listeners).zip(controllers).zip(hidden) {
            // Where the network between can be cut, the broker itself is somewhere else.
            let own_port = if options.cuttable { hidden } else { listener };
            let network = options
                .cuttable
                .then(|| Proxy::start((local, *listener).into(), (local, *hidden).into()))
                .transpose()?;
            let own = format!(
                "node.id={id}\ncontroller.quorum.voters={voters}\n\
                 listeners=CLIENT://{local}:{own_port},CONTROLLER://{local}:{controller}\nadvertised.listeners=CLIENT://{local}:{listener}\n"
            );
            let broker = Broker {
                name: format!("Kafka broker {id}"),
                folder: folder.path().join(id.to_string()),
                jars: jars.clone(),
                options: options.clone(),
                process: None,
                network,
            };
            broker.prepare(&own)?;
            cluster.brokers.push(broker);
        }
        for broker in &mut cluster.brokers {
            broker.spawn()?;
        }
        for broker in &mut cluster.brokers {
            broker.wait_until_ready()?;
        }
        cluster._folder = Some(folder);
        Ok(cluster)
    }

    /// Starts one broker that speaks TLS and wants SASL SCRAM-SHA-512 of `user` with `password`. Returns with it two files with certificates: the broker's, and a stranger's.
    pub fn start_secure(user: &str, password: &str) -> Result<(Self, [PathBuf; 2])> {
        let folder = process::folder("clickmill-tls-")?;
        let make = |name| certificates::make(folder.path(), name, &[Ipv4Addr::LOCALHOST]);
        let (broker, stranger) = (make("broker")?, make("stranger")?);
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required";
        let properties = [
            ("listener.security.protocol.map", "CLIENT:SASL_SSL,CONTROLLER:PLAINTEXT".to_owned()),
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512".to_owned()),
            ("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512".to_owned()),
            (
                "listener.name.client.scram-sha-512.sasl.jaas.config",
                format!("{login} username=\"{user}\" password=\"{password}\";"),
            ),
            ("ssl.keystore.location", broker.key.display().to_string()),
            ("ssl.keystore.type", "PKCS12".to_owned()),
            ("ssl.keystore.password", certificates::PASSWORD.to_owned()),
            ("ssl.truststore.location", broker.certificate.display().to_string()),
            ("ssl.truststore.type", "PEM".to_owned()),
        ];
        let mut cluster = Self::start(&Options {
            properties: properties.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            users: vec![(user.to_owned(), password.to_owned())],
            ..Options::default()
        })?;
        cluster._certificates = Some(folder);
        Ok((cluster, [broker.certificate, stranger.certificate]))
    }

    /// Starts one broker that wants SASL SCRAM-SHA-512 and lets each user do what [`Kafka::allow`] has granted, and nothing else; the first user may do everything.
    pub fn start_guarded(users: &[&str], password: &str) -> Result<Self> {
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required";
        let first = users.first().copied().unwrap_or_default();
        let properties = [
            ("listener.security.protocol.map", "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512".to_owned()),
            ("sasl.mechanism.inter.broker.protocol", "SCRAM-SHA-512".to_owned()),
            (
                "listener.name.client.scram-sha-512.sasl.jaas.config",
                format!("{login} username=\"{first}\" password=\"{password}\";"),
            ),
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
            // Controllers speak among themselves without a name.
            ("super.users", format!("User:{first};User:ANONYMOUS")),
        ];
        let cluster = Self::start(&Options {
            properties: properties.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            users: users.iter().map(|user| ((*user).to_owned(), password.to_owned())).collect(),
            ..Options::default()
        })?;
        if let Some(broker) = cluster.brokers.first() {
            let admin = format!(
                "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config={login} username=\"{first}\" password=\"{password}\";\n"
            );
            write(&broker.folder.join("admin.properties"), &admin)?;
        }
        Ok(cluster)
    }

    /// Grants rights on a cluster of [`Kafka::start_guarded`], each as the arguments of `kafka-acls.sh --add`.
    pub fn allow(&mut self, rights: &[Vec<String>]) -> Result<()> {
        let bootstrap = self.bootstrap.clone();
        let broker = self.broker(0)?;
        for right in rights {
            let mut acls = broker.java("org.apache.kafka.tools.AclCommand");
            acls.args(["--bootstrap-server", &bootstrap, "--command-config", "admin.properties", "--add"]).args(right);
            run(&format!("granting {right:?}"), acls, START_WITHIN)?;
        }
        Ok(())
    }

    /// Deletes every topic whose name matches the regular expression, on a cluster without passwords.
    pub fn delete_topics(&mut self, pattern: &str) -> Result<()> {
        let bootstrap = self.bootstrap.clone();
        let mut topics = self.broker(0)?.java("org.apache.kafka.tools.TopicCommand");
        topics.args(["--bootstrap-server", &bootstrap, "--delete", "--topic", pattern]);
        run(&format!("deleting topics {pattern}"), topics, START_WITHIN).map(drop)
    }

    /// Waits until every partition has all of its copies again, on a cluster without passwords.
    pub fn wait_until_replicated(&mut self) -> Result<()> {
        let bootstrap = self.bootstrap.clone();
        let began = Instant::now();
        loop {
            let mut topics = self.broker(0)?.java("org.apache.kafka.tools.TopicCommand");
            topics.args(["--bootstrap-server", &bootstrap, "--describe", "--under-replicated-partitions"]);
            let lacking = run("looking for copies that lag", topics, START_WITHIN)?;
            if lacking.trim().is_empty() {
                return Ok(());
            }
            if began.elapsed() > START_WITHIN {
                return Err(ServerError::NotReady { server: "Kafka".into(), waited: START_WITHIN, log: lacking });
            }
        }
    }

    /// Where clients connect first: `host:port,…`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Kills broker `number` (from 0) as a power failure would.
    pub fn kill(&mut self, number: usize) -> Result<()> {
        match self.broker(number)?.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Starts broker `number` (from 0) again, where and as it was.
    pub fn restart(&mut self, number: usize) -> Result<()> {
        self.kill(number)?;
        let broker = self.broker(number)?;
        broker.spawn()?;
        broker.wait_until_ready()
    }

    /// Sends a signal to broker `number` (from 0): [`Signal::STOP`] makes it hang until [`Signal::CONT`].
    pub fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        match &self.broker(number)?.process {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Changes the network to broker `number` (from 0) of a cluster that is [`Options::cuttable`].
    pub fn network(&mut self, number: usize, network: Network) -> Result<()> {
        match &self.broker(number)?.network {
            Some(proxy) => proxy.set(network),
            None => {
                return Err(doing("changing the network to broker", number.to_string())(std::io::Error::other(
                    "it is not cuttable",
                )));
            }
        }
        Ok(())
    }

    fn broker(&mut self, number: usize) -> Result<&mut Broker> {
        let none = || std::io::Error::other("there is no such broker among those that were started here");
        self.brokers.get_mut(number).ok_or_else(|| doing("looking for broker", number.to_string())(none()))
    }
}

fn join(host: IpAddr, ports: &[u16]) -> String {
    ports.iter().map(|port| format!("{host}:{port}")).collect::<Vec<_>>().join(",")
}

impl Broker {
    /// Writes its configuration and formats its folder.
    fn prepare(&self, own: &str) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(doing("making the folder", &self.folder))?;
        write(&self.folder.join("log4j2.xml"), LOG4J)?;
        let copies = self.options.brokers.min(3);
        let needed = copies.div_ceil(2);
        let mut properties = format!(
            "process.roles=broker,controller\n{own}\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=CLIENT\n\
             listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\n\
             default.replication.factor={copies}\nmin.insync.replicas={needed}\n\
             offsets.topic.replication.factor={copies}\n\
             transaction.state.log.replication.factor={copies}\ntransaction.state.log.min.isr={needed}\n\
             share.coordinator.state.topic.replication.factor={copies}\nshare.coordinator.state.topic.min.isr={needed}\n\
             {QUICK}",
            self.folder.join("data").display(),
        );
        // The last one of a name counts.
        for (name, value) in &self.options.properties {
            properties += &format!("{name}={value}\n");
        }
        write(&self.folder.join("server.properties"), &properties)?;
        let mut format = self.java("kafka.tools.StorageTool");
        format.args(["format", "-t", CLUSTER_ID, "-c", "server.properties"]);
        for (name, password) in &self.options.users {
            format.args(["--add-scram", &format!("SCRAM-SHA-512=[name={name},password={password}]")]);
        }
        run(&format!("formatting the folder of {}", self.name), format, START_WITHIN).map(drop)
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.current_dir(&self.folder).arg(format!("-Xmx{}m", self.options.heap_mib));
        if !self.options.optimise {
            java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        }
        java.args(["-Dlog4j2.configurationFile=log4j2.xml", "-cp"]).arg(self.jars.join("*")).arg(class);
        java
    }

    fn spawn(&mut self) -> Result<()> {
        let mut java = self.java("kafka.Kafka");
        java.arg("server.properties");
        self.process = Some(ServerProcess::start(&self.name, java, &self.folder.join("server.log"))?);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.wait_until(START_WITHIN, |log| log.contains(READY)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_starts_hangs_and_starts_again() {
        let mut kafka = Kafka::start(&Options::default()).unwrap();
        let connects = |kafka: &Kafka| std::net::TcpStream::connect(kafka.bootstrap()).is_ok();
        assert!(connects(&kafka));
        kafka.signal(0, Signal::STOP).unwrap();
        kafka.signal(0, Signal::CONT).unwrap();
        kafka.kill(0).unwrap();
        assert!(!connects(&kafka));
        kafka.restart(0).unwrap();
        assert!(connects(&kafka));
        assert!(kafka.kill(1).is_err());
    }
}
