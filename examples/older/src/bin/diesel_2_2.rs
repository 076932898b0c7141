//! Synchronous diesel 2.2 on libpq, in diesel's own pool.

use std::error::Error;

use diesel::prelude::*;
use lakebase_examples_older::{SCHEMA, place};

diesel::table! {
    lakebase_examples.parcels (id) {
        id -> BigInt,
        text -> Text,
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`, and no runtime. The local Lakebase needs one.
    let runtime = tokio::runtime::Runtime::new()?;
    let (lakebase, local) = runtime.block_on(place())?;

    let pool = lakebase_diesel::r2d2::connect(&lakebase)?;
    let mut connection = pool.get()?;

    for sql in [
        format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"),
        "CREATE TABLE IF NOT EXISTS parcels (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)"
            .into(),
    ] {
        diesel::sql_query(sql).execute(&mut connection)?;
    }
    let (id, text): (i64, String) = connection.transaction(|connection| {
        diesel::insert_into(parcels::table)
            .values(parcels::text.eq("hello from diesel 2.2"))
            .execute(connection)?;
        parcels::table.order(parcels::id.desc()).first(connection)
    })?;
    println!("{id}: {text}");

    drop((connection, pool));
    if let Some(local) = local {
        runtime.block_on(local.stop());
    }
    Ok(())
}
