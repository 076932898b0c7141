//! Runs and reverts the migrations of one migrator.

use sea_orm::{DatabaseConnection, DbErr};
use sea_orm_migration::{Migration, MigrationStatus, MigratorTraitSelf};

use super::isolated::Isolated;
use super::{MigrationError, Migrations};

/// Where and what.
pub(super) struct Run<'a> {
    pub(super) migrations: &'a Migrations,
    pub(super) migrator: Isolated<'a>,
}

impl Run<'_> {
    pub(super) async fn up(&self, steps: Option<u32>) -> Result<Vec<String>, MigrationError> {
        let migrator = &self.migrator;
        let work = async |db: &DatabaseConnection| {
            let before = applied(migrator, db).await?;
            apply_up(migrator, db, migrator.up(db, steps)).await?;
            Ok(without(applied(migrator, db).await?, &before))
        };
        self.migrations.locked(work).await
    }

    pub(super) async fn down(&self, steps: Option<u32>) -> Result<Vec<String>, MigrationError> {
        let migrator = &self.migrator;
        let work = async |db: &DatabaseConnection| {
            let before = applied(migrator, db).await?;
            apply_down(migrator, db, migrator.down(db, steps)).await?;
            let mut reverted = without(before, &applied(migrator, db).await?);
            reverted.reverse();
            Ok(reverted)
        };
        self.migrations.locked(work).await
    }

    pub(super) async fn fresh(&self) -> Result<(), MigrationError> {
        let migrator = &self.migrator;
        let work = async |db: &DatabaseConnection| {
            // SeaORM drops by bare names, which would be found in the next schema of the path as well.
            let settings = &self.migrations.settings;
            let dropping = self.migrations.connect(settings.drop_sql()).await?;
            let dropped = migrator.empty().fresh(&dropping).await;
            let _ = dropping.close().await;
            dropped
                .map_err(|error| MigrationError::new("cannot drop the schema's objects", error))?;
            apply_up(migrator, db, migrator.up(db, None)).await
        };
        self.migrations.locked(work).await
    }

    pub(super) async fn refresh(&self) -> Result<(), MigrationError> {
        let migrator = &self.migrator;
        let work = async |db: &DatabaseConnection| {
            apply_down(migrator, db, migrator.down(db, None)).await?;
            apply_up(migrator, db, migrator.up(db, None)).await
        };
        self.migrations.locked(work).await
    }

    pub(super) async fn reset(&self) -> Result<(), MigrationError> {
        let migrator = &self.migrator;
        let work =
            async |db: &DatabaseConnection| apply_down(migrator, db, migrator.reset(db)).await;
        self.migrations.locked(work).await
    }

    pub(super) async fn status(&self) -> Result<Vec<(String, MigrationStatus)>, MigrationError> {
        if !self.migrations.has_schema().await? {
            let pending = |one: &Migration| (one.name().to_owned(), MigrationStatus::Pending);
            let all = self.migrator.get_migration_files();
            return Ok(all.iter().map(pending).collect());
        }
        let db = self
            .migrations
            .connect(self.migrations.settings.setup_sql())
            .await?;
        let found = self.migrator.get_migration_with_status_read_only(&db).await;
        let _ = db.close().await;
        let found = found.map_err(|error| MigrationError::new("cannot be listed", error))?;
        Ok(found
            .iter()
            .map(|migration| (migration.name().to_owned(), migration.status()))
            .collect())
    }
}

async fn applied(
    migrator: &Isolated<'_>,
    db: &DatabaseConnection,
) -> Result<Vec<String>, MigrationError> {
    let found = migrator.get_applied_migrations_read_only(db).await;
    let found = found.map_err(|error| MigrationError::new("cannot be listed", error))?;
    Ok(found.iter().map(|one| one.name().to_owned()).collect())
}

/// What is in `some` and not in `others`.
fn without(some: Vec<String>, others: &[String]) -> Vec<String> {
    some.into_iter()
        .filter(|name| !others.contains(name))
        .collect()
}

/// If running them failed, it was the first that is still pending.
async fn apply_up(
    migrator: &Isolated<'_>,
    db: &DatabaseConnection,
    work: impl Future<Output = Result<(), DbErr>>,
) -> Result<(), MigrationError> {
    let Err(error) = work.await else {
        return Ok(());
    };
    let pending = migrator.get_pending_migrations_read_only(db).await;
    let name = pending
        .ok()
        .and_then(|all| Some(all.first()?.name().to_owned()));
    Err(MigrationError::new("failed", error).of(name))
}

/// If reverting them failed, it was the last that is still applied.
async fn apply_down(
    migrator: &Isolated<'_>,
    db: &DatabaseConnection,
    work: impl Future<Output = Result<(), DbErr>>,
) -> Result<(), MigrationError> {
    let Err(error) = work.await else {
        return Ok(());
    };
    let all = applied(migrator, db).await.ok();
    let name = all.and_then(|mut all| all.pop());
    Err(MigrationError::new("could not be reverted", error).of(name))
}
