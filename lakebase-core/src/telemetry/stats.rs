//! The numbers of handles and pools at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::durations::DurationStats;

/// The numbers of a handle: see [`Lakebase::stats`](crate::Lakebase::stats).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The database credential; `None` with a native password.
    pub token: Option<TokenStats>,
    /// Logins to Postgres through all adapters and auth proxies.
    pub logins: LoginStats,
    /// Sessions of the auth proxies.
    pub proxy: ProxyStats,
}

/// The database credential: see [`Stats::token`]. Times are those of the handle; counts include the handles of the application's users.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenStats {
    /// The age of the token; `None` without a token.
    #[serde(serialize_with = "optional_seconds")]
    pub age: Option<Duration>,
    /// How long logins can still use the token: zero if it has expired or Postgres has rejected it.
    #[serde(serialize_with = "optional_seconds")]
    pub usable_for: Option<Duration>,
    /// The time until the next renewal.
    #[serde(serialize_with = "optional_seconds")]
    pub renewal_in: Option<Duration>,
    /// Why the last renewal failed; `None` after a success.
    pub last_error: Option<String>,
    /// Failed requests for a token.
    pub failures: u64,
    /// All requests for a token, including failed ones.
    pub mints: DurationStats,
}

/// Logins to Postgres since the handle was created: see [`Stats::logins`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoginStats {
    /// Running logins.
    pub under_way: u64,
    /// Attempts; a retried login has several.
    pub attempts: u64,
    /// Failed logins by kind: `config`, `sign_in`, `platform`, `network`, `timeout`, `login`, `database` or `provider`, as in the methods
    /// of [`Error`](crate::Error).
    pub failures: BTreeMap<&'static str, u64>,
    /// Why the last login to this database failed; `None` after a success.
    pub last_error: Option<String>,
    /// Successful logins. The time includes the wait for a credential and retries, for example while a compute resumes.
    pub succeeded: DurationStats,
}

/// Sessions of the auth proxies of a handle: see [`Stats::proxy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyStats {
    /// Open sessions.
    pub sessions: u64,
    /// Sessions that were opened since the handle was created.
    pub opened: u64,
}

/// The connections of a pool, from the adapters' functions `stats`. A field is `None` if the pool does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections that are checked out.
    pub in_use: u64,
    /// Connections that are not checked out.
    pub idle: u64,
    /// The maximum of connections.
    pub limit: Option<u64>,
    /// Callers that wait for a connection.
    pub waiting: Option<u64>,
    /// Callers whose wait timed out, since the pool was created.
    pub timeouts: Option<u64>,
}

impl PoolStats {
    /// Returns a value without the optional fields. For adapters.
    pub fn new(in_use: u64, idle: u64) -> Self {
        Self {
            in_use,
            idle,
            ..Self::default()
        }
    }
}

fn optional_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}
