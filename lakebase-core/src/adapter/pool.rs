//! The defaults of every pool.

use std::time::Duration;

use crate::lakebase::Lakebase;

/// Most connections.
pub const MAX_SIZE: u32 = 10;
/// How long a connection may be idle: idle connections may keep a compute awake, which costs money.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// A connection that was idle for this long gets a query before it is handed out. For younger ones a local test is
/// enough, without a round trip.
pub const CHECK_AFTER: Duration = Duration::from_secs(30);
/// A connection that does not answer that query within this time is replaced. Without a limit, a network that loses
/// packets uses up the caller's time.
pub const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// How much longer a caller waits for a connection than a login may take.
const LOGIN_GRACE: Duration = Duration::from_secs(1);

/// Below the hour of a token, far below the platform's three days.
const MAX_LIFETIME: Duration = Duration::from_secs(45 * 60);

/// How old a connection may get: 45 minutes, 10 % more or less by chance, so that the pools of a fleet that started
/// together do not reconnect together.
pub fn max_lifetime() -> Duration {
    MAX_LIFETIME.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// How long a caller waits for a connection: a second longer than a login may take, so that the cause of a failed login
/// arrives.
pub fn wait(lakebase: &Lakebase) -> Duration {
    lakebase.connect_timeout() + LOGIN_GRACE
}
