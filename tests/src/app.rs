//! An application, seen from outside: the same promises are proved with whatever it connects through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::proxy::Proxy;
use lakebase_core::{Error, Lakebase};
use lakebase_diesel::r2d2;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Mutex;

use crate::{forget_idle, in_time};

/// What an application connects through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Adapter {
    TokioPostgres,
    DieselBb8,
    DieselDeadpool,
    DieselR2d2,
    SeaOrm,
    Sqlx,
}

/// All of them.
pub const ADAPTERS: [Adapter; 6] = [
    Adapter::TokioPostgres,
    Adapter::DieselBb8,
    Adapter::DieselDeadpool,
    Adapter::DieselR2d2,
    Adapter::SeaOrm,
    Adapter::Sqlx,
];

impl Adapter {
    /// As `puppet` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokioPostgres => "tokio-postgres",
            Self::DieselBb8 => "diesel-bb8",
            Self::DieselDeadpool => "diesel-deadpool",
            Self::DieselR2d2 => "diesel-r2d2",
            Self::SeaOrm => "seaorm",
            Self::Sqlx => "sqlx",
        }
    }
}

/// Proves a promise with each adapter, side by side.
pub async fn through_every_adapter<F>(prove: impl Fn(Adapter) -> F)
where
    F: Future<Output = ()>,
{
    // Boxed: unoptimised, all of them are too much for a stack.
    let proofs = ADAPTERS.map(|adapter| Box::pin(prove(adapter)));
    futures_util::future::join_all(proofs).await;
}

/// The same for a promise that depends on the machine's pace, see [`in_time`].
pub async fn every_adapter_in_time<F>(prove: impl Fn(Adapter) -> F)
where
    F: Future<Output = ()>,
{
    let prove = &prove;
    through_every_adapter(|adapter| in_time(async move || prove(adapter).await)).await;
}

/// A running application. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Kind);

#[derive(Clone)]
enum Kind {
    /// Holds one connection and opens another when that is closed, as programs without a pool do.
    TokioPostgres(Lakebase, Arc<Mutex<Option<tokio_postgres::Client>>>),
    DieselBb8(lakebase_diesel::bb8::Pool),
    DieselDeadpool(lakebase_diesel::deadpool::Pool),
    DieselR2d2(Sync),
    SeaOrm(DatabaseConnection),
    /// With what keeps its proxy alive.
    Sqlx(DatabaseConnection, #[allow(dead_code)] Proxy),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokioPostgres(..) => "tokio-postgres",
            Self::DieselBb8(_) => "diesel with bb8",
            Self::DieselDeadpool(_) => "diesel with deadpool",
            Self::DieselR2d2(_) => "diesel with r2d2",
            Self::SeaOrm(_) => "SeaORM",
            Self::Sqlx(..) => "sqlx",
        })
    }
}

/// What an application hears when something does not work.
#[derive(Clone, Debug)]
pub struct Failure {
    /// All of the text.
    pub text: String,
    /// The helper of its crate says that repeating may help.
    pub is_transient: bool,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            text: error.chain(),
            is_transient: error.is_transient(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transient = if self.is_transient { "" } else { "not " };
        write!(f, "{} ({transient}transient)", self.text)
    }
}

impl App {
    /// Starts one with the defaults.
    ///
    /// # Errors
    ///
    /// What the adapter says.
    pub async fn start(adapter: Adapter, lakebase: &Lakebase) -> Result<Self, Failure> {
        Self::start_with(adapter, lakebase, 10).await
    }

    /// Starts one with a pool of that size.
    ///
    /// # Errors
    ///
    /// What the adapter says.
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
                    // Its pool gives up later than the login, which has the cause.
                    let waits = lakebase.connect_timeout() + Duration::from_secs(1);
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
            })
        };
        started
            .await
            .map(Self)
            .map_err(|error: Error| Failure::of(&error))
    }

    /// One statement on a connection of the pool.
    ///
    /// # Errors
    ///
    /// What kept it from being answered.
    pub async fn run(&self, sql: &str) -> Result<(), Failure> {
        match &self.0 {
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
                // What lost a statement is not used again.
                if !outcome.as_ref().is_err_and(|failure| failure.is_transient) {
                    *held = Some(client);
                }
                outcome
            }
            Kind::DieselBb8(pool) => {
                let mut connection = pool.get().await.map_err(|error| Failure {
                    text: error.to_string(),
                    is_transient: lakebase_diesel::bb8::is_transient(&error),
                })?;
                run_diesel(&mut connection, sql).await
            }
            Kind::DieselDeadpool(pool) => {
                let mut connection = pool.get().await.map_err(|error| Failure {
                    text: error.to_string(),
                    is_transient: lakebase_diesel::deadpool::is_transient(&error),
                })?;
                run_diesel(&mut connection, sql).await
            }
            Kind::DieselR2d2(app) => app.run(sql).await,
            Kind::SeaOrm(db) | Kind::Sqlx(db, _) => db
                .execute_unprepared(sql)
                .await
                .map(drop)
                .map_err(|error| Failure {
                    text: error.to_string(),
                    is_transient: lakebase_seaorm::is_transient(&error),
                }),
        }
    }

    /// The cheapest statement.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn ask(&self) -> Result<(), Failure> {
        self.run("SELECT 1").await
    }

    /// The same on a connection that has just logged in.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn log_in(&self) -> Result<(), Failure> {
        match &self.0 {
            Kind::TokioPostgres(_, held) => *held.lock().await = None,
            Kind::DieselBb8(pool) => {
                // No idle connection serves a dedicated one.
                let fresh = pool.dedicated_connection().await;
                let mut fresh = fresh.map_err(|error| Failure {
                    text: error.to_string(),
                    is_transient: lakebase_diesel::bb8::is_transient(&bb8::RunError::User(error)),
                })?;
                return run_diesel(&mut fresh, "SELECT 1").await;
            }
            Kind::DieselDeadpool(pool) => drop(pool.retain(|_, _| false)),
            Kind::DieselR2d2(app) => return app.log_in().await,
            Kind::SeaOrm(db) | Kind::Sqlx(db, _) => forget_idle(db).await,
        }
        self.ask().await
    }
}

/// Not on a thread of the runtime, which synchronous drivers would block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// With synchronous diesel.
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
                .connection_timeout(lakebase.connect_timeout() + Duration::from_secs(1));
            let pool = r2d2::connect_with(&lakebase, builder)?;
            Ok(Self { lakebase, pool })
        })
        .await
    }

    async fn run(&self, sql: &str) -> Result<(), Failure> {
        let (pool, sql) = (self.pool.clone(), sql.to_owned());
        blocking(move || {
            let mut connection = pool.get().map_err(|error| Failure {
                text: error.to_string(),
                is_transient: Error::says_transient(&error.to_string()),
            })?;
            run_sync(&mut connection, &sql)
        })
        .await
    }

    async fn log_in(&self) -> Result<(), Failure> {
        let lakebase = self.lakebase.clone();
        // r2d2 gives no connection away, so outside of the pool.
        blocking(move || {
            let fresh = r2d2::establish(&lakebase);
            run_sync(&mut fresh.map_err(|error| Failure::of(&error))?, "SELECT 1")
        })
        .await
    }
}

fn run_sync(connection: &mut diesel::PgConnection, sql: &str) -> Result<(), Failure> {
    let outcome = diesel::RunQueryDsl::execute(diesel::sql_query(sql), connection);
    outcome.map(drop).map_err(|error| Failure {
        text: error.to_string(),
        is_transient: lakebase_diesel::is_transient(&error),
    })
}

async fn run_diesel(connection: &mut AsyncPgConnection, sql: &str) -> Result<(), Failure> {
    let outcome = diesel::sql_query(sql).execute(connection).await;
    outcome.map(drop).map_err(|error| Failure {
        text: error.to_string(),
        is_transient: lakebase_diesel::is_transient(&error),
    })
}

async fn open(lakebase: &Lakebase) -> Result<tokio_postgres::Client, Error> {
    let (client, connection) = lakebase.connect().await?;
    tokio::spawn(connection);
    Ok(client)
}
