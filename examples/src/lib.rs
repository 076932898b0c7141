//! The Lakebase of the examples, configured by the environment or local, and two applications: the shop, to swap, and notes
//! of many users.

pub mod documented;
pub mod notes;
pub mod shop;

use std::env::var_os;
use std::error::Error;
use std::time::Duration;

use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;

/// The schema of all tables: an app's service principal has no privileges in `public`.
pub const SCHEMA: &str = "lakebase_examples";

/// A handle, and the local Lakebase if there is one. Keep it as long as you connect.
pub struct Place {
    /// The handle for pools and connections.
    pub lakebase: Lakebase,
    /// Runs until it is dropped.
    pub local: Option<LocalLakebase>,
}

/// Returns the Lakebase of `LAKEBASE_ENDPOINT` or `PGHOST`, or starts a local one if neither is set.
///
/// `local_tokens` is the lifetime of the local one's tokens, and `ttl` the requested lifetime of others.
pub async fn place(
    local_tokens: Duration,
    ttl: Option<Duration>,
) -> Result<Place, Box<dyn Error + Send + Sync>> {
    place_in(SCHEMA, local_tokens, ttl).await
}

/// The same with another schema.
pub async fn place_in(
    schema: &str,
    local_tokens: Duration,
    ttl: Option<Duration>,
) -> Result<Place, Box<dyn Error + Send + Sync>> {
    let is_set = |name| var_os(name).is_some_and(|value| !value.is_empty());
    if is_set("LAKEBASE_ENDPOINT") || is_set("PGHOST") {
        let mut config = Config::builder().schema(schema).env();
        if let Some(ttl) = ttl {
            config = config.token_ttl(ttl);
        }
        return Ok(Place {
            lakebase: Lakebase::new(config.build()?)?,
            local: None,
        });
    }
    let local = LocalLakebase::builder()
        .token_lifetime(local_tokens)
        .start()
        .await?;
    let config = Config::builder().schema(schema).vars(local.env()).build()?;
    Ok(Place {
        lakebase: Lakebase::new(config)?,
        local: Some(local),
    })
}

impl Place {
    /// Stops the local Lakebase, if there is one, without blocking the runtime.
    pub async fn leave(self) {
        if let Some(local) = self.local {
            local.stop().await;
        }
    }
}
