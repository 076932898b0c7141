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

/// Runs the pending migrations of `M` with the defaults of [`Migrations`].
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

/// Runs and reverts the migrations of a `MigratorTrait`, on connections to the direct host.
///
/// If several replicas start together, one of them holds a Postgres advisory lock and runs each migration once; the others wait
/// and then find nothing pending. If that replica dies, the server frees the lock within seconds.
///
/// Session settings of a migration (search path, role, timeouts, temporary tables) end with it, and affect neither the history
/// nor the next migration. For that reason, the migrator's `migrations()` run one by one; its own `up` and `down` are not called.
#[derive(Clone, Debug)]
#[must_use]
pub struct Migrations {
    session: MigrationSession,
}

impl Migrations {
    /// Starts with the defaults: the direct host and the configured schema of `lakebase`.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            session: MigrationSession::new(lakebase),
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

    /// Runs the pending migrations, or the next `steps` of them, and returns their names.
    ///
    /// # Errors
    ///
    /// The error of a migration contains its name and the SQLSTATE. Earlier migrations stay applied.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future frees the lock after the running statement, which completes on the server. Its transaction, if the
    /// migration has one, is rolled back. Nothing else starts.
    pub async fn up<M: MigratorTrait>(
        &self,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        self.of::<M>().run(Action::Up(steps)).await
    }

    /// Reverts all applied migrations, or the last `steps` of them, the newest first, and returns their names.
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

    /// Drops all tables and types of the schema, then runs all migrations.
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

    /// Reverts all applied migrations, then runs all migrations.
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

    /// Reverts all applied migrations and drops the history.
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

    /// Returns each migration and whether it was applied. Changes nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// The connection failed, the schema is missing, or an applied migration is not in `M`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing, because it only reads.
    pub async fn status<M: MigratorTrait>(
        &self,
    ) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        self.of::<M>().read_status().await
    }

    /// Runs the pending migrations on `copy`, a branch or another copy of the database. Reports for each migration how long it
    /// took, which locks it held for how long, which tables it rewrote and why it failed, and how the schema has changed.
    /// The settings (schema, timeouts) are those of `self`. The database itself does not change.
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
    /// No other session should use the copy, because waiting for its locks would count as time of the migration. A second session
    /// polls the locks every 10 ms. In a migration without a transaction, shorter locks can be missed.
    ///
    /// # Errors
    ///
    /// The connection failed, or `copy` is the database itself. A migration that fails is part of the report: see
    /// [`Rehearsal::is_ok`].
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
    pub async fn rehearse<M: MigratorTrait>(&self) -> Result<Rehearsal, MigrationError> {
        let session = &self.session;
        let branch =
            TestBranch::of_own_expiring(&session.lakebase, session.rehearsal_expiry).await?;
        let report = self.rehearse_on::<M>(&branch.lakebase()).await;
        if let Err(error) = branch.finish().await {
            tracing::warn!(name: "lakebase.migration.branch_left", target: "lakebase::migration", error = %error.chain(), "the branch of a rehearsal is left to its expiry");
        }
        report
    }

    /// [Rehearses](Self::rehearse) the pending migrations, and runs them if none failed and `accept` returns true for the report.
    /// Returns their names. If none is pending, it creates no branch and does not call `accept`.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse) and [`up`](Self::up). Nothing runs on the database itself if a migration failed in
    /// rehearsal, if `accept` returned false, or if a migration is pending that was not rehearsed.
    ///
    /// # Cancel safety
    ///
    /// As [`rehearse`](Self::rehearse) and [`up`](Self::up).
    pub async fn run_after_rehearsal<M: MigratorTrait>(
        &self,
        accept: impl FnOnce(&Rehearsal) -> bool,
    ) -> Result<Vec<String>, MigrationError> {
        let status = self.status::<M>().await?;
        if status
            .iter()
            .all(|(_, status)| *status != MigrationStatus::Pending)
        {
            return Ok(Vec::new());
        }
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
