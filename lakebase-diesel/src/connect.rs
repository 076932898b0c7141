//! One connection.

#[cfg(any(
    feature = "bb8",
    feature = "deadpool",
    feature = "r2d2",
    feature = "blocking"
))]
use diesel::ConnectionError;
use diesel::connection::CacheSize;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use lakebase_core::{Error, Lakebase, LoginFailure};

#[cfg(any(feature = "bb8", feature = "deadpool", feature = "blocking"))]
use crate::activity::Activity;

/// Opens one connection, outside of any pool: verified TLS, a current token, one renewal if it is
/// refused.
///
/// # Errors
///
/// See [`Lakebase::login`].
///
/// # Cancel safety
///
/// Safe.
pub async fn connect(lakebase: &Lakebase) -> Result<AsyncPgConnection, Error> {
    lakebase
        .login(|login| async move {
            let (client, connection) = login.open().await?;
            let mut connection =
                AsyncPgConnection::try_from_client_and_connection(client, connection)
                    .await
                    .map_err(LoginFailure::transport)?;
            if login.target.is_pooled() {
                connection.set_prepared_statement_cache_size(CacheSize::Disabled);
            }
            #[cfg(any(feature = "bb8", feature = "deadpool", feature = "blocking"))]
            connection.set_instrumentation(Activity::new(&login.target));
            Ok(connection)
        })
        .await
}

/// diesel keeps only text of a failed connection, so the text is all of it.
#[cfg(any(
    feature = "bb8",
    feature = "deadpool",
    feature = "r2d2",
    feature = "blocking"
))]
pub(crate) fn connection_error(error: &Error) -> ConnectionError {
    ConnectionError::BadConnection(error.chain())
}
