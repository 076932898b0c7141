//! Transactions that are retried.

use std::error::Error as StdError;

use lakebase_core::Retry;
use lakebase_core::adapter::{AsyncCall, FailedAttempt, find_cause, retry_transaction};
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait as _};

use crate::error::driver_error;

/// Runs `work` in a transaction. Retries it after a restart or suspend of the compute, a lost connection, a serialization
/// failure or a deadlock, if the transaction certainly did not commit.
///
/// `work` may run several times, so only the statements of this transaction may have effects. If the reply to a `COMMIT` was
/// lost, the transaction is not retried unless it is [idempotent](Retry::idempotent). A failed login is returned at once,
/// because it was retried already.
///
/// ```no_run
/// # use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbErr};
/// # async fn run(db: DatabaseConnection) -> Result<(), DbErr> {
/// use lakebase_seaorm::{Retry, transaction_with_retry};
///
/// transaction_with_retry(&db, Retry::new(), async |transaction| {
///     let sql = "UPDATE accounts SET cents = cents - 100 WHERE id = 1";
///     transaction.execute_unprepared(sql).await?;
///     Ok::<_, DbErr>(())
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of `work`, or of SeaORM for `BEGIN` and `COMMIT`. The transaction is retried if the error [is
/// transient](crate::is_transient) and no failed login, which is retried by itself: `E` is [`DbErr`] or has it among its
/// sources. `#[error(transparent)]` of thiserror hides it.
///
/// # Cancel safety
///
/// Dropping the future rolls the transaction back, unless `COMMIT` has been sent.
pub async fn transaction_with_retry<T, E, Work>(
    db: &DatabaseConnection,
    retry: Retry,
    work: Work,
) -> Result<T, E>
where
    E: From<DbErr> + StdError + 'static,
    for<'t> Work: AsyncFn(&'t DatabaseTransaction) -> Result<T, E>
        + AsyncCall<&'t DatabaseTransaction, Result<T, E>, Future: Send>,
{
    // Logins were retried already.
    let is_transient = |error: &E| {
        find_cause(error).is_some_and(|error| {
            crate::cause(error).is_none()
                && !matches!(error, DbErr::ConnectionAcquire(_))
                && crate::is_transient(error)
        })
    };
    let work = &work;
    retry_transaction(retry, is_transient, || async move {
        let begun = db.begin().await;
        let transaction = begun.map_err(|error| FailedAttempt::NotCommitted(error.into()))?;
        match work(&transaction).await {
            Ok(value) => {
                let Err(error) = transaction.commit().await else {
                    return Ok(value);
                };
                let is_certain = is_rejected(&error);
                Err(match is_certain {
                    true => FailedAttempt::NotCommitted(error.into()),
                    false => FailedAttempt::InDoubt(error.into()),
                })
            }
            Err(error) => {
                // If the connection was lost, the server rolls back.
                let _ = transaction.rollback().await;
                Err(FailedAttempt::NotCommitted(error))
            }
        }
    })
    .await
}

/// Postgres rejected the `COMMIT` with a serialization failure or a deadlock. An error of a shutdown does not count, as it can
/// follow a commit.
fn is_rejected(error: &DbErr) -> bool {
    let database = driver_error(error).and_then(sqlx::Error::as_database_error);
    let code = database.and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("40"))
}
