//! Runs the migrations of a SeaORM migrator in their own schema. Several copies may run at once.

use lakebase_examples::{Example, Result, SCHEMA};
use lakebase_seaorm::migrations::Migrations;
use sea_orm_migration::prelude::*;

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(CreateParcels)]
    }
}

struct CreateParcels;

impl MigrationName for CreateParcels {
    fn name(&self) -> &str {
        "m20260201_090000_create_parcels"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateParcels {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let id = ColumnDef::new("id").big_integer().primary_key().take();
        let grams = ColumnDef::new("grams").integer().not_null().take();
        let table = Table::create().table("parcels").col(id).col(grams).take();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("parcels").take())
            .await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    let migrations = Migrations::new(&example.lakebase)
        .schema(SCHEMA)
        .create_schema(true);
    for name in migrations.up::<Migrator>(None).await? {
        println!("ran {name}");
    }
    for (name, status) in migrations.status::<Migrator>().await? {
        println!("{name}: {status}");
    }

    example.stop().await;
    Ok(())
}
