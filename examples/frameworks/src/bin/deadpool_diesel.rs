//! Synchronous diesel on libpq, in the pool of deadpool-diesel.

use deadpool_diesel::postgres::{Manager, Pool, Runtime};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use lakebase_examples_frameworks::{BoxError, SCHEMA, place};

diesel::table! {
    lakebase_examples.cables (id) {
        id -> BigInt,
        text -> Text,
    }
}

async fn run<T, F>(pool: &Pool, statements: F) -> Result<T, BoxError>
where
    T: Send + 'static,
    F: FnOnce(&mut PgConnection) -> QueryResult<T> + Send + 'static,
{
    let done = pool.get().await?.interact(statements).await;
    Ok(done.map_err(|error| error.to_string())??)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let (lakebase, local) = place().await?;

    let proxy = lakebase.proxy().await?;
    let manager = Manager::new(proxy.url(), Runtime::Tokio1);
    let pool = Pool::builder(manager).max_size(4).build()?;

    let create = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA};
         CREATE TABLE IF NOT EXISTS cables (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)"
    );
    run(&pool, move |connection| connection.batch_execute(&create)).await?;
    let writers: Vec<_> = (1..=4)
        .map(|number| {
            let pool = pool.clone();
            let text = format!("hello from task {number}");
            let insert = diesel::insert_into(cables::table).values(cables::text.eq(text));
            tokio::spawn(async move { run(&pool, |connection| insert.execute(connection)).await })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    let latest: Vec<(i64, String)> = run(&pool, |connection| {
        let latest = cables::table.order(cables::id.desc()).limit(4);
        latest.load(connection)
    })
    .await?;
    for (id, text) in latest {
        println!("{id}: {text}");
    }

    pool.close();
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(())
}
