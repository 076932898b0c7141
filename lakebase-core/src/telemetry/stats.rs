//! Numbers at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::durations::DurationStats;

/// What [`Lakebase::stats`](crate::Lakebase::stats) returns.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The credential of this handle; `None` with a native password.
    pub token: Option<TokenStats>,
    /// Logins to Postgres, by every adapter and proxy.
    pub logins: LoginStats,
    /// Sessions of the auth proxies.
    pub proxy: ProxyStats,
}

/// The database credential. Counts include those of the application's users, times are of the handle's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenStats {
    /// Age of the held token; `None` if none is held.
    #[serde(serialize_with = "optional_seconds")]
    pub age: Option<Duration>,
    /// How long logins may still use the held token: zero if it has expired or Postgres has rejected it.
    #[serde(serialize_with = "optional_seconds")]
    pub usable_for: Option<Duration>,
    /// When the next renewal is due.
    #[serde(serialize_with = "optional_seconds")]
    pub renewal_in: Option<Duration>,
    /// Why the last renewal failed; `None` since the last success.
    pub last_error: Option<String>,
    /// Requests for a token that failed.
    pub failures: u64,
    /// All requests for a token, failed ones as well.
    pub mints: DurationStats,
}

/// Logins to Postgres, since the handle was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoginStats {
    /// Logins under way.
    pub under_way: u64,
    /// Attempts, several for a login that was retried.
    pub attempts: u64,
    /// Logins that failed, by kind: `config`, `sign_in`, `platform`, `network`, `timeout`, `login`, `database`, `provider`, as the
    /// questions of [`Error`](crate::Error).
    pub failures: BTreeMap<&'static str, u64>,
    /// Why the last login to this database failed; `None` since the last success.
    pub last_error: Option<String>,
    /// Logins that succeeded. The time includes the wait for a credential and retries, for example while a compute resumes.
    pub succeeded: DurationStats,
}

/// Sessions of the auth proxies of a handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProxyStats {
    /// Open sessions.
    pub sessions: u64,
    /// Sessions that were opened since the handle was made.
    pub opened: u64,
}

/// A pool's connections. What a pool does not count is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections that are checked out.
    pub in_use: u64,
    /// Connections that are not.
    pub idle: u64,
    /// Most connections.
    pub limit: Option<u64>,
    /// Callers that wait for a connection.
    pub waiting: Option<u64>,
    /// Callers that waited too long, since the pool was made.
    pub timeouts: Option<u64>,
}

impl PoolStats {
    /// For adapters. The other fields are set afterwards.
    pub fn new(in_use: u64, idle: u64) -> Self {
        Self {
            in_use,
            idle,
            ..Self::default()
        }
    }
}

pub(super) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}
