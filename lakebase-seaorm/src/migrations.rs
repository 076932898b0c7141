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
mod run;

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::{MigrationSession, Observer};
use lakebase_core::testing::TestBranch;
use sea_orm_migration::{MigrationStatus, MigratorTrait};

#[cfg(feature = "cli")]
pub use cli::run_cli;
pub use lakebase_core::adapter::migration::{
    Change, Difference, HeldLock, IndexBuild, LockMode, MigrationError, Object, Position,
    Rehearsal, RehearsedMigration, Rewrite,
};

use run::{Action, Run};

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
/// the following migrations are where the configuration says. For that, the migrator's `migrations()` are run one by one;
/// its own `up` or `down` is not called.
#[derive(Clone, Debug)]
#[must_use]
pub struct Migrations {
    session: MigrationSession,
}

impl Migrations {
    /// On this Lakebase, in the schema of its configuration.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            session: MigrationSession::new(lakebase),
        }
    }

    /// Sets the budget for each connection: by default 2 minutes, or the [`Lakebase`]'s own if that is longer.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.session.lakebase = self.session.lakebase.with_connect_timeout(timeout);
        self
    }

    /// Sets how long to wait for other replicas that migrate: 10 minutes by default. With zero, the lock is tried
    /// once.
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

    /// Sets when the platform deletes the branch of [`rehearse`](Self::rehearse) if this program cannot, because it was
    /// killed: 6 hours by default. A rehearsal that takes longer loses its branch. The workspace has a limit, 30 days at most.
    pub fn rehearsal_expiry(mut self, expiry: Duration) -> Self {
        self.session.rehearsal_expiry = expiry;
        self
    }

    /// Creates the schema if it does not exist. Off by default: then a missing schema is an error.
    pub fn create_schema(mut self, create: bool) -> Self {
        self.session.create_schema = create;
        self
    }

    /// Runs the migrations as a shared owner (`SET ROLE`), so that what they create belongs to it, the history included:
    /// then each member may migrate, for example another service principal on a branch. By default they run as the role
    /// that logs in. Create the owner and its members with `lakebase grant ROLE --shared-owner OWNER`; a role that is no
    /// member gets an error with that command.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.session.owner = Some(owner.into());
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
        self.of::<M>().run(Action::Up(steps)).await
    }

    /// Reverts everything, or the last `steps`. Returns the names of those that were reverted, the newest
    /// first.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    ///
    /// # Cancel safety
    ///
    /// As [`up`](Self::up).
    pub async fn down<M: MigratorTrait>(
        &self,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        self.of::<M>().run(Action::Down(steps)).await
    }

    /// Drops all tables and types of the schema, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    ///
    /// # Cancel safety
    ///
    /// As [`up`](Self::up).
    pub async fn fresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of::<M>().run(Action::Fresh).await.map(drop)
    }

    /// Reverts everything, then runs everything.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    ///
    /// # Cancel safety
    ///
    /// As [`up`](Self::up).
    pub async fn refresh<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of::<M>().run(Action::Refresh).await.map(drop)
    }

    /// Reverts everything and drops the history.
    ///
    /// # Errors
    ///
    /// As [`up`](Self::up).
    ///
    /// # Cancel safety
    ///
    /// As [`up`](Self::up).
    pub async fn reset<M: MigratorTrait>(&self) -> Result<(), MigrationError> {
        self.of::<M>().run(Action::Reset).await.map(drop)
    }

    /// Each migration and whether it was applied. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// If there is no connection, or one that was applied is not in `M`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: it only reads.
    pub async fn status<M: MigratorTrait>(
        &self,
    ) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        self.of::<M>().read_status().await
    }

    /// Runs what is pending on `copy`, a branch or another copy of the database, and reports for each migration how long it
    /// took, which locks it held for how long, which tables it rewrote and why it failed; then how the schema has changed.
    /// The settings (schema, timeouts) are those of these `Migrations`; the database itself is not touched.
    ///
    /// ```no_run
    /// # async fn run<Migrator: sea_orm_migration::MigratorTrait>() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use lakebase_seaorm::{Lakebase, migrations::Migrations};
    ///
    /// let lakebase = Lakebase::from_env()?;
    /// let copy = lakebase.with_database("copy")?; // CREATE DATABASE copy TEMPLATE ..; or that of a branch
    /// let report = Migrations::new(&lakebase).rehearse_on::<Migrator>(&copy).await?;
    /// println!("{report}");
    /// let blocks = report.blocking_locks(Duration::from_secs(1)).next().is_some();
    /// assert!(report.is_ok() && !blocks);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Nobody else should work on the copy: waits for others would count as time of the migration. A second session polls
    /// the locks every 10 ms. For a migration without a transaction, shorter locks can be missed.
    ///
    /// # Errors
    ///
    /// If there could be no rehearsal: there is no connection, or `copy` is the database itself. A migration that fails is
    /// part of the report: see [`Rehearsal::is_ok`].
    ///
    /// # Cancel safety
    ///
    /// As [`up`](Self::up), on the copy.
    pub async fn rehearse_on<M: MigratorTrait>(
        &self,
        copy: &Lakebase,
    ) -> Result<Rehearsal, MigrationError> {
        let session = self.session.on_copy(copy).await?;
        let observer = Observer::start(&session).await?;
        let there = Self { session };
        let run = Run {
            observer: Some(&observer),
            ..there.of::<M>()
        };
        observer.finish(run.run(Action::Up(None)).await).await
    }

    /// Runs what is pending on a temporary branch of the target: a copy of its data that is made in seconds and deleted at the
    /// end. See [`rehearse_on`](Self::rehearse_on) for the report.
    ///
    /// # Errors
    ///
    /// As [`rehearse_on`](Self::rehearse_on), if the branch cannot be created (that needs CAN MANAGE on the project), and if the
    /// configured host (`PGHOST`) is not the one of the configured branch.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future deletes the branch in the background.
    pub async fn rehearse<M: MigratorTrait>(&self) -> Result<Rehearsal, MigrationError> {
        let MigrationSession {
            lakebase,
            rehearsal_expiry,
            ..
        } = &self.session;
        let branch = TestBranch::of_own_expiring(lakebase, *rehearsal_expiry).await?;
        let report = self.rehearse_on::<M>(&branch.lakebase()).await;
        if let Err(error) = branch.finish().await {
            tracing::warn!(name: "lakebase.migration.branch_left", target: "lakebase::migration", error = %error.chain(), "the branch of a rehearsal is left to its expiry");
        }
        report
    }

    /// [Rehearses](Self::rehearse) what is pending and then runs it, if no migration failed and `accept` returns true for
    /// the report. Returns the names of those that were run.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse) and [`up`](Self::up). If a migration failed in rehearsal, or `accept` returned false,
    /// nothing was run on the target. The same if a migration is pending there that was not rehearsed.
    ///
    /// # Cancel safety
    ///
    /// As [`rehearse`](Self::rehearse) and [`up`](Self::up).
    pub async fn run_after_rehearsal<M: MigratorTrait>(
        &self,
        accept: impl FnOnce(&Rehearsal) -> bool,
    ) -> Result<Vec<String>, MigrationError> {
        let report = self.rehearse::<M>().await?;
        report.allows(accept(&report))?;
        let run = Run {
            rehearsal: Some(&report),
            ..self.of::<M>()
        };
        run.run(Action::Up(None)).await
    }

    fn of<'a, M: MigratorTrait + 'a>(&'a self) -> Run<'a> {
        Run {
            session: &self.session,
            migrations: Box::new(M::migrations),
            history: M::migration_table_name(),
            observer: None,
            rehearsal: None,
        }
    }
}
