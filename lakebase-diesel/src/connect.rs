//! A single connection.

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use lakebase_core::adapter::{LoginFailure, login};
use lakebase_core::{Error, Lakebase};

use crate::activity::Activity;

/// Opens a single connection outside of any pool.
///
/// # Errors
///
/// The cause of a failed login: see [`Error`].
///
/// # Cancel safety
///
/// Dropping the future closes what it has opened.
pub async fn connect(lakebase: &Lakebase) -> Result<AsyncPgConnection, Error> {
    login(lakebase, |login| async move {
        let (client, connection) = login.open().await?;
        let mut connection = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(LoginFailure::transport)?;
        connection.set_instrumentation(Activity::new(&login.target, lakebase));
        Ok(connection)
    })
    .await
}
