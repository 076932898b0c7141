//! A manager of synchronous connections for r2d2, and a pool tuned for Lakebase whose `get` tells why.

mod demand;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::r2d2 as host;
use diesel::r2d2::Error::QueryError;
use diesel::r2d2::{ManageConnection, R2D2Connection};
use lakebase_core::{Error, Lakebase};
use tokio::time::Instant;

use crate::activity::{Activity, Moment};
use crate::connect::connection_error;
use crate::suspicion::Suspicion;
use crate::tuning::{IDLE_TIMEOUT, LOGIN_GRACE, MAX_SIZE, jittered_lifetime};
use demand::{Closing, Demand, Errors, Order, Waiting};

/// A connection that was used a moment ago is handed out as it is: asking would cost a busy pool a round
/// trip each time. libpq watches none, so older ones are asked.
const PING_AFTER: Duration = Duration::from_millis(10);
/// A ping that takes longer to fail was not answered. It costs its caller seconds, so it is to be the only one:
/// what was idle when it was sent is closed without asking.
const SILENCE: Duration = Duration::from_secs(1);
/// r2d2 waits between failed logins for half of this; how long they really wait is up to us.
const RETRY: Duration = Duration::from_millis(200);
/// How often a `get` that waits for a busy connection looks whether a login failed.
const LOOK: Duration = Duration::from_millis(50);
/// How often one that waits for a new connection looks whether it is there.
const POLL: Duration = Duration::from_millis(5);

/// A kind of connection that logs in through a [`Lakebase`].
pub trait Connect: R2D2Connection + Sized + Send + 'static {
    /// What connections of one manager share.
    #[doc(hidden)]
    type Shared: Default + Send + Sync + 'static;

    /// Blocks until it is logged in.
    #[doc(hidden)]
    fn connect(shared: &Arc<Self::Shared>, lakebase: &Lakebase) -> Result<Self, Error>;

    /// Whether it still answers. Blocks until that is known, one way or the other.
    #[doc(hidden)]
    fn ask(&mut self) -> QueryResult<()> {
        self.ping()
    }
}

/// Takes the place of diesel's own manager of that name, with every login going through a [`Lakebase`].
/// Cheap to clone.
///
/// r2d2 keeps a failed login to itself until its timeout of 30 s; [`Builder`] makes a pool that does not.
pub struct ConnectionManager<C: Connect> {
    inner: Arc<Inner<C>>,
}

struct Inner<C: Connect> {
    lakebase: Lakebase,
    shared: Arc<C::Shared>,
    suspicion: Suspicion,
    /// Only under a pool of ours.
    demand: Option<Arc<Demand>>,
}

impl<C: Connect> ConnectionManager<C> {
    /// Touches no network and starts nothing.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self::with_demand(lakebase, None)
    }

    fn with_demand(lakebase: &Lakebase, demand: Option<Arc<Demand>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                lakebase: lakebase.clone(),
                shared: Arc::default(),
                suspicion: Suspicion::default(),
                demand,
            }),
        }
    }

    pub(crate) fn open(&self) -> Result<C, Error> {
        C::connect(&self.inner.shared, &self.inner.lakebase)
    }
}

impl<C: Connect> Clone for ConnectionManager<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<C: Connect> ManageConnection for ConnectionManager<C> {
    type Connection = C;
    type Error = host::Error;

    fn connect(&self) -> Result<C, host::Error> {
        let outcome = match &self.inner.demand {
            Some(demand) => demand.log_in(|| self.open()),
            None => self.open(),
        };
        outcome.map_err(|error| {
            tracing::warn!(error = %error.chain(), "could not open a connection");
            host::Error::ConnectionError(connection_error(&error))
        })
    }

    fn is_valid(&self, connection: &mut C) -> Result<(), host::Error> {
        let last = Activity::last_of(connection.instrumentation());
        if last.is_some_and(|last| last.elapsed() < PING_AFTER) {
            return Ok(());
        }
        if let Some(last) = &last {
            self.inner.suspicion.check(last).map_err(QueryError)?;
        }
        let asked = Moment::now();
        connection.ask().map_err(|error| {
            if asked.elapsed() >= SILENCE {
                self.inner.suspicion.note(asked);
            }
            QueryError(error)
        })
    }

    fn has_broken(&self, connection: &mut C) -> bool {
        std::thread::panicking() || connection.is_broken()
    }
}

impl<C: Connect> fmt::Debug for ConnectionManager<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionManager")
            .field("lakebase", &self.inner.lakebase)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`Pool`].
///
/// Defaults: at most 10 connections and none kept open without need; idle ones closed after 4
/// minutes, all of them after 45 minutes (10 % jitter per pool); `get` waits a second longer than
/// the [`Lakebase`]'s connect timeout (30 s unless configured).
#[must_use]
pub struct Builder<C: Connect> {
    timeout: Option<Duration>,
    changes: Vec<Change<C>>,
}

type Settings<C> = host::Builder<ConnectionManager<C>>;
type Change<C> = Box<dyn FnOnce(Settings<C>) -> Settings<C> + Send>;

impl<C: Connect> Default for Builder<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Connect> Builder<C> {
    /// The tuned defaults.
    pub fn new() -> Self {
        Self {
            timeout: None,
            changes: Vec::new(),
        }
    }

    /// Most connections at a time.
    ///
    /// # Panics
    ///
    /// If it is zero, as r2d2 does.
    pub fn max_size(self, size: u32) -> Self {
        self.configure(move |inner| inner.max_size(size))
    }

    /// How long [`Pool::get`] waits for a connection. Finding out that an idle one went silent comes on top: 2 s
    /// without libpq. libpq cannot be interrupted: on Linux it takes 15 s until the kernel gives up, elsewhere, and
    /// where something on the way still acknowledges, longer.
    pub fn connection_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Everything else that r2d2 can be told. Its connection timeout and its error handler are ours, and an
    /// event handler hears of a timeout at every look of a `get` that waits.
    pub fn configure(
        mut self,
        change: impl FnOnce(host::Builder<ConnectionManager<C>>) -> host::Builder<ConnectionManager<C>>
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
    /// The cause of a failed login.
    pub fn build(self, lakebase: &Lakebase) -> Result<Pool<C>, Error> {
        let pool = self.build_lazy(lakebase);
        pool.get()?;
        Ok(pool)
    }

    /// Makes the pool without opening a connection.
    pub fn build_lazy(self, lakebase: &Lakebase) -> Pool<C> {
        let demand = Arc::<Demand>::default();
        let manager = ConnectionManager::with_demand(lakebase, Some(Arc::clone(&demand)));
        let builder = host::Pool::builder()
            .max_size(MAX_SIZE)
            .min_idle(Some(0))
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(Some(jittered_lifetime()));
        let inner = self
            .changes
            .into_iter()
            .fold(builder, |builder, change| change(builder))
            .connection_timeout(RETRY)
            .error_handler(Box::new(Errors(Arc::clone(&demand))))
            .build_unchecked(manager);
        let grace = lakebase.connect_timeout() + LOGIN_GRACE;
        Pool {
            inner,
            timeout: self.timeout.unwrap_or(grace),
            demand: Arc::new(Closing(demand)),
            lakebase: lakebase.clone(),
        }
    }
}

impl<C: Connect> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

/// An r2d2 pool of synchronous diesel connections to one Lakebase. Cheap to clone.
///
/// Dereferences to r2d2's own pool type, for its state and settings. Its own `get` does not do what ours
/// does: it gives up after 0.2 s.
pub struct Pool<C: Connect> {
    inner: host::Pool<ConnectionManager<C>>,
    timeout: Duration,
    demand: Arc<Closing>,
    lakebase: Lakebase,
}

impl<C: Connect> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            timeout: self.timeout,
            demand: Arc::clone(&self.demand),
            lakebase: self.lakebase.clone(),
        }
    }
}

impl<C: Connect> Pool<C> {
    /// A connection from the pool, or a new one. Blocks.
    ///
    /// # Errors
    ///
    /// The cause of a failed login as soon as it is known; a transient [`Error`] if all connections stay
    /// busy.
    pub fn get(&self) -> Result<host::PooledConnection<ConnectionManager<C>>, Error> {
        self.get_timeout(self.timeout)
    }

    /// The same, with a patience of its own; asking idle connections comes on top as well, see
    /// [`Builder::connection_timeout`].
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_timeout(
        &self,
        timeout: Duration,
    ) -> Result<host::PooledConnection<ConnectionManager<C>>, Error> {
        let mut patience = timeout;
        // Who is served like this waits for no login.
        if let Some(connection) = self.inner.try_get() {
            return Ok(self.met(connection));
        }
        // Only now: idle connections that went silent must not use up the patience for a new one.
        let began = Instant::now();
        let mut waiting = self.demand.enter();
        let mut heard = None;
        let mut order = None;
        loop {
            let left = patience.saturating_sub(began.elapsed());
            let looking = Instant::now();
            if let Some(connection) = self.look(left, &mut waiting, &mut order) {
                return Ok(self.met(connection));
            }
            let looked = looking.elapsed();
            if looked >= SILENCE {
                // One that came back had gone silent.
                patience += looked;
            }
            if let Some(failure) = self.demand.failure_since(began) {
                // Passing trouble (a connection limit, say) is waited out as long as there are
                // connections that may come back.
                if !failure.is_transient() || self.inner.state().connections == 0 {
                    return Err(failure);
                }
                heard = Some(failure);
            }
            if left.is_zero() {
                let cause = heard.or_else(|| self.lakebase.last_failure_since(began));
                return Err(cause.unwrap_or_else(|| {
                    let text = match self.inner.state().connections {
                        0 => format!("no connection within {timeout:?}"),
                        open => format!("all {open} connections stayed busy for {timeout:?}"),
                    };
                    Error::provider(text, true)
                }));
            }
        }
    }

    /// A new connection in use is a proof that they can be set up.
    fn met(
        &self,
        mut connection: host::PooledConnection<ConnectionManager<C>>,
    ) -> host::PooledConnection<ConnectionManager<C>> {
        let extensions = host::PooledConnection::extensions_mut(&mut connection);
        if extensions.insert(Met).is_none() {
            self.demand.is_set_up();
        }
        connection
    }

    /// Waits a moment for a connection, and sees to it that enough are on their way.
    fn look(
        &self,
        left: Duration,
        waiting: &mut Waiting<'_>,
        order: &mut Option<Order>,
    ) -> Option<host::PooledConnection<ConnectionManager<C>>> {
        let demand = &**self.demand;
        if self.inner.state().connections == self.inner.max_size() {
            // None can be opened; r2d2 wakes those who wait as one comes back.
            *order = None;
            demand.nothing_is_coming();
            return self.inner.get_timeout(left.min(LOOK)).ok();
        }
        if let Some(order) = order {
            demand.wait_for_news(left.min(POLL));
            if let Some(connection) = waiting.take(|| self.inner.try_get()) {
                return Some(connection);
            }
            if !order.went_elsewhere(demand, self.inner.state().connections) {
                return None;
            }
        }
        let connections = self.inner.state().connections;
        *order = Some(Order::new(demand, connections));
        let room = self.inner.max_size().saturating_sub(connections);
        if !demand.order(room as usize) {
            return None;
        }
        // Makes r2d2 open one, each time it is called.
        let connection = waiting.take(|| self.inner.get_timeout(Duration::ZERO).ok());
        if connection.is_some() {
            demand.cancel();
        }
        connection
    }
}

/// On connections that were handed out before.
struct Met;

impl<C: Connect> Deref for Pool<C> {
    type Target = host::Pool<ConnectionManager<C>>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<C: Connect> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("state", &self.inner.state())
            .finish_non_exhaustive()
    }
}
