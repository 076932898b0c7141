//! Between our errors and SeaORM's.

use std::error::Error as StdError;
use std::sync::Arc;
use std::{fmt, io};

use lakebase_core::{Error, LoginFailure};
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr};

/// Our error inside SeaORM's, which prints its source only as text.
#[derive(Debug)]
struct Cause(Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.chain())
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// A `DbErr::Conn`, as SeaORM itself answers when there is no connection.
pub(crate) fn to_db_err(error: Error) -> DbErr {
    let carried = sqlx::Error::Io(io::Error::other(Cause(error)));
    DbErr::Conn(RuntimeErr::SqlxError(carried.into()))
}

/// Why there was no connection, if that is what `error` is about.
///
/// ```
/// # fn handle(error: &sea_orm::DbErr) -> bool {
/// lakebase_seaorm::cause(error).is_some_and(|cause| cause.is_transient())
/// # }
/// ```
pub fn cause(error: &DbErr) -> Option<&Error> {
    let DbErr::Conn(RuntimeErr::SqlxError(carried)) = error else {
        return None;
    };
    let sqlx::Error::Io(io) = &**carried else {
        return None;
    };
    Some(&io.get_ref()?.downcast_ref::<Cause>()?.0)
}

/// Whether the operation, or the whole transaction that it was part of, may succeed if it is repeated: the
/// connection was lost, the compute restarts or was suspended, another transaction was in the way, or no
/// connection could be had for a passing reason.
///
/// If it was the `COMMIT` whose answer was lost, the transaction may have happened: repeat only what may
/// happen twice.
///
/// ```
/// # use sea_orm::{DatabaseTransaction, DbErr, TransactionTrait as _};
/// # async fn book(transaction: &DatabaseTransaction) -> Result<(), DbErr> { Ok(()) }
/// # async fn run(db: lakebase_seaorm::LakebaseConnection) -> Result<(), DbErr> {
/// for attempt in 1.. {
///     let outcome = async {
///         let transaction = db.begin().await?;
///         book(&transaction).await?;
///         transaction.commit().await
///     };
///     match outcome.await {
///         Err(error) if attempt < 3 && lakebase_seaorm::is_transient(&error) => continue,
///         outcome => return outcome,
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub fn is_transient(error: &DbErr) -> bool {
    if let Some(cause) = cause(error) {
        return cause.is_transient();
    }
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => match &**error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                lakebase_core::is_transient_sqlstate(&code)
            }
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            _ => false,
        },
        DbErr::ConnectionAcquire(ConnAcquireErr::Timeout) => true,
        _ => false,
    }
}

/// Whether an operation failed for want of a login: SeaORM answers `Conn` only before a statement
/// is sent. Not so if it was us who gave up.
pub(crate) fn is_login_failure(error: &DbErr) -> bool {
    matches!(error, DbErr::Conn(RuntimeErr::SqlxError(_))) && cause(error).is_none()
}

/// Sorts a failure of sqlx for the login loop.
pub(crate) fn sort(failure: impl Into<Arc<sqlx::Error>>) -> LoginFailure {
    let failure: Arc<sqlx::Error> = failure.into();
    match &*failure {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            LoginFailure::postgres(code, database.message().to_owned(), failure)
        }
        // In the middle of a message or instead of one: a header has five bytes, the answer about TLS one.
        sqlx::Error::Io(error)
            if error.kind() == io::ErrorKind::UnexpectedEof
                && !error.to_string().contains("read 1 bytes") =>
        {
            LoginFailure::closed(failure)
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => {
            LoginFailure::transport(failure)
        }
        _ => LoginFailure::permanent(failure),
    }
}
