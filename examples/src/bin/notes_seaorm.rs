//! Notes of many people on SeaORM: `cargo run --bin notes_seaorm`
//!
//! Starts a local Lakebase with three people and a login page. If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it connects
//! there, and expects the headers of Databricks Apps.

use lakebase_examples::notes::{self, place, serve, with_seaorm};

#[tokio::main]
async fn main() -> notes::Result<()> {
    tracing_subscriber::fmt::init();
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place("notes_seaorm").await?;
    with_seaorm::migrate(&place.lakebase).await?;
    let pools = lakebase_seaorm::user_pools(&place.lakebase).build();
    serve(pools, place).await
}
