//! Transactions that are run again.

use std::error::Error as StdError;
use std::ops::DerefMut;

use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager as _};
use lakebase_core::Retry;
use lakebase_core::adapter::{AsyncCall, find_cause};

/// Runs `work` in a transaction, and again, on another connection, if a restart or a suspend of the compute, a lost
/// connection, a serialization failure or a deadlock was in the way and the transaction certainly did not commit.
///
/// So `work` must do nothing but statements of this transaction that matters. A `COMMIT` that was not answered is an
/// error, unless `retry` says that the transaction is [idempotent](Retry::idempotent). An error of `connect`, which takes a
/// connection from whatever pool, is returned at once: the login was retried already.
///
/// ```no_run
/// # async fn run(pool: diesel_async::pooled_connection::bb8::Pool<diesel_async::AsyncPgConnection>) -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::result::Error;
/// use diesel_async::RunQueryDsl as _;
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
/// What `work` or `connect` returns, or what diesel returns of the connection. `E` is searched for a diesel [`Error`], itself
/// and its sources, to decide whether running the transaction again can help.
///
/// # Cancel safety
///
/// Dropping the future breaks the transaction off, unless its `COMMIT` has been sent: diesel-async's pools do not use such
/// a connection again.
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
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut connection = connect().await?;
        let (error, is_certain) = match attempt(&mut connection, &work).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        drop(connection);
        let is_passing = find_cause::<Error>(&error).is_some_and(crate::is_transient);
        match retry.pause(attempts) {
            Some(pause) if is_passing && (is_certain || retry.is_idempotent()) => {
                tracing::debug!(name: "lakebase.transaction.retry", target: "lakebase::transaction", %error, attempts, "runs a transaction again");
                tokio::time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// The error comes with whether the transaction certainly did not commit.
async fn attempt<T, E, Work>(
    connection: &mut AsyncPgConnection,
    work: &Work,
) -> Result<T, (E, bool)>
where
    E: From<Error>,
    for<'c> Work: AsyncFn(&'c mut AsyncPgConnection) -> Result<T, E>
        + AsyncCall<&'c mut AsyncPgConnection, Result<T, E>, Future: Send>,
{
    type Manager = AnsiTransactionManager;
    let begun = Manager::begin_transaction(connection).await;
    begun.map_err(|error| (error.into(), true))?;
    match work(connection).await {
        Ok(value) => match Manager::commit_transaction(connection).await {
            Ok(()) => Ok(value),
            Err(error) => {
                let is_certain = is_rejected(&error);
                Err((error.into(), is_certain))
            }
        },
        Err(error) => {
            // On a connection that was lost, the server does it.
            let _ = Manager::rollback_transaction(connection).await;
            Err((error, true))
        }
    }
}

/// The server answered a `COMMIT` with a serialization failure or a deadlock. What it says while it shuts down
/// can come after a commit.
fn is_rejected(error: &Error) -> bool {
    match error {
        Error::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => true,
        Error::DatabaseError(_, information) => information.message() == "deadlock detected",
        Error::RollbackErrorOnCommit { commit_error, .. } => is_rejected(commit_error),
        _ => false,
    }
}
