//! The shop on SeaORM and Lakebase: compare it with `shop_seaorm_before`.
//!
//! With a local Lakebase: `cargo run -p lakebase-local -- cargo run --bin shop_seaorm`

use lakebase_core::Lakebase;
use lakebase_examples::Result;
use lakebase_examples::shop::{serve, with_seaorm};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    let lakebase = Lakebase::from_env()?;
    let db = lakebase_seaorm::connect(&lakebase).await?;
    with_seaorm::migrate(&db).await?;
    serve(with_seaorm::routes(db)).await
}
