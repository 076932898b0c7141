//! From a Lakebase to a connection.

use lakebase_core::{Error, Lakebase, Login, LoginFailure};
use sea_orm::{ConnectOptions, DatabaseConnection, DbErr, SqlxPostgresConnector};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::connection::LakebaseConnection;
use crate::error::sort;
use crate::feed::Feed;
use crate::options::{options, with_defaults, with_login};

/// Connects with the defaults: at most 10 connections and none kept open without need, idle ones
/// closed after 4 minutes, all of them after 45 minutes (10 % jitter per pool).
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
/// Safe.
pub async fn connect(lakebase: &Lakebase) -> Result<LakebaseConnection, Error> {
    connect_with(lakebase, options()).await
}

/// Connects with SeaORM's own options. All of them work (sizes, timeouts, logging, search path,
/// hooks); of the URL inside, host, port, user, password, database and TLS settings are ignored.
///
/// What is left unset gets the defaults of [`connect`]. The database is logged in to once before
/// this returns, unless `connect_lazy` is set; the pool's own connections open on use.
///
/// At level TRACE, SeaORM itself logs the options with the URL inside: leave passwords out of it.
/// sqlx trusts Mozilla's roots in addition to those of `PGSSLROOTCERT`.
///
/// # Errors
///
/// As [`connect`].
///
/// # Cancel safety
///
/// Safe.
pub async fn connect_with(
    lakebase: &Lakebase,
    options: ConnectOptions,
) -> Result<LakebaseConnection, Error> {
    // sqlx panics without one.
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(Error::config("no tokio runtime is running on this thread"));
    }
    let options = with_defaults(options, lakebase);
    let base = base_options(&options).await?;
    let is_lazy = options.get_connect_lazy();
    // The login loop looks everything up within the connect budget. One login before there is a pool;
    // hooks of the application have no place in it.
    let login = lakebase
        .login(|login| async {
            if login.target.hostaddr().is_some() {
                return Err(LoginFailure::permanent(Error::config(
                    "PGHOSTADDR is set, but sqlx cannot connect to an address and verify a name",
                )));
            }
            if !is_lazy {
                let options = with_login(&base, &login);
                let connection = options.connect().await.map_err(sort)?;
                let _ = connection.close().await;
            }
            Ok(login)
        })
        .await?;
    let db = open(options, &base, &login).await.map_err(|error| {
        let failed = Error::provider("SeaORM could not open the connection", false);
        failed.with_source(error)
    })?;
    let pool = db.get_postgres_connection_pool().clone();
    let feed = Feed::start(lakebase, pool, base, login);
    Ok(LakebaseConnection::new(db, feed))
}

/// Lets SeaORM make its connection, with all of its options and hooks. The pool logs in when it is
/// used.
async fn open(
    mut options: ConnectOptions,
    base: &PgConnectOptions,
    login: &Login,
) -> Result<DatabaseConnection, DbErr> {
    let connect = with_login(base, login);
    options
        .connect_lazy(true)
        .map_sqlx_postgres_opts(move |_| connect.clone());
    SqlxPostgresConnector::connect(options).await
}

/// What SeaORM makes of its options for sqlx: statement logging, timeouts, names, and whatever
/// the application's own hook does. Asked by letting it build a pool that never connects.
async fn base_options(options: &ConnectOptions) -> Result<PgConnectOptions, Error> {
    let mut probe = options.clone();
    probe
        .connect_lazy(true)
        .min_connections(0)
        .after_connect(|_| Box::pin(async { Ok(()) }));
    let db = SqlxPostgresConnector::connect(probe).await.map_err(|error| {
        Error::config("the URL inside the connect options must look like a Postgres URL; `lakebase_seaorm::options()` brings one")
            .with_source(error)
    })?;
    let base = db.get_postgres_connection_pool().connect_options();
    Ok(PgConnectOptions::clone(&base))
}
