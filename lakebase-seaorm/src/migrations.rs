//! SeaORM migrations, safe from many replicas.
//!
//! ```no_run
//! # use sea_orm_migration::MigratorTrait;
//! # async fn run<Migrator: MigratorTrait>() -> Result<(), Box<dyn std::error::Error>> {
//! use lakebase_seaorm::{Lakebase, migrations::Migrations};
//!
//! let lakebase = Lakebase::from_env()?;
//! let migrations = Migrations::new(&lakebase).schema("app").create_schema(true);
//! migrations.up::<Migrator>(None).await?;
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cli")]
mod cli;
mod error;
mod isolated;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::MigrationSession;
use sea_orm::DatabaseConnection;
use sea_orm_migration::{MigrationStatus, MigratorTrait};

#[cfg(feature = "cli")]
pub use cli::run_cli;
pub use error::MigrationError;

use crate::connect::connect_with;
use isolated::Isolated;
use run::Run;

/// Runs what is pending of `M`, in the configured schema: [`Migrations::up`] with the defaults.
///
/// # Errors
///
/// As [`Migrations::up`].
///
/// # Cancel safety
///
/// As [`Migrations::up`].
pub async fn up<M: MigratorTrait>(lakebase: &Lakebase) -> Result<(), MigrationError> {
    Migrations::new(lakebase).up::<M>(None).await.map(drop)
}

/// Runs and reverts the migrations of a `MigratorTrait`, on connections of its own to the direct host.
///
/// Replicas that start together take turns under a Postgres advisory lock. If the one that has it dies,
/// the server notices within seconds, and the next one goes on. A statement that runs when a future is
/// dropped goes on to its end; the next one waits for that.
///
/// What a migration sets in its session (search path, role, timeouts, temporary tables) ends with it: the history and
/// the following migrations are where the configuration says. For that, SeaORM runs the migrator's `migrations()` in
/// its own way; a migrator that implements `up` or `down` itself is not asked for those.
#[derive(Clone)]
#[must_use]
pub struct Migrations {
    settings: MigrationSession,
}

impl Migrations {
    /// On this Lakebase, in the schema of its configuration.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            settings: MigrationSession::new(lakebase),
        }
    }

    /// Sets the budget for each connection: by default 2 minutes, or the [`Lakebase`]'s own if that is longer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.set_connect_timeout(timeout);
        self
    }

    /// Sets how long to wait for other replicas that migrate: 10 minutes by default. With zero, the lock is tried
    /// once.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.settings.set_lock_timeout(timeout);
        self
    }

    /// Sets the schema of tables and history: by default the configured one (`LAKEBASE_SCHEMA`), or else the first on
    /// the role's search path. `public` stays on the search path behind it.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.settings.set_schema(schema.into());
        self
    }

    /// Creates the schema if it does not exist. Off by default: then a missing schema is an error.
    pub fn create_schema(mut self, create: bool) -> Self {
        self.settings.set_create_schema(create);
        self
    }

    /// Runs what is pending, or the next `steps` of it. Returns the names of those that were run.
    ///
    /// # Errors
    ///
    /// Names the migration and the SQLSTATE. Those before it stay.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees its place among the replicas. A statement that runs at that time goes on to its end
    /// on the server, and is then rolled back if its migration has a transaction; nothing is started after it.
    pub async fn up<M: MigratorTrait>(
        &self,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        self.of(Isolated::of_type::<M>()).up(steps).await
    }

    /// Reverts everything, or the last `steps`. Returns the names of those that were reverted, the newest
    /// first.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn down<M: MigratorTrait>(
        &self,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        self.of(Isolated::of_type::<M>()).down(steps).await
    }

    /// Drops all tables and types of the schema, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn fresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(Isolated::of_type::<M>()).fresh().await
    }

    /// Reverts everything, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn refresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(Isolated::of_type::<M>()).refresh().await
    }

    /// Reverts everything and drops the history.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn reset<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(Isolated::of_type::<M>()).reset().await
    }

    /// Each migration and whether it was applied. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// If there is no connection, or one that was applied is not in `M`.
    pub async fn status<M: MigratorTrait>(
        &self,
    ) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        self.of(Isolated::of_type::<M>()).status().await
    }

    fn of<'a>(&'a self, migrator: Isolated<'a>) -> Run<'a> {
        Run {
            migrations: self,
            migrator,
        }
    }

    /// Whether the schema is there; an error if it is not and is not to be made either.
    async fn has_schema(&self) -> Result<bool, MigrationError> {
        let look = async {
            let (client, connection) = self.settings.connect().await?;
            let session = tokio::spawn(connection);
            let is_there = self.settings.has_schema(&client).await;
            drop(client);
            let _ = session.await;
            is_there
        };
        look.await
            .map_err(|error| MigrationError::core("cannot be listed", error))
    }

    /// Connects and works under the lock. Afterwards it is free.
    async fn locked<T>(
        &self,
        work: impl AsyncFnOnce(&DatabaseConnection) -> Result<T, MigrationError>,
    ) -> Result<T, MigrationError> {
        let session = self.settings.connect().await;
        let session = session.map_err(|error| MigrationError::core("cannot connect", error))?;
        let waits = || tracing::info!("another replica migrates, waiting");
        let lock = self.settings.lock(session, waits).await;
        let mut lock = lock.map_err(|error| MigrationError::core("cannot start", error))?;
        let work = async {
            let db = self.connect(self.settings.worker_sql()).await?;
            let outcome = work(&db).await;
            let _ = db.close().await;
            outcome
        };
        let outcome = lock.hold(work).await;
        lock.release().await;
        outcome.map_err(|error| MigrationError::core("stopped", error))?
    }

    /// Each session runs `setup` first.
    async fn connect(&self, setup: String) -> Result<DatabaseConnection, MigrationError> {
        let setup: Arc<str> = setup.into();
        let mut options = crate::options();
        // A migration without a transaction may open one of its own beside it.
        options
            .max_connections(2)
            .map_sqlx_postgres_pool_opts(move |pool| {
                let setup = Arc::clone(&setup);
                pool.after_connect(move |connection, _| {
                    let setup = sqlx::AssertSqlSafe(setup.to_string());
                    Box::pin(async move {
                        sqlx::raw_sql(setup).execute(connection).await?;
                        Ok(())
                    })
                })
            });
        let connected = connect_with(self.settings.lakebase(), options).await;
        connected.map_err(|error| MigrationError::core("cannot connect", error))
    }
}

impl fmt::Debug for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrations")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
