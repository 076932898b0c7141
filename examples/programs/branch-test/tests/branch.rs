//! Tests on a branch: the pending migrations run on a copy of production, then the tests, and the copy is deleted. Without
//! `LAKEBASE_ENDPOINT`, production is a local Lakebase, so this runs everywhere:
//!
//! ```sh
//! cargo test -p branch-test
//! lakebase local -- cargo test -p branch-test
//! ```

use std::error::Error;

use branch_test::{accounts, transfer};
use diesel::prelude::*;
use diesel::result::DatabaseErrorKind::CheckViolation;
use diesel::result::Error::DatabaseError;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_core::testing::TestBranch;
use lakebase_core::{Config, Lakebase};
use lakebase_diesel::migrations::Migrations;
use lakebase_local::LocalLakebase;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// With the local Lakebase, if there is one: it ends when it is dropped.
async fn production() -> Result<(Lakebase, Option<LocalLakebase>)> {
    if std::env::var_os("LAKEBASE_ENDPOINT").is_some() {
        return Ok((Lakebase::from_env()?, None));
    }
    let local = LocalLakebase::start().await?;
    let lakebase = Lakebase::new(Config::from_vars(local.env())?)?;
    Ok((lakebase, Some(local)))
}

async fn balances(connection: &mut AsyncPgConnection) -> QueryResult<Vec<(String, i64)>> {
    // A copy of production has other accounts, too.
    let query = accounts::table.filter(accounts::owner.like("test-%"));
    query.order(accounts::owner).load(connection).await
}

#[tokio::test]
async fn a_transfer_moves_all_of_the_money_or_nothing() -> Result {
    let (production, _local) = production().await?;
    let branch = TestBranch::of(&production, "production").await?;
    let lakebase = branch.lakebase();
    Migrations::new(&lakebase)
        .schema("ledger")
        .create_schema(true)
        .run(MIGRATIONS)
        .await?;

    let mut connection = lakebase_diesel::connect(&lakebase).await?;
    let rows = [("test-ada", 500), ("test-grace", 0)];
    let rows = rows.map(|(owner, cents)| (accounts::owner.eq(owner), accounts::cents.eq(cents)));
    diesel::insert_into(accounts::table)
        .values(rows.to_vec())
        .execute(&mut connection)
        .await?;

    transfer(&mut connection, "test-ada", "test-grace", 200).await?;
    let overdrawn = transfer(&mut connection, "test-ada", "test-grace", 301).await;
    let unknown = transfer(&mut connection, "test-ada", "nobody", 1).await;

    assert!(
        matches!(overdrawn, Err(DatabaseError(CheckViolation, _))),
        "{overdrawn:?}"
    );
    assert_eq!(unknown, Err(diesel::result::Error::NotFound));
    let expected =
        [("test-ada", 300), ("test-grace", 200)].map(|(owner, cents)| (owner.to_owned(), cents));
    assert_eq!(balances(&mut connection).await?, expected);

    branch.finish().await?;
    Ok(())
}
