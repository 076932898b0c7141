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
use lakebase_core::Lakebase;
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use error::{MigrationError, Position};

use crate::background::Background;
use session::{Missing, Session};

/// A sleeping compute, and the first login of a deployment, may take their time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2 * 60);

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
/// Works on any tokio flavour; without async, see [`blocking`](Self::blocking).
#[derive(Clone)]
#[must_use]
pub struct Migrations {
    lakebase: Lakebase,
    connect_timeout: Duration,
    schema: Option<String>,
    create_schema: bool,
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
    /// On this Lakebase, in the schema of its configuration, with 2 minutes to connect.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            lakebase: lakebase.clone(),
            connect_timeout: CONNECT_TIMEOUT.max(lakebase.connect_timeout()),
            schema: None,
            create_schema: false,
            on_progress: Arc::new(|_| {}),
        }
    }

    /// Budget for the connection.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
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

    /// Called at each step, on the thread that migrates. `tracing` is told as well.
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
        let me = self.clone();
        let work = move |session: &mut Session| {
            let missing = if me.create_schema {
                Missing::Leave
            } else {
                Missing::Refuse
            };
            let pending = if me.enter_schema(session, missing)? {
                pending(session, source)?
            } else {
                all(source)?
            };
            Ok(pending.iter().map(|migration| name(&**migration)).collect())
        };
        self.with_session(work).await
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
    /// What runs when the future is dropped goes on to its end in the background.
    pub async fn run<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = self.clone();
        self.with_session(move |session| {
            me.prepare(session)?;
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
        self.with_session(move |session| {
            me.prepare(session)?;
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
        self.with_session(move |session| {
            me.prepare(session)?;
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

    /// Connects, works on a thread that may block, and says goodbye, so that the lock is free afterwards.
    async fn with_session<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, MigrationError> + Send + 'static,
    ) -> Result<T, MigrationError> {
        let lakebase = self
            .lakebase
            .with_connect_timeout(self.connect_timeout)
            .direct();
        let (client, connection) = lakebase
            .connect()
            .await
            .map_err(MigrationError::connecting)?;
        let driver = tokio::spawn(connection);
        let mut session = Session::new(client, Handle::current());
        let working = tokio::task::spawn_blocking(move || work(&mut session));
        let outcome = working
            .await
            .map_err(|error| MigrationError::because("stopped", error))?;
        let _ = driver.await;
        outcome
    }

    fn prepare(&self, session: &mut Session) -> Result<(), MigrationError> {
        session.lock(|| self.tell(Progress::Waiting))?;
        let missing = if self.create_schema {
            Missing::Create
        } else {
            Missing::Refuse
        };
        self.enter_schema(session, missing)?;
        session.make_history()
    }

    fn enter_schema(&self, session: &Session, missing: Missing) -> Result<bool, MigrationError> {
        match self.schema.as_deref().or_else(|| self.lakebase.schema()) {
            Some(schema) => session.enter_schema(schema, missing),
            None => Ok(true),
        }
    }

    fn run_all(
        &self,
        session: &mut Session,
        migrations: &[Box<dyn Migration<Pg>>],
    ) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for (before, migration) in migrations.iter().enumerate() {
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
            .field("lakebase", &self.lakebase)
            .field("schema", &self.schema)
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
        let ran = Background::default().run(async move { Ok(work(migrations).await) });
        ran.map_err(MigrationError::connecting)?
    }
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
