//! diesel migrations, safe from many replicas.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! # use diesel_migrations::EmbeddedMigrations;
//! # const MIGRATIONS: EmbeddedMigrations = EmbeddedMigrations::new(&[]);
//! use lakebase_diesel::{Lakebase, migrations};
//!
//! // const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
//! let lakebase = Lakebase::from_env()?;
//! migrations::run_pending(&lakebase, MIGRATIONS).await?;
//! # Ok(())
//! # }
//! ```

mod error;
mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel_migrations::MigrationHarness as _;
use lakebase_core::adapter::migration::MigrationSession;
use lakebase_core::{Connection, Lakebase};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_postgres::Client;

pub use error::{MigrationError, Position};

use crate::background;
use session::Session;

/// Runs what is pending of `migrations` with the defaults of [`Migrations`], and returns the names of those
/// that were run.
///
/// # Errors
///
/// As [`Migrations::run`].
///
/// # Cancel safety
///
/// As [`Migrations::run`].
pub async fn run_pending<S>(
    lakebase: &Lakebase,
    migrations: S,
) -> Result<Vec<String>, MigrationError>
where
    S: MigrationSource<Pg> + Send + 'static,
{
    Migrations::new(lakebase).run(migrations).await
}

/// Runs and reverts migrations, embedded ones and folders alike, on one connection of its own to the direct
/// host.
///
/// Replicas that start together take turns under a Postgres advisory lock: each migration runs once, the
/// others wait and find nothing to do. If the one that has the lock dies, the server notices within
/// seconds, and the next one goes on.
///
/// Each migration runs in a transaction together with its entry in the history (the table of diesel and
/// its command-line tool), unless its `metadata.toml` says otherwise. Migrations written in Rust get a
/// connection that runs SQL; it is none of diesel's types to downcast to.
///
/// What a migration sets in its session (search path, role, timeouts, temporary tables) ends with it: the history and
/// the following migrations are where the configuration says.
///
/// Works on any tokio flavour; without async, see [`blocking`](Self::blocking).
#[derive(Clone)]
#[must_use]
pub struct Migrations {
    settings: MigrationSession,
    on_progress: Arc<dyn Fn(Progress<'_>) + Send + Sync>,
}

/// What migrations are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Another replica has the lock.
    Waiting,
    /// One begins.
    Running {
        /// Its name.
        migration: &'a str,
        /// Its number among those to run, from 1.
        number: usize,
        /// How many there are to run.
        of: usize,
    },
    /// It is done.
    Ran {
        /// Its name.
        migration: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// One is being reverted.
    Reverting {
        /// Its name.
        migration: &'a str,
    },
    /// It is reverted.
    Reverted {
        /// Its name.
        migration: &'a str,
        /// How long it took.
        took: Duration,
    },
}

impl Migrations {
    /// On this Lakebase, in the schema of its configuration.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            settings: MigrationSession::new(lakebase),
            on_progress: Arc::new(|_| {}),
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

    /// Calls `tell` at each step; steps of a migration on the thread that migrates. `tracing` reports them as well.
    pub fn on_progress(mut self, tell: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        self.on_progress = Arc::new(tell);
        self
    }

    /// The same for programs without async: a thread of its own does what is.
    pub fn blocking(self) -> Blocking {
        Blocking { migrations: self }
    }

    /// Names of what has not been run yet, in their order. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// If there is no connection, or the migrations cannot be read.
    pub async fn pending<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let cannot = |error| MigrationError::core("cannot be listed", error);
        let (client, connection) = self.connect().await?;
        let driver = tokio::spawn(connection);
        let names = |all: Vec<Box<dyn Migration<Pg>>>| all.iter().map(|one| name(&**one)).collect();
        let pending = if self.settings.has_schema(&client).await.map_err(cannot)? {
            let mut session = Session::new(client, &self.settings.setup_sql()).await?;
            blocking(move || Ok(names(pending(&mut session, source)?))).await
        } else {
            drop(client);
            blocking(move || Ok(names(all(source)?))).await
        };
        let _ = driver.await;
        pending
    }

    /// Runs what is pending and returns the names of those that were run.
    ///
    /// # Errors
    ///
    /// Names the migration, the SQLSTATE and the place in it, or which of its statements it was. Those before it
    /// stay.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while it waits for other replicas gives up its place: nothing is migrated later. A migration
    /// that runs at that time goes on to its end in the background; those after it do not start.
    pub async fn run<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = self.clone();
        self.under_lock(move |session| {
            let pending = pending(session, source)?;
            me.run_all(session, &pending)
        })
        .await
    }

    /// Reverts the last `steps` migrations, the newest first, and returns their names.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and if one that was run is not in `source`.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn revert<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = self.clone();
        self.under_lock(move |session| {
            let last = last(session, &source, steps)?;
            me.revert_all(session, &last)
        })
        .await
    }

    /// Reverts the last `steps` migrations and runs them again, in one transaction unless one of them asks for
    /// none; returns their names in that order. Until it has returned, nothing counts of what progress is told.
    ///
    /// # Errors
    ///
    /// As [`revert`](Self::revert), but nothing is changed then.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn redo<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = self.clone();
        self.under_lock(move |session| {
            let mut last = last(session, &source, steps)?;
            let is_one = last.iter().all(|one| one.metadata().run_in_transaction());
            session.in_transaction(is_one, |session| {
                me.revert_all(session, &last)?;
                last.reverse();
                me.run_all(session, &last)
            })
        })
        .await
    }

    async fn connect(&self) -> Result<(Client, Connection), MigrationError> {
        let connected = self.settings.connect().await;
        connected.map_err(|error| MigrationError::core("cannot connect", error))
    }

    /// Takes the lock, works on a thread that may block, and returns when the lock is free again.
    async fn under_lock<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, MigrationError> + Send + 'static,
    ) -> Result<T, MigrationError> {
        let session = self.connect().await?;
        let waiting = self.settings.lock(session, || self.tell(Progress::Waiting));
        let lock = waiting.await;
        let lock = lock.map_err(|error| MigrationError::core("cannot start", error))?;
        let (client, connection) = self.connect().await?;
        let driver = tokio::spawn(connection);
        let (caller, given_up) = oneshot::channel();
        let mut session = Session::new(client, &self.settings.worker_sql()).await?;
        session.stop_when(given_up, lock);
        let outcome = blocking(move || {
            session.make_history()?;
            let outcome = work(&mut session);
            session.release();
            outcome
        })
        .await;
        drop(caller);
        let _ = driver.await;
        outcome
    }

    fn run_all(
        &self,
        session: &mut Session,
        migrations: &[Box<dyn Migration<Pg>>],
    ) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for (before, migration) in migrations.iter().enumerate() {
            session.may_go_on()?;
            let name = name(&**migration);
            self.tell(Progress::Running {
                migration: &name,
                number: before + 1,
                of: migrations.len(),
            });
            let began = Instant::now();
            if let Err(error) = session.run_migration(migration) {
                return Err(session.explain(error).of(&name));
            }
            let took = began.elapsed();
            self.tell(Progress::Ran {
                migration: &name,
                took,
            });
            done.push(name);
        }
        Ok(done)
    }

    fn revert_all(
        &self,
        session: &mut Session,
        migrations: &[Box<dyn Migration<Pg>>],
    ) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for migration in migrations {
            session.may_go_on()?;
            let name = name(&**migration);
            self.tell(Progress::Reverting { migration: &name });
            let began = Instant::now();
            if let Err(error) = session.revert_migration(migration) {
                return Err(session.explain(error).of(&name));
            }
            let took = began.elapsed();
            self.tell(Progress::Reverted {
                migration: &name,
                took,
            });
            done.push(name);
        }
        Ok(done)
    }

    fn tell(&self, progress: Progress<'_>) {
        tracing::info!(?progress, "migrations");
        (self.on_progress)(progress);
    }
}

impl fmt::Debug for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrations")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// [`Migrations`] without async.
#[derive(Debug)]
#[must_use]
pub struct Blocking {
    migrations: Migrations,
}

impl Blocking {
    /// As [`Migrations::pending`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pending<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.pending(source).await })
    }

    /// As [`Migrations::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.run(source).await })
    }

    /// As [`Migrations::revert`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn revert<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.revert(source, steps).await })
    }

    /// As [`Migrations::redo`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn redo<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.redo(source, steps).await })
    }

    fn block_on<F>(
        &self,
        work: impl FnOnce(Migrations) -> F + Send + 'static,
    ) -> Result<Vec<String>, MigrationError>
    where
        F: Future<Output = Result<Vec<String>, MigrationError>> + Send + 'static,
    {
        let migrations = self.migrations.clone();
        let ran = background::start(|done| async move {
            // Nobody listens any more if the thread is gone.
            let _ = done.send(work(migrations).await);
        });
        ran.map_err(|error| MigrationError::core("cannot connect", error))?
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MigrationError> + Send + 'static,
) -> Result<T, MigrationError> {
    let stopped = |error| MigrationError::because("stopped", error);
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

fn name(migration: &dyn Migration<Pg>) -> String {
    migration.name().to_string()
}

fn pending<S: MigrationSource<Pg>>(
    session: &mut Session,
    source: S,
) -> Result<Vec<Box<dyn Migration<Pg>>>, MigrationError> {
    let found = session.pending_migrations(source);
    found.map_err(|error| session.explain(error))
}

/// In their order.
fn all<S: MigrationSource<Pg>>(source: S) -> Result<Vec<Box<dyn Migration<Pg>>>, MigrationError> {
    let unreadable = |error| MigrationError::because("cannot be read", error);
    let mut all = source.migrations().map_err(unreadable)?;
    all.sort_by(|one, other| one.name().version().cmp(&other.name().version()));
    Ok(all)
}

/// The newest first.
fn last<S: MigrationSource<Pg>>(
    session: &mut Session,
    source: &S,
    steps: usize,
) -> Result<Vec<Box<dyn Migration<Pg>>>, MigrationError> {
    let applied = session.applied_migrations();
    let applied = applied.map_err(|error| session.explain(error))?;
    let unreadable = |error| MigrationError::because("cannot be read", error);
    let mut known = source.migrations().map_err(unreadable)?;
    applied
        .iter()
        .take(steps)
        .map(|version| {
            let at = known
                .iter()
                .position(|migration| migration.name().version() == *version);
            at.map(|at| known.swap_remove(at)).ok_or_else(|| {
                MigrationError::new("was run, but is not here to be reverted")
                    .of(&version.to_string())
            })
        })
        .collect()
}
