//! Limits of all TCP connections to Postgres.

use std::time::Duration;

/// Connect limit for each address, so that one that drops packets cannot use up the budget.
pub(crate) const ADDRESS_LIMIT: Duration = Duration::from_secs(5);
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_PROBES: u32 = 5;
/// Data that is not acknowledged for this long ends the connection.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(30);
