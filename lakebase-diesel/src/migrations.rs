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

mod session;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::{MigrationSession, Observer};
use lakebase_core::testing::TestBranch;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::field::Empty;

pub use lakebase_core::adapter::migration::{
    Change, Difference, HeldLock, IndexBuild, LockMode, MigrationError, Object, Position,
    Rehearsal, RehearsedMigration, Rewrite,
};

use crate::background;
use session::{BoxedMigration, Direction, Session};

/// Runs the pending ones of `migrations` with the defaults of [`Migrations`], and returns their names.
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

/// Runs and reverts diesel migrations, embedded or from a folder, on a connection to the direct host.
///
/// If several replicas start together, one of them holds a Postgres advisory lock and runs each migration once; the others wait
/// and then find nothing pending. If that replica dies, the server frees the lock within seconds.
///
/// Each migration runs in one transaction with its entry in the history, which is the table of diesel's command-line tool, unless
/// `run_in_transaction = false` is in its `metadata.toml`. Migrations written in Rust get a connection that can only run SQL; it
/// cannot be downcast to `PgConnection`.
///
/// Session settings of a migration (search path, role, timeouts, temporary tables) end with it, and affect neither the history
/// nor the next migration.
///
/// Works on both tokio runtimes, current-thread and multi-thread. For programs without async, see [`blocking`](Self::blocking).
#[derive(Clone)]
#[must_use]
pub struct Migrations {
    session: MigrationSession,
    on_progress: Arc<dyn Fn(Progress<'_>) + Send + Sync>,
}

/// An event for [`Migrations::on_progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Another replica has the lock.
    Waiting,
    /// A migration begins.
    #[non_exhaustive]
    Running {
        /// Its name.
        migration: &'a str,
        /// Its number in this run, from 1.
        number: usize,
        /// The number of migrations in this run.
        of: usize,
    },
    /// A migration has run.
    #[non_exhaustive]
    Ran {
        /// Its name.
        migration: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// A migration is being reverted.
    #[non_exhaustive]
    Reverting {
        /// Its name.
        migration: &'a str,
    },
    /// A migration is reverted.
    #[non_exhaustive]
    Reverted {
        /// Its name.
        migration: &'a str,
        /// How long it took.
        took: Duration,
    },
}

impl Migrations {
    /// Starts with the defaults: the direct host and the configured schema of `lakebase`.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            session: MigrationSession::new(lakebase),
            on_progress: Arc::new(|_| {}),
        }
    }

    /// Sets the connect timeout: by default 2 minutes, or the [`Lakebase`]'s own if that is longer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.session.lakebase = self.session.lakebase.with_connect_timeout(timeout);
        self
    }

    /// Sets how long to wait for the lock while another replica migrates: 10 minutes by default. With zero, it tries once.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.session.lock_timeout = timeout;
        self
    }

    /// Sets the schema of tables and history: by default the configured one (`LAKEBASE_SCHEMA`), or else the first on
    /// the role's search path. `public` stays on the search path behind it.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.session.schema = Some(schema.into());
        self
    }

    /// Sets when the platform deletes the branch of [`rehearse`](Self::rehearse) if this program was killed: after 6 hours by
    /// default, and 30 days at most. A rehearsal that takes longer loses its branch.
    pub fn rehearsal_expiry(mut self, expiry: Duration) -> Self {
        self.session.rehearsal_expiry = expiry;
        self
    }

    /// Sets whether to create a missing schema: false by default, when a missing schema is an error.
    pub fn create_schema(mut self, create: bool) -> Self {
        self.session.create_schema = create;
        self
    }

    /// Sets the role that runs the migrations (`SET ROLE`) and owns what they create, the history included: by default the role
    /// that logs in. Every member of a shared owner can migrate, for example another service principal on a branch.
    ///
    /// `lakebase grant ROLE --shared-owner OWNER` creates the owner and makes ROLE a member. If the login role is not a member,
    /// the error contains this command.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.session.owner = Some(owner.into());
        self
    }

    /// Sets a callback for progress events, which `tracing` gets as well. Events of a migration arrive on the thread that migrates.
    pub fn on_progress(mut self, report: impl Fn(Progress<'_>) + Send + Sync + 'static) -> Self {
        self.on_progress = Arc::new(report);
        self
    }

    /// Returns a version without async, whose functions block while a background thread does the work.
    pub fn blocking(self) -> Blocking {
        Blocking { migrations: self }
    }

    /// Returns the names of the pending migrations in order. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// The connection failed, the schema is missing, or the migrations cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing, because it only reads.
    pub async fn pending<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let settings = self.session.clone();
        self.in_session(self.session.reader_sql(), move |session| {
            session.block_on(|client| settings.has_schema(client))?;
            let pending = session.pending(&source)?;
            Ok(pending.iter().map(|one| one.name().to_string()).collect())
        })
        .await
    }

    /// Runs the pending migrations and returns their names.
    ///
    /// # Errors
    ///
    /// The error of a migration contains its name, the SQLSTATE, and the position or the number of the failed statement. Earlier
    /// migrations stay applied. If the session of the lock ends, the function returns at once, and the running migration completes
    /// in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future while it waits for the lock migrates nothing. A running migration completes in the background; the next
    /// ones do not start.
    pub async fn run<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = self.clone();
        self.under_lock(move |session| {
            let pending = session.pending(&source)?;
            me.apply(session, &pending, Direction::Up)
        })
        .await
    }

    /// Reverts the last `steps` migrations, the newest first, and returns their names.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and if one of them is not in `source`.
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
            let last = session.last_applied(&source, steps)?;
            me.apply(session, &last, Direction::Down)
        })
        .await
    }

    /// Reverts the last `steps` migrations and runs them again, in one transaction unless one of them must not run in a
    /// transaction. Returns their names in order. Progress events arrive before the transaction commits; treat them as provisional.
    ///
    /// # Errors
    ///
    /// As [`revert`](Self::revert). If the transaction fails, nothing has changed.
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
            let mut last = session.last_applied(&source, steps)?;
            let in_transaction = last.iter().all(|one| one.metadata().run_in_transaction());
            let mut redo = move |session: &mut Session| {
                me.apply(session, &last, Direction::Down)?;
                last.reverse();
                me.apply(session, &last, Direction::Up)
            };
            match in_transaction {
                true => session.transaction(redo),
                false => redo(session),
            }
        })
        .await
    }

    /// Runs the pending migrations on `copy`, a branch or another copy of the database. Reports for each migration how long it
    /// took, which locks it held for how long, which tables it rewrote and why it failed, and how the schema has changed.
    /// The settings (schema, timeouts, progress) are those of `self`. The database itself does not change.
    ///
    /// ```no_run
    /// # async fn run(migrations: diesel_migrations::EmbeddedMigrations) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use lakebase_diesel::{Lakebase, migrations::Migrations};
    ///
    /// let lakebase = Lakebase::from_env()?;
    /// let copy = lakebase.with_database("copy")?; // CREATE DATABASE copy TEMPLATE ..; or that of a branch
    /// let report = Migrations::new(&lakebase).rehearse_on(&copy, migrations).await?;
    /// println!("{report}");
    /// let blocks = report.blocking_locks(Duration::from_secs(1)).next().is_some();
    /// assert!(report.is_ok() && !blocks);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// No other session should use the copy, because waiting for its locks would count as time of the migration. A second session
    /// polls the locks every 10 ms. In a migration without a transaction, shorter locks can be missed.
    ///
    /// # Errors
    ///
    /// The connection failed, the migrations cannot be read, or `copy` is the database itself. A migration that fails is part of
    /// the report: see [`Rehearsal::is_ok`].
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run), on the copy.
    pub async fn rehearse_on<S>(
        &self,
        copy: &Lakebase,
        source: S,
    ) -> Result<Rehearsal, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let me = Self {
            session: self.session.on_copy(copy).await?,
            on_progress: Arc::clone(&self.on_progress),
        };
        let observer = Observer::start(&me.session).await?;
        let (there, watching) = (me.clone(), Arc::clone(&observer));
        let work = move |session: &mut Session| {
            let pending = session.pending(&source)?;
            let names = pending.iter().map(|one| one.name().to_string()).collect();
            session.block_on(|_| watching.plan(names))?;
            session.observer = Some(watching);
            there.apply(session, &pending, Direction::Up)
        };
        observer.finish(me.under_lock(work).await).await
    }

    /// Runs the pending migrations on a temporary branch, a copy of the data that is created in seconds and deleted at the end. See
    /// [`rehearse_on`](Self::rehearse_on) for the report.
    ///
    /// # Errors
    ///
    /// As [`rehearse_on`](Self::rehearse_on); if the branch cannot be created, which needs CAN MANAGE on the project; and if the
    /// configured host (`PGHOST`) is not that of the configured branch.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future deletes the branch in the background.
    pub async fn rehearse<S>(&self, source: S) -> Result<Rehearsal, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let session = &self.session;
        let branch =
            TestBranch::of_own_expiring(&session.lakebase, session.rehearsal_expiry).await?;
        let report = self.rehearse_on(&branch.lakebase(), source).await;
        if let Err(error) = branch.finish().await {
            tracing::warn!(name: "lakebase.migration.branch_left", target: "lakebase::migration", error = %error.chain(), "the branch of a rehearsal is left to its expiry");
        }
        report
    }

    /// [Rehearses](Self::rehearse) the pending migrations, and runs them if none failed and `accept` returns true for the report.
    /// Returns their names. If none is pending, it creates no branch and does not call `accept`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// # use diesel_migrations::EmbeddedMigrations;
    /// # const MIGRATIONS: EmbeddedMigrations = EmbeddedMigrations::new(&[]);
    /// use std::time::Duration;
    /// use lakebase_diesel::{Lakebase, migrations::Migrations};
    ///
    /// let lakebase = Lakebase::from_env()?;
    /// let ran = Migrations::new(&lakebase)
    ///     .run_after_rehearsal(|| MIGRATIONS, |report| {
    ///         println!("{report}");
    ///         report.blocking_locks(Duration::from_secs(1)).next().is_none()
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse) and [`run`](Self::run). Nothing runs on the database itself if a migration failed in
    /// rehearsal, if `accept` returned false, or if a migration is pending that was not rehearsed, because `source` has changed or
    /// another deployment has reverted it.
    ///
    /// # Cancel safety
    ///
    /// As [`rehearse`](Self::rehearse) and [`run`](Self::run).
    pub async fn run_after_rehearsal<S>(
        &self,
        source: impl Fn() -> S,
        accept: impl FnOnce(&Rehearsal) -> bool,
    ) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        if self.pending(source()).await?.is_empty() {
            return Ok(Vec::new());
        }
        let report = self.rehearse(source()).await?;
        report.allows(accept(&report))?;
        let (me, source) = (self.clone(), source());
        self.under_lock(move |session| {
            let pending = session.pending(&source)?;
            let names: Vec<_> = pending.iter().map(|one| one.name().to_string()).collect();
            report.covers(names.iter().map(String::as_str))?;
            me.apply(session, &pending, Direction::Up)
        })
        .await
    }

    async fn under_lock(
        &self,
        work: impl FnOnce(&mut Session) -> Result<Vec<String>, MigrationError> + Send + 'static,
    ) -> Result<Vec<String>, MigrationError> {
        let work = self.in_session(self.session.worker_sql(), |session| {
            session.create_history()?;
            work(session)
        });
        let waiting = || self.report(Progress::Waiting);
        self.session.locked(waiting, work).await
    }

    /// Runs `work` on a blocking thread, with a session that has run `setup`.
    async fn in_session(
        &self,
        setup: String,
        work: impl FnOnce(&mut Session) -> Result<Vec<String>, MigrationError> + Send + 'static,
    ) -> Result<Vec<String>, MigrationError> {
        let (client, connection) = self.session.connect().await?;
        let driver = tokio::spawn(connection);
        // Closed when this future is dropped.
        let (caller, _caller_waits) = oneshot::channel();
        self.session.become_owner(&client).await?;
        let schema = self.session.schema.as_deref();
        let mut session = Session::new(client, setup, schema, caller).await?;
        let outcome = tokio::task::spawn_blocking(move || work(&mut session)).await;
        let _ = driver.await;
        outcome.map_err(|error| MigrationError::new("stopped", false, &error))?
    }

    fn apply(
        &self,
        session: &mut Session,
        migrations: &[BoxedMigration],
        direction: Direction,
    ) -> Result<Vec<String>, MigrationError> {
        let mut done = Vec::new();
        for (before, migration) in migrations.iter().enumerate() {
            session.check_caller()?;
            let name = migration.name().to_string();
            self.report(match direction {
                Direction::Up => Progress::Running {
                    migration: &name,
                    number: before + 1,
                    of: migrations.len(),
                },
                Direction::Down => Progress::Reverting { migration: &name },
            });
            let began = Instant::now();
            let span = tracing::info_span!(
                target: "lakebase::migration",
                "lakebase.migration",
                migration = name,
                ?direction,
                error.type = Empty,
            );
            let applied = span.in_scope(|| session.apply(&**migration, direction));
            applied.map_err(|error| {
                span.record("error.type", error.sqlstate().unwrap_or("migration"));
                error.of(&name)
            })?;
            let (migration, took) = (name.as_str(), began.elapsed());
            self.report(match direction {
                Direction::Up => Progress::Ran { migration, took },
                Direction::Down => Progress::Reverted { migration, took },
            });
            done.push(name);
        }
        Ok(done)
    }

    fn report(&self, progress: Progress<'_>) {
        tracing::info!(name: "lakebase.migration.progress", target: "lakebase::migration", ?progress, "migrations");
        (self.on_progress)(progress);
    }
}

impl fmt::Debug for Migrations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrations")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// [`Migrations`] without async: see [`Migrations::blocking`].
#[derive(Debug)]
#[must_use]
pub struct Blocking {
    migrations: Migrations,
}

impl Blocking {
    /// As [`Migrations::pending`], errors included.
    pub fn pending<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.pending(source).await })
    }

    /// As [`Migrations::run`], errors included.
    pub fn run<S>(&self, source: S) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.run(source).await })
    }

    /// As [`Migrations::revert`], errors included.
    pub fn revert<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.revert(source, steps).await })
    }

    /// As [`Migrations::redo`], errors included.
    pub fn redo<S>(&self, source: S, steps: usize) -> Result<Vec<String>, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        self.block_on(move |migrations| async move { migrations.redo(source, steps).await })
    }

    /// As [`Migrations::rehearse_on`], errors included.
    pub fn rehearse_on<S>(&self, copy: &Lakebase, source: S) -> Result<Rehearsal, MigrationError>
    where
        S: MigrationSource<Pg> + Send + 'static,
    {
        let copy = copy.clone();
        self.block_on(move |migrations| async move { migrations.rehearse_on(&copy, source).await })
    }

    fn block_on<T, F>(
        &self,
        work: impl FnOnce(Migrations) -> F + Send + 'static,
    ) -> Result<T, MigrationError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, MigrationError>> + Send + 'static,
    {
        let migrations = self.migrations.clone();
        background::start(|done| async move {
            // The caller blocks until then.
            let _ = done.send(work(migrations).await);
        })?
    }
}
