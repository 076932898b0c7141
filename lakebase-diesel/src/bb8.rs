//! The bb8 pool, tuned for Lakebase, whose `get` returns the cause of a failed login.
//!
//! A pool that diesel-async and bb8 make by themselves answers a failed login with `TimedOut` after
//! 30 s. This one answers at once, and with the cause: it is the same pool underneath
//! ([`Deref`]), with the same connections and the same error type.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, PoolError, bb8 as host};
use lakebase_core::adapter::{clean_text, last_failure_within};
use lakebase_core::telemetry::PoolStats;
use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Error, Lakebase};
use tokio::sync::watch;
use tokio::time::Instant;

pub use host::{PooledConnection, RunError};

use crate::manager::manager;
use lakebase_core::adapter::pool::{IDLE_TIMEOUT, MAX_SIZE, max_lifetime, wait};

/// The manager under the pool.
pub type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;

/// Opens a pool with the tuned settings and one connection, so that a mistake shows here.
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
/// The cause: see [`Error`]'s questions.
///
/// # Cancel safety
///
/// As [`Builder::build`].
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
/// let users = lakebase_diesel::bb8::user_pools(&lakebase).max_connections(60).build();
/// // for each request
/// let pool = users.get(&User::new(email, token)).await?;
/// let mut connection = pool.get().await?;
/// # Ok(())
/// # }
/// ```
pub fn user_pools(lakebase: &Lakebase) -> UserPoolsBuilder<Pool> {
    let open = |lakebase, size| async move { Builder::new().max_size(size).build(&lakebase).await };
    // It closes its connections when it is dropped.
    let is_busy = |pool: &Pool| {
        let state = pool.state();
        state.connections > state.idle_connections
    };
    UserPoolsBuilder::new(lakebase, open, is_busy, |_| async {})
}

/// Sets up a [`Pool`].
///
/// Defaults: at most 10 connections and none kept open without need; idle ones closed after 4
/// minutes, all of them after 45 minutes (10 % jitter per pool); `get` waits a second longer than
/// the [`Lakebase`]'s connect timeout (30 s unless configured); the last returned connection is handed out first, so
/// that the others can go idle.
#[must_use]
pub struct Builder {
    max_size: Option<u32>,
    /// The application may have set a size that we cannot read.
    is_configured: bool,
    changes: Vec<Change>,
}

type Change = Box<dyn FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager> + Send>;

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The tuned defaults.
    pub fn new() -> Self {
        Self {
            max_size: None,
            is_configured: false,
            changes: Vec::new(),
        }
    }

    /// Most connections at a time.
    ///
    /// # Panics
    ///
    /// [`build`](Self::build) panics if it is zero, as bb8 does.
    pub fn max_size(mut self, size: u32) -> Self {
        self.max_size = Some(size);
        self
    }

    /// How long [`Pool::get`] waits for a connection.
    ///
    /// # Panics
    ///
    /// [`build`](Self::build) panics if it is zero, as bb8 does.
    pub fn connection_timeout(self, timeout: Duration) -> Self {
        self.change(move |inner| inner.connection_timeout(timeout))
    }

    /// Every other setting of bb8. A size that is set here is not known to [`Pool::stats`]. The error sink is ours: bb8 reports failed logins to it.
    pub fn configure(
        mut self,
        change: impl FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager> + Send + 'static,
    ) -> Self {
        self.is_configured = true;
        self.change(change)
    }

    fn change(
        mut self,
        change: impl FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager> + Send + 'static,
    ) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Opens the pool and one connection.
    ///
    /// # Errors
    ///
    /// The cause of a failed login, not `TimedOut`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the pool. bb8 finishes a login that is running and then closes the connection.
    pub async fn build(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        // bb8's timers panic without one.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::config("no tokio runtime is running on this thread"));
        }
        let pool = self.build_lazy(lakebase);
        let first = pool.wait(pool.inner.get()).await.map(drop);
        match first {
            Ok(()) => Ok(pool),
            Err(Failure::Cause(error)) => Err(error),
            // Nothing failed yet and the time is up: a timeout much shorter than a login takes.
            Err(Failure::Host(error)) => Err(Error::timeout(format!(
                "the pool could not open a connection: {error}"
            ))),
        }
    }

    /// Makes the pool without opening a connection. Needs a tokio runtime.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Pool {
        let failures = Failures(watch::Sender::new(None));
        let limit = match self.is_configured {
            true => self.max_size,
            false => Some(self.max_size.unwrap_or(MAX_SIZE)),
        };
        let inner = bb8::Builder::new()
            .max_size(MAX_SIZE)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(max_lifetime())
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .connection_timeout(wait(lakebase));
        let inner = self
            .changes
            .into_iter()
            .fold(inner, |inner, change| change(inner));
        let inner = match limit {
            Some(limit) => inner.max_size(limit),
            None => inner,
        };
        let inner = inner
            // The login loop underneath retries; bb8 doing so as well would hide the cause.
            .retry_connection(false)
            .error_sink(Box::new(failures.clone()))
            .build_unchecked(manager(lakebase));
        Pool {
            inner,
            failures,
            limit,
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
/// It belongs to the tokio runtime on which it opens connections. If that ends while a connection is being opened, bb8
/// waits for the connection forever, and a pool that is kept in a `static` may never open another one: make a pool for
/// each runtime. [`get`](Self::get)'s error says so.
///
/// Dereferences to diesel-async's own pool type, for functions that take that one.
#[derive(Clone)]
pub struct Pool {
    inner: host::Pool<AsyncPgConnection>,
    failures: Failures,
    limit: Option<u32>,
    waiting: Arc<AtomicU64>,
    lakebase: Lakebase,
}

/// Why there is no connection.
enum Failure {
    Cause(Error),
    Host(RunError),
}

impl Pool {
    /// A connection from the pool, or a new one.
    ///
    /// # Errors
    ///
    /// The cause of a failed login as soon as it is known, as
    /// `RunError::User(PoolError::ConnectionError(..))`; [`last_failure`](Self::last_failure) has
    /// it typed. `RunError::TimedOut` only if all connections stay busy.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives a connection back to the pool; one that is being opened is kept by the pool.
    pub async fn get(&self) -> Result<PooledConnection<'_, AsyncPgConnection>, RunError> {
        Ok(self.wait(self.inner.get()).await?)
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
        Ok(self.wait(self.inner.get_owned()).await?)
    }

    /// Why the last login failed; `None` since the last success.
    pub fn last_failure(&self) -> Option<Error> {
        self.lakebase.last_failure()
    }

    /// What the pool's connections are doing, for health checks and dashboards. Callers that wait are those of [`get`](Self::get)
    /// and [`get_owned`](Self::get_owned).
    pub fn stats(&self) -> PoolStats {
        let state = self.inner.state();
        let in_use = state.connections.saturating_sub(state.idle_connections);
        let mut stats = PoolStats::new(in_use.into(), state.idle_connections.into());
        stats.limit = self.limit.map(u64::from);
        stats.waiting = Some(self.waiting.load(Ordering::Relaxed));
        stats.timeouts = Some(state.statistics.get_timed_out);
        stats
    }

    /// No connection is open, no login has failed, and the wait was longer than a login may take: the task that opened a
    /// connection is gone.
    fn lost_runtime(&self, began: Instant) -> Option<Error> {
        let is_lost = self.inner.state().connections == 0
            && began.elapsed() >= self.lakebase.connect_timeout();
        is_lost.then(|| {
            Error::config(
                "the pool opens no connection, and no login has failed: it was opening its connections on a tokio runtime that has ended, and bb8 waits for those for ever. Make a new pool on this runtime; do not share one in a static between runtimes",
            )
        })
    }

    /// Waits for the pool, or for a login that failed for good.
    async fn wait<T>(&self, get: impl Future<Output = Result<T, RunError>>) -> Result<T, Failure> {
        let began = Instant::now();
        let _waiting = Waiting::new(&self.waiting);
        let mut signal = self.failures.0.subscribe();
        let mut get = pin!(get);
        let mut reported = None;
        loop {
            tokio::select! {
                biased;
                result = &mut get => return result.map_err(|error| {
                    let cause = || reported.or_else(|| last_failure_within(&self.lakebase, began.elapsed()));
                    match error {
                        RunError::TimedOut => cause()
                            .or_else(|| self.lost_runtime(began))
                            .map_or(Failure::Host(error), Failure::Cause),
                        error => Failure::Host(error),
                    }
                }),
                failure = next(&mut signal) => {
                    // As long as there are connections, one of them may come back.
                    if self.inner.state().connections == 0 {
                        return Err(Failure::Cause(failure));
                    }
                    reported = Some(failure);
                }
            }
        }
    }
}

/// Counts a caller for as long as it waits.
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

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cause(error) => Self::User(PoolError::ConnectionError(error.into())),
            Failure::Host(error) => error,
        }
    }
}

/// Whether retrying the checkout can succeed: the cause is transient, or all connections were busy.
pub fn is_transient(error: &RunError) -> bool {
    match error {
        RunError::User(PoolError::ConnectionError(error)) => {
            crate::is_transient_connection_error(error)
        }
        RunError::User(PoolError::QueryError(error)) => crate::is_transient(error),
        RunError::TimedOut => true,
    }
}

/// The next failure that bb8 reports.
async fn next(signal: &mut watch::Receiver<Option<Error>>) -> Error {
    loop {
        if signal.changed().await.is_err() {
            // The pool is being dropped, and its waiting callers with it.
            std::future::pending::<()>().await;
        }
        if let Some(error) = signal.borrow_and_update().clone() {
            return error;
        }
    }
}

/// Where bb8 reports why a connection could not be opened: after its own counts are right again, and only for
/// connections that the pool itself wanted.
#[derive(Clone, Debug)]
struct Failures(watch::Sender<Option<Error>>);

impl bb8::ErrorSink<PoolError> for Failures {
    fn sink(&self, error: PoolError) {
        let failure = match &error {
            // Our own check found an idle connection dead; the pool goes on by itself.
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
