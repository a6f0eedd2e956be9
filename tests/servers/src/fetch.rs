//! A server's jars, fetched by Maven and kept between runs.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::output_within;
use crate::{Result, ServerError, doing};

/// What Maven is told; one profile per server.
const POM: &str = include_str!("../pom.xml");

/// How long Maven may take: it fetches some 60 MB.
const AT_MOST: std::time::Duration = std::time::Duration::from_secs(600);

/// The oldest Java that the servers run on.
const JAVA: u32 = 17;

/// What to do about a missing program.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The profile in `pom.xml`.
    pub profile: &'static str,
    /// The environment variable that names a running server instead.
    pub instead: &'static str,
}

fn folder() -> PathBuf {
    match std::env::var_os("CLICKMILL_TEST_SERVERS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/servers"),
    }
}

/// The folder with the server's jars. Fetches them where they are not there, while other processes that want them wait; what was fetched in part only is never used.
pub fn jars(server: Server) -> Result<PathBuf> {
    check_java(server)?;
    let folder = folder();
    fs::create_dir_all(&folder).map_err(doing("making the folder", &folder))?;
    let mut hasher = DefaultHasher::new();
    POM.hash(&mut hasher);
    let jars = folder.join(format!("{}-{:016x}", server.profile, hasher.finish()));
    if jars.is_dir() {
        return Ok(jars);
    }
    let lock = folder.join(format!("{}.lock", server.profile));
    let held = File::create(&lock).map_err(doing("making", &lock))?;
    held.lock().map_err(doing("locking", &lock))?;
    if !jars.is_dir() {
        let partial = tempfile::Builder::new()
            .prefix("fetching-")
            .tempdir_in(&folder)
            .map_err(doing("making a folder in", &folder))?;
        run_maven(server, partial.path())?;
        // The folder appears with everything in it.
        fs::rename(partial.path().join("jars"), &jars).map_err(doing("making", &jars))?;
    }
    Ok(jars)
}

fn run_maven(server: Server, into: &Path) -> Result<()> {
    let pom = into.join("pom.xml");
    fs::write(&pom, POM).map_err(doing("writing", &pom))?;
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-f"]).arg(&pom).args(["-P", server.profile, "dependency:copy-dependencies"]);
    maven.arg(format!("-DoutputDirectory={}", into.join("jars").display()));
    let output = output_within(maven, AT_MOST).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            ServerError::Missing { program: "mvn", install: "Maven (Debian: maven)", instead: server.instead }
        }
        _ => doing("running", "mvn")(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(ServerError::Fetch { server: server.profile, output: String::from_utf8_lossy(&said).into_owned() })
}

fn check_java(server: Server) -> Result<()> {
    let missing = ServerError::Missing {
        program: "Java 17 or newer",
        install: "a JRE (Debian: openjdk-17-jre-headless)",
        instead: server.instead,
    };
    let output = Command::new("java").arg("-version").stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    if java_version(&said).is_some_and(|version| version >= JAVA) { Ok(()) } else { Err(missing) }
}

/// The version in what `java -version` says: 17 of `openjdk version "17.0.15" 2025-04-15`, 8 of `java version "1.8.0_292"`.
fn java_version(said: &str) -> Option<u32> {
    let version = said.split('"').nth(1)?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match parts.next()?.ok()? {
        1 => parts.next()?.ok(),
        version => Some(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read_from_what_it_says() {
        for (said, expected) in [
            ("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime", Some(17)),
            ("openjdk version \"21-ea\" 2023-09-19", Some(21)),
            ("java version \"1.8.0_292\"", Some(8)),
            ("bash: java: not found", None),
            ("", None),
        ] {
            assert_eq!(java_version(said), expected, "{said}");
        }
    }
}
