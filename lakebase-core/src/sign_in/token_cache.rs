//! The workspace token, apart from the database credential: the one is good for minting the other.
//!
//! A held token that is almost expired never mints: it is replaced 40 s before its end, and in the
//! background long before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::credential::clock::Now;
use crate::credential::refresh::Age;
use crate::credential::single_flight::{Aging, Fetch, SingleFlight};
use crate::error::Error;
use crate::sign_in::{SignIn, Site, Token};

/// One authentication takes no longer; less than a mint may take, so that its cause is reported.
const FETCH_LIMIT: Duration = Duration::from_secs(36);

pub(crate) struct TokenCache {
    site: Arc<Site>,
    sign_in: Arc<SignIn>,
    /// Finds the workspace if no setting names it.
    finder: Arc<SignIn>,
    /// Renews stale tokens in the background.
    ahead: bool,
    flight: SingleFlight<Held>,
}

/// A token as the cache holds it.
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

    /// A token that may sign a call. `rejected` is one that the workspace has just rejected: it is
    /// dropped, for everybody.
    ///
    /// Cancel safe: authentication runs on a task of its own, and one serves all waiting callers.
    pub(crate) async fn get(&self, rejected: Option<&Held>) -> Result<Held, Error> {
        if let Some(rejected) = rejected {
            rejected.rejected.store(true, Ordering::Relaxed);
        }
        self.flight.get(|| self.fetch()).await
    }

    /// The sign-in has another token: the held one is dropped.
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
            // Before the first token, so that one flight finds it for all.
            site.find_host(&finder).await?;
            Ok(Held {
                token: Arc::new(sign_in.fetch(&site).await?),
                ahead,
                rejected: Arc::default(),
            })
        })
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
