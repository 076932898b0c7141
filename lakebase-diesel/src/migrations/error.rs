//! Why migrations stopped.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use lakebase_core::{Error, advice};
use tokio_postgres::error::ErrorPosition;

/// Migrations could not be run: says which one, and where in it.
#[derive(Clone, Debug)]
pub struct MigrationError {
    step: String,
    migration: Option<String>,
    sqlstate: Option<String>,
    position: Option<Position>,
    is_transient: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// A place in a migration's SQL, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

impl Position {
    /// Postgres counts characters from the beginning.
    fn find(sql: &str, characters: u32) -> Self {
        let before = usize::try_from(characters).unwrap_or_default();
        let before: String = sql.chars().take(before.saturating_sub(1)).collect();
        let last = before.rsplit('\n').next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: last.chars().count() + 1,
        }
    }
}

impl MigrationError {
    pub(super) fn new(step: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            migration: None,
            sqlstate: None,
            position: None,
            is_transient: false,
            source: None,
        }
    }

    pub(super) fn because(
        step: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            source: Some(source.into().into()),
            ..Self::new(step)
        }
    }

    pub(super) fn connecting(error: Error) -> Self {
        Self {
            is_transient: error.is_transient(),
            sqlstate: error.sqlstate().map(str::to_owned),
            ..Self::because("cannot connect", error)
        }
    }

    /// `sql` failed.
    pub(super) fn statement(step: &str, sql: &str, error: tokio_postgres::Error) -> Self {
        let db = error.as_db_error();
        let position = match db.and_then(|db| db.position()) {
            Some(ErrorPosition::Original(at)) => Some(Position::find(sql, *at)),
            _ => None,
        };
        Self {
            is_transient: lakebase_core::is_transient(&error),
            sqlstate: db.map(|db| db.code().code().to_owned()),
            position,
            ..Self::because(step, error)
        }
    }

    pub(super) fn of(self, migration: &str) -> Self {
        Self {
            migration: Some(migration.to_owned()),
            ..self
        }
    }

    /// The migration that failed; `None` if it did not come to one.
    pub fn migration(&self) -> Option<&str> {
        self.migration.as_deref()
    }

    /// Postgres's code.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// Where in the migration's SQL, if Postgres says so.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether running the migrations again, unchanged, can help. Those that had succeeded stay so.
    pub fn is_transient(&self) -> bool {
        self.is_transient
    }
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.migration {
            Some(migration) => write!(f, "migration {migration} {}", self.step)?,
            None => write!(f, "migrations: {}", self.step)?,
        }
        if let Some(Position { line, column }) = self.position {
            write!(f, " at line {line}, column {column}")?;
        }
        if let Some(sqlstate) = &self.sqlstate {
            write!(f, " (SQLSTATE {sqlstate})")?;
        }
        let server = self.source.as_ref().and_then(|source| {
            let error = source.downcast_ref::<tokio_postgres::Error>()?;
            Some(error.as_db_error()?.message())
        });
        let message = server.unwrap_or_default();
        if !message.is_empty() {
            write!(f, ": {message}")?;
        }
        match advice(self.sqlstate().unwrap_or_default(), message) {
            Some(advice) => write!(f, ". {advice}"),
            None => Ok(()),
        }
    }
}

impl StdError for MigrationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&**self.source.as_ref()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_into_lines_and_columns() {
        let sql = "SELECT 1;\nSELECT 'é', x";
        for (at, line, column) in [(1, 1, 1), (8, 1, 8), (11, 2, 1), (23, 2, 13)] {
            assert_eq!(Position::find(sql, at), Position { line, column }, "{at}");
        }
    }
}
