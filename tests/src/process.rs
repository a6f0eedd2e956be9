//! The real program as a process: built once, run on a folder of its own, asked over HTTP, killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything that the tests wait for takes, on a machine that is busy with something else: two whole minutes of the clock have to pass for some of it.
pub const LONG: Duration = Duration::from_secs(240);

/// Tries again and again until there is something. Gives up, naming what was waited for, at the deadline.
///
/// # Panics
/// Where the time is over.
pub fn wait_for<T>(what: &str, at_most: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {at_most:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program, built in the profile and folder of the test that asks.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("clickmill"))
}

/// The auditor beside it, built in the same way: only for tests that need it, since it holds a SQL engine.
pub fn auditor() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("clickmill-reconcile"))
}

fn build(name: &str) -> PathBuf {
    // target/debug/deps/some_test-0123: the program comes to target/debug.
    let test = std::env::current_exe().unwrap();
    let profile_dir = test.ancestors().nth(2).unwrap();
    let mut build = Command::new(env!("CARGO"));
    // A test among the targets has everything built with the features that tests need, as it was built already: without it half of the dependencies would be built again.
    build.args(["build", "--quiet", "--workspace", "--bin", name, "--test", "up", "--target-dir"]);
    build.arg(profile_dir.parent().unwrap());
    if profile_dir.ends_with("release") {
        build.arg("--release");
    }
    // Cargo tells a test about its package. The build script of `ring` would run again for that, and all that depends on it be built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            build.env_remove(name);
        }
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "{name} does not build");
    profile_dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// A folder with a configuration, log files and a data folder, in which the program runs.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    started: AtomicU32,
}

/// What a command left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its results.
    pub stdout: String,
    /// Its log.
    pub stderr: String,
}

impl Site {
    /// A new folder with this `clickmill.toml`.
    pub fn new(configuration: &str) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap(), started: AtomicU32::new(0) };
        site.configure(configuration);
        fs::create_dir(site.logs()).unwrap();
        site
    }

    /// Replaces the configuration.
    pub fn configure(&self, configuration: &str) {
        fs::write(self.folder.path().join("clickmill.toml"), configuration).unwrap();
    }

    /// The site's folder, in which commands run.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the log files are.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Where the program keeps its things.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("clickmill-data")
    }

    /// A command that is not started yet, to set limits and variables.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CLICKMILL_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// Where it takes longer than `at_most`.
    pub fn run(&self, args: &[&str], at_most: Duration) -> Finished {
        self.run_command(self.command(args), at_most)
    }

    /// [`Site::run`] of a command from [`Site::command`].
    ///
    /// # Panics
    /// Where it takes longer than `at_most`.
    pub fn run_command(&self, command: Command, at_most: Duration) -> Finished {
        let mut running = self.start_command(command);
        let status = running.wait(at_most);
        let stdout = running.stdout.iter().collect::<Vec<_>>().join("\n");
        Finished { status, stdout, stderr: running.stderr() }
    }

    /// [`Site::run`] of a command that must succeed. Returns its results.
    ///
    /// # Panics
    /// Where it does not end with status 0.
    pub fn succeed(&self, args: &[&str], at_most: Duration) -> String {
        let finished = self.run(args, at_most);
        assert!(finished.status.success(), "{args:?}: {}\n{}", finished.status, tail(&finished.stderr));
        finished.stdout
    }

    /// Starts a command that goes on.
    pub fn start(&self, args: &[&str]) -> Running<'_> {
        self.start_command(self.command(args))
    }

    /// [`Site::start`] of a command from [`Site::command`].
    pub fn start_command(&self, mut command: Command) -> Running<'_> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let log = self.log(number);
        let mut child = command.stdout(Stdio::piped()).stderr(File::create(&log.0).unwrap()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Running { _site: PhantomData, child, log, stdout: lines, address: None }
    }

    /// Where the command logs that was started as this one, from 0.
    fn log(&self, number: u32) -> Log {
        Log(self.path().join(format!("stderr-{number}.log")))
    }

    /// [`Site::serve`] of a command from [`Site::command`].
    pub fn serve_command(&self, command: Command, at_most: Duration) -> Running<'_> {
        let mut running = self.start_command(command);
        running.wait_until_ready(at_most);
        running
    }

    /// Starts a command that serves HTTP, and waits until it is ready.
    pub fn serve(&self, args: &[&str], at_most: Duration) -> Running<'_> {
        self.serve_command(self.command(args), at_most)
    }
}

impl Drop for Site {
    /// Where a test has failed, the ends of all logs are told: the folder goes, and they are what says why.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for number in 0..self.started.load(Ordering::Relaxed) {
            let log = self.log(number);
            eprintln!("== {}\n{}", log.0.display(), tail(&log.read()));
        }
    }
}

/// A command that runs. It is killed when dropped.
#[derive(Debug)]
pub struct Running<'a> {
    /// The folder must outlive it.
    _site: PhantomData<&'a Site>,
    child: Child,
    log: Log,
    stdout: Receiver<String>,
    address: Option<String>,
}

impl Running<'_> {
    /// Waits until it answers that it is ready.
    ///
    /// # Panics
    /// Where it ends or takes longer than `at_most`.
    pub fn wait_until_ready(&mut self, at_most: Duration) {
        let began = Instant::now();
        let address = wait_for("the address on stdout", at_most, || {
            self.must_run();
            self.stdout.try_iter().find_map(|line| Some(line.split_once("listening on ")?.1.trim().to_owned()))
        });
        self.address = Some(address);
        wait_for("readiness", at_most.saturating_sub(began.elapsed()), || {
            self.must_run();
            self.try_get("/readyz").filter(|(status, _)| *status == 200)
        });
    }

    /// True while it runs.
    pub fn has_not_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it ended: {status}\n{}", tail(&self.stderr()));
        }
    }

    /// `http://127.0.0.1:…`, once it is ready.
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap_or_else(|| panic!("not ready yet"))
    }

    /// The status and the body of an answer; `None` where there is no answer.
    pub fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let request = ureq::get(format!("{}{path}", self.address()))
            .config()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        let mut answer = request.call().ok()?;
        let body = answer.body_mut().with_config().limit(256 << 20).read_to_string().ok()?;
        Some((answer.status().as_u16(), body))
    }

    /// The JSON of a successful answer.
    ///
    /// # Panics
    /// Where there is none, or it has another status than 200.
    pub fn get(&self, path: &str) -> Value {
        let Some((status, body)) = self.try_get(path) else { panic!("no answer to {path}\n{}", tail(&self.stderr())) };
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The sum of a metric over its labels; 0 where there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let Some((200, metrics)) = self.try_get("/metrics") else { return 0.0 };
        let of_name = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once([' ']));
        of_name
            .filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    /// Kills it as a power failure would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end (`SIGTERM`), and waits for it.
    pub fn terminate(mut self, at_most: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(at_most)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        self.log.read()
    }

    /// Where it logs, for when it is gone.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// User and system time that it has taken so far.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// The memory that it has now (its resident set).
    ///
    /// # Panics
    /// Where that cannot be read.
    pub fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it takes longer than `at_most`.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end in {at_most:?}\n{}", tail(&self.stderr()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The log of a process.
#[derive(Debug, Clone)]
pub struct Log(PathBuf);

impl Log {
    /// What it has logged so far.
    pub fn read(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.0).unwrap_or_default()).into_owned()
    }
}

/// The end of a log, for messages.
fn tail(log: &str) -> &str {
    &log[log.floor_char_boundary(log.len().saturating_sub(4000))..]
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
