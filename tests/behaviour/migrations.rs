//! Migrations of both ORMs run once, however many replicas start together.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use futures_util::future::join_all;
use lakebase_tests::{lakebase, local, soon};
use sea_orm::{ConnectionTrait as _, Statement};
use sea_orm_migration::MigratorTrait;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn sea_orm_migration::MigrationTrait>> {
        vec![Box::new(create_shelves::Migration)]
    }
}

mod create_shelves {
    use sea_orm_migration::prelude::*;

    pub(super) struct Migration;

    impl MigrationName for Migration {
        fn name(&self) -> &str {
            "m20260101_000000_create_shelves"
        }
    }

    #[sea_orm_migration::async_trait::async_trait]
    impl MigrationTrait for Migration {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            let mut table = Table::create();
            let mut id = ColumnDef::new(Alias::new("id"));
            table
                .table(Alias::new("shelves"))
                .col(id.big_integer().primary_key());
            manager.create_table(table).await
        }
    }
}

#[tokio::test]
async fn diesel_replicas_that_start_together_run_each_migration_once() {
    let local = local().await;
    let replicas = (0..8).map(|_| {
        // Each replica is a process of its own: its own handle.
        let lakebase = lakebase(&local);
        async move { lakebase_diesel::migrations::run_pending(&lakebase, MIGRATIONS).await }
    });
    let runs = soon(join_all(replicas)).await;
    let ran: usize = runs
        .into_iter()
        .map(|run| run.expect("migrated").len())
        .sum();
    assert_eq!(ran, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn seaorm_replicas_that_start_together_run_each_migration_once() {
    let local = local().await;
    let replicas = (0..4).map(|_| {
        let lakebase = lakebase(&local);
        async move {
            let db = lakebase_seaorm::connect(&lakebase)
                .await
                .expect("a connection");
            lakebase_seaorm::migrations::up::<Migrator>(&db).await
        }
    });
    for run in soon(join_all(replicas)).await {
        run.expect("migrated");
    }
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    let count = Statement::from_string(
        db.get_database_backend(),
        "SELECT count(*) FROM seaql_migrations",
    );
    let row = db
        .query_one_raw(count)
        .await
        .expect("an answer")
        .expect("a row");
    assert_eq!(row.try_get_by_index::<i64>(0).expect("a number"), 1);
}

#[tokio::test]
async fn a_migrators_own_up_takes_the_connection() {
    let local = local().await;
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    Migrator::up(&db, None).await.expect("migrated");
    let pending = Migrator::get_pending_migrations(&db).await.expect("a list");
    assert!(pending.is_empty());
}
