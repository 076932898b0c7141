//! What SeaORM's errors mean.

use lakebase_core::Error;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};
use sqlx::postgres::PgDatabaseError;

/// Why there was no connection, if that is what `error` is about. Its causes are part of its text.
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

/// Whether the operation, or the whole transaction that it was part of, may succeed if it is repeated: the
/// connection was lost, the compute restarts or was suspended, another transaction was in the way, or no
/// connection could be had for a passing reason.
///
/// If it was the `COMMIT` whose answer was lost, the transaction may have happened: repeat only what may
/// happen twice. [`transaction_with_retry`](crate::transaction_with_retry) minds that.
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
