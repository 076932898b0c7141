//! Notes on SeaORM, with a `DatabaseConnection` for each user.

use lakebase_core::Lakebase;
use lakebase_seaorm::migrations::Migrations;
use sea_orm::entity::prelude::*;
use sea_orm::{QueryOrder as _, QuerySelect as _, Set};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager, async_trait};

use super::{Failure, Note, Notes, SHOWN};
use crate::Result;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "notes")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub owner: String,
    pub text: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<Model> for Note {
    fn from(Model { id, owner, text }: Model) -> Self {
        Self { id, owner, text }
    }
}

impl Notes for DatabaseConnection {
    async fn list(&self) -> Result<Vec<Note>, Failure> {
        let newest = Entity::find()
            .order_by_desc(Column::Id)
            .limit(u64::from(SHOWN));
        let rows = newest.all(self).await?;
        Ok(rows.into_iter().map(Note::from).collect())
    }

    async fn add(&self, text: &str) -> Result<Note, Failure> {
        let note = ActiveModel {
            text: Set(text.to_owned()),
            ..Default::default()
        };
        Ok(note.insert(self).await?.into())
    }

    async fn delete(&self, id: i64) -> Result<bool, Failure> {
        Ok(Entity::delete_by_id(id).exec(self).await?.rows_affected > 0)
    }
}

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        match lakebase_seaorm::cause(&error) {
            Some(cause) => cause.into(),
            None => Self::statement(error),
        }
    }
}

/// Runs the pending migrations as the application's service principal, which then owns the table.
pub async fn migrate(lakebase: &Lakebase) -> Result<()> {
    let migrations = Migrations::new(lakebase).create_schema(true);
    migrations.up::<Migrator>(None).await?;
    Ok(())
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(CreateNotes)]
    }
}

struct CreateNotes;

impl MigrationName for CreateNotes {
    fn name(&self) -> &str {
        "m20260401_090000_notes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateNotes {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = include_str!("migrations/2026-04-01-090000_notes/up.sql");
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}
