//! Checks of idle connections at checkout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::PoolableConnection as _;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::adapter::pool::{CHECK_AFTER, CHECK_LIMIT};
use lakebase_core::adapter::{Watch, clean_text};
use tokio::time::timeout;

use crate::activity::Activity;

/// The checks of one pool. If a network fails, all connections are lost together: after one did not answer, those that have
/// been idle for longer are closed without a check.
pub(crate) struct Checks {
    watch: Arc<Watch>,
    /// When the connection that did not answer was last used.
    unanswered_since: Mutex<Option<Duration>>,
}

impl Checks {
    pub(crate) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            unanswered_since: Mutex::default(),
        }
    }

    /// Whether the connection is open and was used less than [`CHECK_AFTER`] ago, so that it needs no check.
    pub(crate) fn is_fresh(&self, connection: &mut AsyncPgConnection) -> bool {
        !connection.is_broken()
            && Activity::last_of(connection.instrumentation())
                .is_some_and(|last| self.watch.passed().saturating_sub(last) < CHECK_AFTER)
    }

    /// Checks a connection that is not [fresh](Self::is_fresh).
    pub(crate) async fn check(&self, connection: &mut AsyncPgConnection) -> QueryResult<()> {
        if connection.is_broken() {
            return Err(closed("the server closed the connection"));
        }
        let last = Activity::last_of(connection.instrumentation());
        if last.is_some_and(|last| self.is_older_than_unanswered(last)) {
            return Err(closed("closed because another idle connection timed out"));
        }
        let ping = diesel::sql_query("SELECT 1").execute(connection);
        match timeout(CHECK_LIMIT, ping).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(closed(&clean_text(&error.to_string()))),
            Err(_) => {
                if let Some(last) = last.filter(|last| !self.is_older_than_unanswered(*last)) {
                    *self.slot() = Some(last);
                }
                Err(closed("the connection does not answer"))
            }
        }
    }

    fn is_older_than_unanswered(&self, last: Duration) -> bool {
        self.slot().is_some_and(|since| last <= since)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Duration>> {
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
