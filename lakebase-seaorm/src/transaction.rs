//! Transactions that are run again.

use std::error::Error as StdError;

use lakebase_core::Retry;
use lakebase_core::adapter::{AsyncCall, find_cause};
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait as _};

use crate::error::driver_error;

/// Runs `work` in a transaction, and again if a restart or a suspend of the compute, a lost connection, a
/// serialization failure or a deadlock was in the way and the transaction certainly did not commit.
///
/// So `work` must do nothing but statements of this transaction that matters. A `COMMIT` that was not answered is an
/// error, unless `retry` says that the transaction is [idempotent](Retry::idempotent). A connection that cannot be had
/// is an error at once: its login was retried already.
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
/// What `work` returns, or what SeaORM returns of the connection. `E` is searched for a [`DbErr`], itself and its sources, to
/// decide whether running the transaction again can help.
///
/// # Cancel safety
///
/// Dropping the future rolls the transaction back, unless its `COMMIT` has been sent.
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
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (error, is_certain) = match attempt(db, &work).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let is_passing = find_cause(&error).is_some_and(|error| {
            // No connection: the login has been retried for as long as it may take.
            crate::cause(error).is_none()
                && !matches!(error, DbErr::ConnectionAcquire(_))
                && crate::is_transient(error)
        });
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
async fn attempt<T, E, Work>(db: &DatabaseConnection, work: &Work) -> Result<T, (E, bool)>
where
    E: From<DbErr>,
    for<'t> Work: AsyncFn(&'t DatabaseTransaction) -> Result<T, E>
        + AsyncCall<&'t DatabaseTransaction, Result<T, E>, Future: Send>,
{
    let transaction = db.begin().await.map_err(|error| (error.into(), true))?;
    match work(&transaction).await {
        Ok(value) => match transaction.commit().await {
            Ok(()) => Ok(value),
            Err(error) => {
                let is_certain = is_rejected(&error);
                Err((error.into(), is_certain))
            }
        },
        Err(error) => {
            // On a connection that was lost, the server does it.
            let _ = transaction.rollback().await;
            Err((error, true))
        }
    }
}

/// The server answered a `COMMIT` with a serialization failure or a deadlock. What it says while it shuts down
/// can come after a commit.
fn is_rejected(error: &DbErr) -> bool {
    let database = driver_error(error).and_then(sqlx::Error::as_database_error);
    let code = database.and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("40"))
}
