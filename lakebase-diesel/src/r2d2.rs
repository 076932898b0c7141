//! Synchronous diesel on libpq: diesel's own `PgConnection`, in diesel's own pool.
//!
//! Connections go through an [auth proxy](lakebase_core::proxy) on a background thread, so no runtime is needed. The
//! thread ends with the pool, or with the connection. Everything here blocks: in async code, call it in
//! `tokio::task::spawn_blocking`.
//!
//! Without libpq, diesel-async's `AsyncConnectionWrapper` makes a synchronous connection of an async one.

use std::path::Path;
use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::r2d2 as host;
use diesel::r2d2::ConnectionManager;
use diesel::{Connection as _, ConnectionError};
use lakebase_core::proxy::Proxy;
use lakebase_core::{Error, Lakebase};

use crate::background;
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, MAX_SIZE, max_lifetime, wait};

/// diesel's pool of synchronous connections.
pub type Pool = host::Pool<ConnectionManager<PgConnection>>;
/// r2d2's own builder of it.
pub type Builder = host::Builder<ConnectionManager<PgConnection>>;

/// Opens one connection, outside of any pool, as `PgConnection::establish(url)` does.
///
/// # Errors
///
/// The cause, with a hint: see [`Error`].
pub fn establish(lakebase: &Lakebase) -> Result<PgConnection, Error> {
    log_in(lakebase, &start(lakebase)?)
}

/// Opens a pool. Logs in once before it returns, so that a mistake shows here.
///
/// Defaults: at most 10 connections and none kept open without need, idle ones closed after 4
/// minutes, all of them after 45 minutes (10 % jitter per pool); `get` waits a second longer than the
/// [`Lakebase`]'s connect timeout (30 s unless configured). As in any pool of r2d2, its error has the text of the last failed login.
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// // before: Pool::builder().build(ConnectionManager::<PgConnection>::new(database_url))?
/// let pool = lakebase_diesel::r2d2::connect(&lakebase)?;
/// let mut connection = pool.get()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The cause of a failed login: see [`Error`]'s questions.
pub fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    let lifetime = max_lifetime();
    let builder = Pool::builder()
        .max_size(MAX_SIZE)
        .min_idle(Some(0))
        .idle_timeout(Some(IDLE_TIMEOUT))
        .max_lifetime(Some(lifetime))
        .connection_timeout(wait(lakebase));
    connect_with(lakebase, builder)
}

/// The same with the application's own builder: all of its settings count, but for its event handler, whose place is
/// taken.
///
/// # Errors
///
/// As [`connect`].
pub fn connect_with(lakebase: &Lakebase, builder: Builder) -> Result<Pool, Error> {
    let proxy = start(lakebase)?;
    drop(log_in(lakebase, &proxy)?);
    let manager = ConnectionManager::new(options(lakebase, &proxy));
    Ok(builder
        .event_handler(Box::new(Holder { _proxy: proxy }))
        .build_unchecked(manager))
}

/// A pool keeps its event handler, and so the proxy, as long as it lives.
#[derive(Debug)]
struct Holder {
    _proxy: Proxy,
}

impl host::HandleEvent for Holder {}

fn start(lakebase: &Lakebase) -> Result<Proxy, Error> {
    let lakebase = lakebase.clone();
    background::start(|done| async move {
        let proxy = lakebase.proxy().await;
        let ended = proxy.as_ref().ok().map(Proxy::ended);
        // Its caller may be gone.
        let _ = done.send(proxy);
        drop(done);
        if let Some(ended) = ended {
            ended.await;
        }
    })?
}

fn log_in(lakebase: &Lakebase, proxy: &Proxy) -> Result<PgConnection, Error> {
    PgConnection::establish(&options(lakebase, proxy)).map_err(|error| {
        let text = match error {
            ConnectionError::BadConnection(text) => text,
            error => error.to_string(),
        };
        // libpq hands on the text alone.
        match lakebase.last_failure() {
            Some(failure) if text.contains(&failure.chain()) => failure,
            _ => {
                let is_transient = lakebase_core::adapter::says_transient(&text);
                Error::database(text, is_transient)
            }
        }
    })
}

/// libpq takes each option that is not set from the environment, so all of them are set.
fn options(lakebase: &Lakebase, proxy: &Proxy) -> String {
    let mut options = String::new();
    let mut set = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        options.push_str(&format!("{name}='{value}' "));
    };
    match (proxy.folder().and_then(Path::to_str), proxy.address()) {
        (Some(folder), _) => {
            set("host", folder);
            set("port", "5432");
        }
        (None, Some(address)) => {
            set("host", &address.ip().to_string());
            set("port", &address.port().to_string());
        }
        (None, None) => {}
    }
    // Longer than the login's own budget, so that its cause arrives.
    let wait = lakebase.connect_timeout() + Duration::from_secs(2);
    set("hostaddr", "");
    set("user", "lakebase");
    set("password", proxy.password().unwrap_or_default());
    set("dbname", lakebase.database());
    set("application_name", "");
    set("options", "");
    set("connect_timeout", &wait.as_secs().to_string());
    set("sslmode", "disable");
    set("sslrootcert", "");
    set("requirepeer", "");
    set("gssencmode", "disable");
    set("channel_binding", "disable");
    set("target_session_attrs", "any");
    options
}
