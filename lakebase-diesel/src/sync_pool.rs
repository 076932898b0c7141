//! A manager of synchronous connections for r2d2, and a pool tuned for Lakebase whose `get` tells why.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::r2d2 as host;
use diesel::r2d2::Error::QueryError;
use diesel::r2d2::{ManageConnection, R2D2Connection};
use lakebase_core::{Error, Lakebase};
use tokio::time::Instant;

use crate::activity::{Activity, Moment};
use crate::connect::connection_error;
use crate::suspicion::Suspicion;
use crate::tuning::{IDLE_TIMEOUT, LOGIN_GRACE, MAX_SIZE, jittered_lifetime};

/// A connection that was used a moment ago is handed out as it is: asking would cost a busy pool a round
/// trip each time. libpq watches none, so older ones are asked.
const PING_AFTER: Duration = Duration::from_millis(10);
/// A ping that takes longer to fail was not answered. Nothing can cut it off before TCP's user timeout, so
/// it is to be the only one: what was idle when it was sent is closed without asking.
const SILENCE: Duration = Duration::from_secs(1);
/// r2d2 waits between failed logins for up to half of this.
const RETRY: Duration = Duration::from_secs(1);
/// After a failure, a login is begun at once for somebody who has come since, and that often for those who
/// go on waiting.
const PAUSE: Duration = Duration::from_millis(500);
/// That often if nobody waits.
const UNWANTED: Duration = Duration::from_secs(30);
/// How often a `get` that waits for a busy connection looks whether a login failed.
const LOOK: Duration = Duration::from_millis(50);
/// How often one that waits for a new connection looks whether it is there.
const POLL: Duration = Duration::from_millis(5);
/// A connection that is logged in but neither in the pool nor reported as failed is being set up by the
/// application's customizer; after that long another is opened.
const SET_UP: Duration = Duration::from_secs(1);

/// A kind of connection that logs in through a [`Lakebase`].
pub trait Connect: R2D2Connection + Sized + Send + 'static {
    /// What connections of one manager share.
    #[doc(hidden)]
    type Shared: Default + Send + Sync + 'static;

    /// Blocks until it is logged in.
    #[doc(hidden)]
    fn connect(shared: &Arc<Self::Shared>, lakebase: &Lakebase) -> Result<Self, Error>;
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
        let demand = self.inner.demand.as_ref();
        if let Some(demand) = demand {
            demand.wait_for_it();
        }
        let begun = Instant::now();
        let outcome = self.open();
        if let Some(demand) = demand {
            demand.report(begun, outcome.as_ref().err());
        }
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
        connection.ping().map_err(|error| {
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

    /// How long [`Pool::get`] waits for a connection.
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
/// does: it gives up after a second.
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
        let began = Instant::now();
        let _waiting = self.demand.0.enter();
        let mut heard = None;
        let mut order = None;
        loop {
            let left = self.timeout.saturating_sub(began.elapsed());
            if let Some(connection) = self.look(left, &mut order) {
                self.demand.0.served();
                return Ok(connection);
            }
            if let Some(failure) = self.demand.0.failure_since(began) {
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
                    let waited = self.timeout;
                    let text = match self.inner.state().connections {
                        0 => format!("no connection within {waited:?}"),
                        open => format!("all {open} connections stayed busy for {waited:?}"),
                    };
                    Error::provider(text, true)
                }));
            }
        }
    }

    /// Waits a moment for a connection, and sees to it that one is on its way.
    fn look(
        &self,
        left: Duration,
        order: &mut Option<Order>,
    ) -> Option<host::PooledConnection<ConnectionManager<C>>> {
        if self.inner.state().connections == self.inner.max_size() {
            // None can be opened; r2d2 wakes those who wait as one comes back.
            *order = None;
            return self.inner.get_timeout(left.min(LOOK)).ok();
        }
        if let Some(order) = order {
            self.demand.0.wait_for_news(left.min(POLL));
            if let Some(connection) = self.inner.try_get() {
                return Some(connection);
            }
            if !order.went_elsewhere(self.demand.0.opened(), self.inner.state().connections) {
                return None;
            }
        }
        *order = Some(Order {
            opened: self.demand.0.opened(),
            connections: self.inner.state().connections,
            logged_in: None,
        });
        // Makes r2d2 open one, each time it is called.
        self.inner.get_timeout(Duration::ZERO).ok()
    }
}

/// A connection that r2d2 was made to open, and how things were then.
struct Order {
    opened: u64,
    connections: u32,
    /// When a login was first seen to have succeeded after that.
    logged_in: Option<Instant>,
}

impl Order {
    /// Whether somebody else has the connection, or nobody will. A failed login is no such case: r2d2
    /// repeats it.
    fn went_elsewhere(&mut self, opened: u64, connections: u32) -> bool {
        if opened == self.opened {
            return false;
        }
        let logged_in = self.logged_in.get_or_insert_with(Instant::now);
        connections != self.connections || logged_in.elapsed() >= SET_UP
    }
}

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

/// Between those who wait for a connection and r2d2's threads, which repeat a failed login for ever.
#[derive(Default)]
struct Demand {
    state: Mutex<Wanted>,
    changed: Condvar,
}

struct Wanted {
    waiting: usize,
    /// When the last of those who wait, or waited, came.
    came: Instant,
    /// When a login was last let through.
    let_through: Instant,
    opened: u64,
    /// When the last login that is over was begun.
    begun: Instant,
    failure: Option<Failure>,
    closed: bool,
}

struct Failure {
    begun: Instant,
    error: Error,
    /// The login was good and what the application does after it was not.
    in_set_up: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            waiting: 0,
            came: now,
            let_through: now,
            opened: 0,
            begun: now,
            failure: None,
            closed: false,
        }
    }
}

impl Wanted {
    /// How long a login is to be put off.
    fn put_off(&self) -> Duration {
        if self.closed || self.failure.is_none() {
            return Duration::ZERO;
        }
        let pause = match self.waiting {
            0 => UNWANTED,
            _ if self.came > self.let_through => Duration::ZERO,
            _ => PAUSE,
        };
        pause.saturating_sub(self.let_through.elapsed())
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Demand")
    }
}

impl Demand {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Waiting<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        state.came = Instant::now();
        self.changed.notify_all();
        Waiting(self)
    }

    /// Before a login: after a failure one is enough for all who wait.
    fn wait_for_it(&self) {
        let mut state = self.lock();
        loop {
            let put_off = state.put_off();
            if put_off.is_zero() {
                state.let_through = Instant::now();
                return;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, put_off)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A login that was begun then is over.
    fn report(&self, begun: Instant, failure: Option<&Error>) {
        let mut state = self.lock();
        state.begun = begun;
        match failure {
            Some(error) => {
                state.failure = Some(Failure {
                    begun,
                    error: error.clone(),
                    in_set_up: false,
                });
            }
            None => {
                state.opened += 1;
                state.failure = state.failure.take().filter(|failure| failure.in_set_up);
            }
        }
        self.changed.notify_all();
    }

    /// A connection was handed out, so the application's set-up can work.
    fn served(&self) {
        let mut state = self.lock();
        if state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.in_set_up)
        {
            state.failure = None;
            self.changed.notify_all();
        }
    }

    fn opened(&self) -> u64 {
        self.lock().opened
    }

    fn wait_for_news(&self, at_most: Duration) {
        let _woken = self
            .changed
            .wait_timeout(self.lock(), at_most)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// What a login that was begun since ran into. What older ones did may be over.
    fn failure_since(&self, moment: Instant) -> Option<Error> {
        let state = self.lock();
        let failure = state.failure.as_ref();
        let failure = failure.filter(|failure| failure.begun >= moment)?;
        Some(failure.error.clone())
    }
}

/// Hears of what failed after a login: a connection customizer of the application.
#[derive(Debug)]
struct Errors(Arc<Demand>);

impl host::HandleError<host::Error> for Errors {
    fn handle_error(&self, error: host::Error) {
        if let QueryError(cause) = error {
            let text = format!("a new connection could not be set up: {cause}");
            tracing::warn!("{text}");
            let mut state = self.0.lock();
            state.failure = Some(Failure {
                begun: state.begun,
                error: Error::provider(text, false),
                in_set_up: true,
            });
            self.0.changed.notify_all();
        }
    }
}

struct Waiting<'a>(&'a Demand);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// The last pool's end frees r2d2's threads.
struct Closing(Arc<Demand>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}
