//! The connection that migrates. diesel's own hide the SQLSTATE, so it is not one of them; the history
//! they keep is the same.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::connection::{BoxableConnection, SimpleConnection};
use diesel::migration::{Migration, MigrationVersion, Result as Outcome};
use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_migrations::MigrationHarness;
use futures_util::TryStreamExt as _;
use lakebase_core::MIGRATION_LOCK;
use tokio::runtime::Handle;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::MigrationError;

/// As diesel and its command-line tool make it.
const HISTORY: &str = "CREATE TABLE IF NOT EXISTS __diesel_schema_migrations (\
    version VARCHAR(50) PRIMARY KEY NOT NULL, \
    run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)";
const HAS_HISTORY: &str = "SELECT to_regclass(quote_ident(current_schema()) || '.__diesel_schema_migrations') IS NOT NULL";
/// If this process dies in the middle of a long statement, the server notices and frees the lock.
const NOTICE_DEATH: &str = "SET client_connection_check_interval = '2s'";

/// How often the lock is asked for.
const LOOK: Duration = Duration::from_millis(300);

/// What to do if the schema is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Refuse,
    /// It would be made, but not now.
    Leave,
}

/// Blocks: used on threads that may.
pub(super) struct Session {
    client: Arc<Client>,
    runtime: Handle,
    /// diesel's errors have no room for all of it.
    failure: Option<MigrationError>,
    /// In a transaction of several steps.
    is_inside: bool,
}

impl Session {
    pub(super) fn new(client: Client, runtime: Handle) -> Self {
        Self {
            client: Arc::new(client),
            runtime,
            failure: None,
            is_inside: false,
        }
    }

    /// Puts `schema` first on the search path. False if it is missing and left so.
    pub(super) fn enter_schema(
        &self,
        schema: &str,
        missing: Missing,
    ) -> Result<bool, MigrationError> {
        let quoted = format!("\"{}\"", schema.replace('"', "\"\""));
        // Postgres would skip what is not there or may not be used, and make everything in the next one.
        if !self.ask_bool("SELECT to_regnamespace($1) IS NOT NULL", &[&quoted])? {
            if missing == Missing::Leave {
                return Ok(false);
            }
            if missing == Missing::Refuse {
                return Err(MigrationError::new(format!(
                    "schema {quoted} does not exist: create it, or ask for that with `create_schema`"
                )));
            }
            self.run(
                "cannot create the schema",
                &format!("CREATE SCHEMA {quoted}"),
            )?;
        }
        if !self.ask_bool("SELECT has_schema_privilege($1, 'USAGE')", &[&schema])? {
            return Err(MigrationError::new(format!(
                "no right to use schema {quoted}: its owner has to GRANT USAGE, CREATE ON SCHEMA {quoted}, or choose a schema of its own"
            )));
        }
        self.run(
            "cannot enter the schema",
            &format!("SET search_path = {quoted}, public"),
        )?;
        Ok(true)
    }

    /// Takes the advisory lock, which ends with the session. `wait` is called if another one has it.
    pub(super) fn lock(&self, wait: impl FnOnce()) -> Result<(), MigrationError> {
        let _ = self.run("", NOTICE_DEATH);
        if self.ask_bool("SELECT pg_try_advisory_lock($1)", &[&MIGRATION_LOCK])? {
            return Ok(());
        }
        wait();
        // Waiting inside a statement would hold a snapshot, which CREATE INDEX CONCURRENTLY of the one
        // that migrates waits for in turn.
        loop {
            let pause = LOOK.mul_f64(0.75 + 0.5 * fastrand::f64());
            self.runtime.block_on(tokio::time::sleep(pause));
            if self.ask_bool("SELECT pg_try_advisory_lock($1)", &[&MIGRATION_LOCK])? {
                return Ok(());
            }
        }
    }

    pub(super) fn make_history(&self) -> Result<(), MigrationError> {
        self.run("cannot create the history table", HISTORY)
    }

    fn run(&self, step: &str, sql: &str) -> Result<(), MigrationError> {
        self.runtime
            .block_on(self.client.batch_execute(sql))
            .map_err(|error| MigrationError::sql(step, sql, error))
    }

    fn ask_bool(
        &self,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<bool, MigrationError> {
        self.runtime
            .block_on(self.client.query_one(sql, values))
            .map(|row| row.get(0))
            .map_err(|error| MigrationError::sql("cannot look around", sql, error))
    }

    /// What the last step failed with, in full.
    pub(super) fn explain(
        &mut self,
        error: Box<dyn std::error::Error + Send + Sync>,
    ) -> MigrationError {
        self.failure
            .take()
            .unwrap_or_else(|| MigrationError::because("failed", error))
    }

    /// Runs a migration and writes that down, in one transaction unless it asks for none.
    fn step(
        &mut self,
        migration: &dyn Migration<Pg>,
        change: impl FnOnce(&mut Self) -> Outcome<()>,
        note: &str,
    ) -> Outcome<()> {
        self.failure = None;
        let in_transaction = migration.metadata().run_in_transaction() && !self.is_inside;
        if in_transaction {
            self.run("cannot begin", "BEGIN")
                .map_err(|failure| self.keep(failure))?;
        }
        let version = migration.name().version().to_string();
        let outcome = change(self).and_then(|()| {
            let noted = self
                .runtime
                .block_on(self.client.execute(note, &[&version]));
            noted.map_err(|error| {
                let step = "cannot be written into the history";
                self.keep(MigrationError::sql(step, "", error).without_place())
            })?;
            Ok(())
        });
        if !in_transaction {
            return outcome;
        }
        match outcome {
            Ok(()) => Ok(self
                .run("cannot be committed", "COMMIT")
                .map_err(|failure| self.keep(failure))?),
            Err(error) => {
                let rollback = self.client.batch_execute("ROLLBACK");
                let _ = self.runtime.block_on(rollback);
                Err(error)
            }
        }
    }

    /// Keeps the whole error aside and makes one for diesel.
    fn keep(&mut self, failure: MigrationError) -> DieselError {
        let text = failure.message();
        self.failure = Some(failure);
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text))
    }

    /// All of `work` in one transaction, or each of its steps in its own.
    pub(super) fn in_transaction<T>(
        &mut self,
        is_one: bool,
        work: impl FnOnce(&mut Self) -> Result<T, MigrationError>,
    ) -> Result<T, MigrationError> {
        if !is_one {
            return work(self);
        }
        self.run("cannot begin", "BEGIN")?;
        self.is_inside = true;
        let outcome = work(self);
        self.is_inside = false;
        if outcome.is_err() {
            let _ = self.run("", "ROLLBACK");
            return outcome;
        }
        self.run("cannot be committed", "COMMIT")?;
        outcome
    }
}

impl SimpleConnection for Session {
    fn batch_execute(&mut self, sql: &str) -> QueryResult<()> {
        let client = Arc::clone(&self.client);
        let mut done = 0;
        let outcome = self.runtime.block_on(async {
            let answers = client.simple_query_raw(sql).await?;
            let mut answers = pin!(answers);
            while let Some(answer) = answers.try_next().await? {
                done += usize::from(matches!(answer, SimpleQueryMessage::CommandComplete(_)));
            }
            Ok(())
        });
        outcome.map_err(|error: tokio_postgres::Error| {
            // Of a lost connection nobody knows how far it came.
            let is_refused = error.as_db_error().is_some();
            let failure = MigrationError::sql("failed", sql, error);
            self.keep(match is_refused {
                true => failure.at(done + 1),
                false => failure,
            })
        })
    }
}

impl BoxableConnection<Pg> for Session {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl MigrationHarness<Pg> for Session {
    fn run_migration(
        &mut self,
        migration: &dyn Migration<Pg>,
    ) -> Outcome<MigrationVersion<'static>> {
        let note = "INSERT INTO __diesel_schema_migrations (version) VALUES ($1)";
        self.step(migration, |session| migration.run(session), note)?;
        Ok(migration.name().version().as_owned())
    }

    fn revert_migration(
        &mut self,
        migration: &dyn Migration<Pg>,
    ) -> Outcome<MigrationVersion<'static>> {
        let note = "DELETE FROM __diesel_schema_migrations WHERE version = $1";
        self.step(migration, |session| migration.revert(session), note)?;
        Ok(migration.name().version().as_owned())
    }

    /// The newest first, as diesel has them.
    fn applied_migrations(&mut self) -> Outcome<Vec<MigrationVersion<'static>>> {
        if !self.ask_bool(HAS_HISTORY, &[])? {
            return Ok(Vec::new());
        }
        let sql = "SELECT version FROM __diesel_schema_migrations ORDER BY version DESC";
        let rows = self.runtime.block_on(self.client.query(sql, &[]));
        let rows =
            rows.map_err(|error| self.keep(MigrationError::sql("cannot be listed", sql, error)))?;
        let version = |row: &tokio_postgres::Row| MigrationVersion::from(row.get::<_, String>(0));
        Ok(rows.iter().map(version).collect())
    }
}
