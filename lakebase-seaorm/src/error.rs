//! What SeaORM's errors mean: the cause inside them, and whether repeating a transaction can help.

use lakebase_core::Error;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};
use sqlx::postgres::PgDatabaseError;

/// Returns the [`Error`] of a failed login from inside `error`, also if a later login of the pool failed. Its text contains its
/// causes.
///
/// ```
/// # fn handle(error: &sea_orm::DbErr) -> bool {
/// lakebase_seaorm::cause(error).is_some_and(|cause| cause.is_transient())
/// # }
/// ```
pub fn cause(error: &DbErr) -> Option<Error> {
    match driver_error(error)? {
        sqlx::Error::Database(database) => {
            let error = database.try_downcast_ref::<PgDatabaseError>()?;
            Error::from_response(error.file(), error.routine())
        }
        sqlx::Error::Configuration(error) => error.source()?.downcast_ref::<Error>().cloned(),
        _ => None,
    }
}

pub(crate) fn driver_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// Returns whether repeating the whole transaction can succeed: the connection was lost, the compute restarts or was suspended,
/// the transaction lost against another one, the login failed for a passing reason, or all connections of the pool were busy.
///
/// If the reply to a `COMMIT` was lost, the transaction may have happened: repeat only what may happen twice.
/// [`transaction_with_retry`](crate::transaction_with_retry) takes care of that.
pub fn is_transient(error: &DbErr) -> bool {
    if let Some(cause) = cause(error) {
        return cause.is_transient();
    }
    match driver_error(error) {
        Some(sqlx::Error::Database(database)) => {
            let code = database.code().unwrap_or_default();
            lakebase_core::adapter::is_transient_sqlstate(&code)
        }
        Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed) => true,
        Some(_) => false,
        None => matches!(error, DbErr::ConnectionAcquire(ConnAcquireErr::Timeout)),
    }
}
