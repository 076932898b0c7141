//! The bb8 pool, tuned for Lakebase, whose `get` returns the cause of a failed login.
//!
//! bb8 itself returns `TimedOut` after 30 s if a login fails. [`Pool`] wraps the pool of diesel-async and bb8 ([`Deref`]) and
//! returns the cause at once, in the same error type.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, PoolError, bb8 as host};
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, MAX_SIZE, max_lifetime, wait};
use lakebase_core::adapter::{check_runtime, clean_text, last_failure_within};
use lakebase_core::telemetry::PoolStats;
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};
use tokio::sync::watch;
use tokio::time::Instant;

pub use host::{PooledConnection, RunError};

use crate::manager::manager;

/// The manager under the pool.
pub type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;

/// Opens a pool with the defaults of [`Builder`], and its first connection.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// let pool = lakebase_diesel::bb8::connect(&lakebase).await?;
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
/// As [`Builder::build`].
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
/// let users = lakebase_diesel::bb8::user_pools(&lakebase).max_connections(60).build();
/// // for each request
/// let pool = users.get(&User::new(email, token)).await?;
/// let mut connection = pool.get().await?;
/// # Ok(())
/// # }
/// ```
pub fn user_pools(lakebase: &Lakebase) -> UserPoolsBuilder<Pool> {
    let open = |lakebase, size| async move { Builder::new().max_size(size).build(&lakebase).await };
    let is_busy = |pool: &Pool| {
        let state = pool.state();
        state.connections > state.idle_connections
    };
    // A pool closes its connections when it is dropped.
    UserPoolsBuilder::new(lakebase, open, is_busy, |_| async {})
}

/// Sets up a [`Pool`].
///
/// | setting | default |
/// |---|---|
/// | connections | at most 10, no minimum |
/// | idle timeout | 4 minutes |
/// | maximum lifetime | 45 minutes, 10 % more or less at random |
/// | `get` waits | a second longer than the [`Lakebase`]'s connect timeout, which is 30 s by default |
/// | order | the connection that was returned last comes first, so that the others become idle |
#[must_use]
pub struct Builder {
    changes: Vec<Change>,
}

type Change = Box<dyn FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager> + Send>;

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Starts with the defaults.
    pub fn new() -> Self {
        Self {
            changes: Vec::new(),
        }
    }

    /// Sets the maximum number of connections: 10 by default.
    ///
    /// # Panics
    ///
    /// [`build`](Self::build) panics if it is zero, as bb8 does.
    pub fn max_size(self, size: u32) -> Self {
        self.configure(move |inner| inner.max_size(size))
    }

    /// Sets how long [`Pool::get`] waits for a connection: 31 s by default.
    ///
    /// # Panics
    ///
    /// [`build`](Self::build) panics if it is zero, as bb8 does.
    pub fn connection_timeout(self, timeout: Duration) -> Self {
        self.configure(move |inner| inner.connection_timeout(timeout))
    }

    /// Changes any other setting of bb8, except for the error sink and `retry_connection`, which [`Pool::get`] needs.
    pub fn configure(
        mut self,
        change: impl FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager> + Send + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Opens the pool and its first connection.
    ///
    /// # Errors
    ///
    /// The cause of a failed login; [`Error::is_config`] outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the pool. bb8 completes a running login and then closes the connection.
    pub async fn build(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        check_runtime()?;
        let pool = self.build_lazy(lakebase);
        let Err(error) = pool.get().await.map(drop) else {
            return Ok(pool);
        };
        // Without a cause, the timeout of the pool is much shorter than a login takes.
        Err(crate::cause(&error).cloned().unwrap_or_else(|| {
            Error::timeout(format!("the pool could not open a connection: {error}"))
        }))
    }

    /// Returns the pool without opening a connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as bb8 does.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Pool {
        let failures = Failures(watch::Sender::new(None));
        let inner = bb8::Builder::new()
            .max_size(MAX_SIZE)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(max_lifetime())
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .connection_timeout(wait(lakebase));
        let inner = self
            .changes
            .into_iter()
            .fold(inner, |inner, change| change(inner))
            // The login loop retries. Retries of bb8 would hide the cause.
            .retry_connection(false)
            .error_sink(Box::new(failures.clone()))
            .build_unchecked(manager(lakebase));
        Pool {
            inner,
            failures,
            waiting: Arc::default(),
            lakebase: lakebase.clone(),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

/// A bb8 pool of diesel-async connections to one Lakebase. Cheap to clone.
///
/// Make a pool for each tokio runtime. If a runtime ends while the pool opens a connection on it, bb8 waits for that connection
/// forever, and a pool in a `static` may never open another one. The error of [`get`](Self::get) reports this.
///
/// Dereferences to diesel-async's pool type, for functions that need that type.
#[derive(Clone)]
pub struct Pool {
    inner: host::Pool<AsyncPgConnection>,
    failures: Failures,
    waiting: Arc<AtomicU64>,
    lakebase: Lakebase,
}

impl Pool {
    /// Returns an idle connection, or opens one.
    ///
    /// # Errors
    ///
    /// The cause of a failed login, at once if no connection is open: see [`cause`](crate::cause). `RunError::TimedOut` if all
    /// connections stay busy.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future returns its connection to the pool. The pool completes a running login and keeps the connection.
    pub async fn get(&self) -> Result<PooledConnection<'_, AsyncPgConnection>, RunError> {
        self.wait(self.inner.get()).await
    }

    /// Like [`get`](Self::get), for tasks that outlive the borrow.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    ///
    /// As [`get`](Self::get).
    pub async fn get_owned(
        &self,
    ) -> Result<PooledConnection<'static, AsyncPgConnection>, RunError> {
        self.wait(self.inner.get_owned()).await
    }

    /// Returns why the last login failed; `None` after a successful one.
    pub fn last_failure(&self) -> Option<Error> {
        self.lakebase.last_failure()
    }

    /// Returns numbers for health checks and dashboards. `waiting` counts callers of [`get`](Self::get) and
    /// [`get_owned`](Self::get_owned).
    pub fn stats(&self) -> PoolStats {
        let state = self.inner.state();
        let in_use = state.connections.saturating_sub(state.idle_connections);
        let mut stats = PoolStats::new(in_use.into(), state.idle_connections.into());
        stats.limit = Some(self.inner.config().max_size.into());
        stats.waiting = Some(self.waiting.load(Ordering::Relaxed));
        stats.timeouts = Some(state.statistics.get_timed_out);
        stats
    }

    /// If no connection is open and no login has failed in the time that a login may take, the task that opened one is gone.
    fn lost_runtime(&self, began: Instant) -> Option<Error> {
        let is_lost = self.inner.state().connections == 0
            && began.elapsed() >= self.lakebase.connect_timeout();
        is_lost.then(|| {
            Error::config(
                "the pool opens no connection, and no login has failed: it was opening its connections on a tokio runtime that has ended, and bb8 waits for those for ever. Make a new pool on this runtime; do not share one in a static between runtimes",
            )
        })
    }

    /// Waits for the pool, or for a failed login while no connection is open that could be returned.
    async fn wait<T>(&self, get: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
        let began = Instant::now();
        let _waiting = Waiting::new(&self.waiting);
        let mut failures = self.failures.0.subscribe();
        let mut get = pin!(get);
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                result = &mut get => return result.map_err(|error| match error {
                    RunError::TimedOut => last
                        .or_else(|| last_failure_within(&self.lakebase, began.elapsed()))
                        .or_else(|| self.lost_runtime(began))
                        .map_or(error, failed),
                    error => error,
                }),
                Ok(()) = failures.changed() => {
                    last = failures.borrow_and_update().clone();
                    if self.inner.state().connections == 0 && let Some(failure) = last {
                        return Err(failed(failure));
                    }
                }
            }
        }
    }
}

fn failed(cause: Error) -> RunError {
    RunError::User(PoolError::ConnectionError(cause.into()))
}

/// Counts a caller while it waits. bb8's own count keeps callers that are cancelled.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// bb8 reports here why it could not open a connection, after it has updated its counts.
#[derive(Clone, Debug)]
struct Failures(watch::Sender<Option<Error>>);

impl bb8::ErrorSink<PoolError> for Failures {
    fn sink(&self, error: PoolError) {
        let failure = match &error {
            // An idle connection failed its check. The pool continues with another one.
            PoolError::QueryError(DieselError::DatabaseError(
                DatabaseErrorKind::ClosedConnection,
                _,
            )) => {
                let error = clean_text(&error.to_string());
                tracing::debug!(name: "lakebase.pool.connection_dropped", target: "lakebase::pool", error, "dropped an idle connection");
                return;
            }
            // A connection customizer of the application failed.
            PoolError::QueryError(cause) => Error::database(
                format!("a new connection could not be set up: {cause}"),
                false,
            ),
            PoolError::ConnectionError(cause) => crate::cause(cause)
                .cloned()
                .unwrap_or_else(|| Error::database(cause.to_string(), false)),
        };
        self.0.send_replace(Some(failure));
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<PoolError>> {
        Box::new(self.clone())
    }
}

impl Deref for Pool {
    type Target = host::Pool<AsyncPgConnection>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("state", &self.inner.state())
            .finish_non_exhaustive()
    }
}
