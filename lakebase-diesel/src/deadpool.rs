//! The deadpool pool, tuned for Lakebase.
//!
//! It is diesel-async's own pool type: deadpool itself returns why a connection could not be opened. It does not close
//! idle connections; a task of ours does.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{HookError, Metrics, QueueMode, WeakPool};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, PoolError as DieselPoolError, deadpool as host,
};
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::manager::manager;
use lakebase_core::adapter::last_failure_within;
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, MAX_SIZE, max_lifetime, wait};

/// The manager under the pool.
pub type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;
/// diesel-async's pool type for deadpool.
pub type Pool = host::Pool<AsyncPgConnection>;
/// A connection of the pool.
pub type Object = host::Object<AsyncPgConnection>;

pub use host::PoolError;

/// How often idle connections are closed.
const REAP_EVERY: Duration = Duration::from_secs(30);

/// Opens a pool with the tuned settings and one connection, so that a mistake shows here.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// let pool = lakebase_diesel::deadpool::connect(&lakebase).await?;
/// let mut connection = pool.get().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The cause: see [`Error`]'s questions.
///
/// # Cancel safety
///
/// Dropping the future closes what it has opened.
pub async fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    Builder::new().build(lakebase).await
}

/// Makes pools for each user of an application: see [`UserPools`](lakebase_core::users::UserPools).
///
/// ```no_run
/// # async fn run(email: &str, token: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use lakebase_core::User;
///
/// let lakebase = lakebase_core::Lakebase::from_env()?;
/// let users = lakebase_diesel::deadpool::user_pools(&lakebase).max_connections(60).build();
/// // for each request
/// let pool = users.get(&User::new(email, token)).await?;
/// let mut connection = pool.get().await?;
/// # Ok(())
/// # }
/// ```
pub fn user_pools(lakebase: &Lakebase) -> UserPoolsBuilder<Pool> {
    let open = |lakebase, size| async move {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Builder::new().max_size(size).build(&lakebase).await
    };
    let is_busy = |pool: &Pool| {
        let status = pool.status();
        status.size > status.available
    };
    UserPoolsBuilder::new(
        lakebase,
        open,
        is_busy,
        |pool: Pool| async move { pool.close() },
    )
}

/// Sets up a [`Pool`].
///
/// Defaults: at most 10 connections and none kept open without need; idle ones closed after 4
/// minutes, all of them after 45 minutes (10 % jitter per pool); `get` waits for a connection of others for
/// a second longer than the [`Lakebase`]'s connect timeout (30 s unless configured); the last returned
/// connection is handed out first, so that the others can go idle.
#[must_use]
pub struct Builder {
    idle_timeout: Duration,
    max_lifetime: Duration,
    changes: Vec<Change>,
}

type Change = Box<
    dyn FnOnce(host::PoolBuilder<AsyncPgConnection>) -> host::PoolBuilder<AsyncPgConnection> + Send,
>;

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The tuned defaults.
    pub fn new() -> Self {
        Self {
            idle_timeout: IDLE_TIMEOUT,
            max_lifetime: max_lifetime(),
            changes: Vec::new(),
        }
    }

    /// Most connections at a time.
    pub fn max_size(self, size: usize) -> Self {
        self.configure(move |inner| inner.max_size(size))
    }

    /// How long `get` waits for a connection that others have.
    pub fn wait_timeout(self, timeout: Duration) -> Self {
        self.configure(move |inner| inner.wait_timeout(Some(timeout)))
    }

    /// How long a connection in the pool may be idle: 4 minutes by default. Checked every 30 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How old a connection may get.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// Every other setting of deadpool.
    pub fn configure(
        mut self,
        change: impl FnOnce(
            host::PoolBuilder<AsyncPgConnection>,
        ) -> host::PoolBuilder<AsyncPgConnection>
        + Send
        + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Makes the pool and opens one connection.
    ///
    /// # Errors
    ///
    /// The cause of a failed login; [`Error::is_config`] if deadpool does not take its settings.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it has opened.
    pub async fn build(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        let began = tokio::time::Instant::now();
        let pool = self.build_lazy(lakebase)?;
        let Err(error) = pool.get().await else {
            return Ok(pool);
        };
        let text = format!("the pool could not open a connection: {error}");
        Err(match (crate::cause(&error), &error) {
            (Some(cause), _) => cause.clone(),
            (None, PoolError::Timeout(_)) => last_failure_within(lakebase, began.elapsed())
                .unwrap_or_else(|| Error::timeout(text)),
            (None, _) => Error::database(text, false),
        })
    }

    /// Makes the pool without opening a connection.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if deadpool does not take its settings, or outside of a tokio runtime.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::config("no tokio runtime is running on this thread"))?;
        let limits = Limits {
            idle: self.idle_timeout,
            lifetime: self.max_lifetime,
        };
        let reaper = Arc::new(Reaper::default());
        let held = Arc::clone(&reaper);
        let builder = host::Pool::<AsyncPgConnection>::builder(manager(lakebase))
            .max_size(MAX_SIZE as usize)
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(wait(lakebase)));
        let pool = self
            .changes
            .into_iter()
            .fold(builder, |builder, change| change(builder))
            .runtime(Runtime::Tokio1)
            .pre_recycle(host::Hook::<AsyncPgConnection>::sync_fn(
                move |_, metrics| {
                    // The pool holds its hooks, and so the task below ends with it.
                    let _ = &held;
                    if limits.allow(metrics) {
                        return Ok(());
                    }
                    Err(HookError::message("idle for too long, or too old"))
                },
            ))
            .build()
            .map_err(|error| Error::config("deadpool rejected its settings").with_source(error))?;
        let task = runtime.spawn(reap(pool.weak(), limits));
        let _ = reaper.0.set(task.abort_handle());
        Ok(pool)
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Limits {
    idle: Duration,
    lifetime: Duration,
}

impl Limits {
    fn allow(self, metrics: &Metrics) -> bool {
        metrics.last_used() < self.idle && metrics.age() < self.lifetime
    }
}

/// Ends the task with the pool.
#[derive(Default)]
struct Reaper(OnceLock<AbortHandle>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

/// Closes connections that are idle for too long, or too old.
async fn reap(pool: WeakPool<Manager>, limits: Limits) {
    let shortest = limits.idle.min(limits.lifetime);
    let every = REAP_EVERY.min(shortest).max(Duration::from_millis(10));
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let removed = pool.retain(|_, metrics| limits.allow(&metrics)).removed;
        if !removed.is_empty() {
            tracing::debug!(name: "lakebase.pool.idle_closed", target: "lakebase::pool", count = removed.len(), "closed idle connections");
        }
    }
}

/// Whether retrying the checkout can succeed: the cause is transient, or all connections were busy.
pub fn is_transient(error: &PoolError) -> bool {
    match error {
        PoolError::Backend(DieselPoolError::ConnectionError(error)) => {
            crate::is_transient_connection_error(error)
        }
        PoolError::Backend(DieselPoolError::QueryError(error)) => crate::is_transient(error),
        PoolError::Timeout(_) => true,
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => false,
    }
}
