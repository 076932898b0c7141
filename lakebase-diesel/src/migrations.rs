//! diesel migrations, safe from many replicas.

use std::error::Error as StdError;
use std::fmt;

use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl as _;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::MigrationHarness as _;
use lakebase_core::{Lakebase, MIGRATION_LOCK};

use crate::connect::connect;

/// Migrations could not be run.
#[derive(Debug)]
pub struct MigrationError {
    step: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

impl MigrationError {
    fn at(step: &'static str) -> impl Fn(Box<dyn StdError + Send + Sync>) -> Self {
        move |source| Self { step, source }
    }
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migrations: {}", self.step)
    }
}

impl StdError for MigrationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// Runs what is pending of `migrations` and returns the versions that were run.
///
/// Takes a Postgres advisory lock first, on the connection that migrates, so that replicas that
/// start together run each migration once; the others wait and find nothing to do. Works on any
/// tokio flavour.
///
/// ```no_run
/// # async fn run(lakebase: lakebase_diesel::Lakebase) -> Result<(), Box<dyn std::error::Error>> {
/// # use diesel_migrations::EmbeddedMigrations;
/// # const MIGRATIONS: EmbeddedMigrations = EmbeddedMigrations::new(&[]);
/// // const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// lakebase_diesel::migrations::run_pending(&lakebase, MIGRATIONS).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If there is no connection or no lock, or a migration fails; the cause is the source.
///
/// # Cancel safety
///
/// A migration that runs when the future is dropped runs to its end in the background.
pub async fn run_pending<S>(
    lakebase: &Lakebase,
    migrations: S,
) -> Result<Vec<String>, MigrationError>
where
    S: MigrationSource<Pg> + Send + 'static,
{
    let mut connection = connect(lakebase)
        .await
        .map_err(|error| MigrationError::at("cannot connect")(error.into()))?;
    // Ends with the session, whatever happens.
    diesel::sql_query("SELECT pg_advisory_lock($1)")
        .bind::<BigInt, _>(MIGRATION_LOCK)
        .execute(&mut connection)
        .await
        .map_err(|error| MigrationError::at("cannot take the advisory lock")(error.into()))?;
    let run = tokio::task::spawn_blocking(move || {
        let mut connection: AsyncConnectionWrapper<_> = connection.into();
        let versions = connection.run_pending_migrations(migrations)?;
        Ok(versions.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let versions = run
        .await
        .map_err(|error| MigrationError::at("stopped")(error.into()))?
        .map_err(MigrationError::at("a migration failed"))?;
    tracing::info!(count = versions.len(), "ran pending migrations");
    Ok(versions)
}
