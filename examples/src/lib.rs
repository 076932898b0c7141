//! The Lakebase of the examples, configured by the environment or local, and two applications: the shop, and notes of many
//! users.

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

/// The result of the programs.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The Lakebase of a program.
pub struct Example {
    /// The handle for pools and connections.
    pub lakebase: Lakebase,
    /// The local Lakebase, if there is one. It runs until it is dropped.
    pub local: Option<LocalLakebase>,
}

impl Example {
    /// Uses the Lakebase of `LAKEBASE_ENDPOINT` or `PGHOST`, or starts a local one if neither is set.
    pub async fn start() -> Result<Self> {
        Self::start_with(SCHEMA, Duration::from_secs(3600), None).await
    }

    /// As [`start`](Self::start), with another schema. `local_tokens` is the lifetime of a local Lakebase's tokens, and `ttl` the
    /// requested lifetime of others.
    pub async fn start_with(
        schema: &str,
        local_tokens: Duration,
        ttl: Option<Duration>,
    ) -> Result<Self> {
        let is_set = |name| var_os(name).is_some_and(|value| !value.is_empty());
        let mut config = Config::builder().schema(schema);
        let mut local = None;
        if is_set("LAKEBASE_ENDPOINT") || is_set("PGHOST") {
            config = config.env();
            if let Some(ttl) = ttl {
                config = config.token_ttl(ttl);
            }
        } else {
            let builder = LocalLakebase::builder().token_lifetime(local_tokens);
            let started = builder.start().await?;
            config = config.vars(started.env());
            local = Some(started);
        }
        let lakebase = Lakebase::new(config.build()?)?;
        Ok(Self { lakebase, local })
    }

    /// Stops the local Lakebase, if there is one, without blocking the runtime.
    pub async fn stop(self) {
        if let Some(local) = self.local {
            local.stop().await;
        }
    }
}
