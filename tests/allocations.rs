//! The hot paths allocate no more than the same pool or driver without our crates.
//!
//! The allocator counts for the whole process, so there is no test harness and Postgres runs in another process. Both sides of
//! a comparison use Postgres without TLS, so that allocations of rustls do not count.

use std::alloc::System;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use diesel::IntoSql as _;
use diesel::r2d2::ConnectionManager;
use diesel::sql_types::Integer;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, bb8, deadpool,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::proxy::Proxy;
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;
use lakebase_tests::{all_idle, lakebase_without_workspace};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, Statement};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SOCKET: &str = ".s.PGSQL.5432";
/// Steps that are counted together, so that an allocation in one of a hundred steps counts.
const STEPS: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("count") {
        return runtime().block_on(run());
    }
    let postgres = Postgres {
        url: arguments.next().expect("a URL"),
        vars: arguments
            .filter_map(|var| {
                let (name, value) = var.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect(),
    };
    runtime().block_on(count_all(&postgres));
}

async fn count_all(postgres: &Postgres) {
    let mut failures = Vec::new();
    let mut check = |what: &str, (ours, most): (usize, usize)| {
        println!("{what}: {ours} allocations in {STEPS} steps, at most {most}");
        if ours > most {
            failures.push(format!("{what}: {ours} allocations, at most {most}"));
        }
    };
    check("reading the held credential", held_credential().await);
    check("checkout from bb8", bb8_checkout(postgres).await);
    check("checkout from deadpool", deadpool_checkout(postgres).await);
    check("checkout from r2d2", r2d2_checkout(postgres).await);
    check("checkout from SeaORM", seaorm_checkout(postgres).await);
    check("query of diesel-async", diesel_query(postgres).await);
    check("query of SeaORM", seaorm_query(postgres).await);
    let (few, many) = (megabyte_in_rows(10), megabyte_in_rows(10_000));
    for sql in ["SELECT 1", &few, &many] {
        let count = relay(&postgres.lakebase(), sql).await;
        check(&format!("{sql} through the proxy"), (count, 0));
    }
    // rustls allocates once for each record, and a query is two records.
    let encrypted = relay(&postgres.encrypted(), "SELECT 1").await;
    check("SELECT 1 over TLS", (encrypted, 2 * STEPS));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn megabyte_in_rows(rows: usize) -> String {
    let width = 1_000_000 / rows;
    format!("SELECT repeat('x', {width}) FROM generate_series(1, {rows})")
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Returns the allocations of [`STEPS`] steps, the minimum of several rounds because background tasks allocate, too.
async fn count(mut step: impl AsyncFnMut()) -> usize {
    let mut round = async || {
        let region = Region::new(ALLOCATOR);
        for _ in 0..STEPS {
            step().await;
        }
        let change = region.change();
        change.allocations + change.reallocations
    };
    round().await; // Buffers and caches grow.
    let mut least = usize::MAX;
    for _ in 0..3 {
        least = least.min(round().await);
    }
    least
}

async fn held_credential() -> (usize, usize) {
    let lakebase = lakebase_without_workspace();
    let ours = count(async || drop(lakebase.credential().await.expect("a credential"))).await;
    (ours, 0)
}

/// The manager of diesel-async with a check that sends nothing.
fn hosts_manager(postgres: &Postgres) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    AsyncDieselConnectionManager::new_with_config(&postgres.url, config)
}

async fn bb8_checkout(postgres: &Postgres) -> (usize, usize) {
    let ours = lakebase_diesel::bb8::connect(&postgres.lakebase()).await;
    let ours = ours.expect("a pool");
    let hosts = bb8::Pool::builder().build(hosts_manager(postgres)).await;
    let hosts = hosts.expect("a pool");
    (
        count(async || drop(ours.get().await.expect("a connection"))).await,
        count(async || drop(hosts.get().await.expect("a connection"))).await,
    )
}

async fn deadpool_checkout(postgres: &Postgres) -> (usize, usize) {
    let ours = lakebase_diesel::deadpool::connect(&postgres.lakebase()).await;
    let ours = ours.expect("a pool");
    let hosts = deadpool::Pool::builder(hosts_manager(postgres)).build();
    let hosts = hosts.expect("a pool");
    (
        count(async || drop(ours.get().await.expect("a connection"))).await,
        count(async || drop(hosts.get().await.expect("a connection"))).await,
    )
}

/// Each checkout of r2d2 sends a query.
async fn r2d2_checkout(postgres: &Postgres) -> (usize, usize) {
    let ours = lakebase_diesel::r2d2::connect(&postgres.lakebase()).expect("a pool");
    let hosts = lakebase_diesel::r2d2::Pool::builder()
        .max_size(1)
        .build(ConnectionManager::new(&postgres.url));
    let hosts = hosts.expect("a pool");
    (
        count(async || drop(ours.get().expect("a connection"))).await,
        count(async || drop(hosts.get().expect("a connection"))).await,
    )
}

async fn seaorm_pools(postgres: &Postgres) -> [DatabaseConnection; 2] {
    let ours = lakebase_seaorm::connect(&postgres.lakebase()).await;
    let hosts = Database::connect(ConnectOptions::new(&postgres.url)).await;
    [ours.expect("a pool"), hosts.expect("a pool")]
}

/// Includes the return, which sqlx checks as well.
async fn seaorm_checkout(postgres: &Postgres) -> (usize, usize) {
    let checkout = async |db: &DatabaseConnection| {
        let pool = db.get_postgres_connection_pool();
        count(async || {
            drop(pool.acquire().await.expect("a connection"));
            all_idle(db).await;
        })
        .await
    };
    let [ours, hosts] = seaorm_pools(postgres).await;
    (checkout(&ours).await, checkout(&hosts).await)
}

async fn seaorm_query(postgres: &Postgres) -> (usize, usize) {
    let query = async |db: &DatabaseConnection| {
        count(async || {
            let one = Statement::from_string(db.get_database_backend(), "SELECT 1");
            db.query_one_raw(one).await.expect("an answer");
            all_idle(db).await;
        })
        .await
    };
    let [ours, hosts] = seaorm_pools(postgres).await;
    (query(&ours).await, query(&hosts).await)
}

async fn diesel_query(postgres: &Postgres) -> (usize, usize) {
    let query = async |mut connection: AsyncPgConnection| {
        count(async || {
            let one = diesel::select(1.into_sql::<Integer>());
            one.execute(&mut connection).await.expect("an answer");
        })
        .await
    };
    let ours = lakebase_diesel::connect(&postgres.lakebase()).await;
    let hosts = AsyncPgConnection::establish(&postgres.url).await;
    (
        query(ours.expect("a connection")).await,
        query(hosts.expect("a connection")).await,
    )
}

/// Counts a query through the proxy by a driver that allocates nothing.
async fn relay(lakebase: &Lakebase, sql: &str) -> usize {
    let proxy = lakebase.proxy().await.expect("a proxy");
    let mut driver = Driver::connect(&proxy).await;
    let query = message(b"Q", &[sql.as_bytes(), b"\0"].concat());
    driver.send(&query).await;
    let mut response = driver.read_until_ready().await;
    count(async || {
        driver.send(&query).await;
        let whole = driver.0.read_exact(&mut response).await;
        whole.expect("a response");
    })
    .await
}

struct Driver(UnixStream);

impl Driver {
    async fn connect(proxy: &Proxy) -> Self {
        let socket = proxy.folder().expect("a folder").join(SOCKET);
        let mut driver = Self(UnixStream::connect(socket).await.expect("a connection"));
        let version = 196_608_u32.to_be_bytes();
        let startup = [&version[..], b"user\0lakebase\0\0"].concat();
        driver.send(&message(b"", &startup)).await;
        driver.read_until_ready().await;
        driver
    }

    async fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).await.expect("sent");
    }

    async fn read_until_ready(&mut self) -> Vec<u8> {
        let mut response = Vec::new();
        while !response.ends_with(b"Z\0\0\0\x05I") {
            let read = self.0.read_buf(&mut response).await.expect("a response");
            assert!(read > 0, "the proxy closed the connection");
        }
        response
    }
}

fn message(tag: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [tag, &length.to_be_bytes(), body].concat()
}

/// The Postgres server of the parent process.
struct Postgres {
    /// Without TLS.
    url: String,
    vars: Vec<(String, String)>,
}

impl Postgres {
    fn lakebase(&self) -> Lakebase {
        let config = Config::from_url(&self.url).expect("a configuration");
        Lakebase::new(config).expect("a handle")
    }

    /// With TLS.
    fn encrypted(&self) -> Lakebase {
        let config = Config::from_vars(self.vars.clone()).expect("a configuration");
        Lakebase::new(config).expect("a handle")
    }
}

/// Runs Postgres, and counts in a child process.
async fn run() {
    let local = LocalLakebase::start().await.expect("a platform");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, local.dir().join(SOCKET)));
    // In its own folder, because a new proxy probes all sockets of the temporary folder.
    let folder = tempfile::tempdir().expect("a folder");
    let url =
        format!("postgresql://lakebase_admin:unused@{address}/databricks_postgres?sslmode=disable");
    let vars = local.env().into_iter();
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["count", &url])
        .args(vars.map(|(name, value)| format!("{name}={value}")))
        .env("TMPDIR", folder.path())
        .kill_on_drop(true)
        .status()
        .await;
    local.stop().await;
    assert!(status.expect("a child").success());
}

/// Forwards a TCP port to Postgres's socket.
async fn serve(listener: TcpListener, socket: PathBuf) {
    while let Ok((mut client, _)) = listener.accept().await {
        client.set_nodelay(true).expect("set");
        let socket = socket.clone();
        tokio::spawn(async move {
            let mut server = UnixStream::connect(socket).await.expect("Postgres");
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
