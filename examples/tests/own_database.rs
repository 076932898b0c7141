//! How a diesel application tests: each test has its own database with the application's migrations.

use diesel::QueryDsl as _;
use diesel_async::RunQueryDsl as _;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

diesel::table! {
    customers (id) {
        id -> Int8,
    }
}

/// Creates a database with the application's migrations.
async fn with_own_database(local: &LocalLakebase, test: impl AsyncFnOnce(Lakebase)) {
    let name = local.scratch_database().await.expect("a copy");
    let config = Config::builder().vars(local.env()).schema("app").build();
    let lakebase = Lakebase::new(config.expect("a configuration")).expect("a handle");
    let own = lakebase.with_database(&name).expect("a name");
    lakebase_diesel::migrations::Migrations::new(&own)
        .create_schema(true)
        .run(MIGRATIONS)
        .await
        .expect("migrated");
    test(own).await;
}

#[tokio::test]
async fn tests_with_their_own_databases_do_not_share_rows() {
    let local = LocalLakebase::start().await.expect("a local Lakebase");
    for _ in 0..2 {
        with_own_database(&local, async |lakebase| {
            let pool = lakebase_diesel::bb8::connect(&lakebase).await;
            let pool = pool.expect("a pool");
            let mut connection = pool.get().await.expect("a connection");
            let count = customers::table.count().get_result::<i64>(&mut connection);
            assert_eq!(count.await.expect("a count"), 0);
            diesel::sql_query("INSERT INTO customers (name) VALUES ('Ada')")
                .execute(&mut connection)
                .await
                .expect("inserted");
        })
        .await;
    }
    assert_eq!(local.counters().minted, 2, "one for each handle");
}
