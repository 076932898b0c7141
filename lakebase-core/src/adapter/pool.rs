//! The defaults of all adapters' pools.

use std::time::Duration;

use crate::lakebase::Lakebase;

/// Maximum of connections.
pub const MAX_SIZE: u32 = 10;
/// How long a connection may be idle. Idle connections can keep a compute active, which costs money.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// A checkout tests a connection by a query after it was idle for this long. Before that, a local test without a round trip is enough.
pub const CHECK_AFTER: Duration = Duration::from_secs(30);
/// Limit of that query, after which the connection is replaced. Without a limit, a network that loses packets uses up the caller's
/// time.
pub const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// How much longer a caller waits for a connection than a login may take.
const LOGIN_GRACE: Duration = Duration::from_secs(1);

/// Shorter than the hour of a token, and much shorter than the platform's limit of three days.
const MAX_LIFETIME: Duration = Duration::from_secs(45 * 60);

/// Returns the maximum age of a connection: 45 minutes, up to 10 % more or less at random, so that pools that started together do not
/// reconnect together.
pub fn max_lifetime() -> Duration {
    MAX_LIFETIME.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Returns how long a caller waits for a connection: a second longer than a login may take, so that the caller gets the cause of a failed
/// login.
pub fn wait(lakebase: &Lakebase) -> Duration {
    lakebase.connect_timeout() + LOGIN_GRACE
}
