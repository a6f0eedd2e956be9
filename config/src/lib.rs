//! The configuration that clickmill's programs have in common: `clickmill.toml`, overridden by the environment; where the store and the files are, how long things are kept, what a click costs.
//!
//! A program has its own structure of the sections that it reads, and hands it to [`load`]. The one that reads all of them refuses keys that nobody knows. It knows no queue, so that a program without one needs
//! not be built with it.

mod files;
mod store;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use files::{Files, Place, S3};
pub use store::{Copies, Levels, Secret, Store, StoreKind, Tls};

/// The file that is read where it is there and no other one is named.
pub const FILE: &str = "clickmill.toml";

/// The data folder, unless another one is named.
pub const DATA_DIR: &str = "clickmill-data";

/// `[retention]`: how long things are kept, from their arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Counts.
    #[serde(with = "humantime_serde")]
    pub counts: Duration,
    /// Rankings.
    #[serde(with = "humantime_serde")]
    pub rankings: Duration,
    /// Raw and late lines in files.
    #[serde(with = "humantime_serde")]
    pub raw: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { counts: 400 * DAY, rankings: 400 * DAY, raw: 90 * DAY }
    }
}

/// `[reconcile]`: what differences are told in, besides clicks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// What an advertiser pays for a click. `None`: nothing is told in money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_click: Option<f64>,
    /// In which currency.
    pub currency: String,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { price_per_click: None, currency: "EUR".into() }
    }
}

impl Reconcile {
    /// Refuses what cannot be.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(price) = self.price_per_click.filter(|price| !price.is_finite() || *price < 0.0) {
            bail!("reconcile.price_per_click is {price}: it must not be negative");
        }
        if self.currency.is_empty() || self.currency.len() > 10 || self.currency.contains(char::is_control) {
            bail!("reconcile.currency is {:?}: it may be 1 to 10 characters, such as \"EUR\"", self.currency);
        }
        Ok(())
    }
}

/// Reads a configuration: the file that is named, or [`FILE`] where it is there; then the environment. What a program reads in its own way (a secret that may look like a number) it passes over.
pub fn load<T: Serialize + DeserializeOwned>(defaults: &T, named: Option<&Path>) -> anyhow::Result<T> {
    let mut figment = Figment::from(Serialized::defaults(defaults));
    let file = named.unwrap_or(Path::new(FILE));
    if named.is_some() || file.exists() {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        figment = figment.merge(Toml::string(&text));
    }
    // `CLICKMILL_TEST_…` steers the tests, which start these programs too.
    let is_read = |key: &figment::value::UncasedStr| {
        !key.starts_with("test_")
            && !key.starts_with("queue__properties__")
            && key != "store__password"
            && key != "files__s3__secret_access_key"
    };
    figment = figment.merge(Env::prefixed("CLICKMILL_").filter(is_read).split("__"));
    figment.extract().map_err(|error| explain(&error, file))
}

/// The store's password, where the environment has it: as it is, for it may look like a number.
pub fn password_of_environment() -> Option<Secret> {
    std::env::var("CLICKMILL_STORE__PASSWORD").ok().map(Secret)
}

/// The secret of the object store, where the environment has it among our own settings.
pub fn secret_access_key_of_environment() -> Option<Secret> {
    std::env::var("CLICKMILL_FILES__S3__SECRET_ACCESS_KEY").ok().map(Secret)
}

/// Figment's error with the key's path before it and the file or variable behind it.
fn explain(error: &figment::Error, file: &Path) -> anyhow::Error {
    let lines: Vec<String> = error
        .clone()
        .into_iter()
        .map(|one| {
            let path = one.path.join(".");
            let source = one.metadata.as_ref().map_or("", |m| m.name.as_ref());
            let place =
                if source.contains("environment") { "the environment".to_owned() } else { file.display().to_string() };
            if path.is_empty() { format!("{place}: {}", one.kind) } else { format!("{place}: {path}: {}", one.kind) }
        })
        .collect();
    anyhow::anyhow!("{}", lines.join("\n"))
}
