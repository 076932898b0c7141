//! The cache of the workspace token, which mints database credentials.
//!
//! A token is renewed in the background and replaced 40 s before its expiry at the latest, because the platform rejects
//! a token in its last 30 s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::credential::clock::Now;
use crate::credential::refresh::Age;
use crate::credential::single_flight::{Aging, Fetch, SingleFlight};
use crate::error::Error;
use crate::sign_in::{SignIn, Site, Token};

/// Time limit of one authentication. It is shorter than that of a mint, so that the mint reports the cause.
const FETCH_LIMIT: Duration = Duration::from_secs(36);

/// A token of this age may have been revoked. After a rejection that may have another cause, younger ones are kept, so that a
/// lack of permissions costs one authentication a minute.
const OLD: Duration = Duration::from_secs(60);

pub(crate) struct TokenCache {
    site: Arc<Site>,
    sign_in: Arc<SignIn>,
    /// Looks up the URL of the workspace if it is not configured.
    finder: Arc<SignIn>,
    /// Whether tokens are renewed in the background.
    ahead: bool,
    flight: SingleFlight<Held>,
}

/// A cached token.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) token: Arc<Token>,
    ahead: bool,
    rejected: Arc<AtomicBool>,
}

impl TokenCache {
    pub(crate) fn new(
        site: Arc<Site>,
        sign_in: Arc<SignIn>,
        finder: Arc<SignIn>,
        ahead: bool,
    ) -> Self {
        Self {
            finder,
            flight: SingleFlight::new(
                "workspace token",
                site.http.clock(),
                FETCH_LIMIT,
                site.http.outage(),
            ),
            site,
            sign_in,
            ahead,
        }
    }

    /// Returns a valid token. Drops `rejected`, a token that the workspace has rejected, for all callers.
    ///
    /// Cancel safe: authentication runs on a task of its own, and one serves all waiting callers.
    pub(crate) async fn get(&self, rejected: Option<&Held>) -> Result<Held, Error> {
        if let Some(rejected) = rejected {
            rejected.rejected.store(true, Ordering::Relaxed);
        }
        self.flight.get(|| self.fetch()).await
    }

    /// Returns a token that was fetched later. `None` if authentication fails, or failed a moment ago: then `doubted` is kept,
    /// because it may be valid.
    ///
    /// Cancel safe, like [`get`](Self::get).
    pub(crate) async fn newer_than(&self, doubted: &Held) -> Option<Held> {
        let is_other = |held: &Held| !Arc::ptr_eq(&held.token, &doubted.token);
        if self.flight.inspect(|held, _| held.is_some_and(is_other)) {
            return self.get(None).await.ok();
        }
        let pause = self.flight.renew(|_, _| Duration::ZERO, || self.fetch());
        match pause {
            Some(_) => None,
            None => self.flight.fetch(|| self.fetch()).await.ok(),
        }
    }

    /// Drops the held token and the last failure: the identity has another token.
    pub(crate) fn forget(&self) {
        self.flight.inspect(|held, _| {
            if let Some(held) = held {
                held.rejected.store(true, Ordering::Relaxed);
            }
        });
        self.flight.forget_failure();
    }

    fn fetch(&self) -> Fetch<Held> {
        let (site, sign_in) = (Arc::clone(&self.site), Arc::clone(&self.sign_in));
        let finder = Arc::clone(&self.finder);
        let ahead = self.ahead;
        Box::pin(async move {
            // In this flight, so that one look-up serves all callers.
            site.find_host(&finder).await?;
            Ok(Held {
                token: Arc::new(sign_in.fetch(&site).await?),
                ahead,
                rejected: Arc::default(),
            })
        })
    }
}

impl Held {
    pub(crate) fn is_old(&self, now: Now) -> bool {
        let validity = self.token.validity;
        validity.is_some_and(|validity| validity.elapsed(now) >= OLD)
    }
}

impl Aging for Held {
    const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

    fn age(&self, now: Now) -> Age {
        if self.rejected.load(Ordering::Relaxed) {
            return Age::Dead;
        }
        match self.token.age(now) {
            Age::Due if !self.ahead => Age::Fresh,
            age => age,
        }
    }
}
