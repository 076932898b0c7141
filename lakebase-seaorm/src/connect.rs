//! Opens SeaORM's connection.

use lakebase_core::adapter::check_runtime;
use lakebase_core::proxy::{Builder, Proxy};
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};
use sea_orm::{ConnectOptions, DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::options::{login_timeout, options, with_defaults};

/// Opens SeaORM's connection, which is a pool, after a first login.
///
/// | setting | default |
/// |---|---|
/// | connections | at most 10, no minimum |
/// | idle timeout | 4 minutes |
/// | maximum lifetime | 45 minutes, 10 % more or less at random |
/// | acquire timeout | 10/9 of the [`Lakebase`]'s connect timeout, which is 30 s by default |
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
/// The cause of a failed login: see [`Error`].
///
/// # Cancel safety
///
/// Dropping the future closes what it has opened.
pub async fn connect(lakebase: &Lakebase) -> Result<DatabaseConnection, Error> {
    connect_with(lakebase, options()).await
}

/// Returns a builder of [`UserPools`](lakebase_core::users::UserPools): a connection for each user of the application.
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

/// Opens SeaORM's connection with SeaORM's options, after a first login unless `connect_lazy` is set.
///
/// Options that are not set get the defaults of [`connect`]. All options have their effect (sizes, timeouts, logging, search path,
/// hooks), but host, port, user, password, database and TLS settings of the URL are ignored. [`options`] has a URL that SeaORM
/// can parse.
///
/// The connections go through an [auth proxy](lakebase_core::proxy) on the current runtime, which ends with the pool. If a login
/// fails, the error of the statement contains the [`cause`](crate::cause).
///
/// Do not put a password into the URL: SeaORM logs the options at level TRACE.
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
    check_runtime()?;
    let mut options = with_defaults(options, lakebase);
    let driver = driver_options(&options).await?;
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
    // Resolves also when the last clone of the pool is dropped.
    let closed = db.get_postgres_connection_pool().close_event();
    tokio::spawn(async move {
        closed.await;
        drop(proxy);
    });
    Ok(db)
}

/// Returns sqlx's options as SeaORM and the application's hook set them. The hook is private in SeaORM, so this builds a pool
/// that never connects.
async fn driver_options(options: &ConnectOptions) -> Result<PgConnectOptions, Error> {
    let mut probe = options.clone();
    probe
        .connect_lazy(true)
        .min_connections(0)
        .after_connect(|_| Box::pin(async { Ok(()) }));
    let db = SqlxPostgresConnector::connect(probe).await.map_err(|error| {
        Error::config("the URL in the connect options is not a Postgres URL: use `lakebase_seaorm::options()`")
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
    let lakebase = lakebase.with_connect_timeout(login_timeout(options, lakebase));
    // sqlx reads these from the environment.
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

/// Returns `driver`, which has the application's settings (logging, timeouts, name), with the address of the proxy.
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
        // sqlx would prefer the socket, and it cannot be unset.
        (None, Some(_)) => {
            return Err(Error::config(
                "the URL in the connect options names a Unix socket, and the proxy cannot create a folder for its own socket",
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
