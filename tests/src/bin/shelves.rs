//! The `main` of a migration crate. Its migration first runs `SHELVES_SQL`; with `SHELVES_CHOSEN` it has other migrations.

use sea_orm_migration::MigratorTraitSelf;
use sea_orm_migration::prelude::*;

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(CreateShelves)]
    }
}

struct CreateShelves;

impl MigrationName for CreateShelves {
    fn name(&self) -> &str {
        "m20260101_000000_create_shelves"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateShelves {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if let Ok(sql) = std::env::var("SHELVES_SQL") {
            manager.get_connection().execute_unprepared(&sql).await?;
        }
        let id = ColumnDef::new("id").big_integer().primary_key().take();
        let table = Table::create().table("shelves").col(id).take();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::drop().table("shelves").take();
        manager.drop_table(table).await
    }
}

/// A migrator that is a value: its migrations are chosen at run time.
struct Chosen(Vec<&'static str>);

impl MigratorTraitSelf for Chosen {
    fn migrations(&self) -> Vec<Box<dyn MigrationTrait>> {
        self.0
            .iter()
            .map(|name| Box::new(Empty(name)) as _)
            .collect()
    }
}

struct Empty(&'static str);

impl MigrationName for Empty {
    fn name(&self) -> &str {
        self.0
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Empty {
    async fn up(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Ok(())
    }
}

#[tokio::main]
async fn main() {
    if std::env::var_os("SHELVES_CHOSEN").is_some() {
        lakebase_seaorm::migrations::run_cli(Chosen(vec!["one", "two"])).await;
    } else {
        lakebase_seaorm::migrations::run_cli(Migrator).await;
    }
}
