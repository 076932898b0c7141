//! The lock that replicas take turns under.

use lakebase_core::{Lakebase, MIGRATION_LOCK};
use sea_orm::DbErr;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::MigrationError;

/// A Postgres advisory lock, on a session of its own to the direct host. Ends with it, whatever happens.
pub(super) struct Lock {
    client: Client,
    session: JoinHandle<()>,
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
        let lock = Self { client, session };
        if !lock.try_now().await? {
            tracing::info!("another replica migrates, waits for it");
            let patient = format!(
                "SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_advisory_lock({MIGRATION_LOCK})"
            );
            lock.client
                .batch_execute(&patient)
                .await
                .map_err(|error| no_lock(&error))?;
        }
        Ok(lock)
    }

    async fn try_now(&self) -> Result<bool, MigrationError> {
        let sql = "SELECT pg_try_advisory_lock($1)";
        let row = self.client.query_one(sql, &[&MIGRATION_LOCK]).await;
        Ok(row.map_err(|error| no_lock(&error))?.get(0))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Runs `work` as long as the lock is held.
    pub(super) async fn hold<T>(
        &mut self,
        work: impl Future<Output = Result<T, MigrationError>>,
    ) -> Result<T, MigrationError> {
        tokio::select! {
            outcome = work => outcome,
            _ = &mut self.session => {
                let lost = DbErr::Migration("its session ended".to_owned());
                Err(MigrationError::new("lost the advisory lock", lost))
            }
        }
    }

    /// Returns when it is free again.
    pub(super) async fn release(self) {
        drop(self.client);
        let _ = self.session.await;
    }
}

fn no_lock(error: &tokio_postgres::Error) -> MigrationError {
    let text = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => error.to_string(),
    };
    MigrationError::new("cannot take the advisory lock", DbErr::Migration(text))
}
