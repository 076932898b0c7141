//! Why migrations stopped.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use lakebase_core::Error;
use lakebase_core::adapter::{advice, clean_text};
use sea_orm::{DbErr, RuntimeErr};
use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

use crate::error::is_transient;

/// Migrations could not be run: says which one, and why.
///
/// `Debug` prints what `Display` does, advice included, as most programs `unwrap`.
#[derive(Clone)]
pub struct MigrationError {
    step: &'static str,
    migration: Option<String>,
    source: Arc<DbErr>,
}

impl MigrationError {
    pub(super) fn new(step: &'static str, source: DbErr) -> Self {
        Self {
            step,
            migration: None,
            source: Arc::new(source),
        }
    }

    /// An error of core, with a hint of its own.
    pub(super) fn core(step: &'static str, error: Error) -> Self {
        Self::new(step, error.into())
    }

    pub(super) fn of(self, migration: Option<String>) -> Self {
        Self { migration, ..self }
    }

    /// The migration that failed; `None` if it did not come to one.
    pub fn migration(&self) -> Option<&str> {
        self.migration.as_deref()
    }

    /// Postgres's code.
    pub fn sqlstate(&self) -> Option<String> {
        if let Some(cause) = crate::cause(&self.source) {
            return cause.sqlstate().map(str::to_owned);
        }
        Some(self.database()?.code().to_owned())
    }

    /// Where in the failed statement, in characters from 1, if Postgres says so.
    pub fn position(&self) -> Option<usize> {
        match self.database()?.position()? {
            PgErrorPosition::Original(at) => Some(at),
            PgErrorPosition::Internal { .. } => None,
        }
    }

    /// Whether running the migrations again, unchanged, can help. Those that had succeeded stay so.
    pub fn is_transient(&self) -> bool {
        is_transient(&self.source)
    }

    fn database(&self) -> Option<&PgDatabaseError> {
        match &*self.source {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => {
                error.as_database_error()?.try_downcast_ref()
            }
            _ => None,
        }
    }
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.migration {
            Some(migration) => write!(f, "migration {migration} {}", self.step)?,
            None => write!(f, "migrations: {}", self.step)?,
        }
        if let Some(at) = self.position() {
            write!(f, " at character {at}")?;
        }
        if let Some(sqlstate) = self.sqlstate() {
            write!(f, " (SQLSTATE {sqlstate})")?;
        }
        if let Some(cause) = crate::cause(&self.source) {
            // Has a hint of its own.
            return write!(f, ": {}", cause.chain());
        }
        let message = match (self.database(), &*self.source) {
            (Some(database), _) => database.message().to_owned(),
            (None, DbErr::Migration(text)) => text.clone(),
            (None, source) => source.to_string(),
        };
        write!(f, ": {}", clean_text(&message))?;
        match advice(&self.sqlstate().unwrap_or_default(), &message) {
            Some(advice) => write!(f, ". {advice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationError({self})")
    }
}

impl StdError for MigrationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// For functions that return SeaORM's error; the text has it all.
impl From<MigrationError> for DbErr {
    fn from(error: MigrationError) -> Self {
        Self::Migration(error.to_string())
    }
}
