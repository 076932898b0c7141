//! Why migrations stopped.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use lakebase_core::Error;
use lakebase_core::adapter::{advice, clean_text};
use tokio_postgres::error::{DbError, ErrorPosition};

/// Migrations could not be run: says which one, and where in it.
///
/// `Debug` prints what `Display` does, advice included, as most programs `unwrap`.
#[derive(Clone)]
pub struct MigrationError {
    step: String,
    migration: Option<String>,
    sqlstate: Option<String>,
    place: Option<Place>,
    is_transient: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Position(Position),
    /// Postgres does not say where.
    Statement(usize),
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
            place: None,
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

    /// An error of core, with a hint of its own.
    pub(super) fn core(step: &str, error: Error) -> Self {
        Self {
            is_transient: error.is_transient(),
            sqlstate: error.sqlstate().map(str::to_owned),
            ..Self::because(step, error)
        }
    }

    /// `sql` failed.
    pub(super) fn sql(step: &str, sql: &str, error: tokio_postgres::Error) -> Self {
        let db = error.as_db_error();
        let position = match db.and_then(|db| db.position()) {
            Some(ErrorPosition::Original(at)) => Some(Position::find(sql, *at)),
            _ => None,
        };
        Self {
            is_transient: lakebase_core::is_transient(&error),
            sqlstate: db.map(|db| db.code().code().to_owned()),
            place: position.map(Place::Position),
            ..Self::because(step, error)
        }
    }

    /// Of several statements it was that one, counted from 1, unless the position says it better.
    pub(super) fn at(self, statement: usize) -> Self {
        let place = self.place.or(Some(Place::Statement(statement)));
        Self { place, ..self }
    }

    /// The SQL is not the migration's.
    pub(super) fn without_place(self) -> Self {
        Self {
            place: None,
            ..self
        }
    }

    /// The cause alone, in Postgres's words if it is that.
    pub(super) fn message(&self) -> String {
        match (self.refusal(), &self.source) {
            (Some(db), _) => clean_text(db.message()),
            (None, Some(source)) => clean_text(&source.to_string()),
            (None, None) => self.to_string(),
        }
    }

    fn refusal(&self) -> Option<&DbError> {
        let error: &tokio_postgres::Error = self.source.as_ref()?.downcast_ref()?;
        error.as_db_error()
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

    /// Where in the migration's SQL, if Postgres says so: it does for what it cannot parse or resolve.
    pub fn position(&self) -> Option<Position> {
        match self.place? {
            Place::Position(position) => Some(position),
            Place::Statement(_) => None,
        }
    }

    /// Which statement of the migration's SQL, counted from 1, if Postgres does not say where it is.
    pub fn statement(&self) -> Option<usize> {
        match self.place? {
            Place::Statement(number) => Some(number),
            Place::Position(_) => None,
        }
    }

    /// Whether running the migrations again, unchanged, can help. Those that had succeeded stay so, unless it was a
    /// redo.
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
        match self.place {
            Some(Place::Position(Position { line, column })) => {
                write!(f, " at line {line}, column {column}")?;
            }
            Some(Place::Statement(number)) => write!(f, " at statement {number}")?,
            None => {}
        }
        if let Some(sqlstate) = &self.sqlstate {
            write!(f, " (SQLSTATE {sqlstate})")?;
        }
        let Some(source) = &self.source else {
            return Ok(());
        };
        if let Some(error) = source.downcast_ref::<Error>() {
            // Has a hint of its own.
            return write!(f, ": {}", error.chain());
        }
        let Some(db) = self.refusal() else {
            let mut cause: Option<&dyn StdError> = Some(&**source);
            while let Some(error) = cause {
                write!(f, ": {}", clean_text(&error.to_string()))?;
                cause = error.source();
            }
            return Ok(());
        };
        write!(f, ": {}", clean_text(db.message()))?;
        match advice(db.code().code(), db.message()) {
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
