//! `[store]`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clickmill_store::cassandra::{self, Consistency, Login, Replication};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::Retention;

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// SQLite in the data folder.
    Embedded,
    /// A cluster.
    Cassandra,
}

/// Where the store is, and how it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Which one.
    pub kind: StoreKind,
    /// Of Cassandra, as all that follows: `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// How many copies a new keyspace gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication: Option<Copies>,
    /// Into how many buckets ads are hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// The data centre whose nodes are talked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_dc: Option<String>,
    /// How many copies must answer and acknowledge.
    pub consistency: Levels,
    /// Who logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With which password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Whom to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// How many copies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of copies, or one for each data centre, such as { dc1 = 3, dc2 = 3 }")]
pub enum Copies {
    /// In each data centre.
    Everywhere(u32),
    /// By name.
    ByDataCentre(BTreeMap<String, u32>),
}

/// Consistency levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a level such as \"local_quorum\", or { read = \"…\", write = \"…\" }")]
pub enum Levels {
    /// The same for reads and writes.
    Both(String),
    /// One for each.
    Each {
        /// How many copies must answer.
        read: String,
        /// How many must acknowledge.
        write: String,
    },
}

/// TLS to the nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authorities that are trusted.
    pub ca: PathBuf,
    /// Who we are, where nodes ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// A text that is never shown, not even where it is not what it should be.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("(hidden)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // What is found instead stays out of the message.
        String::deserialize(from).map(Self).map_err(|_| de::Error::custom("it must be a text, in quotes"))
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Embedded,
            nodes: Vec::new(),
            keyspace: "clickmill".into(),
            replication: None,
            buckets: None,
            local_dc: None,
            consistency: Levels::Both(Consistency::LocalQuorum.to_string()),
            user: None,
            password: None,
            password_file: None,
            tls: None,
        }
    }
}

impl Store {
    /// Refuses what contradicts itself.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.kind != StoreKind::Cassandra {
            return Ok(());
        }
        if self.nodes.is_empty() {
            bail!("store.nodes is not set: store.kind = \"cassandra\" needs it, such as [\"cassandra-1:9042\"]");
        }
        self.levels()?;
        if self.password.is_some() && self.password_file.is_some() {
            bail!("store.password and store.password_file are both set: keep one of them");
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        match &self.user {
            Some(_) if !has_password => bail!("store.user is set, but neither store.password nor store.password_file"),
            None if has_password => bail!("store.password or store.password_file is set, but not store.user"),
            _ => {}
        }
        if let Some(Tls { certificate, key, .. }) = &self.tls
            && certificate.is_some() != key.is_some()
        {
            bail!("store.tls.certificate and store.tls.key go together: set both or none");
        }
        Ok(())
    }

    fn levels(&self) -> anyhow::Result<(Consistency, Consistency)> {
        let level = |key: &str, text: &str| text.parse().map_err(|why| anyhow::anyhow!("{key}: {why}"));
        match &self.consistency {
            Levels::Both(both) => {
                let both = level("store.consistency", both)?;
                Ok((both, both))
            }
            Levels::Each { read, write } => {
                Ok((level("store.consistency.read", read)?, level("store.consistency.write", write)?))
            }
        }
    }

    /// How the cluster is used that the configuration names.
    pub fn cassandra(&self, retention: &Retention) -> anyhow::Result<cassandra::Options> {
        let (read, write) = self.levels()?;
        let password = match &self.password_file {
            Some(file) => Some(read_password(file)?),
            None => self.password.as_ref().map(|secret| secret.0.clone()),
        };
        let login = self.user.clone().zip(password).map(|(user, password)| Login { user, password });
        let replication = self.replication.clone().map(|copies| match copies {
            Copies::Everywhere(factor) => Replication::Everywhere(factor),
            Copies::ByDataCentre(factors) => Replication::ByDataCentre(factors),
        });
        let tls = self.tls.clone().map(|tls| cassandra::Tls { ca: tls.ca, identity: tls.certificate.zip(tls.key) });
        Ok(cassandra::Options {
            nodes: self.nodes.clone(),
            keyspace: self.keyspace.clone(),
            replication,
            buckets: self.buckets,
            local_dc: self.local_dc.clone(),
            read,
            write,
            login,
            tls,
            keep_counts: Some(retention.counts),
            keep_rankings: Some(retention.rankings),
        })
    }
}

fn read_password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("store.password_file: cannot read {}", file.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
