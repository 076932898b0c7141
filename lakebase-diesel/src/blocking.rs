//! Synchronous diesel without libpq: diesel-async's connection behind its own blocking wrapper, with a manager
//! for r2d2 and the same tuned pool as with libpq.
//!
//! Neither libpq nor a runtime is needed: a thread of the process's own drives the connections. As with libpq,
//! whoever waits for one blocks the thread: in async code, use `spawn_blocking`. A `CredentialProvider` of your
//! own runs on the same thread as all of them, so it must not block, least of all on one of them.

use std::sync::Arc;

use diesel::QueryResult;
use diesel::r2d2 as host;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::{AsyncConnectionWrapper, BlockOn};
use lakebase_core::{Error, Lakebase};

use crate::background::Background;
use crate::ping::{ping, unanswered};
use crate::suspicion::closed;
use crate::sync_pool::{self, Connect};

/// Drives every connection of the process, for as long as that lives: one may outlast its pool.
static BACKGROUND: Background = Background::new();

/// A connection of pure Rust, for all that synchronous diesel can do.
pub type Connection = AsyncConnectionWrapper<AsyncPgConnection, Park>;

/// Waits by parking the thread. diesel-async's own way is a runtime in each connection, which panics where an
/// async program waits for one, or drops one or its pool.
#[derive(Clone, Copy, Debug)]
pub struct Park;

impl BlockOn for Park {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        // On a thread of a runtime, tokio would make the future wait for a turn that this thread never takes.
        pollster::block_on(tokio::task::unconstrained(future))
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// A manager for r2d2, with every login going through a [`Lakebase`].
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::r2d2::Pool;
///
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// // before: ConnectionManager::<AsyncConnectionWrapper<AsyncPgConnection>>::new(database_url)
/// let pool = Pool::builder().build(lakebase_diesel::blocking::ConnectionManager::new(&lakebase))?;
/// let mut connection = pool.get()?;
/// # Ok(())
/// # }
/// ```
pub type ConnectionManager = sync_pool::ConnectionManager<Connection>;

/// Sets up a [`Pool`].
pub type Builder = sync_pool::Builder<Connection>;

/// An r2d2 pool to one Lakebase.
pub type Pool = sync_pool::Pool<Connection>;

/// A connection of the pool.
pub type PooledConnection = host::PooledConnection<ConnectionManager>;

/// Opens one connection, outside of any pool, as `AsyncConnectionWrapper::establish(url)` does.
///
/// # Errors
///
/// The cause, with a hint: see [`Lakebase::login`].
pub fn establish(lakebase: &Lakebase) -> Result<Connection, Error> {
    ConnectionManager::new(lakebase).open()
}

/// Opens a pool with the tuned settings and one connection, so that a mistake shows here.
///
/// # Errors
///
/// The cause: see [`Error`]'s questions.
pub fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    Builder::new().build(lakebase)
}

impl Connect for Connection {
    type Shared = ();

    fn connect(_shared: &Arc<()>, lakebase: &Lakebase) -> Result<Self, Error> {
        let lakebase = lakebase.clone();
        let connection = BACKGROUND.run(async move { crate::connect(&lakebase).await });
        connection.map(Self::from)
    }

    fn ask(&mut self) -> QueryResult<()> {
        // The limit needs a timer.
        let runtime = BACKGROUND
            .handle()
            .map_err(|error| closed(&error.chain()))?;
        let _timer = runtime.enter();
        let answer = Park.block_on(ping(self));
        answer.unwrap_or_else(|_| Err(unanswered())).map(drop)
    }
}
