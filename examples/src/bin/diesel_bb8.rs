//! The shortest useful program with diesel-async and bb8.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lakebase_examples::{Example, Result, SCHEMA};

diesel::table! {
    lakebase_examples.greetings (id) {
        id -> BigInt,
        text -> Text,
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    let pool = lakebase_diesel::bb8::connect(&example.lakebase).await?;
    let mut connection = pool.get().await?;

    for sql in [
        format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"),
        "CREATE TABLE IF NOT EXISTS greetings (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)"
            .into(),
    ] {
        diesel::sql_query(sql).execute(&mut connection).await?;
    }
    diesel::insert_into(greetings::table)
        .values(greetings::text.eq("hello from diesel"))
        .execute(&mut connection)
        .await?;
    let (id, text): (i64, String) = greetings::table
        .order(greetings::id.desc())
        .first(&mut connection)
        .await?;
    println!("{id}: {text}");

    drop(connection);
    example.stop().await;
    Ok(())
}
