//! Where the examples run: on the Lakebase that the environment names, or on a local one. And the shop,
//! an application to swap.

pub mod shop;

use std::env::var_os;
use std::error::Error;
use std::time::Duration;

use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;

/// The schema that all examples keep their tables in: an app's service principal has no rights on
/// `public`.
pub const SCHEMA: &str = "lakebase_examples";

/// A Lakebase, and the local one behind it if there is one. Keep it as long as you connect.
pub struct Place {
    /// The handle that every pool is made from.
    pub lakebase: Lakebase,
    /// Running until dropped.
    pub local: Option<LocalLakebase>,
}

/// With `LAKEBASE_ENDPOINT` or `PGHOST` set, that Lakebase; with nothing set, a local one.
///
/// `local_tokens` is the lifetime of the local one's tokens; `ttl` is asked for elsewhere.
pub async fn place(
    local_tokens: Duration,
    ttl: Option<Duration>,
) -> Result<Place, Box<dyn Error + Send + Sync>> {
    let is_set = |name| var_os(name).is_some_and(|value| !value.is_empty());
    if is_set("LAKEBASE_ENDPOINT") || is_set("PGHOST") {
        let mut config = Config::builder().schema(SCHEMA).env();
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
    let config = Config::builder().schema(SCHEMA).vars(local.env()).build()?;
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
