//! Runs and reverts the migrations of one migrator, and writes SeaORM's history.

use std::error::Error as StdError;
use std::sync::Arc;

use lakebase_core::adapter::migration::{
    DISCARD_TEMPORARY, MigrationError, MigrationSession, Observer, RESET_SESSION, Rehearsal,
};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, DynIden, RuntimeErr, Statement,
    TransactionTrait as _,
};
use sea_orm_migration::{MigrationStatus, MigrationTrait, MigratorTraitSelf, SchemaManager};
use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgErrorPosition, PgPool, Postgres};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::connect::connect_with;
use crate::error::{driver_error, is_transient};

/// The migrations and the history table of a migrator, and the settings of the run.
pub(super) struct Run<'a> {
    pub(super) session: &'a MigrationSession,
    pub(super) migrations: Box<dyn Fn() -> Vec<Box<dyn MigrationTrait>> + Send + Sync + 'a>,
    pub(super) history: DynIden,
    /// Of a rehearsal.
    pub(super) observer: Option<&'a Observer>,
    /// If set, only migrations of this rehearsal may run.
    pub(super) rehearsal: Option<&'a Rehearsal>,
}

/// For SeaORM's queries of the history.
impl MigratorTraitSelf for Run<'_> {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        (self.migrations)()
    }

    fn migration_table_name(&self) -> DynIden {
        self.history.clone()
    }
}

/// A number is that of the next pending or the last applied migrations; without one, it means all of them.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Up(Option<u32>),
    Down(Option<u32>),
    Fresh,
    Refresh,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Up,
    Down,
}

impl Run<'_> {
    /// Returns the names of the migrations that the last direction of the action has run, in order.
    pub(super) async fn run(&self, action: Action) -> Result<Vec<String>, MigrationError> {
        let work = async {
            let db = self.connect(self.session.worker_sql()).await?;
            let outcome = self.run_on(&db, action).await;
            let _ = db.close().await;
            outcome
        };
        let waiting = || tracing::info!(name: "lakebase.migration.waiting", target: "lakebase::migration", "another replica migrates, waiting");
        self.session.locked(waiting, work).await
    }

    async fn run_on(
        &self,
        db: &DatabaseConnection,
        action: Action,
    ) -> Result<Vec<String>, MigrationError> {
        match action {
            Action::Up(steps) => self.apply_all(db, Direction::Up, steps).await,
            Action::Down(steps) => self.apply_all(db, Direction::Down, steps).await,
            Action::Fresh => {
                self.drop_everything().await?;
                self.apply_all(db, Direction::Up, None).await
            }
            Action::Refresh => {
                self.apply_all(db, Direction::Down, None).await?;
                self.apply_all(db, Direction::Up, None).await
            }
            Action::Reset => {
                let reverted = self.apply_all(db, Direction::Down, None).await?;
                let dropped = self.uninstall(db).await;
                dropped.map_err(|error| failed("cannot drop the history table", error))?;
                Ok(reverted)
            }
        }
    }

    async fn drop_everything(&self) -> Result<(), MigrationError> {
        let nothing = Self {
            session: self.session,
            migrations: Box::new(Vec::new),
            history: self.history.clone(),
            observer: None,
            rehearsal: None,
        };
        // SeaORM drops objects by unqualified names, which Postgres would also find in the next schema of the search path.
        let db = self.connect(self.session.drop_sql()).await?;
        let dropped = nothing.fresh(&db).await;
        let _ = db.close().await;
        dropped.map_err(|error| failed("cannot drop the schema's objects", error))
    }

    pub(super) async fn read_status(
        &self,
    ) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        let (client, connection) = self.session.connect().await?;
        let driver = tokio::spawn(connection);
        let found = async {
            self.session.become_owner(&client).await?;
            self.session.has_schema(&client).await
        };
        let found = found.await;
        drop(client);
        let _ = driver.await;
        found?;
        let db = self.connect(self.session.reader_sql()).await?;
        let found = self.get_migration_with_status_read_only(&db).await;
        let _ = db.close().await;
        let found = found.map_err(|error| failed("cannot be listed", error))?;
        let status = found
            .iter()
            .map(|one| (one.name().to_owned(), one.status()));
        Ok(status.collect())
    }

    /// Opens a pool whose sessions run `setup` first.
    async fn connect(&self, setup: String) -> Result<DatabaseConnection, MigrationError> {
        let setup: Arc<str> = setup.into();
        let mut options = crate::options();
        // A migration without a transaction can open one on a second session.
        options
            .max_connections(2)
            .map_sqlx_postgres_pool_opts(move |pool| {
                let setup = Arc::clone(&setup);
                pool.after_connect(move |connection, _| {
                    let setup = AssertSqlSafe(setup.to_string());
                    Box::pin(async move {
                        sqlx::raw_sql(setup).execute(connection).await?;
                        Ok(())
                    })
                })
            });
        Ok(connect_with(&self.session.lakebase, options).await?)
    }

    /// Runs pending migrations in order, or reverts applied ones, the newest first; at most `steps` of them.
    async fn apply_all(
        &self,
        db: &DatabaseConnection,
        direction: Direction,
        steps: Option<u32>,
    ) -> Result<Vec<String>, MigrationError> {
        let installed = self.install(db).await;
        installed.map_err(|error| failed("cannot create the history table", error))?;
        // The read-only query would treat a history that this role cannot read as missing.
        let applied = self.get_applied_migrations(db).await;
        let applied = applied.map_err(|error| failed("cannot be listed", error))?;
        let mut migrations = self.migrations();
        migrations.retain(|migration| {
            let is_applied = applied.iter().any(|one| one.name() == migration.name());
            is_applied == (direction == Direction::Down)
        });
        if direction == Direction::Down {
            migrations.reverse();
        }
        let what = match direction {
            Direction::Up => "failed",
            Direction::Down => "could not be reverted",
        };
        let steps = steps.and_then(|steps| usize::try_from(steps).ok());
        migrations.truncate(steps.unwrap_or(usize::MAX));
        if let Some(rehearsal) = self.rehearsal {
            rehearsal.covers(migrations.iter().map(|migration| migration.name()))?;
        }
        if let Some(observer) = self.observer {
            let names = migrations
                .iter()
                .map(|migration| migration.name().to_owned());
            observer.plan(names.collect()).await?;
        }
        let mut done = Vec::new();
        for migration in &migrations {
            let name = migration.name().to_owned();
            tracing::info!(name: "lakebase.migration.progress", target: "lakebase::migration", migration = name, ?direction, "migrates");
            if let Some(observer) = self.observer {
                observer.begin();
            }
            let span = tracing::info_span!(
                target: "lakebase::migration",
                "lakebase.migration",
                migration = name,
                ?direction,
                error.type = Empty,
            );
            let applied = self.apply(db, &**migration, direction);
            let applied = applied.instrument(span.clone()).await;
            if let Some(observer) = self.observer {
                observer.end().await;
            }
            applied.map_err(|error| {
                let error = failed(what, error);
                span.record("error.type", error.sqlstate().unwrap_or("migration"));
                error.of(&name)
            })?;
            done.push(name);
        }
        Ok(done)
    }

    /// Runs or reverts a migration and writes the history, in one transaction unless the migration must not run in one.
    async fn apply(
        &self,
        db: &DatabaseConnection,
        migration: &dyn MigrationTrait,
        direction: Direction,
    ) -> Result<(), DbErr> {
        let change = async |manager: &SchemaManager<'_>| match direction {
            Direction::Up => migration.up(manager).await,
            Direction::Down => migration.down(manager).await,
        };
        let (record, name) = (self.record(direction), migration.name());
        if migration.use_transaction() == Some(false) {
            let pool = db.get_postgres_connection_pool();
            for mut session in sessions(pool).await {
                execute(&mut session, DISCARD_TEMPORARY).await?;
            }
            let changed = change(&SchemaManager::new(db)).await;
            // It may have changed any of them. One stays, so that the history needs no login.
            let mut used = sessions(pool).await;
            let kept = match changed {
                Ok(()) => used.pop(),
                Err(_) => None,
            };
            for mut session in used {
                // If its SQL has left a transaction open, the end of the session would roll it back.
                if changed.is_ok() {
                    execute(&mut session, "COMMIT").await?;
                }
                let _ = session.close().await;
            }
            changed?;
            let mut session = match kept {
                Some(session) => session,
                None => pool.acquire().await.map_err(exec_error)?,
            };
            // The server may have discarded them.
            let forgotten = session.clear_cached_statements().await;
            forgotten.map_err(exec_error)?;
            for sql in ["COMMIT", "DISCARD ALL", &self.session.worker_sql()] {
                execute(&mut session, sql).await?;
            }
            let record = sqlx::query(AssertSqlSafe(record)).bind(name);
            let recorded = record.execute(&mut *session).await;
            return recorded.map(drop).map_err(exec_error);
        }
        let transaction = db.begin().await?;
        transaction.execute_unprepared(DISCARD_TEMPORARY).await?;
        let manager = SchemaManager::new(&transaction);
        change(&manager).await?;
        transaction.execute_unprepared(RESET_SESSION).await?;
        let setup = self.session.worker_sql();
        transaction.execute_unprepared(&setup).await?;
        let record = Statement::from_sql_and_values(DbBackend::Postgres, record, [name.into()]);
        transaction.execute_raw(record).await?;
        if let Some(observer) = self.observer {
            observer.before_commit().await;
        }
        transaction.commit().await
    }

    /// The statement that writes the history, for the name of a migration.
    fn record(&self, direction: Direction) -> String {
        let history = self.history.to_string().replace('"', "\"\"");
        match direction {
            Direction::Up => format!(
                "INSERT INTO \"{history}\" (version, applied_at) \
                 VALUES ($1, extract(epoch FROM clock_timestamp())::bigint)"
            ),
            Direction::Down => format!("DELETE FROM \"{history}\" WHERE version = $1"),
        }
    }
}

/// Takes all sessions, including those that are still on their way back to the pool.
async fn sessions(pool: &PgPool) -> Vec<PoolConnection<Postgres>> {
    let mut sessions = Vec::new();
    while sessions.len() < pool.size() as usize {
        match pool.acquire().await {
            Ok(session) => sessions.push(session),
            Err(_) => break,
        }
    }
    sessions
}

async fn execute(session: &mut PgConnection, sql: &str) -> Result<(), DbErr> {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    sql.execute(session).await.map(drop).map_err(exec_error)
}

fn exec_error(error: sqlx::Error) -> DbErr {
    DbErr::Exec(RuntimeErr::SqlxError(error.into()))
}

fn failed(what: &str, error: DbErr) -> MigrationError {
    if let Some(cause) = crate::cause(&error) {
        return cause.into();
    }
    let database = driver_error(&error).and_then(sqlx::Error::as_database_error);
    match database.and_then(|database| database.try_downcast_ref::<PgDatabaseError>()) {
        Some(database) => {
            let character = match database.position() {
                Some(PgErrorPosition::Original(at)) => Some(at),
                _ => None,
            };
            // sqlx's text contains a line of Postgres' source code, but not the detail.
            let message = database.message();
            let cause: Box<dyn StdError> = match database.detail() {
                Some(detail) => format!("{message}. {detail}").into(),
                None => message.into(),
            };
            MigrationError::rejected(what, database.code(), message, character, &*cause)
        }
        None => MigrationError::new(what, is_transient(&error), &error),
    }
}
