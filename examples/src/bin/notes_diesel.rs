//! Notes of many users on diesel-async: `cargo run --bin notes_diesel`
//!
//! Starts a local Lakebase with three people and a login page. If `LAKEBASE_ENDPOINT` or `PGHOST` is set, it connects
//! there, and expects the headers of Databricks Apps.

use lakebase_examples::Result;
use lakebase_examples::notes::{serve, start, with_diesel};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt::init();
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = start("notes_diesel").await?;
    with_diesel::migrate(&example.lakebase).await?;
    let pools = lakebase_diesel::bb8::user_pools(&example.lakebase).build();
    serve(pools, example).await
}
