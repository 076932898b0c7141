use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, pk_auto, text, text_uniq};

use super::Db;
use crate::Result;

/// The lock makes replicas migrate one after another. The history is in the schema of the tables, as an app may have no
/// privileges in `public`.
const BEFORE: &str = "\
    SELECT pg_advisory_xact_lock(7467111112); \
    CREATE SCHEMA IF NOT EXISTS shop; \
    SET LOCAL search_path TO shop";

/// Runs the pending migrations.
pub async fn migrate<C: Db>(db: &C) -> Result<()> {
    let transaction = db.begin().await?;
    transaction.execute_unprepared(BEFORE).await?;
    Migrator::up(&transaction, None).await?;
    transaction.commit().await?;
    Ok(())
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(UsersAndOrders)]
    }
}

struct UsersAndOrders;

impl MigrationName for UsersAndOrders {
    fn name(&self) -> &str {
        "m20260301_090000_users_and_orders"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for UsersAndOrders {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // `if_not_exists`: the shop on diesel, with its own history, may have created the table.
        let users = Table::create()
            .table(("shop", "users"))
            .if_not_exists()
            .col(pk_auto("id").big_integer())
            .col(text_uniq("name"))
            .take();
        manager.create_table(users).await?;
        let mut user = ForeignKey::create()
            .from(("shop", "orders"), "user_id")
            .to(("shop", "users"), "id")
            .take();
        let orders = Table::create()
            .table(("shop", "orders"))
            .if_not_exists()
            .col(pk_auto("id").big_integer())
            .col(big_integer("user_id"))
            .col(text("item"))
            .col(big_integer("cents"))
            .foreign_key(&mut user)
            .take();
        manager.create_table(orders).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["orders", "users"] {
            let drop = Table::drop().table(("shop", table)).take();
            manager.drop_table(drop).await?;
        }
        Ok(())
    }
}
