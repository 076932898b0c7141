//! The migrations of a crate as sea-orm-cli makes it.

use sea_orm_migration::prelude::*;

/// What sea-orm-cli runs.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Shelves)]
    }
}

#[derive(DeriveMigrationName)]
struct Shelves;

#[async_trait::async_trait]
impl MigrationTrait for Shelves {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let shelves = Table::create()
            .table("shelves")
            .col(ColumnDef::new("id").big_integer().not_null().primary_key())
            .col(ColumnDef::new("room").text().not_null())
            .to_owned();
        manager.create_table(shelves).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let shelves = Table::drop().table("shelves").to_owned();
        manager.drop_table(shelves).await
    }
}
