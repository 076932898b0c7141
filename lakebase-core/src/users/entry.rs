//! A user's pool, and the tokens that may use it.

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::error::Error;
use crate::lakebase::{Lakebase, User};

/// A token whose last proof is older is proven again in the background. Longer than the interval of mints, because a mint is a
/// proof of the current token.
const FRESH: Duration = Duration::from_secs(48 * 60);
/// Above this age, a caller waits for the next proof, so that a revoked token is rejected.
const TRUSTED: Duration = Duration::from_secs(50 * 60);
/// Above this age, a token is unknown, even during an outage of the workspace.
const AT_MOST: Duration = Duration::from_secs(3600);
/// Most tokens of one user: for several devices and browser tabs.
const REMEMBERED: usize = 16;

/// Two keyed hashes of a token, which is not stored itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64, u64);

/// The random keys of [`Fingerprint`]s.
#[derive(Default)]
pub(super) struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    pub(super) fn of(&self, user: &User) -> Fingerprint {
        let token = user.expose_token();
        Fingerprint(self.0.hash_one(token), self.1.hash_one(token))
    }
}

/// The key of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The Postgres role of the token's identity.
    Own(String),
    /// The Postgres role of a group, and the token: Postgres confirms only the membership.
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
    pub(super) identity: Arc<Identity>,
    leases: AtomicUsize,
    used: Mutex<Instant>,
    /// A task that ends with the runtime of the pool.
    runtime: AbortHandle,
    _permit: OwnedSemaphorePermit,
}

/// A user's handle and tokens. It is kept for a while after the pool is closed, so that a returning user needs a login and no mint.
pub(super) struct Identity {
    pub(super) lakebase: Lakebase,
    tokens: Mutex<Tokens>,
}

struct Tokens {
    /// With the time of the last proof; the most recently used token first.
    proven: Vec<(Fingerprint, Duration)>,
    /// The token that mints credentials, and its expiry.
    current: (Fingerprint, Option<u64>),
}

/// How far a token is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has no proof, or one that is too old.
    Unknown,
    Proven,
    /// It is proven again in the background.
    Due,
    /// It must be proven again first, but is accepted if the workspace is not reachable.
    Overdue,
}

impl<P> Entry<P> {
    pub(super) fn new(pool: P, identity: Arc<Identity>, permit: OwnedSemaphorePermit) -> Self {
        Self {
            pool,
            identity,
            leases: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            runtime: tokio::spawn(std::future::pending::<()>()).abort_handle(),
            _permit: permit,
        }
    }

    /// Whether the runtime that opened the pool has ended.
    pub(super) fn is_dead(&self) -> bool {
        self.runtime.is_finished()
    }

    pub(super) fn has_leases(&self) -> bool {
        self.leases.load(Ordering::Acquire) > 0
    }

    pub(super) fn last_used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    /// An identity whose token Postgres has just accepted.
    pub(super) fn new(lakebase: Lakebase, user: &User, token: Fingerprint) -> Arc<Self> {
        let tokens = Tokens::new(token, user.token_expiry(), passed(&lakebase));
        Arc::new(Self {
            lakebase,
            tokens: Mutex::new(tokens),
        })
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self, token: Fingerprint) -> Standing {
        let mut tokens = self.tokens();
        if let Some(at) = self.lakebase.minted_at() {
            tokens.note_mint(at);
        }
        tokens.standing(token, passed(&self.lakebase))
    }

    /// Records a proof of this token: a login of `lakebase`, or a mint with a token that was proven before.
    pub(super) fn accept(&self, user: &User, token: Fingerprint, lakebase: &Lakebase) {
        // The token was valid when the credential was requested.
        let at = lakebase.minted_at();
        let at = at.unwrap_or_else(|| passed(&self.lakebase));
        let is_newer = self.tokens().accept(token, user.token_expiry(), at);
        // This cannot fail for a token that was used for a login.
        if is_newer && self.lakebase.set_user_token(user.token()).is_ok() {
            self.lakebase.adopt(lakebase);
        }
    }

    /// Proves a known token again by a mint.
    pub(super) async fn prove(
        &self,
        application: &Lakebase,
        user: &User,
        token: Fingerprint,
    ) -> Result<(), Error> {
        let is_current = self.tokens().current.0 == token;
        if is_current {
            self.lakebase.renew().await?;
            self.accept(user, token, &self.lakebase);
        } else {
            let lakebase = application.on_behalf_of(user)?;
            lakebase.credential().await?;
            self.accept(user, token, &lakebase);
        }
        Ok(())
    }

    /// Forgets a rejected token.
    pub(super) fn reject(&self, token: Fingerprint) {
        self.tokens().proven.retain(|known| known.0 != token);
    }

    /// Whether no token is trusted any more.
    pub(super) fn is_over(&self) -> bool {
        let now = passed(&self.lakebase);
        self.last_proof().is_none_or(|proof| proof + AT_MOST <= now)
    }

    pub(super) fn last_proof(&self) -> Option<Duration> {
        self.tokens().last_proof()
    }
}

/// The time of a clock that continues while the machine is suspended.
fn passed(lakebase: &Lakebase) -> Duration {
    lakebase.config().clock.now().passed
}

impl Tokens {
    fn new(token: Fingerprint, expiry: Option<u64>, now: Duration) -> Self {
        Self {
            proven: vec![(token, now)],
            current: (token, expiry),
        }
    }

    fn standing(&mut self, token: Fingerprint, now: Duration) -> Standing {
        let Some(index) = self.proven.iter().position(|known| known.0 == token) else {
            return Standing::Unknown;
        };
        let known = self.proven.remove(index);
        self.proven.insert(0, known);
        match now.saturating_sub(known.1) {
            age if age < FRESH => Standing::Proven,
            age if age < TRUSTED => Standing::Due,
            age if age < AT_MOST => Standing::Overdue,
            _ => Standing::Unknown,
        }
    }

    /// Records a mint, which proves the current token.
    fn note_mint(&mut self, at: Duration) {
        let current = self.current.0;
        if let Some(known) = self.proven.iter_mut().find(|known| known.0 == current) {
            known.1 = known.1.max(at);
        }
    }

    fn last_proof(&self) -> Option<Duration> {
        self.proven.iter().map(|known| known.1).max()
    }

    /// Records a proof. Returns whether this token now mints credentials.
    fn accept(&mut self, token: Fingerprint, expiry: Option<u64>, now: Duration) -> bool {
        self.proven.retain(|known| known.0 != token);
        self.proven.truncate(REMEMBERED - 1);
        self.proven.insert(0, (token, now));
        // Another browser tab may still send an older token, which does not replace a newer one that is trusted.
        let is_in_use = self
            .proven
            .iter()
            .any(|(known, at)| *known == self.current.0 && now.saturating_sub(*at) < TRUSTED);
        let is_older = is_in_use && expiry.is_some() && expiry < self.current.1;
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

/// Prevents that a pool is closed.
pub(super) struct Lease<P>(pub(super) Arc<Entry<P>>);

impl<P> Lease<P> {
    /// Called under the lock of the pools, so that the pool is not closed concurrently.
    pub(super) fn new(entry: &Arc<Entry<P>>) -> Arc<Self> {
        entry.leases.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self(Arc::clone(entry)))
    }
}

impl<P> Drop for Lease<P> {
    fn drop(&mut self) {
        let used = self.0.used.lock();
        *used.unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.leases.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Fingerprint = Fingerprint(1, 1);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn a_tokens_standing_depends_on_the_age_of_its_proof() {
        let mut tokens = Tokens::new(FIRST, None, minutes(1));
        for (age, expected) in [
            (47, Standing::Proven),
            (49, Standing::Due),
            (51, Standing::Overdue),
            (61, Standing::Unknown),
        ] {
            assert_eq!(tokens.standing(FIRST, minutes(1 + age)), expected, "{age}");
        }
        tokens.accept(FIRST, None, minutes(70));
        assert_eq!(tokens.standing(FIRST, minutes(70)), Standing::Proven);
        let other = Fingerprint(2, 1);
        assert_eq!(tokens.standing(other, minutes(70)), Standing::Unknown);
    }

    #[test]
    fn the_newest_trusted_token_mints_credentials() {
        let now = minutes(1);
        let second = Fingerprint(2, 0);
        let mut tokens = Tokens::new(FIRST, Some(100), now);
        assert!(tokens.accept(second, Some(200), now));
        assert!(
            !tokens.accept(FIRST, Some(100), now),
            "the older token of another tab"
        );
        tokens.proven.retain(|known| known.0 != second);
        assert!(
            tokens.accept(FIRST, Some(100), now),
            "the newer one was rejected"
        );
        assert!(tokens.accept(second, Some(200), now));
        assert!(
            tokens.accept(FIRST, Some(100), minutes(60)),
            "the newer one is no longer trusted"
        );
    }

    #[test]
    fn each_mint_proves_the_current_token_only() {
        let other = Fingerprint(2, 0);
        let mut tokens = Tokens::new(other, Some(100), minutes(0));
        assert!(tokens.accept(FIRST, Some(200), minutes(0)));
        let (mut mints, mut last) = (1, minutes(0));
        // Eight hours, a request each minute; the handle renews its credential every 44 minutes.
        for minute in 0..8 * 60 {
            let now = minutes(minute);
            if now >= last + minutes(44) {
                (mints, last) = (mints + 1, now);
            }
            tokens.note_mint(last);
            assert_eq!(tokens.standing(FIRST, now), Standing::Proven, "{minute}");
        }
        assert!(mints <= 12, "{mints} mints");
        assert_eq!(tokens.standing(other, minutes(30)), Standing::Proven);
        assert_eq!(tokens.standing(other, minutes(61)), Standing::Unknown);
        tokens.proven.retain(|known| known.0 != FIRST);
        tokens.note_mint(last);
        assert_eq!(tokens.standing(FIRST, last), Standing::Unknown, "rejected");
    }

    #[test]
    fn the_most_recently_used_tokens_are_remembered() {
        let now = minutes(1);
        let kept = Fingerprint(3, 0);
        let mut tokens = Tokens::new(FIRST, None, now);
        tokens.accept(kept, None, now);
        for n in 10..10 + REMEMBERED as u64 {
            tokens.accept(Fingerprint(n, 0), None, now);
            assert_eq!(tokens.standing(kept, now), Standing::Proven);
        }
        assert_eq!(tokens.standing(FIRST, now), Standing::Unknown);
        assert_eq!(tokens.proven.len(), REMEMBERED);
    }
}
