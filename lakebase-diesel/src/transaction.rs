//! Transactions that are retried.

use std::error::Error as StdError;
use std::ops::DerefMut;

use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager as _};
use lakebase_core::Retry;
use lakebase_core::adapter::{AsyncCall, FailedAttempt, retry_transaction};

use crate::is_transient;

/// Runs `work` in a transaction. Retries it on another connection after a restart or suspend of the compute, a lost
/// connection, a serialization failure or a deadlock, if the transaction certainly did not commit.
///
/// `work` may run several times, so only the statements of this transaction may have effects. If the reply to a `COMMIT` was
/// lost, the transaction is not retried unless it is [idempotent](Retry::idempotent). `connect` takes a connection from any pool;
/// its error is returned at once, because the login was retried already.
///
/// ```no_run
/// # async fn run(pool: diesel_async::pooled_connection::bb8::Pool<diesel_async::AsyncPgConnection>) -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::result::Error;
/// use diesel_async::RunQueryDsl;
/// use lakebase_diesel::{Retry, transaction_with_retry};
///
/// let connect = async || pool.get().await.map_err(|error| Error::QueryBuilderError(error.into()));
/// transaction_with_retry(Retry::new(), connect, async |connection| {
///     diesel::sql_query("UPDATE accounts SET cents = cents - 100 WHERE id = 1")
///         .execute(connection)
///         .await
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of `work`, of `connect`, or of diesel for `BEGIN` and `COMMIT`. The transaction is retried if the error
/// [is transient](is_transient): `E` is diesel's [`Error`] or has it among its sources. `#[error(transparent)]` of thiserror
/// hides it.
///
/// # Cancel safety
///
/// Dropping the future ends the transaction without a commit, unless `COMMIT` has been sent: diesel-async's pools do not reuse
/// such a connection.
pub async fn transaction_with_retry<C, T, E, Connect, Connected, Work>(
    retry: Retry,
    connect: Connect,
    work: Work,
) -> Result<T, E>
where
    C: DerefMut<Target = AsyncPgConnection>,
    E: From<Error> + StdError + 'static,
    Connect: Fn() -> Connected,
    Connected: Future<Output = Result<C, E>>,
    for<'c> Work: AsyncFn(&'c mut AsyncPgConnection) -> Result<T, E>
        + AsyncCall<&'c mut AsyncPgConnection, Result<T, E>, Future: Send>,
{
    let is_transient = |error: &E| is_transient(error);
    let (connect, work) = (&connect, &work);
    retry_transaction(retry, is_transient, || async move {
        let mut connection = connect().await.map_err(FailedAttempt::NotConnected)?;
        let begun = AnsiTransactionManager::begin_transaction(&mut *connection).await;
        begun.map_err(|error| FailedAttempt::NotCommitted(error.into()))?;
        match work(&mut connection).await {
            Ok(value) => {
                let Err(error) = AnsiTransactionManager::commit_transaction(&mut *connection).await
                else {
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
                let _ = AnsiTransactionManager::rollback_transaction(&mut *connection).await;
                Err(FailedAttempt::NotCommitted(error))
            }
        }
    })
    .await
}

/// Postgres rejected the `COMMIT` with a serialization failure or a deadlock. An error of a shutdown does not count, as it can
/// follow a commit.
fn is_rejected(error: &Error) -> bool {
    match error {
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => true,
        Error::DatabaseError(_, information) => information.message() == "deadlock detected",
        Error::RollbackErrorOnCommit { commit_error, .. } => is_rejected(commit_error),
        _ => false,
    }
}
