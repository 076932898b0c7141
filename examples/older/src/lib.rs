//! Where the programs run: on the Lakebase that the environment names, or on a local one.

use std::env::var_os;
use std::error::Error;

use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;

/// The schema of all tables: an app's service principal has no privileges on `public`.
pub const SCHEMA: &str = "lakebase_examples";

/// With `LAKEBASE_ENDPOINT` or `PGHOST` set, that Lakebase; with nothing set, a local one. Keep the local one as long
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
