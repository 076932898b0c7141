//! Synchronous diesel on libpq with r2d2, without async and without a runtime.

use diesel::prelude::*;
use lakebase_examples::{Example, Result, SCHEMA};

diesel::table! {
    lakebase_examples.postcards (id) {
        id -> BigInt,
        text -> Text,
    }
}

fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`, and no runtime. The local Lakebase needs one.
    let runtime = tokio::runtime::Runtime::new()?;
    let example = runtime.block_on(Example::start())?;

    let pool = lakebase_diesel::r2d2::connect(&example.lakebase)?;
    let mut connection = pool.get()?;

    for sql in [
        format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"),
        "CREATE TABLE IF NOT EXISTS postcards (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)"
            .into(),
    ] {
        diesel::sql_query(sql).execute(&mut connection)?;
    }
    let writers: Vec<_> = (1..=3)
        .map(|number| {
            let pool = pool.clone();
            std::thread::spawn(move || -> Result<()> {
                diesel::insert_into(postcards::table)
                    .values(postcards::text.eq(format!("hello from thread {number}")))
                    .execute(&mut pool.get()?)?;
                Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.join().map_err(|_| "a thread panicked")??;
    }
    let latest: Vec<(i64, String)> = postcards::table
        .order(postcards::id.desc())
        .limit(3)
        .load(&mut connection)?;
    for (id, text) in latest {
        println!("{id}: {text}");
    }

    drop((connection, pool));
    runtime.block_on(example.stop());
    Ok(())
}
