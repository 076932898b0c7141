//! Synchronous diesel on libpq: a manager for r2d2, and a pool tuned for Lakebase whose `get` tells why.
//!
//! No runtime is needed: a thread of its own signs in and renews. Without libpq: feature `blocking`.

use std::sync::Arc;

use diesel::PgConnection;
use diesel::r2d2 as host;
use lakebase_core::{Error, Lakebase, LoginFailure};

use crate::background::Background;
use crate::libpq::Libpq;
use crate::sync_pool::{self, Connect};

/// Takes the place of `diesel::r2d2::ConnectionManager<PgConnection>`, with every login going through
/// a [`Lakebase`].
///
/// This is the one line an application swaps:
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel::r2d2::Pool;
///
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// // before: ConnectionManager::<PgConnection>::new(database_url)
/// let pool = Pool::builder().build(lakebase_diesel::r2d2::ConnectionManager::new(&lakebase))?;
/// let mut connection = pool.get()?;
/// # Ok(())
/// # }
/// ```
pub type ConnectionManager = sync_pool::ConnectionManager<PgConnection>;

/// Sets up a [`Pool`].
pub type Builder = sync_pool::Builder<PgConnection>;

/// An r2d2 pool to one Lakebase.
pub type Pool = sync_pool::Pool<PgConnection>;

/// A connection of the pool.
pub type PooledConnection = host::PooledConnection<ConnectionManager>;

/// Opens one connection, outside of any pool, as `PgConnection::establish(url)` does.
///
/// # Errors
///
/// The cause, with a hint: see [`Lakebase::login`].
pub fn establish(lakebase: &Lakebase) -> Result<PgConnection, Error> {
    ConnectionManager::new(lakebase).open()
}

/// Opens a pool with the tuned settings and one connection, so that a mistake shows here.
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// let pool = lakebase_diesel::r2d2::connect(&lakebase)?;
/// let mut connection = pool.get()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The cause: see [`Error`]'s questions.
pub fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    Builder::new().build(lakebase)
}

/// What connections of one manager share.
#[derive(Debug, Default)]
pub struct Shared {
    libpq: Arc<Libpq>,
    background: Background,
}

impl Connect for PgConnection {
    type Shared = Shared;

    fn connect(shared: &Arc<Shared>, lakebase: &Lakebase) -> Result<Self, Error> {
        let (lakebase, libpq) = (lakebase.clone(), Arc::clone(&shared.libpq));
        shared.background.run(async move {
            lakebase
                .login(|login| {
                    let libpq = Arc::clone(&libpq);
                    let attempt = tokio::task::spawn_blocking(move || libpq.connect(&login));
                    async move { attempt.await.map_err(LoginFailure::permanent)? }
                })
                .await
        })
    }
}
