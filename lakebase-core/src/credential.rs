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
    secret: Arc<SecretString>,
    expires_at: Option<SystemTime>,
    /// Measured by a provider that knows the server's clock; else the cache measures it.
    pub(crate) validity: Option<Validity>,
    /// Set by the cache.
    pub(crate) schedule: Option<Schedule>,
    generation: u64,
    is_last_resort: bool,
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
        Self {
            secret: Arc::new(secret),
            expires_at,
            validity: None,
            schedule: None,
            generation: 0,
            is_last_resort: false,
            standing: Arc::default(),
        }
    }

    pub(crate) fn with_validity(mut self, validity: Validity) -> Self {
        self.validity = Some(validity);
        self
    }

    pub(crate) fn held(self, schedule: Schedule, generation: u64) -> Self {
        Self {
            schedule: Some(schedule),
            generation,
            is_last_resort: false,
            standing: Arc::default(),
            ..self
        }
    }

    /// A rejected one is handed out as a last resort only.
    pub(crate) fn handed_out(self) -> Self {
        Self {
            is_last_resort: self.is_rejected(),
            ..self
        }
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.schedule.is_none_or(|schedule| schedule.is_usable(now))
    }

    /// The secret itself. Give it to a driver and to nothing else.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// When the issuer says the token expires; `None` for a native password.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Counts the credentials a [`Lakebase`](crate::lakebase::Lakebase) has held; each renewal is one more.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A login with this credential succeeded, so a later rejection means that it was revoked. A success
    /// as a last resort means that the rejection was a mistake; any other may have begun before it.
    pub(crate) fn mark_accepted(&self) {
        self.standing.accepted.store(true, Ordering::Relaxed);
        if self.is_last_resort {
            self.standing.rejected.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn was_accepted(&self) -> bool {
        self.standing.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_rejected(&self, blamed: bool) {
        self.standing.blamed.store(blamed, Ordering::Relaxed);
        self.standing.rejected.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.standing.rejected.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_replaced(&self, newer: &Self) {
        let is_blamed = self.is_rejected() && self.standing.blamed.load(Ordering::Relaxed);
        newer
            .standing
            .replaces_blamed
            .store(is_blamed, Ordering::Relaxed);
        self.standing.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_newest(&self) -> bool {
        !self.standing.retired.load(Ordering::Acquire)
    }

    pub(crate) fn replaces_rejected(&self) -> bool {
        self.standing.replaces_blamed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_last_resort(&self) -> bool {
        self.is_last_resort
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("secret", &"***")
            .field("expires_at", &self.expires_at)
            .field("generation", &self.generation)
            .finish()
    }
}
