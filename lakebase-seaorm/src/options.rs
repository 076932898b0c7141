//! SeaORM's options with our defaults.

use lakebase_core::Lakebase;
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, max_lifetime};
use sea_orm::ConnectOptions;

/// Beyond the budget of a login, so that its cause arrives.
const ACQUIRE_MARGIN: f64 = 1.0 / 0.9;
/// SeaORM wants a URL; ours means nothing. With a password, or sqlx would look for one in `~/.pgpass`.
const PLACEHOLDER: &str = "postgres://lakebase:unused@lakebase";

/// SeaORM's connect options for [`connect_with`](crate::connect_with): set what you want to change.
///
/// ```
/// let mut options = lakebase_seaorm::options();
/// options.max_connections(20).set_schema_search_path("app");
/// ```
pub fn options() -> ConnectOptions {
    ConnectOptions::new(PLACEHOLDER)
}

/// Fills in what the application left open.
pub(crate) fn with_defaults(mut options: ConnectOptions, lakebase: &Lakebase) -> ConnectOptions {
    if options.get_idle_timeout().is_none() {
        options.idle_timeout(IDLE_TIMEOUT);
    }
    if options.get_max_lifetime().is_none() {
        options.max_lifetime(max_lifetime());
    }
    if options.get_acquire_timeout().is_none() {
        let waits = options.get_connect_timeout();
        let waits = waits.unwrap_or(lakebase.connect_timeout().mul_f64(ACQUIRE_MARGIN));
        options.acquire_timeout(waits);
    }
    options
}
