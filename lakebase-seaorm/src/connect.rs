//! From a Lakebase to SeaORM's connection.

use std::time::Duration;

use lakebase_core::proxy::{Builder, Proxy};
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};
use sea_orm::{ConnectOptions, DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::runtime::Handle;

use crate::options::{options, with_defaults};

/// Connects with the defaults: at most 10 connections and none kept open without need, idle ones
/// closed after 4 minutes, all of them after 45 minutes (10 % jitter per pool). Logs in once before it returns.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let lakebase = lakebase_seaorm::Lakebase::from_env()?;
/// // before: sea_orm::Database::connect(database_url).await?
/// let db = lakebase_seaorm::connect(&lakebase).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The cause, with a hint: see [`Error`]'s questions.
///
/// # Cancel safety
///
/// Dropping the future closes what it has opened.
pub async fn connect(lakebase: &Lakebase) -> Result<DatabaseConnection, Error> {
    connect_with(lakebase, options()).await
}

/// Makes connections for each user of an application: see [`UserPools`](lakebase_core::users::UserPools).
///
/// ```no_run
/// # async fn run(email: &str, token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use lakebase_core::User;
///
/// let lakebase = lakebase_core::Lakebase::from_env()?;
/// let users = lakebase_seaorm::user_pools(&lakebase).max_connections(60).build();
/// // for each request
/// let db = users.get(&User::new(email, token)).await?;
/// db.ping().await?;
/// # Ok(())
/// # }
/// ```
pub fn user_pools(lakebase: &Lakebase) -> UserPoolsBuilder<DatabaseConnection> {
    let open = |lakebase, size| async move {
        let mut options = options();
        options.max_connections(size);
        connect_with(&lakebase, options).await
    };
    let close = |db: DatabaseConnection| async move {
        let _ = db.close().await;
    };
    let is_busy = |db: &DatabaseConnection| {
        let pool = db.get_postgres_connection_pool();
        usize::try_from(pool.size()).is_ok_and(|size| size > pool.num_idle())
    };
    UserPoolsBuilder::new(lakebase, open, is_busy, close)
}

/// Connects with SeaORM's own options. All of them work (sizes, timeouts, logging, search path,
/// hooks); of the URL inside, host, port, user, password, database and TLS settings are ignored. It must look like a
/// Postgres URL all the same: [`options`] brings one.
///
/// What is left unset gets the defaults of [`connect`]. The database is logged in to once before
/// this returns, unless `connect_lazy` is set.
///
/// The pool's connections go through an [auth proxy](lakebase_core::proxy) of its own inside this process, on the runtime
/// that this is called on. It ends with the pool. A statement that fails for want of a login has the reason in its
/// error: see [`cause`](crate::cause).
///
/// At level TRACE, SeaORM itself logs the options with the URL inside: leave passwords out of it.
///
/// # Errors
///
/// As [`connect`].
///
/// # Cancel safety
///
/// As [`connect`].
pub async fn connect_with(
    lakebase: &Lakebase,
    options: ConnectOptions,
) -> Result<DatabaseConnection, Error> {
    // sqlx panics without one.
    if Handle::try_current().is_err() {
        return Err(Error::config("no tokio runtime is running on this thread"));
    }
    let mut options = with_defaults(options, lakebase);
    let mut driver = driver_options(&options).await?;
    if is_pooled(lakebase).await? {
        // PgBouncer pools by transaction and may lose a prepared statement.
        driver = driver.statement_cache_capacity(0);
    }
    let proxy = start_proxy(lakebase, &options, &driver).await?;
    let driver = through(driver, &proxy, lakebase.database())?;
    options.map_sqlx_postgres_opts(move |_| driver.clone());
    let db = SqlxPostgresConnector::connect(options).await;
    let db = db.map_err(|error| {
        let is_transient = crate::is_transient(&error);
        crate::cause(&error).unwrap_or_else(|| {
            Error::database("SeaORM could not open the connection", is_transient).with_source(error)
        })
    })?;
    #[cfg(feature = "opentelemetry")]
    let db = {
        let mut db = db;
        db.set_metric_callback(crate::opentelemetry::metric_callback(lakebase, |_| ()));
        db
    };
    // It resolves when the last clone of the pool is dropped, too.
    let closed = db.get_postgres_connection_pool().close_event();
    tokio::spawn(async move {
        closed.await;
        drop(proxy);
    });
    Ok(db)
}

/// What SeaORM and the application's own hook make of the options for sqlx. SeaORM keeps the hook private, so
/// SeaORM builds a pool that never connects.
async fn driver_options(options: &ConnectOptions) -> Result<PgConnectOptions, Error> {
    let mut probe = options.clone();
    probe
        .connect_lazy(true)
        .min_connections(0)
        .after_connect(|_| Box::pin(async { Ok(()) }));
    let db = SqlxPostgresConnector::connect(probe).await.map_err(|error| {
        Error::config("the URL inside the connect options must look like a Postgres URL; `lakebase_seaorm::options()` brings one")
            .with_source(error)
    })?;
    let driver = db.get_postgres_connection_pool().connect_options();
    Ok(PgConnectOptions::clone(&driver))
}

async fn start_proxy(
    lakebase: &Lakebase,
    options: &ConnectOptions,
    driver: &PgConnectOptions,
) -> Result<Proxy, Error> {
    // The login has to fail before the pool gives up, or its cause is lost.
    let waits = options.get_acquire_timeout();
    let budget = waits.unwrap_or(Duration::MAX).mul_f64(0.9);
    let lakebase = lakebase.with_connect_timeout(budget.min(lakebase.connect_timeout()));
    // What sqlx takes from the environment on its own.
    let environment = PgConnectOptions::new_without_pgpass();
    let mut proxy = Builder::new(&lakebase);
    if let Some(options) = environment.get_options() {
        proxy = proxy.ignore("options", options);
    }
    if let Some(name) = environment.get_application_name()
        && driver.get_application_name() == Some(name)
    {
        proxy = proxy.ignore("application_name", name);
    }
    proxy.start().await
}

/// Tokens are not taken on pooled hosts; native passwords may be.
async fn is_pooled(lakebase: &Lakebase) -> Result<bool, Error> {
    if lakebase.uses_tokens() {
        return Ok(false);
    }
    let target =
        lakebase_core::adapter::login(lakebase, |login| async { Ok(login.target) }).await?;
    Ok(target.is_pooled())
}

/// `driver` has what the application chose (logging, timeouts, name); the rest is the proxy's.
fn through(
    driver: PgConnectOptions,
    proxy: &Proxy,
    database: &str,
) -> Result<PgConnectOptions, Error> {
    let driver = match (proxy.folder(), proxy.address()) {
        (Some(folder), _) => driver.socket(folder).port(5432),
        (None, Some(address)) if driver.get_socket().is_none() => {
            driver.host(&address.ip().to_string()).port(address.port())
        }
        // It would win, and nothing takes it back.
        (None, Some(_)) => {
            return Err(Error::config(
                "the URL inside the connect options names a Unix socket, and no folder can be made for the proxy's own",
            ));
        }
        (None, None) => driver,
    };
    Ok(driver
        .ssl_mode(PgSslMode::Disable)
        .username("lakebase")
        .password(proxy.password().unwrap_or("unused"))
        .database(database))
}
