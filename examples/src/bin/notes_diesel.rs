//! Notes of many people on diesel-async: `cargo run --bin notes_diesel`
//!
//! Starts a local Lakebase with three people and a login page. If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it connects
//! there, and expects the headers of Databricks Apps.

use lakebase_examples::notes::{self, place, serve, with_diesel};

#[tokio::main]
async fn main() -> notes::Result<()> {
    tracing_subscriber::fmt::init();
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place("notes_diesel").await?;
    with_diesel::migrate(&place.lakebase).await?;
    let pools = lakebase_diesel::bb8::user_pools(&place.lakebase).build();
    serve(pools, place).await
}
