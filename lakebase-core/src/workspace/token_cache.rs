//! The workspace token, apart from the database credential: the one is good for minting the other.
//!
//! An almost expired workspace token never mints: it is replaced 40 s before its end, and in the
//! background long before that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::Error;
use crate::auth::{Refusal, SignIn, Site, Token};

/// A background renewal that takes longer is given up.
const RENEWAL_LIMIT: Duration = Duration::from_secs(60);
/// After a failed background renewal, the next one waits.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

pub(super) struct TokenCache {
    shared: Arc<Shared>,
}

struct Shared {
    site: Arc<Site>,
    sign_in: Arc<dyn SignIn>,
    /// Renews stale tokens in the background.
    ahead: bool,
    state: Mutex<State>,
    /// Held by whoever fetches while others wait for it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    fetched: u64,
    renewal: Option<AbortHandle>,
    failed_at: Option<Instant>,
}

/// A token as the cache holds it.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) token: Arc<Token>,
    generation: u64,
}

impl TokenCache {
    pub(super) fn new(site: Arc<Site>, sign_in: Arc<dyn SignIn>, ahead: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                site,
                sign_in,
                ahead,
                state: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// A token that may sign a call. `refused` is one that the workspace has just turned down.
    ///
    /// Cancel safe: whoever waits next fetches instead.
    pub(super) async fn get(&self, refused: Option<&Held>) -> Result<Held, Error> {
        if let Some(held) = self.shared.usable(refused) {
            return Ok(held);
        }
        let _turn = self.shared.turn.lock().await;
        if let Some(held) = self.shared.usable(refused) {
            return Ok(held);
        }
        let token = self.shared.fetch().await?;
        Ok(self.shared.lock().hold(token))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state consistent, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let name = |error: Error| error.with_setting(self.sign_in.name());
        let fetched = self.sign_in.fetch(&self.site).await;
        fetched.map_err(Refusal::into_error).map_err(name)
    }

    fn usable(self: &Arc<Self>, refused: Option<&Held>) -> Option<Held> {
        let mut state = self.lock();
        let now = self.site.http.now();
        let held = state.held.clone()?;
        let is_refused = refused.is_some_and(|refused| refused.generation == held.generation);
        if is_refused || !held.token.is_usable(now) {
            return None;
        }
        if self.ahead && held.token.is_stale(now) {
            self.renew_in_background(&mut state, now.monotonic, held.generation);
        }
        Some(held)
    }

    fn renew_in_background(self: &Arc<Self>, state: &mut State, now: Instant, generation: u64) {
        let is_running = state
            .renewal
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        let is_pausing = state
            .failed_at
            .is_some_and(|at| now.saturating_duration_since(at) < PAUSE_AFTER_FAILURE);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if is_running || is_pausing {
            return;
        }
        let shared = Arc::clone(self);
        let task = runtime.spawn(async move {
            let fetched = tokio::time::timeout(RENEWAL_LIMIT, shared.fetch()).await;
            let mut state = shared.lock();
            let is_current = |state: &State| {
                state
                    .held
                    .as_ref()
                    .is_some_and(|held| held.generation == generation)
            };
            // Somebody who could not wait has a newer token: neither outcome matters any more.
            if !is_current(&state) {
                return;
            }
            match fetched {
                Ok(Ok(token)) => {
                    state.hold(token);
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "could not renew the workspace token");
                    state.failed_at = Some(shared.site.http.now().monotonic);
                }
                Err(_) => {
                    tracing::warn!("the workspace token was not renewed in time");
                    state.failed_at = Some(shared.site.http.now().monotonic);
                }
            }
        });
        state.renewal = Some(task.abort_handle());
    }
}

impl State {
    fn hold(&mut self, token: Token) -> Held {
        self.fetched += 1;
        self.failed_at = None;
        let held = Held {
            token: Arc::new(token),
            generation: self.fetched,
        };
        self.held = Some(held.clone());
        held
    }
}

impl Drop for TokenCache {
    fn drop(&mut self) {
        if let Some(task) = self.shared.lock().renewal.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("sign_in", &self.shared.sign_in)
            .finish_non_exhaustive()
    }
}
