//! Both sides of a comparison: connections of these crates, and of the drivers alone with the same token as a static password.

use std::sync::Arc;
use std::time::Duration;

use diesel::r2d2::ConnectionManager;
use diesel::{Connection as _, PgConnection};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, bb8, deadpool};
use futures_util::FutureExt as _;
use lakebase_core::Lakebase;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::platform::{Other, Platform, Vars, lakebase_with};

pub const CONNECTIONS: u32 = 2;
/// The names of both networks.
pub const NETWORKS: [&str; 2] = ["loopback", "1 ms each way"];

/// The platform, directly and behind the slow network.
pub struct World {
    // Dropped before the platform.
    _network: Other,
    _platform: Platform,
    pub drivers: [Drivers; 2],
}

impl World {
    pub async fn start() -> Self {
        let platform = Platform::start();
        let address = format!("127.0.0.1:{}", platform.vars["PGPORT"]);
        let mut network = Other::start(&["delay", &address], &Vars::new());
        let mut far = platform.vars.clone();
        far.insert("PGPORT".to_owned(), network.line());
        let drivers = [Drivers::at(&platform.vars).await, Drivers::at(&far).await];
        Self {
            _network: network,
            _platform: platform,
            drivers,
        }
    }

    /// Each network with its name.
    pub fn networks(&self) -> impl Iterator<Item = (&Drivers, &'static str)> {
        self.drivers.iter().zip(NETWORKS)
    }
}

/// The configuration of both sides on one network.
#[derive(Clone)]
pub struct Drivers {
    pub lakebase: Lakebase,
    pub tokio_postgres: tokio_postgres::Config,
    pub tls: MakeRustlsConnect,
    pub sqlx: PgConnectOptions,
    pub libpq: String,
}

impl Drivers {
    pub async fn at(vars: &Vars) -> Self {
        let lakebase = lakebase_with(vars, &[]);
        let credential = lakebase.credential().await.expect("a credential");
        let token = credential.expose();
        let get = |name: &str| vars[name].as_str();
        let port: u16 = get("PGPORT").parse().expect("a port");
        let mut tokio_postgres = tokio_postgres::Config::new();
        tokio_postgres
            .host(get("PGHOST"))
            .port(port)
            .user(get("PGUSER"))
            .password(token)
            .dbname(get("PGDATABASE"))
            .ssl_mode(tokio_postgres::config::SslMode::Require);
        let sqlx = PgConnectOptions::new_without_pgpass()
            .host(get("PGHOST"))
            .port(port)
            .username(get("PGUSER"))
            .password(token)
            .database(get("PGDATABASE"))
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert(get("PGSSLROOTCERT"))
            .disable_statement_logging();
        let libpq = format!(
            "host='{}' port={port} user='{}' password='{token}' dbname='{}' sslmode=verify-full sslrootcert='{}'",
            get("PGHOST"),
            get("PGUSER"),
            get("PGDATABASE"),
            get("PGSSLROOTCERT"),
        );
        Self {
            tls: MakeRustlsConnect::new(tls(get("PGSSLROOTCERT"))),
            lakebase,
            tokio_postgres,
            sqlx,
            libpq,
        }
    }

    /// Connects with a static password, like a program without these crates.
    pub async fn diesel(&self) -> AsyncPgConnection {
        let connected = self.tokio_postgres.connect(self.tls.clone()).await;
        let (client, connection) = connected.expect("a login");
        let connection = AsyncPgConnection::try_from_client_and_connection(client, connection);
        connection.await.expect("a connection")
    }

    pub fn diesel_sync(&self) -> PgConnection {
        PgConnection::establish(&self.libpq).expect("a login")
    }

    fn default_manager(&self) -> AsyncDieselConnectionManager<AsyncPgConnection> {
        let drivers = self.clone();
        let mut config = ManagerConfig::default();
        config.custom_setup = Box::new(move |_| {
            let drivers = drivers.clone();
            async move { Ok(drivers.diesel().await) }.boxed()
        });
        AsyncDieselConnectionManager::new_with_config("static", config)
    }

    pub async fn default_bb8(&self) -> bb8::Pool<AsyncPgConnection> {
        let pool = bb8::Pool::builder().max_size(CONNECTIONS);
        pool.build(self.default_manager()).await.expect("a pool")
    }

    pub fn default_deadpool(&self) -> deadpool::Pool<AsyncPgConnection> {
        let pool = deadpool::Pool::builder(self.default_manager()).max_size(CONNECTIONS as usize);
        pool.build().expect("a pool")
    }

    pub async fn default_r2d2(&self) -> lakebase_diesel::r2d2::Pool {
        let url = self.libpq.clone();
        blocking(move || {
            let pool = lakebase_diesel::r2d2::Pool::builder().max_size(CONNECTIONS);
            pool.build(ConnectionManager::new(url)).expect("a pool")
        })
        .await
    }

    pub async fn default_seaorm(&self) -> DatabaseConnection {
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
        let pool = pool.connect_with(self.sqlx.clone()).await;
        DatabaseConnection::from(pool.expect("a pool"))
    }

    pub async fn bb8(&self) -> lakebase_diesel::bb8::Pool {
        let pool = lakebase_diesel::bb8::Builder::new().max_size(CONNECTIONS);
        pool.build(&self.lakebase).await.expect("a pool")
    }

    pub async fn deadpool(&self) -> lakebase_diesel::deadpool::Pool {
        let pool = lakebase_diesel::deadpool::Builder::new().max_size(CONNECTIONS as usize);
        pool.build(&self.lakebase).await.expect("a pool")
    }

    pub async fn r2d2(&self) -> lakebase_diesel::r2d2::Pool {
        let lakebase = self.lakebase.clone();
        blocking(move || lakebase_diesel::r2d2::connect(&lakebase).expect("a pool")).await
    }

    pub async fn seaorm(&self, connections: u32) -> DatabaseConnection {
        let mut options = lakebase_seaorm::options();
        options.max_connections(connections).sqlx_logging(false);
        let connected = lakebase_seaorm::connect_with(&self.lakebase, options).await;
        connected.expect("a pool")
    }
}

pub fn tls(ca_file: &str) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca_file).expect("readable") {
        roots.add(root.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

pub async fn ask_seaorm(db: &DatabaseConnection) {
    let one = sea_orm::Statement::from_string(db.get_database_backend(), "SELECT 1");
    db.query_one_raw(one).await.expect("an answer");
}

/// Returns milliseconds.
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
