//! Credentials for Postgres.

pub(crate) mod cache;
pub(crate) mod clock;
pub(crate) mod provider;
pub(crate) mod refresh;
pub(crate) mod single_flight;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

pub use self::provider::CredentialProvider;
pub use self::refresh::Refresh;

use self::clock::Now;
use self::refresh::{Schedule, Validity};

/// A database credential, from [`Lakebase::credential`](crate::Lakebase::credential): an OAuth token with an expiry, or a
/// native password without one.
///
/// Clones share the secret, and `Debug` does not show it. The secret is wiped from memory when the last clone is dropped.
/// Copies inside of HTTP, JSON and drivers are not wiped.
#[derive(Clone)]
pub struct Credential {
    /// One pointer, so that a clone increments one counter only.
    inner: Arc<Inner>,
    is_last_resort: bool,
}

#[derive(Clone)]
struct Inner {
    secret: Arc<SecretString>,
    expires_at: Option<SystemTime>,
    /// Set by a provider that knows the server's clock. Otherwise the cache measures it.
    validity: Option<Validity>,
    /// Set by the cache.
    schedule: Option<Schedule>,
    generation: u64,
    standing: Arc<Standing>,
}

/// The state of a credential, which its clones share.
#[derive(Default)]
struct Standing {
    accepted: AtomicBool,
    rejected: AtomicBool,
    /// The rejection was about the credential, not about a branch that is not ready.
    blamed: AtomicBool,
    /// It replaces a credential that was blamed.
    replaces_blamed: AtomicBool,
    /// A newer one is held.
    retired: AtomicBool,
}

impl Credential {
    /// A token with the expiry that its issuer states. For a [`CredentialProvider`].
    pub fn new(token: impl Into<SecretString>, expires_at: SystemTime) -> Self {
        Self::build(token.into(), Some(expires_at))
    }

    /// A native Postgres password, which does not expire.
    pub fn password(password: impl Into<SecretString>) -> Self {
        Self::build(password.into(), None)
    }

    fn build(secret: SecretString, expires_at: Option<SystemTime>) -> Self {
        Self::of(Inner {
            secret: Arc::new(secret),
            expires_at,
            validity: None,
            schedule: None,
            generation: 0,
            standing: Arc::default(),
        })
    }

    fn of(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
            is_last_resort: false,
        }
    }

    pub(crate) fn with_validity(mut self, validity: Validity) -> Self {
        Arc::make_mut(&mut self.inner).validity = Some(validity);
        self
    }

    pub(crate) fn held(self, schedule: Schedule, generation: u64) -> Self {
        Self::of(Inner {
            schedule: Some(schedule),
            generation,
            standing: Arc::default(),
            ..Inner::clone(&self.inner)
        })
    }

    /// A copy that shares no reference counter with the clones of this one, so that threads do not contend for it.
    pub(crate) fn apart(&self) -> Self {
        Self::of(Inner::clone(&self.inner))
    }

    pub(crate) fn validity(&self) -> Option<Validity> {
        self.inner.validity
    }

    pub(crate) fn schedule(&self) -> Option<Schedule> {
        self.inner.schedule
    }

    /// Marks a rejected credential as a last resort for the caller that gets it.
    pub(crate) fn marked(self) -> Self {
        Self {
            is_last_resort: self.is_rejected(),
            ..self
        }
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.inner
            .schedule
            .is_none_or(|schedule| schedule.validity.is_usable(now))
    }

    /// Returns the secret, for a driver.
    pub fn expose(&self) -> &str {
        self.inner.secret.expose_secret()
    }

    /// Returns the expiry by the clock of the issuer, or `None` for a native password.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at
    }

    /// Returns the number of this credential in its [`Lakebase`](crate::Lakebase), which counts them from 1; 0 for a native
    /// password. Each renewal has the next number.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// A login succeeded, so a later rejection means that the credential was revoked. A success as a last resort cancels
    /// the rejection; any other login may have begun before it.
    pub(crate) fn mark_accepted(&self) {
        self.inner.standing.accepted.store(true, Ordering::Relaxed);
        if self.is_last_resort {
            self.inner.standing.rejected.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn was_accepted(&self) -> bool {
        self.inner.standing.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_rejected(&self, blamed: bool) {
        self.inner.standing.blamed.store(blamed, Ordering::Relaxed);
        self.inner.standing.rejected.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.inner.standing.rejected.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_replaced(&self, newer: &Self) {
        let is_blamed = self.is_rejected() && self.inner.standing.blamed.load(Ordering::Relaxed);
        newer
            .inner
            .standing
            .replaces_blamed
            .store(is_blamed, Ordering::Relaxed);
        self.inner.standing.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_newest(&self) -> bool {
        !self.inner.standing.retired.load(Ordering::Acquire)
    }

    pub(crate) fn replaces_rejected(&self) -> bool {
        self.inner.standing.replaces_blamed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_last_resort(&self) -> bool {
        self.is_last_resort
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("secret", &"***")
            .field("expires_at", &self.inner.expires_at)
            .field("generation", &self.inner.generation)
            .finish()
    }
}
