//! A pool for each user of an application, within limits that the compute can bear.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::credential::single_flight::no_runtime;
use crate::error::{Error, Kind};
use crate::lakebase::{Lakebase, User};

/// A few concurrent queries of one user; as the official Node driver has.
const CONNECTIONS_PER_USER: u32 = 3;
const MAX_CONNECTIONS: u32 = 60;
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// A browser's tabs may send the token before the newest one for a while.
const REMEMBERED_TOKENS: usize = 4;
/// Between two looks for idle pools, at least.
const SHORTEST_NAP: Duration = Duration::from_millis(50);
/// So often a login that its runtime took along is begun again.
const MOST_LOST: usize = 3;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Pools by user: each request's queries run as the user who sent it.
///
/// An adapter's `user_pools` function makes one, for example `lakebase_diesel::bb8::user_pools`. `P` is the adapter's pool. Clones
/// share all pools.
///
/// A pool belongs to a name, a role and the tokens that Postgres has accepted for them. A token that is new is tried with a login of its own
/// before it gets anything, so a forged e-mail gets an error and never the pool of another user.
///
/// At most [`max_connections`](UserPoolsBuilder::max_connections) are open. If all pools are taken, a further user gets the
/// place of the pool that was not in use for the longest time. A pool that is in use is never closed; callers wait in order.
pub struct UserPools<P: Clone + Send + Sync + 'static>(Arc<Shared<P>>);

/// Settings of [`UserPools`].
#[must_use]
pub struct UserPoolsBuilder<P: Clone + Send + Sync + 'static> {
    lakebase: Lakebase,
    open: Open<P>,
    close: Close<P>,
    limits: Limits,
}

type Open<P> = Box<dyn Fn(Lakebase, u32) -> BoxFuture<Result<P, Error>> + Send + Sync>;
type Close<P> = Box<dyn Fn(P) -> BoxFuture<()> + Send + Sync>;

#[derive(Clone, Copy, Debug)]
struct Limits {
    per_user: u32,
    connections: u32,
    idle: Duration,
    wait: Duration,
}

/// A user's pool, in use until this is dropped: keep it as long as a connection of it.
pub struct UserPool<P: Clone + Send + Sync + 'static>(Arc<Lease<P>>);

/// What the pools of users are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserPoolsStats {
    /// Users with a pool.
    pub open: usize,
    /// Of these, pools that a request has.
    pub in_use: usize,
    /// Users whose pool is being opened, or who wait for a place.
    pub waiting: usize,
    /// Most users with a pool.
    pub limit: usize,
    /// Pools that were closed to make place, since the start.
    pub evicted: u64,
}

struct Shared<P: Clone + Send + Sync + 'static> {
    builder: UserPoolsBuilder<P>,
    places: Arc<Semaphore>,
    state: Mutex<State<P>>,
    /// A pool is not in use any more.
    freed: Notify,
}

struct State<P: Clone + Send + Sync + 'static> {
    open: HashMap<Key, Arc<Entry<P>>>,
    opening: Vec<Opening<P>>,
    evicted: u64,
    sweeper: Option<AbortHandle>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    name: String,
    role: String,
}

impl Key {
    fn of(user: &User) -> Self {
        Self {
            name: user.name().to_owned(),
            role: user.postgres_role().to_owned(),
        }
    }
}

/// A login that tells whether this user's token is good.
struct Opening<P: Clone + Send + Sync + 'static> {
    user: User,
    outcome: Outcome<P>,
}

type Outcome<P> = watch::Receiver<Option<Result<Arc<Lease<P>>, Error>>>;

struct Entry<P> {
    pool: P,
    leases: AtomicUsize,
    lakebase: Lakebase,
    /// With tokens that Postgres has accepted.
    accepted: Mutex<Vec<User>>,
    used: Mutex<Instant>,
    _place: OwnedSemaphorePermit,
}

impl<P> Entry<P> {
    /// Leases begin under the lock of the state.
    fn is_in_use(&self) -> bool {
        self.leases.load(Ordering::Acquire) > 0
    }

    fn accepts(&self, user: &User) -> bool {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.iter().any(|known| known.has_token_of(user))
    }

    fn accept(&self, user: User) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.truncate(REMEMBERED_TOKENS - 1);
        accepted.insert(0, user);
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Clone + Send + Sync + 'static> UserPoolsBuilder<P> {
    /// For adapters: `open` opens a pool of so many connections, and logs in at least once; `close` closes one that nobody uses.
    pub fn new<Opening, Closing>(
        lakebase: &Lakebase,
        open: impl Fn(Lakebase, u32) -> Opening + Send + Sync + 'static,
        close: impl Fn(P) -> Closing + Send + Sync + 'static,
    ) -> Self
    where
        Opening: Future<Output = Result<P, Error>> + Send + 'static,
        Closing: Future<Output = ()> + Send + 'static,
    {
        Self {
            lakebase: lakebase.clone(),
            open: Box::new(move |lakebase, size| Box::pin(open(lakebase, size))),
            close: Box::new(move |pool| Box::pin(close(pool))),
            limits: Limits {
                per_user: CONNECTIONS_PER_USER,
                connections: MAX_CONNECTIONS,
                idle: IDLE_TIMEOUT,
                wait: WAIT_TIMEOUT,
            },
        }
    }

    /// Sets the size of each pool: 3 connections by default.
    pub fn connections_per_user(mut self, connections: u32) -> Self {
        self.limits.per_user = connections.max(1);
        self
    }

    /// Sets how many connections all pools together may open: 60 by default. So many users have a pool at the same time as fit.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.limits.connections = connections;
        self
    }

    /// Sets after which time without a request a pool is closed: 5 minutes by default.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout;
        self
    }

    /// Sets how long a user waits for a place while all pools are in use: 10 s by default.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.wait = timeout;
        self
    }

    /// Makes the pools, none of which is open yet.
    pub fn build(self) -> UserPools<P> {
        UserPools(Arc::new(Shared {
            places: Arc::new(Semaphore::new(self.limits.users())),
            builder: self,
            state: Mutex::new(State {
                open: HashMap::new(),
                opening: Vec::new(),
                evicted: 0,
                sweeper: None,
            }),
            freed: Notify::new(),
        }))
    }
}

impl Limits {
    fn users(&self) -> usize {
        usize::try_from((self.connections / self.per_user).max(1)).unwrap_or(usize::MAX)
    }
}

impl<P: Clone + Send + Sync + 'static> UserPools<P> {
    /// The user's pool, which is opened if need be.
    ///
    /// # Errors
    ///
    /// [`Error::is_login`] or [`Error::is_sign_in`]: Postgres or the workspace rejected the user, whose token may have
    /// expired or belong to somebody else. [`Error::is_timeout`]: the limit of these pools. SQLSTATE `53300`: the connection
    /// limit of the compute.
    ///
    /// # Cancel safety
    ///
    /// Logins run on tasks of their own; dropping the future affects no other caller.
    pub async fn get(&self, user: &User) -> Result<UserPool<P>, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        for _ in 0..MOST_LOST {
            let mut outcome = match self.0.find(user, &runtime) {
                Found::Open(lease) => return Ok(UserPool(lease)),
                Found::Opening(outcome) => outcome,
            };
            if let Ok(landed) = outcome.wait_for(Option::is_some).await
                && let Some(outcome) = landed.clone()
            {
                return outcome.map(UserPool);
            }
            // The runtime of the task that logged in is gone.
        }
        Err(Error::new(
            Kind::Provider,
            "the runtime ended during the user's login",
        ))
    }

    /// What they are doing, for health checks.
    pub fn stats(&self) -> UserPoolsStats {
        let state = self.0.lock();
        UserPoolsStats {
            open: state.open.len(),
            in_use: state
                .open
                .values()
                .filter(|entry| entry.is_in_use())
                .count(),
            waiting: state.opening.len(),
            limit: self.0.builder.limits.users(),
            evicted: state.evicted,
        }
    }

    /// Closes the pools that are not in use. The others are closed after their idle timeout, or when the last clone of this is
    /// dropped.
    ///
    /// # Cancel safety
    ///
    /// Pools that are not closed by then are dropped.
    pub async fn close(&self) {
        let mut idle = Vec::new();
        self.0.lock().open.retain(|_, entry| {
            let keep = entry.is_in_use();
            if !keep {
                idle.push(Arc::clone(entry));
            }
            keep
        });
        for entry in idle {
            (self.0.builder.close)(entry.pool.clone()).await;
        }
    }
}

impl<P: Clone + Send + Sync + 'static> Clone for UserPools<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Keeps a pool from being closed.
struct Lease<P: Clone + Send + Sync + 'static> {
    entry: Arc<Entry<P>>,
    pools: Weak<Shared<P>>,
}

enum Found<P: Clone + Send + Sync + 'static> {
    Open(Arc<Lease<P>>),
    Opening(Outcome<P>),
}

impl<P: Clone + Send + Sync + 'static> Shared<P> {
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the state.
    fn lease(self: &Arc<Self>, entry: &Arc<Entry<P>>) -> Arc<Lease<P>> {
        entry.leases.fetch_add(1, Ordering::AcqRel);
        Arc::new(Lease {
            entry: Arc::clone(entry),
            pools: Arc::downgrade(self),
        })
    }

    fn find(self: &Arc<Self>, user: &User, runtime: &Handle) -> Found<P> {
        let key = Key::of(user);
        let mut state = self.lock();
        let open = state.open.get(&key);
        if let Some(entry) = open.filter(|entry| entry.accepts(user)) {
            return Found::Open(self.lease(entry));
        }
        // A task that is gone with its runtime has left its entry.
        state
            .opening
            .retain(|one| one.outcome.has_changed().is_ok());
        let known = state.opening.iter().find(|one| one.user.is_same(user));
        if let Some(known) = known {
            return Found::Opening(known.outcome.clone());
        }
        let (report, outcome) = watch::channel(None);
        state.opening.push(Opening {
            user: user.clone(),
            outcome: outcome.clone(),
        });
        if state.sweeper.as_ref().is_none_or(AbortHandle::is_finished) {
            let sweeper = sweep(Arc::downgrade(self), self.builder.limits.idle);
            state.sweeper = Some(runtime.spawn(sweeper).abort_handle());
        }
        let (shared, user) = (Arc::clone(self), user.clone());
        runtime.spawn(async move {
            let opened = shared.open(&key, &user).await;
            shared.lock().opening.retain(|one| !one.user.is_same(&user));
            let _ = report.send(Some(opened));
        });
        Found::Opening(outcome)
    }

    /// Logs in with the user's token, and opens the pool if there is none.
    async fn open(self: &Arc<Self>, key: &Key, user: &User) -> Result<Arc<Lease<P>>, Error> {
        let lakebase = self.builder.lakebase.on_behalf_of(user)?;
        let known = {
            let state = self.lock();
            state.open.get(key).map(|entry| self.lease(entry))
        };
        if let Some(known) = known {
            let proof = (self.builder.open)(lakebase, 1).await?;
            (self.builder.close)(proof).await;
            known.entry.lakebase.set_user_token(user.token())?;
            known.entry.accept(user.clone());
            return Ok(known);
        }
        let place = self.place().await?;
        let pool = (self.builder.open)(lakebase.clone(), self.builder.limits.per_user).await?;
        let entry = Arc::new(Entry {
            pool,
            leases: AtomicUsize::new(0),
            lakebase,
            accepted: Mutex::new(vec![user.clone()]),
            used: Mutex::new(Instant::now()),
            _place: place,
        });
        let mut state = self.lock();
        let lease = self.lease(&entry);
        state.open.insert(key.clone(), entry);
        Ok(lease)
    }

    /// A free place, or that of the pool that was not in use for the longest time.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let deadline = Instant::now() + self.builder.limits.wait;
        let mut place = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            freed.as_mut().enable();
            if self.places.available_permits() == 0 {
                self.evict().await;
            }
            let either = async {
                tokio::select! {
                    place = &mut place => Some(place),
                    () = freed => None,
                }
            };
            match timeout_at(deadline, either).await {
                Ok(Some(Ok(place))) => return Ok(place),
                Ok(None) => {}
                Ok(Some(Err(_))) | Err(_) => {
                    let limits = &self.builder.limits;
                    let text = format!(
                        "no place for a pool of another user within {} s: {} users have requests under way",
                        limits.wait.as_secs_f64(),
                        limits.users()
                    );
                    return Err(Error::new(Kind::Timeout, text).with_transient(true).with_hint(
                        "Raise max_connections if the compute allows it, or take fewer connections for each user",
                    ));
                }
            }
        }
    }

    /// Closes the pool that was not in use for the longest time. Its place is free when it is closed.
    async fn evict(&self) {
        let oldest = {
            let mut state = self.lock();
            let idle = state.open.iter().filter(|(_, entry)| !entry.is_in_use());
            let oldest = idle.min_by_key(|(_, entry)| *entry.used());
            let key = oldest.map(|(key, _)| key.clone());
            let oldest = key.and_then(|key| state.open.remove(&key));
            state.evicted += u64::from(oldest.is_some());
            oldest
        };
        if let Some(entry) = oldest {
            (self.builder.close)(entry.pool.clone()).await;
        }
    }
}

/// Closes pools that were not in use for so long, until no pool is left.
async fn sweep<P: Clone + Send + Sync + 'static>(pools: Weak<Shared<P>>, idle: Duration) {
    loop {
        sleep((idle / 4).max(SHORTEST_NAP)).await;
        let Some(pools) = pools.upgrade() else { return };
        let mut over = Vec::new();
        let is_last = {
            let mut state = pools.lock();
            state.open.retain(|_, entry| {
                let is_over = !entry.is_in_use() && entry.used().elapsed() >= idle;
                if is_over {
                    over.push(Arc::clone(entry));
                }
                !is_over
            });
            let is_last = state.open.is_empty() && state.opening.is_empty();
            if is_last {
                state.sweeper = None;
            }
            is_last
        };
        for entry in over {
            (pools.builder.close)(entry.pool.clone()).await;
        }
        if is_last {
            return;
        }
    }
}

impl<P: Clone + Send + Sync + 'static> Deref for UserPool<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0.entry.pool
    }
}

impl<P: Clone + Send + Sync + 'static> Drop for Lease<P> {
    fn drop(&mut self) {
        *self.entry.used() = Instant::now();
        self.entry.leases.fetch_sub(1, Ordering::AcqRel);
        if let Some(pools) = self.pools.upgrade() {
            pools.freed.notify_waiters();
        }
    }
}

impl<P: Clone + Send + Sync + 'static> fmt::Debug for UserPools<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UserPools").field(&self.stats()).finish()
    }
}

impl<P: Clone + Send + Sync + 'static> fmt::Debug for UserPoolsBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserPoolsBuilder")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<P: Clone + Send + Sync + 'static> fmt::Debug for UserPool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = &self.0.entry;
        f.debug_tuple("UserPool")
            .field(&entry.lakebase.config().user)
            .finish()
    }
}
