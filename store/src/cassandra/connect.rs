//! The way to the cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::{Session, TlsContext};
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError, NewSessionError,
};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;

use super::error::OpenError;
use super::options::{Options, Tls};
use super::schema;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a read may take, all attempts together. Who asked is answered within twice that.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// When a read is asked of a second node besides: the first may hang.
const ASK_ANOTHER_AFTER: Duration = Duration::from_millis(300);

/// How long one batch may take: longer than the nodes give themselves (2 s), so that what they say is heard.
const WRITE_WITHIN: Duration = Duration::from_secs(4);

/// How long changes of the schema may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);

/// How long a node may be silent on a connection before it is given up.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// What reads and writes have in common, each.
#[derive(Debug, Clone)]
pub(super) struct Profiles {
    pub(super) read: ExecutionProfileHandle,
    pub(super) write: ExecutionProfileHandle,
}

impl Profiles {
    pub(super) fn new(options: &Options) -> Self {
        let policy = || {
            let policy = DefaultPolicy::builder().token_aware(true).permit_dc_failover(false);
            match &options.local_dc {
                Some(dc) => policy.prefer_datacenter(dc.clone()).build(),
                None => policy.build(),
            }
        };
        let serial = Some(schema::serial(options.write));
        let read = ExecutionProfile::builder()
            .consistency(options.read.of_driver())
            .request_timeout(Some(READ_WITHIN))
            .load_balancing_policy(policy())
            .speculative_execution_policy(Some(Arc::new(SimpleSpeculativeExecutionPolicy {
                max_retry_count: 1,
                retry_interval: ASK_ANOTHER_AFTER,
            })));
        let write = ExecutionProfile::builder()
            .consistency(options.write.of_driver())
            .serial_consistency(serial)
            .request_timeout(Some(WRITE_WITHIN))
            .load_balancing_policy(policy());
        Self { read: read.build().into_handle(), write: write.build().into_handle() }
    }
}

/// Connects to the cluster.
pub(super) async fn connect(options: &Options) -> Result<Session, OpenError> {
    let usual = ExecutionProfile::builder().request_timeout(Some(CHANGE_WITHIN));
    let policy = DefaultPolicy::builder().permit_dc_failover(false);
    let policy = match &options.local_dc {
        Some(dc) => policy.prefer_datacenter(dc.clone()).build(),
        None => policy.build(),
    };
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .connection_timeout(CONNECT_WITHIN)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .keyspaces_to_fetch([options.keyspace.as_str(), schema::ALWAYS_THERE])
        .default_execution_profile_handle(usual.load_balancing_policy(policy).build().into_handle());
    if let Some(login) = &options.login {
        builder = builder.user(&login.user, &login.password);
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(TlsContext::Rustls023(Arc::new(client_config(tls)?))));
    }
    let session = builder.build().await.map_err(|error| explain(options, &error))?;
    check_local_dc(&session, options)?;
    Ok(session)
}

/// Without this, every request would find that there is no node for it.
fn check_local_dc(session: &Session, options: &Options) -> Result<(), OpenError> {
    let Some(local) = &options.local_dc else { return Ok(()) };
    let state = session.get_cluster_state();
    let mut names: Vec<&str> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    if names.contains(&local.as_str()) {
        return Ok(());
    }
    names.sort_unstable();
    names.dedup();
    let why = format!("there is no data centre {local:?}: there are {}", names.join(", "));
    Err(OpenError::Setting { setting: "local_dc", why })
}

fn client_config(tls: &Tls) -> Result<ClientConfig, OpenError> {
    let wrong =
        |setting, path: &Path, why: String| OpenError::Setting { setting, why: format!("{}: {why}", path.display()) };
    let certificates = |setting, path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => {
                Err(wrong(setting, path, "there is no certificate (PEM) in it".to_owned()))
            }
            Ok(found) => Ok(found),
            Err(error) => Err(wrong(setting, path, error.to_string())),
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", &tls.ca)? {
        roots.add(certificate).map_err(|error| wrong("tls.ca", &tls.ca, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls.ca", &tls.ca, error.to_string()))?
        .with_root_certificates(roots);
    match &tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates("tls.certificate", certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("tls.key", key, error.to_string()))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| wrong("tls.key", key, error.to_string()))
        }
    }
}

/// What to do about a connection that was not made.
fn explain(options: &Options, error: &NewSessionError) -> OpenError {
    let setting = |setting, why: &str| OpenError::Setting { setting, why: why.to_owned() };
    let mut why = error.to_string();
    if let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: error,
    })) = error
    {
        match error {
            ConnectionError::ConnectionSetupRequestError(refused) => match refused.get_error() {
                ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, _) => {
                    return setting("user", "Cassandra refused this user with this password");
                }
                ConnectionSetupRequestErrorKind::MissingAuthentication => {
                    return setting(
                        "user",
                        "the nodes ask for a user and a password: set store.user and store.password_file",
                    );
                }
                _ => {}
            },
            ConnectionError::IoError(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                return setting("tls", &format!("the nodes and this program do not agree on TLS: {error}"));
            }
            _ => {}
        }
        why = error.to_string();
    }
    if options.tls.is_none() {
        why += " (if the nodes speak TLS only, set store.tls)";
    }
    OpenError::Unreachable { nodes: options.nodes.clone(), why }
}
