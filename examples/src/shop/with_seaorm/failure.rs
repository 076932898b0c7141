//! Converts SeaORM's errors.

use sea_orm::{DbErr, SqlErr};

use crate::shop::failure::Failure;

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::ForeignKeyConstraintViolation(_)) => Self::UnknownUser,
            Some(SqlErr::UniqueConstraintViolation(_)) => Self::NameTaken,
            _ => match error {
                DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => Self::no_connection(error),
                error => Self::statement(error),
            },
        }
    }
}
