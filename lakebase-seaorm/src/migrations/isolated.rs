//! A migrator whose migrations leave nothing in their sessions.

use async_trait::async_trait;
use lakebase_core::adapter::migration::{DISCARD_TEMPORARY, RESET_SESSION, SAVE_SESSION};
use sea_orm::{ConnectionTrait, DatabaseExecutor, DbErr, DynIden, Statement};
use sea_orm_migration::{
    MigrationName, MigrationTrait, MigratorTrait, MigratorTraitSelf, SchemaManager,
};
use sqlx::PgPool;

/// The migrations of another migrator, each one isolated from the history and from the following ones. SeaORM runs
/// them.
pub(super) struct Isolated<'a> {
    migrations: Box<dyn Fn() -> Vec<Box<dyn MigrationTrait>> + Send + Sync + 'a>,
    history: DynIden,
}

impl<'a> Isolated<'a> {
    pub(super) fn of_type<M: MigratorTrait + 'a>() -> Self {
        Self {
            migrations: Box::new(M::migrations),
            history: M::migration_table_name(),
        }
    }

    /// With the same history, and nothing to run.
    pub(super) fn empty(&self) -> Isolated<'static> {
        Isolated {
            migrations: Box::new(Vec::new),
            history: self.history.clone(),
        }
    }

    #[cfg(feature = "cli")]
    pub(super) fn of_value<M: MigratorTraitSelf>(migrator: &'a M) -> Self {
        Self {
            migrations: Box::new(|| migrator.migrations()),
            history: migrator.migration_table_name(),
        }
    }
}

impl MigratorTraitSelf for Isolated<'_> {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        let isolated = |inner| Box::new(One(inner)) as Box<dyn MigrationTrait>;
        (self.migrations)().into_iter().map(isolated).collect()
    }

    fn migration_table_name(&self) -> DynIden {
        self.history.clone()
    }
}

struct One(Box<dyn MigrationTrait>);

impl MigrationName for One {
    fn name(&self) -> &str {
        self.0.name()
    }
}

#[async_trait]
impl MigrationTrait for One {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        isolate(manager, self.0.up(manager)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        isolate(manager, self.0.down(manager)).await
    }

    fn use_transaction(&self) -> Option<bool> {
        self.0.use_transaction()
    }
}

/// SeaORM writes the history after this, in the same transaction if there is one.
async fn isolate(
    manager: &SchemaManager<'_>,
    migration: impl Future<Output = Result<(), DbErr>>,
) -> Result<(), DbErr> {
    let db = manager.get_connection();
    if let DatabaseExecutor::Connection(db) = db {
        // It may have used any session of the pool: none of them is used again.
        let outcome = migration.await;
        close_sessions(db.get_postgres_connection_pool()).await;
        return outcome;
    }
    db.execute_unprepared(DISCARD_TEMPORARY).await?;
    let settings = Statement::from_string(db.get_database_backend(), SAVE_SESSION);
    let settings = db.query_one_raw(settings).await?;
    let settings: String = settings.map_or(Ok(String::new()), |row| row.try_get_by_index(0))?;
    migration.await?;
    db.execute_unprepared(RESET_SESSION).await?;
    db.execute_unprepared(&settings).await?;
    Ok(())
}

/// Also those that are on their way back to the pool. What one has left open is committed: that it has no
/// transaction of ours was the migration's wish.
async fn close_sessions(pool: &PgPool) {
    let mut sessions = Vec::new();
    while sessions.len() < pool.size() as usize {
        match pool.acquire().await {
            Ok(session) => sessions.push(session),
            Err(_) => break,
        }
    }
    for mut session in sessions {
        let _ = sqlx::raw_sql("COMMIT").execute(&mut *session).await;
        let _ = session.close().await;
    }
}
