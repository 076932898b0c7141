//! tokio-postgres without an ORM, with the URL of the auth proxy: a single connection, and a pool of deadpool-postgres.

use deadpool_postgres::{Manager, Pool};
use lakebase_examples::{Example, Result, SCHEMA};
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    // Only this process can connect to the socket. The proxy uses verified TLS.
    let proxy = example.lakebase.proxy().await?;
    let (client, connection) = tokio_postgres::connect(proxy.url(), NoTls).await?;
    let connection = tokio::spawn(connection);
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA};
         CREATE TABLE IF NOT EXISTS notes (
             id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text TEXT NOT NULL)"
    );
    client.batch_execute(&sql).await?;
    drop(client);
    connection.await??;

    let pool = Pool::builder(Manager::new(proxy.url().parse()?, NoTls))
        .max_size(4)
        .build()?;
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO notes (text) VALUES ($1) RETURNING id, text";
    let insert = transaction.prepare_cached(insert).await?;
    let row = transaction.query_one(&insert, &[&"hello"]).await?;
    transaction.commit().await?;
    println!(
        "{}: {}",
        row.get::<_, i64>("id"),
        row.get::<_, &str>("text")
    );

    drop(client);
    pool.close();
    example.stop().await;
    Ok(())
}
