//! SeaORM's options with our defaults, and sqlx's with our login.

use std::time::Duration;

use lakebase_core::{Lakebase, Login};
use sea_orm::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::liveness::{self, PING_AFTER};

/// Idle connections may keep a compute awake, which costs money.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// Below the hour of a token, far below the platform's three days.
const MAX_LIFETIME: Duration = Duration::from_secs(45 * 60);
/// Pools of a fleet that started together must not reconnect together.
const LIFETIME_JITTER: f64 = 0.1;
/// SeaORM wants a URL; ours means nothing. With a password, or sqlx would look for one in `~/.pgpass`.
const PLACEHOLDER: &str = "postgres://lakebase:unused@lakebase";

/// SeaORM's connect options for [`connect_with`](crate::connect_with): set what you want to change.
///
/// ```
/// let mut options = lakebase_seaorm::options();
/// options.max_connections(20).set_schema_search_path("app");
/// ```
///
/// Start from these rather than from `ConnectOptions::new(url)`: they make the pool look, without a round
/// trip, whether the server has closed a connection before it is handed out. sqlx alone notices that only
/// after a rest of a second. A hook of your own (`map_sqlx_postgres_before_acquire`) replaces this one.
pub fn options() -> ConnectOptions {
    let mut options = ConnectOptions::new(PLACEHOLDER);
    liveness::watch(&mut options);
    options
}

/// Fills in what the application left open.
pub(crate) fn with_defaults(mut options: ConnectOptions, lakebase: &Lakebase) -> ConnectOptions {
    if options.get_idle_timeout().is_none() {
        options.idle_timeout(IDLE_TIMEOUT);
    }
    if options.get_max_lifetime().is_none() {
        let jitter = 1.0 + LIFETIME_JITTER * (2.0 * fastrand::f64() - 1.0);
        options.max_lifetime(MAX_LIFETIME.mul_f64(jitter));
    }
    if options.get_acquire_timeout().is_none() && options.get_connect_timeout().is_none() {
        options.acquire_timeout(lakebase.connect_timeout());
    }
    // SeaORM's default asks before every use.
    if options.get_test_before_acquire() && options.get_test_before_acquire_if_idle_for().is_none()
    {
        options.test_before_acquire_if_idle_for(PING_AFTER);
    }
    options
}

/// `base` has what the application chose (logging, timeouts, name); the rest is where and who.
pub(crate) fn with_login(base: &PgConnectOptions, login: &Login) -> PgConnectOptions {
    let target = &login.target;
    let mut options = base
        .clone()
        .host(target.host())
        .port(target.port())
        .username(target.user())
        .password(login.credential.expose())
        .database(target.database())
        .ssl_mode(if target.uses_tls() {
            PgSslMode::VerifyFull
        } else {
            PgSslMode::Disable
        })
        // Always set, so that sqlx does not take a path from the environment.
        .ssl_root_cert_from_pem(target.extra_roots_pem().unwrap_or_default().to_vec());
    if base.get_application_name().is_none() {
        options = options.application_name(target.application_name());
    }
    if let Some(path) = target.search_path() {
        options = options.options([("search_path", path)]);
    }
    if target.is_pooled() {
        // PgBouncer refuses the one and may lose the other.
        options = options.extra_float_digits(None).statement_cache_capacity(0);
    }
    options
}
