//! The bb8 pool, tuned for Lakebase, whose `get` tells why.
//!
//! A pool that diesel-async and bb8 make by themselves answers a failed login with `TimedOut` after
//! 30 s. This one answers at once, and with the cause: it is the same pool underneath
//! ([`Deref`]), with the same connections and the same error type.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, PoolError, bb8 as host};
use lakebase_core::{Error, Lakebase};
use tokio::sync::watch;

pub use host::{PooledConnection, RunError};

use crate::manager::{connection_error, manager_with};

/// The manager under the pool.
pub type Manager = AsyncDieselConnectionManager<AsyncPgConnection>;

const MAX_SIZE: u32 = 10;
/// Idle connections may keep a compute awake, which costs money.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// Below the hour of a token, far below the platform's three days.
const MAX_LIFETIME: Duration = Duration::from_secs(45 * 60);
/// Pools of a fleet that started together must not reconnect together.
const LIFETIME_JITTER: f64 = 0.1;

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
pub async fn connect(lakebase: &Lakebase) -> Result<Pool, Error> {
    Builder::new().build(lakebase).await
}

/// Sets up a [`Pool`].
///
/// Defaults: at most 10 connections and none kept open without need; idle ones closed after 4
/// minutes, all of them after 45 minutes (10 % jitter per pool); the connect timeout is the
/// [`Lakebase`]'s, 30 s unless configured; the last returned connection is handed out first, so
/// that the others can go idle.
#[must_use]
pub struct Builder {
    inner: bb8::Builder<Manager>,
    timeout: Option<Duration>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The tuned defaults.
    pub fn new() -> Self {
        let jitter = 1.0 + LIFETIME_JITTER * (2.0 * fastrand::f64() - 1.0);
        let inner = bb8::Builder::new()
            .max_size(MAX_SIZE)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME.mul_f64(jitter))
            .queue_strategy(bb8::QueueStrategy::Lifo)
            // The login loop underneath tries again; bb8 doing so as well would hide the cause.
            .retry_connection(false)
            .error_sink(Box::new(Sink));
        Self {
            inner,
            timeout: None,
        }
    }

    /// Most connections at a time.
    ///
    /// # Panics
    ///
    /// If it is zero, as bb8 does.
    pub fn max_size(self, size: u32) -> Self {
        self.configure(|inner| inner.max_size(size))
    }

    /// How long [`Pool::get`] waits for a connection.
    ///
    /// # Panics
    ///
    /// If it is zero, as bb8 does.
    pub fn connection_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Everything else that bb8 can be told.
    pub fn configure(
        mut self,
        change: impl FnOnce(bb8::Builder<Manager>) -> bb8::Builder<Manager>,
    ) -> Self {
        self.inner = change(self.inner);
        self
    }

    /// Opens the pool and one connection.
    ///
    /// # Errors
    ///
    /// The cause of a failed login, not `TimedOut`.
    pub async fn build(self, lakebase: &Lakebase) -> Result<Pool, Error> {
        let pool = self.build_lazy(lakebase);
        let first = pool.wait(pool.inner.get()).await.map(drop);
        match first {
            Ok(()) => Ok(pool),
            Err(Failure::Cause(error)) => Err(error),
            // Nothing failed yet and the time is up: a timeout much shorter than a login takes.
            Err(Failure::Host(error)) => Err(Error::provider(
                format!("the pool could not open a connection: {error}"),
                true,
            )),
        }
    }

    /// Makes the pool without opening a connection. Needs a tokio runtime.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Pool {
        let failures = watch::Sender::new(None);
        let manager = manager_with(lakebase, {
            let failures = failures.clone();
            move |error| {
                failures.send_replace(Some(error.clone()));
            }
        });
        let timeout = self.timeout.unwrap_or(lakebase.connect_timeout());
        Pool {
            inner: self
                .inner
                .connection_timeout(timeout)
                .build_unchecked(manager),
            failures,
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
/// Dereferences to diesel-async's own pool type, for functions that take that one.
#[derive(Clone)]
pub struct Pool {
    inner: host::Pool<AsyncPgConnection>,
    failures: watch::Sender<Option<Error>>,
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
    /// Safe.
    pub async fn get(&self) -> Result<PooledConnection<'_, AsyncPgConnection>, RunError> {
        Ok(self.wait(self.inner.get()).await?)
    }

    /// Like [`get`](Self::get), for tasks that outlive the borrow.
    ///
    /// # Errors
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

    /// Waits for the pool, or for the news that a login failed for good.
    async fn wait<T>(&self, get: impl Future<Output = Result<T, RunError>>) -> Result<T, Failure> {
        let mut failures = self.failures.subscribe();
        tokio::select! {
            biased;
            result = get => result.map_err(|error| match (error, self.last_failure()) {
                (RunError::TimedOut, Some(cause)) => Failure::Cause(cause),
                (error, _) => Failure::Host(error),
            }),
            failure = next(&mut failures) => Err(Failure::Cause(failure)),
        }
    }
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cause(error) => {
                Self::User(PoolError::ConnectionError(connection_error(&error)))
            }
            Failure::Host(error) => error,
        }
    }
}

/// The next login that fails for good.
async fn next(failures: &mut watch::Receiver<Option<Error>>) -> Error {
    loop {
        if failures.changed().await.is_err() {
            // The pool is being dropped; whoever waits on it goes with it.
            std::future::pending::<()>().await;
        }
        if let Some(error) = failures.borrow_and_update().clone() {
            return error;
        }
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

/// Connections that fail the check at checkout end here; failed logins are logged where they fail.
#[derive(Clone, Copy, Debug)]
struct Sink;

impl bb8::ErrorSink<PoolError> for Sink {
    fn sink(&self, error: PoolError) {
        if let PoolError::QueryError(error) = error {
            tracing::debug!(%error, "dropped an idle connection");
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<PoolError>> {
        Box::new(*self)
    }
}
