//! A server as a process of its own: started, waited for, signalled, ended with the test.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

use crate::{Result, ServerError, doing};

/// How much of a log an error shows.
const LOG_TAIL_BYTES: usize = 4000;

/// Below those that the system gives to connections, so that a port is still free when its server is started again.
const PORTS: Range<u16> = 20_000..32_000;

/// Kills what is left when this process ends, in whatever way: its input ends with us. It hears of every process and folder, in a line each. Servers that all tests of a process share are ended by it alone, since
/// nothing drops a `static`.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
pids= dirs=
while read -r verb what; do
    case $verb in
        kill) pids="$pids $what" ;;
        forget) left=; for pid in $pids; do [ "$pid" = "$what" ] || left="$left $pid"; done; pids=$left ;;
        remove) dirs="$dirs$what
" ;;
    esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
for try in 1 2 3 4 5; do
    printf '%s' "$dirs" | while read -r dir; do rm -rf -- "$dir" 2>/dev/null; done
    sleep 0.2
done
"#;

static WATCHDOG_INPUT: LazyLock<Mutex<Option<ChildStdin>>> = LazyLock::new(|| {
    let watchdog = Command::new("sh")
        .args(["-c", WATCHDOG])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    Mutex::new(watchdog.ok().and_then(|mut child| child.stdin.take()))
});

fn tell_watchdog(line: &str) -> Result<()> {
    let mut input = WATCHDOG_INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    let told = match &mut *input {
        Some(input) => writeln!(input, "{line}"),
        None => Err(std::io::Error::other("the shell that watches over the servers could not be started")),
    };
    told.map_err(doing("starting", "sh"))
}

/// A temporary folder that goes with this process, however that ends.
pub fn folder(prefix: &str) -> Result<TempDir> {
    let temp = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix(prefix).tempdir().map_err(doing("making a folder in", temp))?;
    tell_watchdog(&format!("remove {}", folder.path().display()))?;
    Ok(folder)
}

/// A port of this address on which nobody listens now.
pub fn free_port(address: IpAddr) -> Result<u16> {
    // Processes that look at the same time shall not find the same.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(211);
    for _ in 0..1000 {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (next % u32::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind((address, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(doing("looking for a free port on", address.to_string())(std::io::ErrorKind::AddrInUse.into()))
}

/// A running server. It is killed when dropped, and when this process ends.
#[derive(Debug)]
pub struct ServerProcess {
    name: String,
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts it. What it says goes to `log`, beginning anew.
    pub fn start(name: impl Into<String>, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::create(log).map_err(doing("making", log))?;
        let err = out.try_clone().map_err(doing("making", log))?;
        // A group of its own: Ctrl-C at the terminal is for the tests.
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(doing("starting", command.get_program()))?;
        let server = Self { name: name.into(), child, log: log.to_owned() };
        tell_watchdog(&format!("kill {}", server.child.id()))?;
        Ok(server)
    }

    /// Waits until `ready`, which gets its log, says so.
    pub fn wait_until(&mut self, at_most: Duration, mut ready: impl FnMut(&str) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            let log = self.read_log();
            if ready(&log) {
                return Ok(());
            }
            let status = self.child.try_wait().map_err(doing("waiting for", &self.name))?;
            if let Some(status) = status {
                return Err(ServerError::Ended { server: self.name.clone(), status, log: tail(&self.read_log()) });
            }
            if began.elapsed() > at_most {
                return Err(ServerError::NotReady { server: self.name.clone(), waited: at_most, log: tail(&log) });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal, such as [`Signal::STOP`] and [`Signal::CONT`] to one that shall hang for a while.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).map_err(|error| doing("signalling", &self.name)(error.into()))
    }

    /// Kills it as a power failure would.
    pub fn kill(&mut self) -> Result<()> {
        // A process that has ended already is no error.
        self.child.kill().map_err(doing("killing", &self.name))?;
        self.wait().map(|_| ())
    }

    /// Asks it to end, and waits for it.
    pub fn terminate(&mut self, at_most: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < at_most {
            if self.child.try_wait().map_err(doing("waiting for", &self.name))?.is_some() {
                return self.wait();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(ServerError::NotReady { server: self.name.clone(), waited: at_most, log: tail(&self.read_log()) })
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().map_err(doing("waiting for", &self.name))?;
        // Its number may soon be another process's.
        tell_watchdog(&format!("forget {}", self.child.id()))?;
        Ok(status)
    }

    /// What it has said so far.
    pub fn read_log(&self) -> String {
        let mut log = Vec::new();
        // No log yet is an empty one.
        if let Ok(mut file) = File::open(&self.log) {
            file.read_to_end(&mut log).ok();
        }
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // What cannot be killed now, the watchdog kills later.
        self.kill().ok();
    }
}

/// The end of a log, from the beginning of a line where it has that many.
fn tail(log: &str) -> String {
    let from = log.floor_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES));
    log[from..].to_owned()
}

/// Runs a program that must succeed, and returns what it says on its standard output. An error says `what` it was to do.
pub(crate) fn run(what: &str, command: Command, at_most: Duration) -> Result<String> {
    let program = command.get_program().to_owned();
    let output = output_within(command, at_most).map_err(doing("running", program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let log = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(ServerError::Ended { server: what.to_owned(), status: output.status, log })
}

/// Runs a program to its end, and kills it where that takes too long.
pub(crate) fn output_within(mut command: Command, at_most: Duration) -> std::io::Result<Output> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if is_done.recv_timeout(at_most) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            rustix::process::kill_process_group(pid, Signal::KILL).ok();
        }
    });
    let output = child.wait_with_output();
    drop(done);
    guard.join().ok();
    output
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let folder = folder("clickmill-test-").unwrap();
        let log = folder.path().join("log");
        let mut server = ServerProcess::start("sh", shell("echo no such file; exit 3"), &log).unwrap();
        let error = server.wait_until(Duration::from_secs(30), |_| false).unwrap_err().to_string();
        assert!(error.contains("sh ended (exit status: 3)") && error.contains("no such file"), "{error}");
    }

    #[test]
    fn a_server_that_does_not_get_ready_is_not_waited_for_for_ever() {
        let folder = folder("clickmill-test-").unwrap();
        let log = folder.path().join("log");
        let mut server = ServerProcess::start("sh", shell("echo getting up; exec sleep 600"), &log).unwrap();
        server.wait_until(Duration::from_secs(30), |log| log.contains("getting up")).unwrap();
        let error = server.wait_until(Duration::from_millis(1), |_| false).unwrap_err();
        assert!(matches!(error, ServerError::NotReady { .. }), "{error}");
        server.kill().unwrap();
        assert!(server.signal(Signal::CONT).is_err(), "it is gone");
    }

    /// Runs in another process: starts a server, leaves it alone, and ends without a word.
    #[test]
    fn child() {
        let Some(log) = std::env::var_os("SERVERS_TEST_LOG") else { return };
        let folder = folder("clickmill-test-").unwrap().keep();
        let script = format!("echo $$ {}; exec sleep 600", folder.display());
        let mut server = ServerProcess::start("sh", shell(&script), Path::new(&log)).unwrap();
        server.wait_until(Duration::from_secs(30), |log| log.ends_with('\n')).unwrap();
        std::process::abort();
    }

    #[test]
    fn a_server_ends_with_the_process_that_started_it() {
        let folder = folder("clickmill-test-").unwrap();
        let log = folder.path().join("log");
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["process::tests::child", "--exact"]).env("SERVERS_TEST_LOG", &log);
        let output = output_within(test, Duration::from_secs(60)).unwrap();
        assert!(!output.status.success());
        let said = std::fs::read_to_string(&log).unwrap();
        let (pid, left) = said.trim().split_once(' ').unwrap();
        let began = Instant::now();
        while is_running(pid) || Path::new(left).exists() {
            assert!(began.elapsed() < Duration::from_secs(30), "process {pid} or {left} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// False for one that ended and waits to be told of.
    fn is_running(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.is_ok_and(|stat| !stat.contains(") Z "))
    }
}
