//! The Lakebase of the programs.

use std::env::var_os;
use std::error::Error;

use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;

/// The schema of all tables: an app's service principal has no privileges in `public`.
pub const SCHEMA: &str = "lakebase_examples";

/// Returns the Lakebase of `LAKEBASE_ENDPOINT` or `PGHOST`, or starts a local one if neither is set. Keep the local one as long
/// as you connect.
pub async fn place() -> Result<(Lakebase, Option<LocalLakebase>), Box<dyn Error + Send + Sync>> {
    let is_set = |name| var_os(name).is_some_and(|value| !value.is_empty());
    let config = Config::builder().schema(SCHEMA);
    if is_set("LAKEBASE_ENDPOINT") || is_set("PGHOST") {
        return Ok((Lakebase::new(config.env().build()?)?, None));
    }
    let local = LocalLakebase::start().await?;
    let config = config.vars(local.env()).build()?;
    Ok((Lakebase::new(config)?, Some(local)))
}
