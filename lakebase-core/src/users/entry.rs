//! A user's pool, and the tokens that may have it.

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::open::Shared;
use crate::lakebase::{Lakebase, User};

/// So old may the proof of a token be. Older ones are renewed in the background.
const FRESH: Duration = Duration::from_secs(300);
/// Beyond this, a caller waits for the renewal: a revoked token ends here.
const TRUSTED: Duration = Duration::from_secs(600);
/// Beyond this, not even an outage of the workspace keeps a token good.
const AT_MOST: Duration = Duration::from_secs(3600);
/// Devices and tabs of one user.
const REMEMBERED: usize = 16;

/// A token, of which nothing else is kept: two keyed hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64, u64);

/// The keys of [`Fingerprint`]s, different for each run.
#[derive(Default)]
pub(super) struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    pub(super) fn of(&self, user: &User) -> Fingerprint {
        let token = user.expose_token();
        Fingerprint(self.0.hash_one(token), self.1.hash_one(token))
    }
}

/// Whose pool it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The Postgres role, which is the identity of the token.
    Own(String),
    /// A group's role: Postgres confirms that the token is a member's, but not whose.
    Group(String, Fingerprint),
}

impl Key {
    pub(super) fn of(user: &User, token: Fingerprint) -> Self {
        let role = user.postgres_role().to_owned();
        match role == user.name() {
            true => Self::Own(role),
            false => Self::Group(role, token),
        }
    }
}

pub(super) struct Entry<P> {
    pub(super) pool: P,
    pub(super) lakebase: Lakebase,
    tokens: Mutex<Tokens>,
    leases: AtomicUsize,
    used: Mutex<Instant>,
    /// Ends with the runtime that drives the pool.
    runtime: AbortHandle,
    _place: OwnedSemaphorePermit,
}

struct Tokens {
    /// Last used first.
    proven: Vec<(Fingerprint, Instant)>,
    /// The one that credentials are minted with, and its expiry.
    current: (Fingerprint, Option<u64>),
}

/// What a presented token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was never proven.
    Unknown,
    Proven,
    /// To be proven again in the background.
    Due,
    /// To be proven again first. If the workspace cannot be reached, it is good.
    Overdue,
}

impl<P> Entry<P> {
    pub(super) fn new(
        pool: P,
        lakebase: Lakebase,
        place: OwnedSemaphorePermit,
        user: &User,
        token: Fingerprint,
    ) -> Self {
        let now = Instant::now();
        Self {
            pool,
            lakebase,
            tokens: Mutex::new(Tokens::new(token, user.token_expiry())),
            leases: AtomicUsize::new(0),
            used: Mutex::new(now),
            runtime: tokio::spawn(std::future::pending::<()>()).abort_handle(),
            _place: place,
        }
    }

    /// A pool does not outlive the runtime that it was opened on.
    pub(super) fn is_dead(&self) -> bool {
        self.runtime.is_finished()
    }

    pub(super) fn has_leases(&self) -> bool {
        self.leases.load(Ordering::Acquire) > 0
    }

    pub(super) fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self, token: Fingerprint) -> Standing {
        self.tokens().standing(token)
    }

    /// Postgres has accepted a login with this token.
    pub(super) fn accept(&self, user: &User, token: Fingerprint) {
        if self.tokens().accept(token, user.token_expiry()) {
            // It has been used for a login, so it is a token.
            let _ = self.lakebase.set_user_token(user.token());
        }
    }

    /// The token was rejected.
    pub(super) fn reject(&self, token: Fingerprint) {
        self.tokens().proven.retain(|known| known.0 != token);
    }
}

impl Tokens {
    fn new(token: Fingerprint, expiry: Option<u64>) -> Self {
        Self {
            proven: vec![(token, Instant::now())],
            current: (token, expiry),
        }
    }

    fn standing(&mut self, token: Fingerprint) -> Standing {
        let Some(index) = self.proven.iter().position(|known| known.0 == token) else {
            return Standing::Unknown;
        };
        let known = self.proven.remove(index);
        self.proven.insert(0, known);
        match known.1.elapsed() {
            age if age < FRESH => Standing::Proven,
            age if age < TRUSTED => Standing::Due,
            age if age < AT_MOST => Standing::Overdue,
            _ => Standing::Unknown,
        }
    }

    /// Returns whether credentials are to be minted with this token from now on.
    fn accept(&mut self, token: Fingerprint, expiry: Option<u64>) -> bool {
        self.proven.retain(|known| known.0 != token);
        self.proven.truncate(REMEMBERED - 1);
        self.proven.insert(0, (token, Instant::now()));
        // A browser's tab may still send the token before the newest one.
        let is_older = expiry.is_some() && expiry < self.current.1;
        let is_newer = self.current.0 != token && !is_older;
        if is_newer {
            self.current = (token, expiry);
        }
        is_newer
    }
}

impl<P> Drop for Entry<P> {
    fn drop(&mut self) {
        self.runtime.abort();
    }
}

/// Keeps a pool from being closed.
pub(super) struct Lease<P: Clone + Send + Sync + 'static> {
    pub(super) entry: Arc<Entry<P>>,
    pools: Weak<Shared<P>>,
}

impl<P: Clone + Send + Sync + 'static> Lease<P> {
    /// Under the lock of the pools, so that an idle one cannot be closed meanwhile.
    pub(super) fn new(entry: &Arc<Entry<P>>, pools: &Arc<Shared<P>>) -> Arc<Self> {
        entry.leases.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self {
            entry: Arc::clone(entry),
            pools: Arc::downgrade(pools),
        })
    }
}

impl<P: Clone + Send + Sync + 'static> Drop for Lease<P> {
    fn drop(&mut self) {
        *self
            .entry
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.entry.leases.fetch_sub(1, Ordering::AcqRel);
        if let Some(pools) = self.pools.upgrade() {
            pools.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const FIRST: Fingerprint = Fingerprint(1, 1);

    /// A unit test: the limits are minutes, and time stands still for no real login.
    #[tokio::test(start_paused = true)]
    async fn an_accepted_token_is_proven_again_in_time() {
        let mut tokens = Tokens::new(FIRST, None);
        assert_eq!(tokens.standing(Fingerprint(2, 1)), Standing::Unknown);
        for (minutes, expected) in [
            (4, Standing::Proven),
            (2, Standing::Due),
            (5, Standing::Overdue),
            (50, Standing::Unknown),
        ] {
            advance(Duration::from_secs(minutes * 60)).await;
            assert_eq!(tokens.standing(FIRST), expected, "{minutes}");
        }
        tokens.accept(FIRST, None);
        assert_eq!(tokens.standing(FIRST), Standing::Proven);
    }

    #[tokio::test]
    async fn credentials_are_minted_with_the_newest_token_and_those_used_last_are_remembered() {
        let mut tokens = Tokens::new(FIRST, Some(100));
        let token = |n| Fingerprint(n, 0);
        assert!(tokens.accept(token(2), Some(200)));
        assert!(!tokens.accept(FIRST, Some(100)), "a tab with the older one");
        assert_eq!(tokens.current, (token(2), Some(200)));
        assert!(
            tokens.accept(token(3), None),
            "the last one, where none says"
        );
        for n in 10..10 + REMEMBERED as u64 - 1 {
            tokens.accept(token(n), None);
            assert_eq!(tokens.standing(token(3)), Standing::Proven);
        }
        assert_eq!(tokens.standing(FIRST), Standing::Unknown);
        assert_eq!(tokens.proven.len(), REMEMBERED);
    }
}
