//! Asks a connection whether it still answers.

use std::time::Duration;

use diesel::QueryResult;
use diesel::result::Error;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::error::Elapsed;

use crate::suspicion::closed;

/// One that does not answer in time is replaced.
const LIMIT: Duration = Duration::from_secs(2);

/// After no answer the connection is of no use to anybody.
pub(crate) async fn ping(
    connection: &mut AsyncPgConnection,
) -> Result<QueryResult<usize>, Elapsed> {
    tokio::time::timeout(LIMIT, diesel::sql_query("SELECT 1").execute(connection)).await
}

pub(crate) fn unanswered() -> Error {
    closed("the connection does not answer")
}
