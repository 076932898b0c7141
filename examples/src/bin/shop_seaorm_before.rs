//! The shop on SeaORM and a plain Postgres: `shop_seaorm` before the swap.
//!
//! `DATABASE_URL=postgresql://localhost/shop cargo run --bin shop_seaorm_before`

use lakebase_examples::Result;
use lakebase_examples::shop::{serve, with_seaorm};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    let url = std::env::var("DATABASE_URL")?;
    let db = sea_orm::Database::connect(url).await?;
    with_seaorm::migrate(&db).await?;
    serve(with_seaorm::routes(db)).await
}
