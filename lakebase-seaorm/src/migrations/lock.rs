//! The lock that replicas take turns under.

use std::time::Duration;

use lakebase_core::{Lakebase, MIGRATION_LOCK};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::MigrationError;

/// Held, shared, by each session that works: the one below ends at once when its replica does, a statement
/// need not.
pub(super) const WORK_LOCK: i64 = MIGRATION_LOCK + 1;
/// How often a lock is asked for.
const LOOK: Duration = Duration::from_millis(300);

/// A Postgres advisory lock, on a session of its own to the direct host. Ends with it, whatever happens.
pub(super) struct Lock {
    client: Client,
    /// `None` once it has ended.
    session: Option<JoinHandle<()>>,
}

impl Lock {
    pub(super) async fn take(lakebase: &Lakebase) -> Result<Self, MigrationError> {
        let connected = lakebase.direct().connect().await;
        let (client, connection) = connected.map_err(MigrationError::connecting)?;
        let session = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "lost the session of the migration lock");
            }
        });
        let lock = Self {
            client,
            session: Some(session),
        };
        lock.wait_for(MIGRATION_LOCK).await?;
        // Whoever was given up or killed may have left a statement that still runs.
        lock.wait_for(WORK_LOCK).await?;
        let sql = "SELECT pg_advisory_unlock($1)";
        let freed = lock.client.query_one(sql, &[&WORK_LOCK]).await;
        freed.map_err(|error| no_lock(&error))?;
        Ok(lock)
    }

    /// Waiting inside a statement would hold a snapshot, which CREATE INDEX CONCURRENTLY of the one that
    /// migrates waits for in turn.
    async fn wait_for(&self, key: i64) -> Result<(), MigrationError> {
        let mut is_first = true;
        loop {
            let sql = "SELECT pg_try_advisory_lock($1)";
            let row = self.client.query_one(sql, &[&key]).await;
            if row.map_err(|error| no_lock(&error))?.get(0) {
                return Ok(());
            }
            if std::mem::take(&mut is_first) {
                tracing::info!("another replica migrates, waits for it");
            }
            tokio::time::sleep(LOOK.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs `work` as long as the lock is held.
    pub(super) async fn hold<T>(
        &mut self,
        work: impl Future<Output = Result<T, MigrationError>>,
    ) -> Result<T, MigrationError> {
        let Some(session) = &mut self.session else {
            return work.await;
        };
        tokio::select! {
            outcome = work => outcome,
            _ = session => {
                self.session = None;
                Err(MigrationError::lost_lock())
            }
        }
    }

    /// Returns when it is free again.
    pub(super) async fn release(self) {
        drop(self.client);
        if let Some(session) = self.session {
            let _ = session.await;
        }
    }
}

fn no_lock(error: &tokio_postgres::Error) -> MigrationError {
    MigrationError::session("cannot take the advisory lock", error)
}
