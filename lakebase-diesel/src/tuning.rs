//! What all pools have in common.

use std::time::Duration;

pub(crate) const MAX_SIZE: u32 = 10;
/// Idle connections may keep a compute awake, which costs money.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// `get` outlasts the login it waits for, so that it can say how that ended.
pub(crate) const LOGIN_GRACE: Duration = Duration::from_secs(1);
/// Below the hour of a token, far below the platform's three days.
const MAX_LIFETIME: Duration = Duration::from_secs(45 * 60);
const LIFETIME_JITTER: f64 = 0.1;

/// Pools of a fleet that started together must not reconnect together.
pub(crate) fn jittered_lifetime() -> Duration {
    let jitter = 1.0 + LIFETIME_JITTER * (2.0 * fastrand::f64() - 1.0);
    MAX_LIFETIME.mul_f64(jitter)
}
