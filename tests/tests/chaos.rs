//! Everything goes wrong at once: on a real Kafka and a real Cassandra, with every stage as two processes, these are killed, stopped for longer than a session lasts and told to end, brokers and nodes are killed
//! and stopped, the network to them stalls or is cut, and the definition changes, as a seed says, while lines are written. Then every figure must be what is true.
//!
//! `CLICKMILL_TEST_CHAOS_SECONDS=3600 cargo test -p clickmill-tests --test chaos` runs for an hour instead of less than a minute, `CLICKMILL_TEST_SEED=17` runs the acts of another seed.
//! `CLICKMILL_TEST_CHAOS_SERVERS=3` runs three brokers and three nodes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // Helpers of tests give up as tests do.

use std::time::{Duration, Instant};

use clickmill_generator::{TRUTH_FILE, Truth};
use clickmill_servers::process::Signal;
use clickmill_servers::{Cassandra, Kafka, Network, cassandra, kafka};
use clickmill_tests::answers::{assert_everything, wait_for_lines};
use clickmill_tests::dice::{Dice, SEED, seeds};
use clickmill_tests::process::{LONG, Running, Site};
use clickmill_tests::results::assert_results;
use clickmill_tests::stages::{GONE_WITHIN, STAGES};
use clickmill_tests::traffic::{Traffic, live, on_servers};

/// How long everything goes wrong, usually.
const USUAL: u64 = 40;

/// How long the session of a process lasts that says nothing, in seconds.
const SESSION: u64 = 10;

const PARTITIONS: u32 = 4;

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn configuration(kafka: &Kafka, cassandra: &Cassandra, servers: u8, more: &str) -> String {
    on_servers(kafka.bootstrap(), PARTITIONS, cassandra.addresses(), servers) + more
}

/// The processes, restarted when they end as a supervisor would.
struct Processes<'a> {
    site: &'a Site,
    all: Vec<(&'static str, Running<'a>)>,
}

impl<'a> Processes<'a> {
    fn start(site: &'a Site) -> Self {
        // Two watchers of one name would fence each other.
        let twice = STAGES.iter().chain(&STAGES[1..]);
        Self { site, all: twice.map(|stage| (*stage, site.start(&[stage]))).collect() }
    }

    /// Another process in the place of this one, which is returned.
    fn replace(&mut self, place: usize) -> Running<'a> {
        let (stage, process) = &mut self.all[place];
        std::mem::replace(process, self.site.start(&[stage]))
    }

    /// Starts again what has failed. What must not be started again has no right to end.
    fn supervise(&mut self) {
        for place in 0..self.all.len() {
            let (stage, process) = &mut self.all[place];
            if !process.has_not_ended() {
                let status = process.wait(GONE_WITHIN);
                assert_eq!(status.code(), Some(1), "{stage} ended with {status}:\n{}", process.stderr());
                drop(self.replace(place));
            }
        }
    }
}

/// What goes wrong, and for how long.
#[derive(Debug, Clone, Copy)]
enum Act {
    Kill {
        process: usize,
    },
    Terminate {
        process: usize,
    },
    /// So long that others take over, and it wakes up as a zombie.
    Stop {
        process: usize,
        seconds: u64,
    },
    KillBroker {
        broker: usize,
        seconds: u64,
    },
    StopBroker {
        broker: usize,
        seconds: u64,
    },
    KillNode {
        node: usize,
        seconds: u64,
    },
    StopNode {
        node: usize,
        seconds: u64,
    },
    /// Nothing comes or goes, and nobody is told.
    Stall {
        server: Server,
        seconds: u64,
    },
    /// Every connection is closed, and new ones at once.
    Cut {
        server: Server,
        seconds: u64,
    },
    /// One filter more.
    Define,
}

/// A server, by its number.
#[derive(Debug, Clone, Copy)]
enum Server {
    Broker(usize),
    Node(usize),
}

impl Act {
    fn draw(random: &mut Dice, processes: u64, servers: u64) -> Self {
        let process = random.below(processes) as usize;
        let server = random.below(servers) as usize;
        let seconds = 1 + random.below(12);
        let any = if random.below(2) == 0 { Server::Broker(server) } else { Server::Node(server) };
        match random.below(16) {
            0..4 => Self::Kill { process },
            4 => Self::Terminate { process },
            5 | 6 => Self::Stop { process, seconds: SESSION + 1 + seconds / 2 },
            7 => Self::KillBroker { broker: server, seconds },
            8 => Self::StopBroker { broker: server, seconds },
            9 => Self::KillNode { node: server, seconds },
            10 => Self::StopNode { node: server, seconds },
            11 | 12 => Self::Stall { server: any, seconds },
            13 | 14 => Self::Cut { server: any, seconds: seconds / 3 },
            _ => Self::Define,
        }
    }
}

fn set(kafka: &mut Kafka, cassandra: &mut Cassandra, server: Server, network: Network) {
    match server {
        Server::Broker(broker) => kafka.network(broker, network).unwrap(),
        Server::Node(node) => cassandra.network(node, network).unwrap(),
    }
}

/// Processes that ended while what they need was away shall start again, and the others go on.
fn pass(processes: &mut Processes<'_>, seconds: u64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(200));
        processes.supervise();
    }
}

#[test]
fn whatever_goes_wrong_at_once_every_click_counts_once() {
    let seed = if std::env::var_os(SEED).is_some() { seeds(1)[0] } else { 1 };
    let seconds = number_of("CLICKMILL_TEST_CHAOS_SECONDS").unwrap_or(USUAL);
    let servers = number_of("CLICKMILL_TEST_CHAOS_SERVERS").unwrap_or(1) as u8;
    println!("replay with {SEED}={seed}");
    let brokers = kafka::Options { brokers: servers.into(), cuttable: true, ..kafka::Options::default() };
    let nodes = cassandra::Options { nodes: servers, heap_mib: 448, cuttable: true, ..cassandra::Options::default() };
    let mut kafka = Kafka::start(&brokers).unwrap();
    let mut cassandra = Cassandra::start(&nodes).unwrap();
    let mut filters = String::new();
    let site = Site::new(&configuration(&kafka, &cassandra, servers, &filters));
    for command in [&["topics", "create"][..], &["schema", "create"], &["define"]] {
        site.succeed(command, LONG);
    }
    let traffic = Traffic::start(live(&site.logs(), 500));
    let mut processes = Processes::start(&site);
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&api, 1000, LONG);
    drop(api);

    let mut random = Dice::new(seed);
    let mut versions = 1;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let act = Act::draw(&mut random, processes.all.len() as u64, servers.into());
        println!("{:4} s left: {act:?}", (end - Instant::now()).as_secs());
        match act {
            Act::Kill { process } => processes.replace(process).kill(),
            Act::Terminate { process } => {
                // It may have to leave something undone where a server is away, but must go.
                let gone = processes.replace(process);
                gone.terminate(3 * GONE_WITHIN);
            }
            Act::Stop { process, seconds } => {
                let stopped = &processes.all[process].1;
                stopped.signal(Signal::STOP);
                std::thread::sleep(Duration::from_secs(seconds));
                stopped.signal(Signal::CONT);
            }
            Act::KillBroker { broker, seconds } => {
                kafka.kill(broker).unwrap();
                pass(&mut processes, seconds);
                kafka.restart(broker).unwrap();
            }
            Act::StopBroker { broker, seconds } => {
                kafka.signal(broker, Signal::STOP).unwrap();
                pass(&mut processes, seconds);
                kafka.signal(broker, Signal::CONT).unwrap();
            }
            Act::KillNode { node, seconds } => {
                cassandra.kill(node).unwrap();
                pass(&mut processes, seconds);
                cassandra.restart(node).unwrap();
            }
            Act::StopNode { node, seconds } => {
                cassandra.signal(node, Signal::STOP).unwrap();
                pass(&mut processes, seconds);
                cassandra.signal(node, Signal::CONT).unwrap();
            }
            Act::Stall { server, seconds } => {
                set(&mut kafka, &mut cassandra, server, Network::Stalled);
                pass(&mut processes, seconds);
                set(&mut kafka, &mut cassandra, server, Network::Up);
            }
            Act::Cut { server, seconds } => {
                set(&mut kafka, &mut cassandra, server, Network::Cut);
                pass(&mut processes, seconds);
                set(&mut kafka, &mut cassandra, server, Network::Up);
            }
            Act::Define => {
                filters += &format!("\n[[filter]]\nid = {versions}\nuser_id = [\"user {versions}\"]\n");
                site.configure(&configuration(&kafka, &cassandra, servers, &filters));
                site.succeed(&["define"], LONG);
                versions += 1;
            }
        }
        pass(&mut processes, random.below(4));
    }

    // What was told to end while a server was away is not asked for how it ended; now everybody is well.
    let api = site.serve(&["api", "--listen", "127.0.0.1:0"], LONG);
    wait_for_lines(&api, 3000, LONG);
    assert_eq!(api.get("/v1/status")["definition"]["version"], versions);
    drop(api);
    let made = traffic.stop();
    processes.supervise();
    for (stage, process) in processes.all {
        let log = process.log();
        let status = process.terminate(GONE_WITHIN);
        assert!(status.success(), "{stage}: {status}\n{}", log.read());
    }
    assert_everything(&site, &made, LONG);
    assert_results(kafka.bootstrap(), PARTITIONS, &Truth::read(&site.logs().join(TRUTH_FILE)).unwrap());
}
