//! Programs of diesel-async work as before.

use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl};
use lakebase_tests::{
    lakebase, lakebase_with, local, local_with_schema, logins, no_session, session,
};

diesel::table! {
    authors (id) {
        id -> BigInt,
        name -> Text,
    }
}

diesel::table! {
    books (id) {
        id -> BigInt,
        author_id -> BigInt,
        title -> Text,
    }
}

diesel::joinable!(books -> authors (author_id));
diesel::allow_tables_to_appear_in_same_query!(authors, books);

const TABLES: &str = "
    CREATE TABLE authors (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE books (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        author_id BIGINT NOT NULL REFERENCES authors (id), title TEXT NOT NULL)";

#[tokio::test]
async fn typed_inserts_joins_and_transactions_work_through_the_pool() {
    let local = local_with_schema().await;
    let pool = lakebase_diesel::bb8::connect(&lakebase(&local))
        .await
        .expect("a pool");
    let mut connection = pool.get().await.expect("a connection");
    for statement in TABLES.split(';') {
        diesel::sql_query(statement)
            .execute(&mut connection)
            .await
            .expect("a table");
    }
    let author: i64 = diesel::insert_into(authors::table)
        .values(authors::name.eq("Ada"))
        .returning(authors::id)
        .get_result(&mut connection)
        .await
        .expect("an author");
    let titles =
        ["Notes", "Letters"].map(|title| (books::author_id.eq(author), books::title.eq(title)));
    diesel::insert_into(books::table)
        .values(titles.to_vec())
        .execute(&mut connection)
        .await
        .expect("books");
    let undone = connection
        .transaction(async |connection| {
            diesel::delete(books::table).execute(connection).await?;
            Err::<(), _>(diesel::result::Error::RollbackTransaction)
        })
        .await;
    assert!(undone.is_err());
    let found: Vec<(String, String)> = books::table
        .inner_join(authors::table)
        .order(books::title)
        .select((authors::name, books::title))
        .load(&mut connection)
        .await
        .expect("a join");
    let expected = ["Letters", "Notes"].map(|title| ("Ada".to_owned(), title.to_owned()));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_checkout_of_a_recently_used_connection_costs_no_round_trip() {
    use futures_util::FutureExt as _;

    let local = local().await;
    let pool = lakebase_diesel::bb8::connect(&lakebase(&local))
        .await
        .expect("a pool");
    for _ in 0..100 {
        // A round trip would be pending at the first poll.
        let checkout = pool.get().now_or_never().expect("at once");
        drop(checkout.expect("the same connection"));
    }
    assert_eq!(
        logins(&local.events()).len(),
        1,
        "one connection served all"
    );
}

#[tokio::test]
async fn the_application_name_and_the_schema_of_the_configuration_reach_the_server() {
    let local = local().await;
    local
        .sql("CREATE SCHEMA \"My App\"")
        .await
        .expect("a schema");
    let changes = [("LAKEBASE_SCHEMA", "My App"), ("PGAPPNAME", "shop")];
    let lakebase = lakebase_with(&local, &changes);
    let client = session(&lakebase).await;
    let row = client
        .query_one(
            "SELECT current_setting('search_path'), current_setting('application_name')",
            &[],
        )
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), "\"My App\",public");
    assert_eq!(row.get::<_, String>(1), "shop");
    let seen = logins(&local.events());
    assert_eq!(
        seen.last()
            .map(|(_, login)| login.application_name.as_str()),
        Some("shop")
    );
}

#[tokio::test]
async fn dropping_the_pool_closes_its_connections() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::connect(&lakebase(&local))
        .await
        .expect("a pool");
    drop(pool.get().await.expect("a connection"));
    drop(pool);
    no_session(&local).await;
}
