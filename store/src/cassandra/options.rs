//! How the store is reached, and how its figures are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::OpenError;

/// How the store is reached, and how its figures are kept. In the configuration each stands under the same name in `[store]`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Some of the cluster's nodes, `host:port` or `host`; the others are found by asking these.
    pub nodes: Vec<String>,
    /// The keyspace: 1 to 48 lower-case letters, digits and `_`, a letter first.
    pub keyspace: String,
    /// How many copies a keyspace that is made gets; `None` takes the keyspace as it is, and makes one with three copies in each data centre.
    pub replication: Option<Replication>,
    /// Into how many buckets ads are hashed; `None` takes the number that the schema was made with, and makes one with [`BUCKETS`].
    pub buckets: Option<u32>,
    /// The data centre whose nodes are talked to. May be left out where there is only one.
    pub local_dc: Option<String>,
    /// How many copies must answer a read.
    pub read: Consistency,
    /// How many copies must acknowledge a write.
    pub write: Consistency,
    /// Who logs in, where that is asked for.
    pub login: Option<Login>,
    /// Whom to trust, where the nodes speak TLS.
    pub tls: Option<Tls>,
    /// How long counts are kept, from their arrival; `None`: for good.
    pub keep_counts: Option<Duration>,
    /// How long rankings are kept, from their arrival; `None`: for good.
    pub keep_rankings: Option<Duration>,
}

/// The number of buckets of a new schema. A closed minute of a bucket and filter is one batch: with 100,000 ads some 400 rows. A multiple of the number of partitions of the topics, so that
/// what one partition closes falls into few buckets.
pub const BUCKETS: u32 = 256;

/// The most buckets that a schema may have.
pub const MOST_BUCKETS: u32 = 65_536;

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:9042".to_owned()],
            keyspace: "clickmill".to_owned(),
            replication: None,
            buckets: None,
            local_dc: None,
            read: Consistency::LocalQuorum,
            write: Consistency::LocalQuorum,
            login: None,
            tls: None,
            keep_counts: None,
            keep_rankings: None,
        }
    }
}

impl Options {
    /// Refuses what cannot be, before anything is connected.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let wrong = |setting, why: String| Err(OpenError::Setting { setting, why });
        if self.nodes.is_empty() {
            return wrong("nodes", "it is empty: name at least one node, as host:port".to_owned());
        }
        if !is_keyspace_name(&self.keyspace) {
            return wrong(
                "keyspace",
                format!(
                    "{:?} is no keyspace's name: 1 to 48 lower-case letters, digits and _, a letter first",
                    self.keyspace
                ),
            );
        }
        if let Some(buckets) = self.buckets.filter(|buckets| !(1..=MOST_BUCKETS).contains(buckets)) {
            return wrong("buckets", format!("it is {buckets}: it may be 1 to {MOST_BUCKETS}"));
        }
        let factors: Vec<u32> = match &self.replication {
            None => vec![],
            Some(Replication::Everywhere(factor)) => vec![*factor],
            Some(Replication::ByDataCentre(factors)) if factors.is_empty() => {
                return wrong("replication", "it names no data centre".to_owned());
            }
            Some(Replication::ByDataCentre(factors)) => factors.values().copied().collect(),
        };
        if let Some(factor) = factors.iter().find(|factor| !(1..=100).contains(*factor)) {
            return wrong("replication", format!("{factor} copies are asked for: it may be 1 to 100"));
        }
        let is_name =
            |name: &&String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._- ".contains(c));
        let named = match &self.replication {
            Some(Replication::ByDataCentre(factors)) => factors.keys().collect(),
            _ => vec![],
        };
        if let Some(name) = named.iter().find(|name| !is_name(name)) {
            return wrong("replication", format!("{name:?} is no data centre's name"));
        }
        for (kept, setting) in [(self.keep_counts, "retention.counts"), (self.keep_rankings, "retention.rankings")] {
            if kept.is_some_and(|kept| kept < Duration::from_secs(1)) {
                return wrong(setting, "figures would be gone before they can be read".to_owned());
            }
        }
        Ok(())
    }
}

fn is_keyspace_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=48).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(legal)
}

/// How many copies there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replication {
    /// So many in each data centre.
    Everywhere(u32),
    /// So many in each of these.
    ByDataCentre(BTreeMap<String, u32>),
}

/// How many copies must have answered or acknowledged. Levels that promise less than one copy are not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// One, anywhere.
    One,
    /// Two, anywhere.
    Two,
    /// Three, anywhere.
    Three,
    /// More than half of all copies.
    Quorum,
    /// All.
    All,
    /// More than half of those in the data centre that is talked to.
    LocalQuorum,
    /// More than half of those in each data centre: for writes only.
    EachQuorum,
    /// One in the data centre that is talked to.
    LocalOne,
}

impl Consistency {
    /// Every level with its name, as Cassandra calls it.
    pub const NAMES: [(Self, &str); 8] = [
        (Self::LocalQuorum, "local_quorum"),
        (Self::Quorum, "quorum"),
        (Self::EachQuorum, "each_quorum"),
        (Self::All, "all"),
        (Self::One, "one"),
        (Self::Two, "two"),
        (Self::Three, "three"),
        (Self::LocalOne, "local_one"),
    ];

    /// True where it depends on the data centre that is talked to.
    pub(super) const fn is_local(self) -> bool {
        matches!(self, Self::LocalQuorum | Self::LocalOne)
    }

    pub(super) const fn of_driver(self) -> scylla::statement::Consistency {
        use scylla::statement::Consistency as Driver;
        match self {
            Self::One => Driver::One,
            Self::Two => Driver::Two,
            Self::Three => Driver::Three,
            Self::Quorum => Driver::Quorum,
            Self::All => Driver::All,
            Self::LocalQuorum => Driver::LocalQuorum,
            Self::EachQuorum => Driver::EachQuorum,
            Self::LocalOne => Driver::LocalOne,
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(level, _)| level == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Consistency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        let found = Self::NAMES.iter().find(|(_, name)| *name == wanted).map(|(level, _)| *level);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
            format!("{text:?} is no consistency level: there are {}", names.join(", "))
        })
    }
}

/// A user and a password. The password is never shown.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Files (PEM) for TLS. A node's certificate must name the address by which it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that are trusted.
    pub ca: PathBuf,
    /// Our own certificate and its key, where nodes ask for them.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_by_its_setting() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.check().map_err(|error| error.to_string())
        };
        assert_eq!(with(|_| ()), Ok(()));
        for (change, part) in [
            ((|o| o.nodes.clear()) as fn(&mut Options), "store.nodes"),
            (|o| o.keyspace = "Clicks".into(), "store.keyspace"),
            (|o| o.keyspace = "1st".into(), "store.keyspace"),
            (|o| o.keyspace = "x; DROP KEYSPACE y".into(), "store.keyspace"),
            (|o| o.keyspace = "x".repeat(49), "store.keyspace"),
            (|o| o.buckets = Some(0), "store.buckets"),
            (|o| o.buckets = Some(MOST_BUCKETS + 1), "store.buckets"),
            (|o| o.replication = Some(Replication::Everywhere(0)), "store.replication"),
            (|o| o.replication = Some(Replication::ByDataCentre(BTreeMap::new())), "store.replication"),
            (
                |o| o.replication = Some(Replication::ByDataCentre(BTreeMap::from([("dc'1".into(), 3)]))),
                "store.replication",
            ),
            (|o| o.keep_counts = Some(Duration::ZERO), "retention.counts"),
        ] {
            let error = with(change).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_level_is_read_by_its_name() {
        for (level, name) in Consistency::NAMES {
            assert_eq!(name.parse(), Ok(level));
            assert_eq!(name.to_uppercase().parse(), Ok(level));
            assert_eq!(level.to_string(), name);
        }
        assert!("any".parse::<Consistency>().unwrap_err().contains("local_quorum"));
    }

    #[test]
    fn a_password_is_never_shown() {
        let login = Login { user: "mill".into(), password: "secret".into() };
        let shown = format!("{:?}", Options { login: Some(login), ..Options::default() });
        assert!(shown.contains("mill") && !shown.contains("secret"), "{shown}");
    }
}
