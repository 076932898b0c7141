//! Converts diesel's errors.

use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::bb8::RunError;

use crate::shop::failure::Failure;

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::no_connection(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound => Self::UnknownUser,
            Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => Self::UnknownUser,
            Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => Self::NameTaken,
            error => Self::statement(error),
        }
    }
}
