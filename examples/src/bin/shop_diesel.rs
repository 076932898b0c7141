//! The shop on diesel-async and Lakebase: compare it with `shop_diesel_before`.
//!
//! With a local Lakebase: `cargo run -p lakebase-local -- cargo run --bin shop_diesel`

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::bb8::Pool;
use lakebase_core::Lakebase;
use lakebase_examples::Result;
use lakebase_examples::shop::{serve, with_diesel};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    let lakebase = Lakebase::from_env()?;
    let manager = lakebase_diesel::manager(&lakebase);
    let pool: Pool<AsyncPgConnection> = Pool::builder().build(manager).await?;
    with_diesel::migrate(&pool).await?;
    serve(with_diesel::routes(pool)).await
}
