//! Keys and certificates of servers, made by Java's `keytool`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::process::run;

/// What protects a key; everybody may know it.
pub(crate) const PASSWORD: &str = "clickmill";

/// How long that may take, on a machine that is busy with something else.
const WITHIN: Duration = Duration::from_secs(120);

/// A key and its certificate.
pub(crate) struct Certificate {
    /// PKCS12, protected by [`PASSWORD`].
    pub(crate) key: PathBuf,
    /// PEM, signed by itself.
    pub(crate) certificate: PathBuf,
}

/// Makes `NAME.p12` and `NAME.pem` in a folder, for a server at these addresses.
pub(crate) fn make(folder: &Path, name: &str, hosts: &[Ipv4Addr]) -> Result<Certificate> {
    let made = Certificate { key: folder.join(format!("{name}.p12")), certificate: folder.join(format!("{name}.pem")) };
    let names: Vec<String> = hosts.iter().map(|host| format!("ip:{host}")).collect();
    let names = format!("san={}", names.join(","));
    let keytool = |does: &str| {
        let mut keytool = Command::new("keytool");
        keytool
            .args([does, "-alias", "server", "-storetype", "PKCS12", "-storepass", PASSWORD, "-keystore"])
            .arg(&made.key);
        keytool
    };
    let mut generate = keytool("-genkeypair");
    generate.args(["-keyalg", "EC", "-groupname", "secp256r1", "-validity", "30"]);
    generate.args(["-dname", "CN=clickmill", "-ext", &names]);
    let mut export = keytool("-exportcert");
    export.args(["-rfc", "-file"]).arg(&made.certificate);
    for command in [generate, export] {
        run("making a certificate", command, WITHIN)?;
    }
    Ok(made)
}
