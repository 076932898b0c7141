//! Many people, one application: a pool for each user, within limits that the compute can bear.

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

use crate::credential::single_flight::no_runtime;
use crate::error::{Error, Kind};
use crate::lakebase::{Lakebase, User};
use entry::Lease;
use open::{Found, Shared, is_rejection};

/// A few concurrent queries of one user; as the official Node driver has.
const CONNECTIONS_PER_USER: u32 = 3;
const MAX_CONNECTIONS: u32 = 60;
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond it, arithmetic with points in time may overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Of the connections, one in so many is for tokens that are not proven yet.
const CONNECTIONS_PER_PROOF: u32 = 10;
const MOST_PROOFS: u32 = 8;
/// So often a login that its runtime took along is begun again.
const MOST_LOST: usize = 3;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Pools by user: each request's queries run as the user who sent it.
///
/// An adapter's `user_pools` function makes one, for example `lakebase_diesel::bb8::user_pools`. `P` is the adapter's pool. Clones
/// share all pools. They belong to the runtime that opened them.
///
/// # Who gets a pool
///
/// A token that is new gets nothing before a login with it succeeds, so a forged e-mail gets an error and never the pool of another
/// user. With a [role](User::role) of a group, each token has a pool of its own, as Postgres confirms only that it is a
/// member's.
///
/// Each mint of a database credential, about every 45 minutes, checks whether the user's token is still good:
/// [`get`](Self::get) returns an error to a user whose token was revoked after 50 minutes at most, or an hour while the workspace
/// cannot be reached. It does not take back what it has returned: a [`UserPool`] that is kept for longer logs in for as long as
/// the user's credential can be renewed.
///
/// A closed pool's credential is kept for an hour, so a user who comes back costs a login and no mint.
///
/// # Limits
///
/// All pools together open at most [`max_connections`](UserPoolsBuilder::max_connections). A tenth of them is for logins with new tokens,
/// so that a flood of bad ones costs the others neither their places nor their pools. If all places are taken, a further user gets
/// the place of the pool that was not in use for the longest time; callers wait in order. A pool is in use while a [`UserPool`]
/// of it exists or one of its connections is checked out.
pub struct UserPools<P: Clone + Send + Sync + 'static>(Arc<Shared<P>>);

/// Settings of [`UserPools`].
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

    /// The connections that are left for pools.
    fn pooled(&self) -> u32 {
        let proofs = u32::try_from(self.proofs()).unwrap_or(1);
        self.connections.saturating_sub(proofs).max(1)
    }

    fn users(&self) -> usize {
        let users = usize::try_from(self.pooled() / self.per_user).unwrap_or(usize::MAX);
        users.clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// A user's pool, in use until this is dropped: keep it as long as a connection of it.
pub struct UserPool<P: Clone + Send + Sync + 'static>(Arc<Lease<P>>);

/// What the pools of users are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserPoolsStats {
    /// Users with a pool.
    pub open: usize,
    /// Of these, pools that are in use.
    pub in_use: usize,
    /// Tokens whose login is under way, or that wait for a place.
    pub waiting: usize,
    /// Most users with a pool.
    pub limit: usize,
    /// Pools that were closed to make place, since the start.
    pub evicted: u64,
}

impl<P: Clone + Send + Sync + 'static> UserPoolsBuilder<P> {
    /// For adapters: `open` opens a pool of so many connections, and logs in at least once; `is_busy` returns whether a connection of
    /// a pool is checked out; `close` closes one that is not.
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

    /// Sets the size of each pool: 3 connections by default, and no more than all pools may have.
    pub fn connections_per_user(mut self, connections: u32) -> Self {
        self.limits.per_user = connections.max(1);
        self
    }

    /// Sets how many connections all pools together may open: 60 by default, two at least. A tenth of them (one at least, eight at
    /// most) is for tokens that are new; of the rest, so many users have a pool at the same time as fit: 18 by default.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.limits.connections = connections.max(2);
        self
    }

    /// Sets after which time without a request a pool is closed: 5 minutes by default, a day at most.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout.min(LONGEST);
        self
    }

    /// Sets how long a user waits for a place while all pools are in use: 10 s by default, a day at most. Logins come on top.
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.limits.wait = timeout.min(LONGEST);
        self
    }

    /// Makes the pools, none of which is open yet.
    pub fn build(mut self) -> UserPools<P> {
        self.limits.per_user = self.limits.per_user.min(self.limits.pooled());
        UserPools(Arc::new(Shared::new(self)))
    }
}

impl<P: Clone + Send + Sync + 'static> UserPools<P> {
    /// The user's pool, which is opened if need be.
    ///
    /// # Errors
    ///
    /// [`Error::is_login`] or [`Error::is_sign_in`]: Postgres or the workspace rejected the user, whose token may have
    /// expired or belong to another user. The same error is returned for 5 s. [`Error::is_timeout`]: the limit of these
    /// pools. SQLSTATE `53300`: the connection limit of the compute.
    ///
    /// # Cancel safety
    ///
    /// Logins run on tasks of their own; dropping the future affects no other caller.
    pub async fn get(&self, user: &User) -> Result<UserPool<P>, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        for _ in 0..MOST_LOST {
            let (mut outcome, held) = match self.0.find(user, &runtime) {
                Found::Open(lease) => return Ok(UserPool(lease)),
                Found::Refused(error) => return Err(error),
                Found::Opening(outcome, held) => (outcome, held),
            };
            let landed = outcome.wait_for(Option::is_some);
            // A runtime that stands still, or is gone, took the login along.
            let Ok(Ok(landed)) = timeout(self.0.opening_limit(), landed).await else {
                continue;
            };
            match (landed.clone(), held) {
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

    /// What they are doing, for health checks.
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

    /// Closes the pools that are not in use. The others are closed after their idle timeout, or when the last clone of this is
    /// dropped.
    ///
    /// # Cancel safety
    ///
    /// The pools are closed all the same.
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
