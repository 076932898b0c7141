//! sqlx without an ORM, with the URL of the auth proxy: a pool, and a listener for notifications.

use lakebase_examples::{Example, Result, SCHEMA};
use sqlx::PgPool;
use sqlx::postgres::PgListener;

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    let proxy = example.lakebase.proxy().await?;
    let pool = PgPool::connect(proxy.url()).await?;

    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA};
         CREATE TABLE IF NOT EXISTS orders (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item TEXT NOT NULL)"
    )))
    .execute(&pool)
    .await?;

    // If its connection ends, the listener opens another one with the current token.
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("orders").await?;

    let mut transaction = pool.begin().await?;
    let id: i64 = sqlx::query_scalar("INSERT INTO orders (item) VALUES ($1) RETURNING id")
        .bind("a lamp")
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_notify('orders', $1)")
        .bind(id.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;

    let order: i64 = listener.recv().await?.payload().parse()?;
    let item: String = sqlx::query_scalar("SELECT item FROM orders WHERE id = $1")
        .bind(order)
        .fetch_one(&pool)
        .await?;
    println!("{order}: {item}");

    drop(listener);
    pool.close().await;
    example.stop().await;
    Ok(())
}
