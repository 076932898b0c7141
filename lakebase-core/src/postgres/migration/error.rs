//! Why migrations failed.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::ErrorPosition;

use crate::error::{Error, Kind};
use crate::postgres::advice::{database_error, rejected};

/// Why migrations failed: which one, at which place, and what to do next.
///
/// `Display` prints no causes; they are in [`source`](StdError::source), as texts. [`chain`](Self::chain) and `Debug` print the
/// message and all causes in one line.
#[derive(Clone)]
pub struct MigrationError {
    migration: Option<String>,
    position: Option<Position>,
    statement: Option<usize>,
    error: Error,
}

/// A position in a migration's SQL, counted from 1.
///
/// SeaORM's errors do not contain the SQL. For them, the line is always 1, and the column counts from the start of the
/// statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// Converts Postgres' position, which counts characters from the start of the SQL.
    fn find(sql: &str, character: usize) -> Self {
        let before: String = sql.chars().take(character.saturating_sub(1)).collect();
        let last = before.rsplit('\n').next().unwrap_or_default();
        Self {
            line: before.matches('\n').count() + 1,
            column: last.chars().count() + 1,
        }
    }
}

/// For adapters.
impl MigrationError {
    /// A failure that is not a failed statement.
    pub fn new(what: &str, is_transient: bool, cause: &(dyn StdError + 'static)) -> Self {
        Error::new(Kind::Database, what)
            .with_transient(is_transient)
            .caused_by(cause, &[])
            .into()
    }

    /// A failed statement of the adapter on tokio-postgres.
    pub fn postgres(what: &str, error: tokio_postgres::Error) -> Self {
        database_error(what, error).into()
    }

    /// A migration's `sql` that failed on tokio-postgres after this number of statements had succeeded.
    pub fn sql(sql: &str, succeeded: usize, error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // After a lost connection, the failed statement is unknown.
            return Self::postgres("failed", error);
        };
        if let Some(ErrorPosition::Original(at)) = db.position() {
            let position = Position::find(sql, usize::try_from(*at).unwrap_or_default());
            return Self::at(position, "failed", |what| database_error(what, error));
        }
        let statement = succeeded + 1;
        Self {
            statement: Some(statement),
            ..database_error(format!("failed at statement {statement}"), error).into()
        }
    }

    /// A failed statement on another driver, with Postgres' SQLSTATE, message and, if it reports one, position in characters.
    pub fn rejected(
        what: &str,
        sqlstate: &str,
        message: &str,
        character: Option<usize>,
        cause: &(dyn StdError + 'static),
    ) -> Self {
        let error = |what| rejected(what, sqlstate, message, cause);
        match character {
            Some(column) => Self::at(Position { line: 1, column }, what, error),
            None => error(what.to_owned()).into(),
        }
    }

    fn at(position: Position, what: &str, error: impl FnOnce(String) -> Error) -> Self {
        let Position { line, column } = position;
        Self {
            position: Some(position),
            ..error(format!("{what} at line {line}, column {column}")).into()
        }
    }

    /// Sets the name of the migration.
    #[must_use]
    pub fn of(self, migration: impl Into<String>) -> Self {
        Self {
            migration: Some(migration.into()),
            ..self
        }
    }
}

impl MigrationError {
    pub(super) fn in_rehearsal(self, migration: &str, consequence: &str) -> Self {
        let error = Error::new(
            Kind::Database,
            format!("failed in rehearsal, {consequence}"),
        );
        Self {
            migration: Some(migration.to_owned()),
            error: error.with_sqlstate(self.sqlstate()).caused_by(&self, &[]),
            ..self
        }
    }

    /// The name of the migration that failed; `None` if none had started.
    pub fn migration(&self) -> Option<&str> {
        self.migration.as_deref()
    }

    /// The SQLSTATE, if Postgres reported the failure.
    pub fn sqlstate(&self) -> Option<&str> {
        self.error.sqlstate()
    }

    /// The position in the migration's SQL, if Postgres reports one: for syntax errors and unknown names.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// The number of the failed statement in the migration's SQL, counted from 1, if it is known and there is no
    /// [`position`](Self::position).
    pub fn statement(&self) -> Option<usize> {
        self.statement
    }

    /// Returns whether running the migrations again, unchanged, can help. The ones that succeeded stay applied, except in
    /// diesel's redo.
    pub fn is_transient(&self) -> bool {
        self.error.is_transient()
    }

    /// Returns whether the configuration is wrong, or the schema or a migration is missing.
    pub fn is_config(&self) -> bool {
        self.error.is_config()
    }

    /// Returns whether a time limit was exceeded, for the connection or for the lock.
    pub fn is_timeout(&self) -> bool {
        self.error.is_timeout()
    }

    /// The message and all causes in one line, for hosts that keep only text.
    pub fn chain(&self) -> String {
        format!("{}: {}", self.subject(), self.error.chain())
    }

    fn subject(&self) -> String {
        match &self.migration {
            Some(migration) => format!("migration {migration}"),
            None => "migrations".to_owned(),
        }
    }
}

impl From<Error> for MigrationError {
    fn from(error: Error) -> Self {
        Self {
            migration: None,
            position: None,
            statement: None,
            error,
        }
    }
}

/// For `?` in functions that return SeaORM's error, which keeps only the text.
#[cfg(feature = "sea-orm")]
impl From<MigrationError> for sea_orm::DbErr {
    fn from(error: MigrationError) -> Self {
        Self::Migration(error.chain())
    }
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject(), self.error)
    }
}

impl fmt::Debug for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MigrationError({})", self.chain())
    }
}

impl StdError for MigrationError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
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
