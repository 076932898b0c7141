//! The shortest useful program with diesel-async and bb8.

use std::error::Error;
use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lakebase_examples::{SCHEMA, place};

diesel::table! {
    lakebase_examples.greetings (id) {
        id -> BigInt,
        text -> Text,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place(Duration::from_secs(3600), None).await?;

    let pool = lakebase_diesel::bb8::connect(&place.lakebase).await?;
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
    place.leave().await;
    Ok(())
}
