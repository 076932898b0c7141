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

mod by_type;
#[cfg(feature = "cli")]
mod cli;
mod error;
mod lock;
mod run;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lakebase_core::Lakebase;
use sea_orm::DbErr;
use sea_orm_migration::{MigrationStatus, MigratorTrait, MigratorTraitSelf};
use tokio_postgres::Client;

#[cfg(feature = "cli")]
pub use cli::run_cli;
pub use error::MigrationError;

use crate::connect::connect_with;
use crate::connection::LakebaseConnection;
use by_type::ByType;
use lock::{Lock, WORK_LOCK};
use run::{Run, forth};

/// A sleeping compute, and the first login of a deployment, may take their time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// If this process dies in the middle of a long statement, the server notices.
const NOTICE_DEATH: (&str, &str) = ("client_connection_check_interval", "2s");

/// Runs what is pending of `M` on `db`, under a Postgres advisory lock, so that replicas that start
/// together run each migration once; the others wait and find nothing to do.
///
/// So what `db` was made with, its search path for example, counts for them. [`Migrations`] can do more, and
/// brings its own connections to the direct host. Use it behind a pooler, and where a migration may be given up
/// in the middle: a statement of yours goes on to its end on the server, and the next replica does not know.
///
/// # Errors
///
/// If there is no connection or no lock, or a migration fails; names it.
pub async fn up<M: MigratorTrait>(db: &LakebaseConnection) -> Result<(), MigrationError> {
    let mut lock = Lock::take(&with_time(db.lakebase())).await?;
    let migrator = ByType::<M>::new();
    let work = forth(&migrator, db, migrator.up(db, None));
    let outcome = lock.hold(work).await;
    lock.release().await;
    outcome
}

/// Runs and reverts the migrations of a `MigratorTrait`, on a connection of its own to the direct host.
///
/// Replicas that start together take turns under a Postgres advisory lock. If the one that has it dies,
/// the server notices within seconds, and the next one goes on. A statement that runs when a future is
/// dropped goes on to its end; the next one waits for that.
#[derive(Clone)]
#[must_use]
pub struct Migrations {
    lakebase: Lakebase,
    schema: Option<String>,
    create_schema: bool,
}

impl Migrations {
    /// On this Lakebase, in the schema of its configuration, with 2 minutes to connect.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            lakebase: with_time(lakebase).direct(),
            schema: lakebase.schema().map(str::to_owned),
            create_schema: false,
        }
    }

    /// Budget for each connection.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.lakebase = self.lakebase.with_connect_timeout(timeout);
        self
    }

    /// Where tables are made, the history included. `public` stays on the search path behind it.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = Some(schema.into());
        self
    }

    /// Creates the schema if it does not exist.
    pub fn create_schema(mut self, create: bool) -> Self {
        self.create_schema = create;
        self
    }

    /// Runs what is pending, or the next `steps` of it. Returns the names of those that were run.
    ///
    /// # Errors
    ///
    /// Names the migration and the SQLSTATE. Those before it stay.
    pub async fn up<M: MigratorTrait>(
        &self,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        self.of(&ByType::<M>::new()).up(steps).await
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
        self.of(&ByType::<M>::new()).down(steps).await
    }

    /// Drops all tables and types of the schema, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn fresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(&ByType::<M>::new()).fresh().await
    }

    /// Reverts everything, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn refresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(&ByType::<M>::new()).refresh().await
    }

    /// Reverts everything and drops the history.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    pub async fn reset<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of(&ByType::<M>::new()).reset().await
    }

    /// Each migration and whether it was applied. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// If there is no connection, or one that was applied is not in `M`.
    pub async fn status<M: MigratorTrait>(
        &self,
    ) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        self.of(&ByType::<M>::new()).status().await
    }

    /// The same with a value.
    fn of<'a, M: MigratorTraitSelf>(&'a self, migrator: &'a M) -> Run<'a, M> {
        Run {
            migrations: self,
            migrator,
        }
    }

    /// Whether the schema is there; an error if it is not and is not to be made either.
    async fn has_schema(&self) -> Result<bool, MigrationError> {
        let connected = self.lakebase.connect().await;
        let (client, connection) = connected.map_err(MigrationError::connecting)?;
        let session = tokio::spawn(connection);
        let is_there = self.find_schema(&client).await;
        drop(client);
        let _ = session.await;
        is_there
    }

    /// Connects and works under the lock. Afterwards it is free.
    async fn locked<T>(
        &self,
        work: impl AsyncFnOnce(&LakebaseConnection) -> Result<T, MigrationError>,
    ) -> Result<T, MigrationError> {
        let mut lock = Lock::take(&self.lakebase).await?;
        let entered = self.enter_schema(lock.client()).await;
        let outcome = match entered {
            Ok(()) => {
                let work = async {
                    let db = self.connect().await?;
                    let outcome = work(&db).await;
                    let _ = db.close().await;
                    outcome
                };
                lock.hold(work).await
            }
            Err(error) => Err(error),
        };
        lock.release().await;
        outcome
    }

    /// Makes the schema if that was asked for.
    async fn enter_schema(&self, client: &Client) -> Result<(), MigrationError> {
        if self.find_schema(client).await? {
            return Ok(());
        }
        let schema = self.quoted_schema().unwrap_or_default();
        let sql = format!("CREATE SCHEMA {schema}");
        let created = client.batch_execute(&sql).await;
        created.map_err(|error| MigrationError::session("cannot create the schema", &error))
    }

    /// Whether the schema is there; false only if it is to be made. Postgres would skip one that is not
    /// there or may not be used, and make everything in the next one.
    async fn find_schema(&self, client: &Client) -> Result<bool, MigrationError> {
        let Some(schema) = self.quoted_schema() else {
            return Ok(true);
        };
        let stopped = |text| Err(MigrationError::new("stopped", DbErr::Migration(text)));
        let sql = "SELECT to_regnamespace($1) IS NOT NULL";
        let found = client.query_one(sql, &[&schema]).await;
        let found =
            found.map_err(|error| MigrationError::session("cannot look for the schema", &error))?;
        if !found.get::<_, bool>(0) {
            if !self.create_schema {
                return stopped(format!(
                    "schema {schema} does not exist: create it, or ask for that with `create_schema`"
                ));
            }
            return Ok(false);
        }
        let sql = "SELECT has_schema_privilege($1, 'USAGE')";
        let allowed = client.query_one(sql, &[&self.schema]).await;
        let allowed = allowed
            .map_err(|error| MigrationError::session("cannot look at the schema", &error))?;
        if !allowed.get::<_, bool>(0) {
            return stopped(format!(
                "no right to use schema {schema}: its owner has to GRANT USAGE, CREATE ON SCHEMA {schema}, or choose a schema of its own"
            ));
        }
        Ok(true)
    }

    async fn connect(&self) -> Result<LakebaseConnection, MigrationError> {
        let mut options = crate::options();
        let mut setup = format!("SELECT pg_advisory_lock_shared({WORK_LOCK})");
        if let Some(schema) = self.quoted_schema() {
            setup.push_str(&format!("; SET search_path = {schema}, public"));
        }
        let setup: Arc<str> = setup.into();
        options
            .max_connections(2)
            .map_sqlx_postgres_opts(|options| options.options([NOTICE_DEATH]))
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
        let connected = connect_with(&self.lakebase, options).await;
        connected.map_err(MigrationError::connecting)
    }

    fn quoted_schema(&self) -> Option<String> {
        let schema = self.schema.as_deref()?;
        Some(format!("\"{}\"", schema.replace('"', "\"\"")))
    }
}

impl fmt::Debug for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrations")
            .field("lakebase", &self.lakebase)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

fn with_time(lakebase: &Lakebase) -> Lakebase {
    lakebase.with_connect_timeout(CONNECT_TIMEOUT.max(lakebase.connect_timeout()))
}
