//! Notes of many users on SeaORM: `cargo run --bin notes_seaorm`
//!
//! Starts a local Lakebase with three people and a login page. If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it connects
//! there, and expects the headers of Databricks Apps.

use lakebase_examples::Result;
use lakebase_examples::notes::{serve, start, with_seaorm};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = start("notes_seaorm").await?;
    with_seaorm::migrate(&example.lakebase).await?;
    let pools = lakebase_seaorm::user_pools(&example.lakebase).build();
    serve(pools, example).await
}
