//! The connection that migrates. diesel's own hide the SQLSTATE, so it is not one of them; the history
//! they keep is the same.

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::connection::{BoxableConnection, SimpleConnection};
use diesel::migration::{Migration, MigrationVersion, Result as Outcome};
use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_migrations::MigrationHarness;
use futures_util::TryStreamExt as _;
use lakebase_core::adapter::migration::{
    DISCARD_TEMPORARY, MigrationLock, RESET_SESSION, SAVE_SESSION,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::MigrationError;

/// diesel's own table.
const HISTORY: &str = "__diesel_schema_migrations";

/// Blocks: used on threads that may.
pub(super) struct Session {
    client: Arc<Client>,
    runtime: Handle,
    /// Where the history is, whatever a migration does to the search path.
    history: String,
    /// Brings the settings of the session back.
    settings: String,
    /// diesel's errors have no room for all of it.
    failure: Option<MigrationError>,
    /// In a transaction of several steps.
    is_inside: bool,
    /// While the lock is held: it, and whether the caller still waits.
    turn: Option<(MigrationLock, oneshot::Receiver<()>)>,
}

impl Session {
    /// `setup` is run first.
    pub(super) async fn new(client: Client, setup: &str) -> Result<Self, MigrationError> {
        let cannot = |error| MigrationError::sql("cannot set up the session", "", error);
        client.batch_execute(setup).await.map_err(cannot)?;
        let schema = client.query_one("SELECT quote_ident(current_schema())", &[]);
        let schema: Option<String> = schema.await.map_err(cannot)?.get(0);
        let settings = client.query_one(SAVE_SESSION, &[]).await.map_err(cannot)?;
        Ok(Self {
            client: Arc::new(client),
            runtime: Handle::current(),
            history: match schema {
                Some(schema) => format!("{schema}.{HISTORY}"),
                None => HISTORY.to_owned(),
            },
            settings: settings.get(0),
            failure: None,
            is_inside: false,
            turn: None,
        })
    }

    /// Goes on only while `lock` is held and the sender of `given_up` is there.
    pub(super) fn stop_when(&mut self, given_up: oneshot::Receiver<()>, lock: MigrationLock) {
        self.turn = Some((lock, given_up));
    }

    /// Whether the next migration may begin.
    pub(super) fn may_go_on(&mut self) -> Result<(), MigrationError> {
        let Some((lock, given_up)) = &mut self.turn else {
            return Ok(());
        };
        if lock.is_lost() {
            return Err(MigrationError::core("stopped", MigrationLock::lost()));
        }
        match given_up.try_recv() {
            Err(TryRecvError::Closed) => Err(MigrationError::new("stopped, as the caller gave up")),
            _ => Ok(()),
        }
    }

    /// Ends the session, and then frees the lock.
    pub(super) fn release(self) {
        let Self {
            client,
            runtime,
            turn,
            ..
        } = self;
        drop(client);
        if let Some((lock, _)) = turn {
            runtime.block_on(lock.release());
        }
    }

    /// As diesel and its command-line tool do.
    pub(super) fn make_history(&self) -> Result<(), MigrationError> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (version VARCHAR(50) PRIMARY KEY NOT NULL, \
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
            self.history
        );
        self.run("cannot create the history table", &sql)
    }

    /// Takes back what a migration has set.
    fn restore(&self) -> Result<(), MigrationError> {
        let step = "left a session that cannot be restored";
        self.run(step, RESET_SESSION)?;
        self.run(step, &self.settings)
    }

    fn run(&self, step: &str, sql: &str) -> Result<(), MigrationError> {
        self.runtime
            .block_on(self.client.batch_execute(sql))
            .map_err(|error| MigrationError::sql(step, sql, error))
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
        self.run("cannot begin", DISCARD_TEMPORARY)
            .map_err(|failure| self.keep(failure))?;
        let in_transaction = migration.metadata().run_in_transaction() && !self.is_inside;
        if in_transaction {
            self.run("cannot begin", "BEGIN")
                .map_err(|failure| self.keep(failure))?;
        }
        let version = migration.name().version().to_string();
        let outcome = change(self).and_then(|()| {
            if !in_transaction && !self.is_inside {
                // One that its SQL has left open would take the history entry along when the session ends.
                self.run("cannot be committed", "COMMIT")
                    .map_err(|failure| self.keep(failure.without_place()))?;
            }
            self.restore()
                .map_err(|failure| self.keep(failure.without_place()))?;
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
        let note = format!("INSERT INTO {} (version) VALUES ($1)", self.history);
        self.step(migration, |session| migration.run(session), &note)?;
        Ok(migration.name().version().as_owned())
    }

    fn revert_migration(
        &mut self,
        migration: &dyn Migration<Pg>,
    ) -> Outcome<MigrationVersion<'static>> {
        let note = format!("DELETE FROM {} WHERE version = $1", self.history);
        self.step(migration, |session| migration.revert(session), &note)?;
        Ok(migration.name().version().as_owned())
    }

    /// The newest first, as diesel has them.
    fn applied_migrations(&mut self) -> Outcome<Vec<MigrationVersion<'static>>> {
        let unlisted = |error| MigrationError::sql("cannot be listed", "", error);
        let has_history = "SELECT to_regclass($1) IS NOT NULL";
        let found = self
            .runtime
            .block_on(self.client.query_one(has_history, &[&self.history]));
        if !found
            .map_err(|error| self.keep(unlisted(error)))?
            .get::<_, bool>(0)
        {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT version FROM {} ORDER BY version DESC", self.history);
        let rows = self.runtime.block_on(self.client.query(&sql, &[]));
        let rows = rows.map_err(|error| self.keep(unlisted(error)))?;
        let version = |row: &tokio_postgres::Row| MigrationVersion::from(row.get::<_, String>(0));
        Ok(rows.iter().map(version).collect())
    }
}
