//! SeaORM's options with our defaults.

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, max_lifetime};
use sea_orm::ConnectOptions;

/// The part of the acquire timeout that a login may take: the login has to fail before the pool does, or its cause is lost.
const LOGIN_SHARE: f64 = 0.9;
/// SeaORM requires a URL. It has a password, because sqlx would otherwise search `~/.pgpass` for one.
const PLACEHOLDER: &str = "postgres://lakebase:unused@lakebase";

/// Returns SeaORM's options for [`connect_with`](crate::connect_with), in which you change what you need.
///
/// ```
/// let mut options = lakebase_seaorm::options();
/// options.max_connections(20).set_schema_search_path("app");
/// ```
pub fn options() -> ConnectOptions {
    ConnectOptions::new(PLACEHOLDER)
}

/// Sets the defaults for options that the application has not set.
pub(crate) fn with_defaults(mut options: ConnectOptions, lakebase: &Lakebase) -> ConnectOptions {
    if options.get_idle_timeout().is_none() {
        options.idle_timeout(IDLE_TIMEOUT);
    }
    if options.get_max_lifetime().is_none() {
        options.max_lifetime(max_lifetime());
    }
    if options.get_acquire_timeout().is_none() {
        let default = lakebase.connect_timeout().mul_f64(1.0 / LOGIN_SHARE);
        let timeout = options.get_connect_timeout().unwrap_or(default);
        options.acquire_timeout(timeout);
    }
    options
}

/// How long a login may take, with [`with_defaults`].
pub(crate) fn login_timeout(options: &ConnectOptions, lakebase: &Lakebase) -> Duration {
    let wait = options.get_acquire_timeout().unwrap_or(Duration::MAX);
    wait.mul_f64(LOGIN_SHARE).min(lakebase.connect_timeout())
}
