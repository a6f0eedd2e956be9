//! `[files]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use serde::{Deserialize, Serialize};

use crate::Secret;

/// Where raw and late lines are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// A folder, as `file:///path`, or an object store, as `s3://bucket/prefix`. `None`: in the data folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A local folder that every machine of the pipeline sees.
    pub shared: bool,
    /// How the object store is used.
    pub s3: S3,
}

/// `[files.s3]`. What is not set is taken from the environment, as other programs name it (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT`), or from the machine's role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Where it answers, as a URL. `None`: at the region's usual address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// With which secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// The file that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key_file: Option<PathBuf>,
    /// Whether an endpoint without TLS may be talked to.
    pub allow_http: bool,
    /// Whether the bucket is part of the host's name.
    pub virtual_hosted: bool,
    /// A request that has no answer for so long is given up; so is one that fails again and again.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            secret_access_key_file: None,
            allow_http: false,
            virtual_hosted: false,
            timeout: Duration::from_secs(60),
        }
    }
}

/// Where the files are.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a local folder.
    Folder(PathBuf),
    /// In an object store.
    Store {
        /// Its root holds `raw/` and `late/`.
        store: Arc<dyn ObjectStore>,
        /// The root, as people know it: `s3://bucket/prefix`.
        root: String,
    },
}

impl Files {
    /// Refuses what cannot be.
    pub fn check(&self) -> anyhow::Result<()> {
        let s3 = &self.s3;
        if s3.secret_access_key.is_some() && s3.secret_access_key_file.is_some() {
            bail!("files.s3.secret_access_key and files.s3.secret_access_key_file are both set: keep one of them");
        }
        let has_secret = s3.secret_access_key.is_some() || s3.secret_access_key_file.is_some();
        match s3.access_key_id {
            Some(_) if !has_secret => {
                bail!(
                    "files.s3.access_key_id is set, but neither files.s3.secret_access_key nor secret_access_key_file"
                )
            }
            None if has_secret => {
                bail!("files.s3.secret_access_key or secret_access_key_file is set, but not files.s3.access_key_id")
            }
            _ => {}
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&s3.timeout) {
            bail!("files.s3.timeout is {:?}: it may be 100ms to 1h", s3.timeout);
        }
        self.parsed().map(|_| ())
    }

    /// The folder, or bucket and prefix.
    fn parsed(&self) -> anyhow::Result<Option<Url<'_>>> {
        let Some(url) = &self.url else { return Ok(None) };
        if let Some(path) = url.strip_prefix("file://") {
            return Ok(Some(Url::Folder(path)));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            bail!("files.url is {url:?}: give a folder as file:///path, or an object store as s3://bucket/prefix");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if bucket.is_empty() || !bucket.chars().all(legal) {
            bail!("files.url is {url:?}: {bucket:?} is no name of a bucket, as in s3://bucket/prefix");
        }
        let prefix = prefix.trim_end_matches('/');
        if let Err(why) = object_store::path::Path::parse(prefix) {
            bail!("files.url is {url:?}: {prefix:?} can be no prefix: {why}");
        }
        Ok(Some(Url::S3 { bucket, prefix }))
    }

    /// Whether they are in a local folder.
    pub fn is_local(&self) -> bool {
        !self.url.as_ref().is_some_and(|url| url.starts_with("s3://"))
    }

    /// Where they are. Nothing is asked or made yet.
    pub fn place(&self, data_dir: &Path) -> anyhow::Result<Place> {
        Ok(match self.parsed()? {
            None => Place::Folder(data_dir.join("files")),
            Some(Url::Folder(path)) => Place::Folder(PathBuf::from(path)),
            Some(Url::S3 { bucket, prefix }) => {
                let root = if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") };
                let store = self.s3.open(bucket).with_context(|| format!("files.url {root}"))?;
                let store: Arc<dyn ObjectStore> =
                    if prefix.is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) };
                Place::Store { store, root }
            }
        })
    }
}

/// What `files.url` says.
enum Url<'a> {
    Folder(&'a str),
    S3 { bucket: &'a str, prefix: &'a str },
}

impl S3 {
    fn open(&self, bucket: &str) -> anyhow::Result<object_store::aws::AmazonS3> {
        // The environment first: what is configured wins.
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        let secret = match &self.secret_access_key_file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("files.s3.secret_access_key_file: cannot read {}", file.display()))?;
                Some(text.trim_end_matches(['\n', '\r']).to_owned())
            }
            None => self.secret_access_key.as_ref().map(|secret| secret.0.clone()),
        };
        if let Some((key, secret)) = self.access_key_id.as_ref().zip(secret) {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        }
        let is_set =
            |name: &str| std::env::var(name).is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true"));
        let client = ClientOptions::new()
            .with_allow_http(self.allow_http || is_set("AWS_ALLOW_HTTP"))
            .with_timeout(self.timeout)
            .with_connect_timeout(self.timeout.min(CONNECT_TIMEOUT));
        if self.virtual_hosted {
            builder = builder.with_virtual_hosted_style_request(true);
        }
        builder
            .with_client_options(client)
            .with_retry(RetryConfig {
                max_retries: MOST_RETRIES,
                retry_timeout: self.timeout,
                ..RetryConfig::default()
            })
            // A file is only ever created.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .build()
            .context("the object store")
    }
}

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a request is tried again that failed by a passing fault, each time later, and no longer than [`S3::timeout`] in all.
const MOST_RETRIES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn files(url: &str) -> Files {
        Files { url: Some(url.to_owned()), ..Files::default() }
    }

    #[test]
    fn a_url_names_a_folder_or_a_bucket() {
        let folder = |files: Files| match files.place(Path::new("data")).unwrap() {
            Place::Folder(folder) => folder,
            Place::Store { root, .. } => panic!("{root}"),
        };
        assert_eq!(folder(Files::default()), Path::new("data/files"));
        assert_eq!(folder(files("file:///mnt/x")), Path::new("/mnt/x"));
        for (url, expected) in
            [("s3://clicks", "s3://clicks"), ("s3://clicks/", "s3://clicks"), ("s3://c-1.x/a/b/", "s3://c-1.x/a/b")]
        {
            let Place::Store { root, .. } = files(url).place(Path::new("data")).unwrap() else { panic!("{url}") };
            assert_eq!(root, expected);
        }
        assert!(files("file:///x").is_local() && Files::default().is_local() && !files("s3://clicks").is_local());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (url, part) in [
            ("/mnt/x", "file:///path"),
            ("gs://clicks", "s3://bucket/prefix"),
            ("s3://", "no name of a bucket"),
            ("s3://a b/c", "no name of a bucket"),
            ("s3://a/b//c", "no prefix"),
        ] {
            let error = files(url).check().expect_err(url).to_string();
            assert!(error.contains(part) && error.contains(url), "{error}");
        }
        let secret = || Some(Secret("hunter2".into()));
        for (s3, part) in [
            (S3 { access_key_id: Some("k".into()), ..S3::default() }, "neither files.s3.secret_access_key"),
            (S3 { secret_access_key: secret(), ..S3::default() }, "not files.s3.access_key_id"),
            (
                S3 { secret_access_key: secret(), secret_access_key_file: Some("f".into()), ..S3::default() },
                "keep one of them",
            ),
            (S3 { timeout: Duration::ZERO, ..S3::default() }, "files.s3.timeout"),
        ] {
            let error = Files { s3, ..Files::default() }.check().expect_err(part).to_string();
            assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let s3 = S3 {
            access_key_id: Some("k".into()),
            secret_access_key: Some(Secret("hunter2".into())),
            region: Some("eu-central-1".into()),
            ..S3::default()
        };
        let files = Files { s3, ..files("s3://clicks/p") };
        let place = files.place(Path::new("data")).unwrap();
        let Place::Store { store, .. } = &place else { panic!() };
        let shown = format!("{files:?} {place:?} {store}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
