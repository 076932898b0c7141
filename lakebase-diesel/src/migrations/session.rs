//! The connection that migrates, and diesel's history. It is not one of diesel's, as those do not report the SQLSTATE of an
//! error.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;

use diesel::QueryResult;
use diesel::connection::{BoxableConnection, SimpleConnection};
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use futures_util::TryStreamExt as _;
use lakebase_core::Error;
use lakebase_core::adapter::clean_text;
use lakebase_core::adapter::migration::{
    DISCARD_TEMPORARY, MigrationError, Observer, RESET_SESSION,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_postgres::{Client, SimpleQueryMessage};

/// The table of diesel and its command-line tool.
const HISTORY: &str = "__diesel_schema_migrations";

pub(super) type BoxedMigration = Box<dyn Migration<Pg>>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Up,
    Down,
}

/// Its functions block.
pub(super) struct Session {
    client: Client,
    runtime: Handle,
    /// Runs again after each migration.
    setup: String,
    /// The table with its schema, because a migration can change the search path.
    history: String,
    /// Why the SQL of the current migration failed, with the details that diesel's errors do not have.
    failure: Option<MigrationError>,
    in_transaction: bool,
    /// Closed when the caller is cancelled.
    caller: oneshot::Sender<()>,
    /// Of a rehearsal.
    pub(super) observer: Option<Arc<Observer>>,
}

impl Session {
    /// Runs `setup`. The history is in `schema`, or else in the first one on the search path.
    pub(super) async fn new(
        client: Client,
        setup: String,
        schema: Option<&str>,
        caller: oneshot::Sender<()>,
    ) -> Result<Self, MigrationError> {
        let cannot = |error| MigrationError::postgres("cannot set up the session", error);
        client.batch_execute(&setup).await.map_err(cannot)?;
        let history =
            "SELECT concat_ws('.', quote_ident(coalesce($1::text, current_schema())), $2::text)";
        let history = client.query_one(history, &[&schema, &HISTORY]).await;
        Ok(Self {
            history: history.map_err(cannot)?.get(0),
            client,
            runtime: Handle::current(),
            setup,
            failure: None,
            in_transaction: false,
            caller,
            observer: None,
        })
    }

    pub(super) fn block_on<'a, F: Future>(
        &'a self,
        query: impl FnOnce(&'a Client) -> F,
    ) -> F::Output {
        self.runtime.block_on(query(&self.client))
    }

    fn execute(&self, what: &str, sql: &str) -> Result<(), MigrationError> {
        self.block_on(|client| client.batch_execute(sql))
            .map_err(|error| MigrationError::postgres(what, error))
    }

    /// Fails if the caller was cancelled.
    pub(super) fn check_caller(&self) -> Result<(), MigrationError> {
        match self.caller.is_closed() {
            true => Err(Error::provider("stopped because the caller was cancelled", true).into()),
            false => Ok(()),
        }
    }

    pub(super) fn create_history(&self) -> Result<(), MigrationError> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (version VARCHAR(50) PRIMARY KEY NOT NULL, \
             run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
            self.history
        );
        self.execute("cannot create the history table", &sql)
    }

    /// Returns versions, the newest first.
    fn applied(&self) -> Result<Vec<String>, MigrationError> {
        let versions = self.block_on(async |client| {
            let has_history = "SELECT to_regclass($1) IS NOT NULL";
            let has_history = client.query_one(has_history, &[&self.history]).await?;
            if !has_history.get::<_, bool>(0) {
                return Ok(Vec::new());
            }
            let versions = format!("SELECT version FROM {} ORDER BY version DESC", self.history);
            let versions = client.query(&versions, &[]).await?;
            Ok(versions.iter().map(|version| version.get(0)).collect())
        });
        versions.map_err(|error| MigrationError::postgres("cannot read the history", error))
    }

    /// Returns the pending migrations in order.
    pub(super) fn pending(
        &self,
        source: &impl MigrationSource<Pg>,
    ) -> Result<Vec<BoxedMigration>, MigrationError> {
        let mut known = by_version(source)?;
        for version in self.applied()? {
            known.remove(&version);
        }
        Ok(known.into_values().collect())
    }

    /// Returns the last `steps` applied migrations, the newest first.
    pub(super) fn last_applied(
        &self,
        source: &impl MigrationSource<Pg>,
        steps: usize,
    ) -> Result<Vec<BoxedMigration>, MigrationError> {
        let mut known = by_version(source)?;
        let last = self.applied()?.into_iter().take(steps);
        last.map(|version| {
            known.remove(&version).ok_or_else(|| {
                let missing = Error::config("was run, but is not here to be reverted");
                MigrationError::from(missing).of(version)
            })
        })
        .collect()
    }

    fn observe<F: Future<Output = ()>>(&self, step: impl FnOnce(Arc<Observer>) -> F) {
        if let Some(observer) = &self.observer {
            self.runtime.block_on(step(Arc::clone(observer)));
        }
    }

    /// Runs or reverts a migration and writes the history, in one transaction unless the migration must not run in one.
    pub(super) fn apply(
        &mut self,
        migration: &dyn Migration<Pg>,
        direction: Direction,
    ) -> Result<(), MigrationError> {
        self.observe(async |observer| observer.begin());
        let applied = self.apply_unobserved(migration, direction);
        self.observe(async |observer| observer.end().await);
        applied
    }

    fn apply_unobserved(
        &mut self,
        migration: &dyn Migration<Pg>,
        direction: Direction,
    ) -> Result<(), MigrationError> {
        self.execute("cannot begin", DISCARD_TEMPORARY)?;
        let change = |session: &mut Self| session.change(migration, direction);
        match migration.metadata().run_in_transaction() && !self.in_transaction {
            true => self.transaction(change),
            false => change(self),
        }
    }

    fn change(
        &mut self,
        migration: &dyn Migration<Pg>,
        direction: Direction,
    ) -> Result<(), MigrationError> {
        self.failure = None;
        let changed = match direction {
            Direction::Up => migration.run(self),
            Direction::Down => migration.revert(self),
        };
        changed.map_err(|error| {
            let failure = self.failure.take();
            failure.unwrap_or_else(|| MigrationError::new("failed", false, &*error))
        })?;
        if !self.in_transaction {
            // If its SQL has left a transaction open, the end of the session would roll back the history.
            self.execute("cannot be committed", "COMMIT")?;
        }
        self.execute("left a session that cannot be reset", RESET_SESSION)?;
        self.execute("left a session that cannot be reset", &self.setup)?;
        let history = &self.history;
        let record = match direction {
            Direction::Up => format!("INSERT INTO {history} (version) VALUES ($1)"),
            Direction::Down => format!("DELETE FROM {history} WHERE version = $1"),
        };
        let version = migration.name().version().to_string();
        self.runtime
            .block_on(self.client.execute(&record, &[&version]))
            .map_err(|error| MigrationError::postgres("cannot write the history", error))?;
        Ok(())
    }

    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, MigrationError>,
    ) -> Result<T, MigrationError> {
        self.execute("cannot begin", "BEGIN")?;
        self.in_transaction = true;
        let outcome = work(self);
        self.in_transaction = false;
        match outcome {
            Ok(_) => {
                self.observe(async |observer| observer.before_commit().await);
                self.execute("cannot be committed", "COMMIT")?;
            }
            Err(_) => drop(self.execute("cannot be rolled back", "ROLLBACK")),
        }
        outcome
    }
}

fn by_version(
    source: &impl MigrationSource<Pg>,
) -> Result<BTreeMap<String, BoxedMigration>, MigrationError> {
    let unreadable = |error: Box<dyn StdError + Send + Sync>| {
        MigrationError::new("cannot be read", false, &*error)
    };
    let migrations = source.migrations().map_err(unreadable)?.into_iter();
    let keyed = migrations.map(|migration| (migration.name().version().to_string(), migration));
    Ok(keyed.collect())
}

impl SimpleConnection for Session {
    fn batch_execute(&mut self, sql: &str) -> QueryResult<()> {
        let mut succeeded = 0;
        let outcome = self.runtime.block_on(async {
            let mut replies = pin!(self.client.simple_query_raw(sql).await?);
            while let Some(reply) = replies.try_next().await? {
                succeeded += usize::from(matches!(reply, SimpleQueryMessage::CommandComplete(_)));
            }
            Ok(())
        });
        outcome.map_err(|error: tokio_postgres::Error| {
            let text = match error.as_db_error() {
                Some(db) => clean_text(db.message()),
                None => clean_text(&error.to_string()),
            };
            self.failure = Some(MigrationError::sql(sql, succeeded, error));
            DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(text))
        })
    }
}

/// Both functions are hidden in diesel's documentation. There is no other way to implement a connection for migrations, because
/// `diesel::Connection` is sealed.
impl BoxableConnection<Pg> for Session {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
