//! `clickmill schema`.

use clickmill_store::cassandra::{self, OpenError};

use crate::Misused;
use crate::config::{Config, StoreKind};

/// Wrong settings end the program with another status than a cluster that is away.
pub(crate) fn explain(error: OpenError) -> anyhow::Error {
    if error.is_lasting() { Misused(error.into()).into() } else { error.into() }
}

/// `clickmill schema create`: makes the keyspace and its tables in Cassandra.
#[allow(clippy::print_stdout)]
pub(crate) fn create(config: &Config, dry_run: bool) -> anyhow::Result<()> {
    if config.store.kind != StoreKind::Cassandra {
        return Err(Misused(anyhow::anyhow!(
            "store.kind is not \"cassandra\": the embedded store makes its tables itself"
        ))
        .into());
    }
    let options = config.store.cassandra(&config.retention)?;
    let statements = cassandra::create_schema(&options, dry_run).map_err(explain)?;
    for statement in &statements {
        println!("{statement};");
    }
    let keyspace = &options.keyspace;
    match (statements.is_empty(), dry_run) {
        (true, _) => println!("-- the keyspace {keyspace} has everything"),
        (false, true) => println!("-- the keyspace {keyspace} would be made so"),
        (false, false) => println!("-- the keyspace {keyspace} is ready"),
    }
    Ok(())
}
