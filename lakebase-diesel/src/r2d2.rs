//! Synchronous diesel on libpq: diesel's `PgConnection`, in diesel's pool.
//!
//! Connections go through an [auth proxy](lakebase_core::proxy) on a background thread, so the program needs no tokio runtime. The
//! thread ends with the pool or the connection. All functions block: in async code, call them in
//! `tokio::task::spawn_blocking`.
//!
//! For synchronous diesel without libpq, use diesel-async's `AsyncConnectionWrapper`.

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
/// r2d2's builder of this pool.
pub type Builder = host::Builder<ConnectionManager<PgConnection>>;

/// Opens a single connection outside of any pool, as `PgConnection::establish(url)` does.
///
/// # Errors
///
/// The cause of a failed login: see [`Error`].
pub fn establish(lakebase: &Lakebase) -> Result<PgConnection, Error> {
    log_in(lakebase, &start(lakebase)?)
}

/// Opens a pool after a first login.
///
/// | setting | default |
/// |---|---|
/// | connections | at most 10, no minimum |
/// | idle timeout | 4 minutes |
/// | maximum lifetime | 45 minutes, 10 % more or less at random |
/// | `get` waits | a second longer than the [`Lakebase`]'s connect timeout, which is 30 s by default |
///
/// The error of `get` contains the text of the last failed login, as in any pool of r2d2.
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
/// The cause of a failed login: see [`Error`].
pub fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    let builder = Pool::builder()
        .max_size(MAX_SIZE)
        .min_idle(Some(0))
        .idle_timeout(Some(IDLE_TIMEOUT))
        .max_lifetime(Some(max_lifetime()))
        .connection_timeout(wait(lakebase));
    connect_with(lakebase, builder)
}

/// Opens a pool with the settings of `builder`, except for its event handler, which is replaced.
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

/// A pool owns its event handler, and so the proxy.
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
        // Fails only if the caller has ended.
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
        // libpq returns only a text.
        match lakebase.last_failure() {
            Some(failure) if text.contains(&failure.chain()) => failure,
            _ => {
                let is_transient = lakebase_core::adapter::says_transient(&text);
                Error::database(text, is_transient)
            }
        }
    })
}

/// Sets all options, because libpq takes the others from the environment.
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
    // Longer than the login may take, so that its error arrives.
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
