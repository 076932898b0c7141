//! The shop on diesel-async and a plain Postgres: `shop_diesel` before the swap.
//!
//! `DATABASE_URL=postgresql://localhost/shop cargo run --bin shop_diesel_before`

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::bb8::Pool;
use lakebase_examples::Result;
use lakebase_examples::shop::{serve, with_diesel};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    let url = std::env::var("DATABASE_URL")?;
    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);
    let pool: Pool<AsyncPgConnection> = Pool::builder().build(manager).await?;
    with_diesel::migrate(&pool).await?;
    serve(with_diesel::routes(pool)).await
}
