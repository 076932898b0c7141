//! What Postgres takes as a password.

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

/// A database credential: an OAuth token with its expiry, or a native password without one.
///
/// Cloning shares the secret, and `Debug` never shows it. This copy is wiped from memory when the last
/// clone is dropped; copies that HTTP, JSON or a driver made on the way are not.
#[derive(Clone)]
pub struct Credential {
    /// One counter to touch for each clone.
    inner: Arc<Inner>,
    is_last_resort: bool,
}

#[derive(Clone)]
struct Inner {
    secret: Arc<SecretString>,
    expires_at: Option<SystemTime>,
    /// Measured by a provider that knows the server's clock; else the cache measures it.
    validity: Option<Validity>,
    /// Set by the cache.
    schedule: Option<Schedule>,
    generation: u64,
    standing: Arc<Standing>,
}

/// What has become of a credential; clones share it.
#[derive(Default)]
struct Standing {
    accepted: AtomicBool,
    rejected: AtomicBool,
    /// The rejection was about the credential.
    blamed: AtomicBool,
    /// The one before it was blamed.
    replaces_blamed: AtomicBool,
    retired: AtomicBool,
}

impl Credential {
    /// A token that Postgres accepts until `expires_at`, as the issuer states it.
    pub fn new(token: impl Into<SecretString>, expires_at: SystemTime) -> Self {
        Self::build(token.into(), Some(expires_at))
    }

    /// A native Postgres password: it does not expire.
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

    /// The same credential, whose clones share no counter with this one's: threads do not wait for each other.
    pub(crate) fn apart(&self) -> Self {
        Self::of(Inner::clone(&self.inner))
    }

    pub(crate) fn validity(&self) -> Option<Validity> {
        self.inner.validity
    }

    pub(crate) fn schedule(&self) -> Option<Schedule> {
        self.inner.schedule
    }

    /// A rejected one is handed out as a last resort only.
    pub(crate) fn handed_out(self) -> Self {
        Self {
            is_last_resort: self.is_rejected(),
            ..self
        }
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.inner
            .schedule
            .is_none_or(|schedule| schedule.is_usable(now))
    }

    /// The secret itself. Give it to a driver and to nothing else.
    pub fn expose(&self) -> &str {
        self.inner.secret.expose_secret()
    }

    /// When the issuer says the token expires; `None` for a native password.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.inner.expires_at
    }

    /// Counts the credentials a [`Lakebase`](crate::lakebase::Lakebase) has held; each renewal is one more.
    pub fn generation(&self) -> u64 {
        self.inner.generation
    }

    /// A login with this credential succeeded, so a later rejection means that it was revoked. A success
    /// as a last resort means that the rejection was a mistake; any other may have begun before it.
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
