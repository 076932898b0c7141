//! Whether an idle connection may be handed out.

use std::sync::{Mutex, PoisonError};

use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::PoolableConnection as _;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::adapter::clean_text;
use lakebase_core::adapter::pool::{CHECK_AFTER, CHECK_LIMIT};
use tokio::time::timeout;

use crate::activity::{Activity, Moment};

/// The checks of one pool. When a network dies, its connections die together: after one that did not answer, those that
/// have been idle for longer are closed without another wait.
#[derive(Default)]
pub(crate) struct Checks {
    /// When the connection that did not answer was used last.
    unanswered_since: Mutex<Option<Moment>>,
}

impl Checks {
    pub(crate) async fn check(&self, connection: &mut AsyncPgConnection) -> QueryResult<()> {
        if connection.is_broken() {
            return Err(closed("the server closed the connection"));
        }
        // Unknown (the application has its own instrumentation) counts as long ago.
        let last = Activity::last_of(connection.instrumentation());
        if let Some(last) = last {
            if last.elapsed() < CHECK_AFTER {
                return Ok(());
            }
            if self.is_older_than_unanswered(&last) {
                return Err(closed("closed because another idle connection timed out"));
            }
        }
        let ping = diesel::sql_query("SELECT 1").execute(connection);
        match timeout(CHECK_LIMIT, ping).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(closed(&clean_text(&error.to_string()))),
            Err(_) => {
                if let Some(last) = last.filter(|last| !self.is_older_than_unanswered(last)) {
                    *self.slot() = Some(last);
                }
                Err(closed("the connection does not answer"))
            }
        }
    }

    fn is_older_than_unanswered(&self, last: &Moment) -> bool {
        self.slot().is_some_and(|since| !last.is_after(&since))
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Moment>> {
        let slot = self.unanswered_since.lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed(message: &str) -> Error {
    Error::DatabaseError(
        DatabaseErrorKind::ClosedConnection,
        Box::new(message.to_owned()),
    )
}
