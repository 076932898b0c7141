//! A pool for each user of an application, within limits that suit the compute: see [`UserPools`].

mod entry;
mod open;

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::LONGEST_TIMEOUT;
use crate::credential::single_flight::no_runtime;
use crate::error::{Error, Kind};
use crate::lakebase::{Lakebase, User};
use entry::Lease;
use open::{Found, Shared, is_rejection};

/// For a few concurrent queries of one user; the same as in the official Node driver.
const CONNECTIONS_PER_USER: u32 = 3;
const MAX_CONNECTIONS: u32 = 60;
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// One in this many connections is for logins with new tokens.
const CONNECTIONS_PER_PROOF: u32 = 10;
const MOST_PROOFS: u32 = 8;
/// How often a login is started again after its runtime has ended.
const MOST_LOST: usize = 3;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A pool for each user: the queries of a request run as the user who sent it.
///
/// An adapter's `user_pools` function creates it, for example `lakebase_diesel::bb8::user_pools`. `P` is the adapter's pool type. Clones
/// share all pools. Each pool belongs to the runtime that opened it.
///
/// # How users are checked
///
/// A new token gets no pool before a login with it succeeds. So a forged e-mail leads to an error, and never to the pool of another
/// user. With the [role](User::role) of a group, each token has a separate pool, because Postgres confirms the membership and not the
/// user.
///
/// Each mint of a database credential, about every 45 minutes, checks the user's token again. After a token is revoked,
/// [`get`](Self::get) returns an error within 50 minutes, or within an hour if the workspace is not reachable. A [`UserPool`] that is
/// held for longer can log in as long as the user's credential can be renewed.
///
/// The credential of a closed pool is kept for an hour, so that a returning user needs a login and no mint.
///
/// # Limits
///
/// All pools together open at most [`max_connections`](UserPoolsBuilder::max_connections). A tenth of them is reserved for logins with
/// new tokens, so that a flood of invalid tokens closes no pool. At the limit, a further user replaces the pool that has been out of
/// use for the longest time; callers wait in order. A pool is in use while a [`UserPool`] of it exists or one of its connections is
/// checked out.
pub struct UserPools<P: Clone + Send + Sync + 'static>(Arc<Shared<P>>);

/// Configures [`UserPools`]. An adapter's `user_pools` function returns it.
#[must_use]
pub struct UserPoolsBuilder<P: Clone + Send + Sync + 'static> {
    lakebase: Lakebase,
    open: Open<P>,
    is_busy: IsBusy<P>,
    close: Close<P>,
    limits: Limits,
}

type Open<P> = Box<dyn Fn(Lakebase, u32) -> BoxFuture<Result<P, Error>> + Send + Sync>;
type IsBusy<P> = Box<dyn Fn(&P) -> bool + Send + Sync>;
type Close<P> = Box<dyn Fn(P) -> BoxFuture<()> + Send + Sync>;

#[derive(Clone, Copy, Debug)]
struct Limits {
    per_user: u32,
    connections: u32,
    idle: Duration,
    wait: Duration,
}

impl Limits {
    fn proofs(&self) -> usize {
        let proofs = (self.connections / CONNECTIONS_PER_PROOF).clamp(1, MOST_PROOFS);
        usize::try_from(proofs).unwrap_or(1)
    }

    /// The connections that pools may use.
    fn pooled(&self) -> u32 {
        let proofs = u32::try_from(self.proofs()).unwrap_or(1);
        self.connections.saturating_sub(proofs).max(1)
    }

    fn users(&self) -> usize {
        let users = usize::try_from(self.pooled() / self.per_user).unwrap_or(usize::MAX);
        users.clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// A user's pool: see [`UserPools::get`]. Keep it as long as one of its connections, because the pool can be closed when it is dropped.
pub struct UserPool<P: Clone + Send + Sync + 'static>(Arc<Lease<P>>);

/// The numbers of users' pools: see [`UserPools::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserPoolsStats {
    /// Open pools.
    pub open: usize,
    /// Open pools that are in use.
    pub in_use: usize,
    /// Tokens whose login is running or waits for a free pool.
    pub waiting: usize,
    /// The maximum of open pools.
    pub limit: usize,
    /// Pools that were closed for another user, since the start.
    pub evicted: u64,
}

impl<P: Clone + Send + Sync + 'static> UserPoolsBuilder<P> {
    /// For adapters. `open` opens a pool of this size and logs in at least once; `is_busy` returns whether a connection of a pool is checked
    /// out; `close` closes a pool.
    pub fn new<Opening, Closing>(
        lakebase: &Lakebase,
        open: impl Fn(Lakebase, u32) -> Opening + Send + Sync + 'static,
        is_busy: impl Fn(&P) -> bool + Send + Sync + 'static,
        close: impl Fn(P) -> Closing + Send + Sync + 'static,
    ) -> Self
    where
        Opening: Future<Output = Result<P, Error>> + Send + 'static,
        Closing: Future<Output = ()> + Send + 'static,
    {
        Self {
            lakebase: lakebase.clone(),
            open: Box::new(move |lakebase, size| Box::pin(open(lakebase, size))),
            is_busy: Box::new(is_busy),
            close: Box::new(move |pool| Box::pin(close(pool))),
            limits: Limits {
                per_user: CONNECTIONS_PER_USER,
                connections: MAX_CONNECTIONS,
                idle: IDLE_TIMEOUT,
                wait: WAIT_TIMEOUT,
            },
        }
    }

    /// Sets the size of each pool: 3 connections by default, at least 1, and at most the limit of all pools.
    pub fn connections_per_user(mut self, connections: u32) -> Self {
        self.limits.per_user = connections.max(1);
        self
    }

    /// Sets the maximum of connections of all pools together: 60 by default, at least 2. A tenth of them (1 to 8) is reserved for logins
    /// with new tokens. The rest divided by the size of a pool is the maximum of open pools: 18 by default.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.limits.connections = connections.max(2);
        self
    }

    /// Sets after which time out of use a pool is closed: 5 minutes by default, a day at most.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Sets how long a user waits while all pools are in use: 10 s by default, a day at most. Logins are not included.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.wait = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Returns the pools. It opens none.
    pub fn build(mut self) -> UserPools<P> {
        self.limits.per_user = self.limits.per_user.min(self.limits.pooled());
        UserPools(Arc::new(Shared::new(self)))
    }
}

impl<P: Clone + Send + Sync + 'static> UserPools<P> {
    /// Returns the user's pool, and opens it if necessary.
    ///
    /// # Errors
    ///
    /// [`Error::is_login`] or [`Error::is_sign_in`]: Postgres or the workspace rejected the user, because the token has expired or
    /// belongs to another user, for example. The same error is returned for 5 s, after any other
    /// failure for 1 s. [`Error::is_timeout`]: all pools are in use. SQLSTATE `53300`: the compute has reached its connection limit.
    ///
    /// # Cancel safety
    ///
    /// Logins run on separate tasks, so dropping the future affects no other caller.
    pub async fn get(&self, user: &User) -> Result<UserPool<P>, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        for _ in 0..MOST_LOST {
            let (mut outcome, held) = match self.0.find(user, &runtime) {
                Found::Open(lease) => return Ok(UserPool(lease)),
                Found::Rejected(error) => return Err(error),
                Found::Opening(outcome, held) => (outcome, held),
            };
            let ended = outcome.wait_for(Option::is_some);
            // The login is lost if its runtime has ended or is no longer driven.
            let Ok(Ok(ended)) = timeout(self.0.opening_limit(), ended).await else {
                continue;
            };
            match (ended.clone(), held) {
                (Some(Ok(lease)), _) => return Ok(UserPool(lease)),
                (Some(Err(error)), Some(held)) if !is_rejection(&error) => {
                    tracing::debug!(name: "lakebase.user.recheck_failed", target: "lakebase::user", %error, "a user's token cannot be checked again");
                    return Ok(UserPool(held));
                }
                (Some(Err(error)), _) => return Err(error),
                (None, _) => {}
            }
        }
        let text = "the runtime ended during the user's login";
        Err(Error::new(Kind::Provider, text))
    }

    /// Returns the numbers of the pools, for health checks.
    pub fn stats(&self) -> UserPoolsStats {
        let state = self.0.lock();
        let in_use = |entry: &&Arc<_>| self.0.is_in_use(entry);
        UserPoolsStats {
            open: state.open.len(),
            in_use: state.open.values().filter(in_use).count(),
            waiting: state.opening.len(),
            limit: self.0.builder.limits.users(),
            evicted: state.evicted,
        }
    }

    /// Closes the pools that are not in use. The others are closed after their idle timeout, or when the last clone of this value is
    /// dropped. Outside of a tokio runtime, it has no effect.
    ///
    /// # Cancel safety
    ///
    /// Separate tasks close the pools, also if the future is dropped.
    pub async fn close(&self) {
        if Handle::try_current().is_err() {
            return;
        }
        let idle = self.0.take_idle(|_| true);
        self.0.forget_closed();
        let closing: Vec<_> = idle.into_iter().map(|entry| self.0.retire(entry)).collect();
        for closed in closing {
            let _ = closed.await;
        }
    }
}

impl<P: Clone + Send + Sync + 'static> Clone for UserPools<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The pool is in use until the last clone is dropped.
impl<P: Clone + Send + Sync + 'static> Clone for UserPool<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Clone + Send + Sync + 'static> Deref for UserPool<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.0.0.pool
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
        let lakebase = &self.0.0.identity.lakebase;
        f.debug_tuple("UserPool")
            .field(&lakebase.config().user)
            .finish()
    }
}
