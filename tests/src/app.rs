//! One application on top of each adapter, so that each adapter is tested in the same way.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::proxy::{Builder, Clients, Proxy};
use lakebase_core::{Error, Lakebase};
use lakebase_diesel::r2d2;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Mutex;

use crate::{TooSlow, forget_idle, in_time, open, until};

/// What an application connects with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    TokioPostgres,
    DieselBb8,
    DieselDeadpool,
    DieselR2d2,
    SeaOrm,
    Sqlx,
    SeaOrm1,
    Psql,
}

/// All adapters.
pub const ADAPTERS: [Adapter; 8] = [
    Adapter::TokioPostgres,
    Adapter::DieselBb8,
    Adapter::DieselDeadpool,
    Adapter::DieselR2d2,
    Adapter::SeaOrm,
    Adapter::Sqlx,
    Adapter::SeaOrm1,
    Adapter::Psql,
];

impl Adapter {
    /// The name in messages, and the argument of `puppet`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokioPostgres => "tokio-postgres",
            Self::DieselBb8 => "diesel-bb8",
            Self::DieselDeadpool => "diesel-deadpool",
            Self::DieselR2d2 => "diesel-r2d2",
            Self::SeaOrm => "seaorm",
            Self::Sqlx => "sqlx",
            Self::SeaOrm1 => "seaorm-1",
            Self::Psql => "psql",
        }
    }
}

/// Runs a test with all adapters at the same time.
pub async fn through_every_adapter<F>(prove: impl Fn(Adapter) -> F)
where
    F: Future<Output = ()>,
{
    // Boxed, because the unoptimised futures together overflow a stack.
    let proofs = ADAPTERS.map(|adapter| Box::pin(prove(adapter)));
    futures_util::future::join_all(proofs).await;
}

/// Runs a test that depends on the machine's speed with all adapters, see [`in_time`].
pub async fn every_adapter_in_time<F>(prove: impl Fn(Adapter) -> F)
where
    F: Future<Output = Result<(), TooSlow>>,
{
    let prove = &prove;
    through_every_adapter(|adapter| in_time(async move || prove(adapter).await)).await;
}

/// A running application. Cheap to clone.
#[derive(Clone)]
pub struct App {
    adapter: Adapter,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// A program without a pool: it holds one connection, and opens another when that is closed.
    TokioPostgres(Lakebase, Arc<Mutex<Option<tokio_postgres::Client>>>),
    DieselBb8(lakebase_diesel::bb8::Pool),
    DieselDeadpool(lakebase_diesel::deadpool::Pool),
    DieselR2d2(Sync),
    SeaOrm(DatabaseConnection),
    /// The proxy ends with its last handle.
    Sqlx(DatabaseConnection, #[allow(dead_code)] Proxy),
    SeaOrm1(sea_orm_1::DatabaseConnection, #[allow(dead_code)] Proxy),
    /// A process and a connection for each statement.
    Psql(Proxy),
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.adapter.name())
    }
}

/// The error that an application gets.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The error with its causes.
    pub text: String,
    /// What the adapter's `is_transient` returns.
    pub is_transient: bool,
}

impl Failure {
    fn new(error: &impl fmt::Display, is_transient: bool) -> Self {
        let text = error.to_string();
        Self { text, is_transient }
    }

    fn of(error: &Error) -> Self {
        Self::new(&error.chain(), error.is_transient())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transient = if self.is_transient { "" } else { "not " };
        write!(f, "{} ({transient}transient)", self.text)
    }
}

impl App {
    /// Starts an application with a pool of ten connections.
    pub async fn start(adapter: Adapter, lakebase: &Lakebase) -> Result<Self, Failure> {
        Self::start_with(adapter, lakebase, 10).await
    }

    /// Starts an application with a pool of this size.
    pub async fn start_with(
        adapter: Adapter,
        lakebase: &Lakebase,
        size: usize,
    ) -> Result<Self, Failure> {
        let connections = u32::try_from(size).unwrap_or(u32::MAX);
        let started = async {
            Ok(match adapter {
                Adapter::TokioPostgres => {
                    let first = open(lakebase).await?;
                    Kind::TokioPostgres(lakebase.clone(), Arc::new(Mutex::new(Some(first))))
                }
                Adapter::DieselBb8 => {
                    let builder = lakebase_diesel::bb8::Builder::new().max_size(connections);
                    Kind::DieselBb8(builder.build(lakebase).await?)
                }
                Adapter::DieselDeadpool => {
                    let builder = lakebase_diesel::deadpool::Builder::new().max_size(size);
                    Kind::DieselDeadpool(builder.build(lakebase).await?)
                }
                Adapter::DieselR2d2 => Kind::DieselR2d2(Sync::start(lakebase, connections).await?),
                Adapter::SeaOrm => {
                    let mut options = lakebase_seaorm::options();
                    options.max_connections(connections);
                    Kind::SeaOrm(lakebase_seaorm::connect_with(lakebase, options).await?)
                }
                Adapter::Sqlx => {
                    let waits = longer_than_a_login(lakebase);
                    let proxy = lakebase.proxy().await?;
                    let pool = PgPoolOptions::new()
                        .max_connections(connections)
                        .acquire_timeout(waits)
                        .connect(proxy.url())
                        .await;
                    let pool = pool.map_err(|error| {
                        let error = sea_orm::RuntimeErr::SqlxError(error.into());
                        let cause = lakebase_seaorm::cause(&sea_orm::DbErr::Conn(error));
                        cause.unwrap_or_else(|| Error::config("no cause"))
                    })?;
                    Kind::Sqlx(pool.into(), proxy)
                }
                Adapter::SeaOrm1 => {
                    let proxy = lakebase.proxy().await?;
                    let mut options = sea_orm_1::ConnectOptions::new(proxy.url());
                    options
                        .max_connections(connections)
                        .acquire_timeout(longer_than_a_login(lakebase));
                    let db = sea_orm_1::Database::connect(options).await;
                    let db = db.map_err(|error| {
                        let cause = cause_of_seaorm_1(&error);
                        cause.unwrap_or_else(|| Error::provider(error.to_string(), false))
                    })?;
                    Kind::SeaOrm1(db, proxy)
                }
                Adapter::Psql => {
                    let proxy = Builder::new(lakebase).clients(Clients::ThisUser);
                    let proxy = proxy.start().await?;
                    run_psql(&proxy, "SELECT 1").await.map_err(|failure| {
                        let text = failure.text.clone();
                        let known = lakebase.last_failure();
                        let known = known.filter(|known| text.contains(&known.chain()));
                        known.unwrap_or_else(|| Error::provider(text, failure.is_transient))
                    })?;
                    Kind::Psql(proxy)
                }
            })
        };
        match started.await {
            Ok(kind) => Ok(Self { adapter, kind }),
            Err(error) => Err(Failure::of(&error)),
        }
    }

    /// Runs a statement on a connection of the pool.
    pub async fn run(&self, sql: &str) -> Result<(), Failure> {
        match &self.kind {
            Kind::TokioPostgres(lakebase, held) => {
                let mut held = held.lock().await;
                let client = match held.take().filter(|client| !client.is_closed()) {
                    Some(client) => client,
                    None => open(lakebase).await.map_err(|error| Failure::of(&error))?,
                };
                let outcome = client.batch_execute(sql).await.map_err(|error| Failure {
                    text: format!("{error}: {:?}", error.as_db_error()),
                    is_transient: lakebase_core::is_transient(&error),
                });
                // A connection that lost a statement is not used again.
                if !outcome.as_ref().is_err_and(|failure| failure.is_transient) {
                    *held = Some(client);
                }
                outcome
            }
            Kind::DieselBb8(pool) => {
                let mut connection = pool
                    .get()
                    .await
                    .map_err(|error| Failure::new(&error, lakebase_diesel::is_transient(&error)))?;
                run_diesel(&mut connection, sql).await
            }
            Kind::DieselDeadpool(pool) => {
                let mut connection = pool
                    .get()
                    .await
                    .map_err(|error| Failure::new(&error, lakebase_diesel::is_transient(&error)))?;
                run_diesel(&mut connection, sql).await
            }
            Kind::DieselR2d2(app) => app.run(sql).await,
            Kind::SeaOrm1(db, _) => {
                use sea_orm_1::ConnectionTrait as _;

                let outcome = db.execute_unprepared(sql).await;
                let outcome = outcome.map(drop);
                outcome.map_err(|error| Failure::new(&error, is_transient_seaorm_1(&error)))
            }
            Kind::Psql(proxy) => run_psql(proxy, sql).await,
            Kind::SeaOrm(db) | Kind::Sqlx(db, _) => {
                let outcome = db.execute_unprepared(sql).await.map(drop);
                outcome.map_err(|error| Failure::new(&error, lakebase_seaorm::is_transient(&error)))
            }
        }
    }

    /// Runs the cheapest statement.
    pub async fn ask(&self) -> Result<(), Failure> {
        self.run("SELECT 1").await
    }

    /// Runs the cheapest statement on a new connection.
    pub async fn log_in(&self) -> Result<(), Failure> {
        match &self.kind {
            Kind::TokioPostgres(_, held) => *held.lock().await = None,
            Kind::DieselBb8(pool) => {
                // A dedicated connection is always new.
                let fresh = pool.dedicated_connection().await;
                let mut fresh = fresh.map_err(|error| {
                    let error = bb8::RunError::User(error);
                    Failure::new(&error, lakebase_diesel::is_transient(&error))
                })?;
                return run_diesel(&mut fresh, "SELECT 1").await;
            }
            Kind::DieselDeadpool(pool) => drop(pool.retain(|_, _| false)),
            Kind::DieselR2d2(app) => return app.log_in().await,
            Kind::SeaOrm(db) | Kind::Sqlx(db, _) => forget_idle(db).await,
            Kind::SeaOrm1(db, _) => {
                let pool = db.get_postgres_connection_pool();
                until(|| pool.num_idle() >= pool.size() as usize).await;
                while let Some(idle) = pool.try_acquire() {
                    drop(idle.detach());
                }
            }
            Kind::Psql(_) => {}
        }
        self.ask().await
    }
}

/// The timeout of a pool that must not end a login, whose error has the cause.
fn longer_than_a_login(lakebase: &Lakebase) -> Duration {
    lakebase.connect_timeout() + Duration::from_secs(1)
}

/// Runs synchronous drivers on threads that they may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The application with synchronous diesel.
#[derive(Clone)]
struct Sync {
    lakebase: Lakebase,
    pool: r2d2::Pool,
}

impl Sync {
    async fn start(lakebase: &Lakebase, connections: u32) -> Result<Self, Error> {
        let lakebase = lakebase.clone();
        blocking(move || {
            let builder = r2d2::Pool::builder()
                .max_size(connections)
                .min_idle(Some(0))
                .connection_timeout(longer_than_a_login(&lakebase));
            let pool = r2d2::connect_with(&lakebase, builder)?;
            Ok(Self { lakebase, pool })
        })
        .await
    }

    async fn run(&self, sql: &str) -> Result<(), Failure> {
        let (pool, sql) = (self.pool.clone(), sql.to_owned());
        blocking(move || {
            let mut connection = pool.get().map_err(|error| {
                let text = error.to_string();
                Failure::new(&text, lakebase_core::adapter::says_transient(&text))
            })?;
            run_sync(&mut connection, &sql)
        })
        .await
    }

    async fn log_in(&self) -> Result<(), Failure> {
        let lakebase = self.lakebase.clone();
        // r2d2 cannot be emptied, so the connection is not one of the pool.
        blocking(move || {
            let fresh = r2d2::establish(&lakebase);
            run_sync(&mut fresh.map_err(|error| Failure::of(&error))?, "SELECT 1")
        })
        .await
    }
}

fn run_sync(connection: &mut diesel::PgConnection, sql: &str) -> Result<(), Failure> {
    let outcome = diesel::RunQueryDsl::execute(diesel::sql_query(sql), connection);
    let outcome = outcome.map(drop);
    outcome.map_err(|error| Failure::new(&error, lakebase_diesel::is_transient(&error)))
}

/// Fixed, because some tests run programs without an environment.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

async fn run_psql(proxy: &Proxy, sql: &str) -> Result<(), Failure> {
    let output = tokio::process::Command::new("psql")
        .args([proxy.url(), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
        .env_clear()
        .env("PATH", PATH)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|error| Failure::new(&error, false))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure {
        is_transient: lakebase_core::adapter::says_transient(&text)
            || lakebase_core::adapter::is_transient_message(&text)
            || text.contains("server closed the connection"),
        text,
    })
}

fn cause_of_seaorm_1(error: &sea_orm_1::DbErr) -> Option<Error> {
    use sea_orm_1::sqlx::postgres::PgDatabaseError;

    let error = driver_error_of_seaorm_1(error)?.as_database_error()?;
    let error: &PgDatabaseError = error.try_downcast_ref()?;
    Error::from_response(error.file(), error.routine())
}

fn is_transient_seaorm_1(error: &sea_orm_1::DbErr) -> bool {
    use sea_orm_1::sqlx::Error as Driver;

    if let Some(cause) = cause_of_seaorm_1(error) {
        return cause.is_transient();
    }
    match driver_error_of_seaorm_1(error) {
        Some(Driver::Database(database)) => {
            lakebase_core::adapter::is_transient_sqlstate(&database.code().unwrap_or_default())
        }
        Some(Driver::Io(_) | Driver::PoolTimedOut) => true,
        Some(_) => false,
        None => matches!(error, sea_orm_1::DbErr::ConnectionAcquire(_)),
    }
}

fn driver_error_of_seaorm_1(error: &sea_orm_1::DbErr) -> Option<&sea_orm_1::sqlx::Error> {
    use sea_orm_1::{DbErr, RuntimeErr};

    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

async fn run_diesel(connection: &mut AsyncPgConnection, sql: &str) -> Result<(), Failure> {
    let outcome = diesel::sql_query(sql).execute(connection).await;
    let outcome = outcome.map(drop);
    outcome.map_err(|error| Failure::new(&error, lakebase_diesel::is_transient(&error)))
}
