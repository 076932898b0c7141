//! The deadpool pool, tuned for Lakebase.
//!
//! The pool has diesel-async's own type. deadpool returns why a connection could not be opened, but does not close idle
//! connections: a task closes them.

use std::fmt;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{HookError, Metrics, QueueMode, WeakPool};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool as host};
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, MAX_SIZE, max_lifetime, wait};
use lakebase_core::adapter::{check_runtime, last_failure_within};
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};

use crate::manager::manager;

/// The manager under the pool.
pub type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;
/// diesel-async's pool type for deadpool.
pub type Pool = host::Pool<AsyncPgConnection>;
/// A connection of the pool.
pub type Object = host::Object<AsyncPgConnection>;

pub use host::PoolError;

/// How often idle and old connections are closed.
const REAP_EVERY: Duration = Duration::from_secs(30);

/// Opens a pool with the defaults of [`Builder`], and its first connection.
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
/// The cause of a failed login: see [`Error`].
///
/// # Cancel safety
///
/// Dropping the future closes what it has opened.
pub async fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    Builder::new().build(lakebase).await
}

/// Returns a builder of [`UserPools`](lakebase_core::users::UserPools): a pool for each user of the application.
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
/// | setting | default |
/// |---|---|
/// | connections | at most 10, no minimum |
/// | idle timeout | 4 minutes after the last checkout |
/// | maximum lifetime | 45 minutes, 10 % more or less at random |
/// | `get` waits | a second longer than the [`Lakebase`]'s connect timeout, which is 30 s by default |
/// | order | the connection that was returned last comes first, so that the others become idle |
#[must_use]
pub struct Builder {
    limits: Limits,
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
    /// Starts with the defaults.
    pub fn new() -> Self {
        Self {
            limits: Limits {
                idle: IDLE_TIMEOUT,
                lifetime: max_lifetime(),
            },
            changes: Vec::new(),
        }
    }

    /// Sets the maximum number of connections: 10 by default.
    pub fn max_size(self, size: usize) -> Self {
        self.configure(move |inner| inner.max_size(size))
    }

    /// Sets how long `get` waits while all connections are in use: 31 s by default.
    pub fn wait_timeout(self, timeout: Duration) -> Self {
        self.configure(move |inner| inner.wait_timeout(Some(timeout)))
    }

    /// Sets how long after its last checkout a connection may be used again: 4 minutes by default. deadpool does not know when
    /// a connection was returned. Checked every 30 s, or more often for a shorter time.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout;
        self
    }

    /// Sets the maximum age of a connection: 45 minutes by default.
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.limits.lifetime = lifetime;
        self
    }

    /// Changes any other setting of deadpool, except for the runtime.
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

    /// Opens the pool and its first connection.
    ///
    /// # Errors
    ///
    /// The cause of a failed login, and as [`build_lazy`](Self::build_lazy).
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

    /// Returns the pool without opening a connection.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if deadpool rejects its settings, or outside of a tokio runtime.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        check_runtime()?;
        let limits = self.limits;
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
                move |_, metrics| match limits.allow(metrics) {
                    true => Ok(()),
                    false => Err(HookError::message("idle for too long, or too old")),
                },
            ))
            .build()
            .map_err(|error| Error::config("deadpool rejected its settings").with_source(error))?;
        tokio::spawn(reap(pool.weak(), limits));
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

/// Closes connections that are idle for too long, or too old. Ends at its next check after the pool is dropped.
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
