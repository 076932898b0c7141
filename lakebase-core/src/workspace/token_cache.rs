//! The workspace token, apart from the database credential: the one is good for minting the other.
//!
//! A held token that is almost expired never mints: it is replaced 40 s before its end, and in the
//! background long before that.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::Error;
use crate::auth::{Refusal, SignIn, Site, Token};
use crate::cache::no_runtime;
use crate::error::Kind;

/// One sign-in takes no longer; less than a mint may take, so that its cause is told.
const FETCH_LIMIT: Duration = Duration::from_secs(36);
/// One that is older stands on a runtime that nobody drives any more; it is given up.
const FLIGHT_LIMIT: Duration = Duration::from_secs(38);
/// A caller starts a sign-in that was lost on the way this often again.
const MOST_LOST: u32 = 2;
/// After a failed background renewal, the next one waits.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);

type Outcome = Result<Held, Error>;

pub(super) struct TokenCache {
    shared: Arc<Shared>,
}

struct Shared {
    site: Arc<Site>,
    sign_in: Arc<dyn SignIn>,
    /// Renews stale tokens in the background.
    ahead: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    fetched: u64,
    /// The sign-in that callers wait for.
    flight: Option<Flight>,
    /// The one that nobody waits for.
    renewal: Option<AbortHandle>,
    failed_at: Option<Instant>,
}

struct Flight {
    outcome: watch::Receiver<Option<Outcome>>,
    started: Instant,
    task: AbortHandle,
}

impl Flight {
    /// How long it may still take; zero once its task is gone without an outcome, or overdue.
    fn time_left(&self, now: Instant) -> Duration {
        if self.outcome.has_changed().is_err() {
            return Duration::ZERO;
        }
        FLIGHT_LIMIT.saturating_sub(now.saturating_duration_since(self.started))
    }
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
            }),
        }
    }

    /// A token that may sign a call. `refused` is one that the workspace has just turned down: it is
    /// dropped, for everybody.
    ///
    /// Cancel safe: the sign-in runs on a task of its own, and one serves all who wait.
    pub(super) async fn get(&self, refused: Option<&Held>) -> Outcome {
        if let Some(refused) = refused {
            self.shared.lock().drop_refused(refused);
        }
        for _ in 0..=MOST_LOST {
            let (mut outcome, patience) = {
                let mut state = self.shared.lock();
                if let Some(held) = self.shared.usable(&mut state) {
                    return Ok(held);
                }
                self.shared.join_flight(&mut state)?
            };
            // By our own runtime's clock: the other one's may stand still.
            let landed = tokio::time::timeout(patience, outcome.wait_for(Option::is_some)).await;
            if let Some(outcome) = landed.ok().and_then(|landed| landed.ok()?.clone()) {
                return outcome;
            }
        }
        Err(Error::new(
            Kind::Timeout,
            "the sign-in stopped without an answer",
        ))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state consistent, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Instant {
        self.site.http.now().monotonic
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let fetched = tokio::time::timeout(FETCH_LIMIT, self.sign_in.fetch(&self.site)).await;
        let error = match fetched {
            Ok(Ok(token)) => return Ok(token),
            Ok(Err(Refusal::Failed(error))) => error,
            Ok(Err(declined)) => declined.into_error().with_hint(self.sign_in.advice()),
            Err(_) => Error::new(
                Kind::Timeout,
                format!("no token within {} s", FETCH_LIMIT.as_secs()),
            ),
        };
        Err(error.with_setting(self.sign_in.name()))
    }

    fn usable(self: &Arc<Self>, state: &mut State) -> Option<Held> {
        let now = self.site.http.now();
        let held = state.held.clone()?;
        if !held.token.is_usable(now) {
            return None;
        }
        if self.ahead && held.token.is_stale(now) {
            self.renew_in_background(state, held.generation);
        }
        Some(held)
    }

    /// The sign-in under way, or a new one.
    fn join_flight(
        self: &Arc<Self>,
        state: &mut State,
    ) -> Result<(watch::Receiver<Option<Outcome>>, Duration), Error> {
        let started = self.now();
        if let Some(flight) = &state.flight {
            let left = flight.time_left(started);
            let is_landed = flight.outcome.borrow().is_some();
            if !is_landed && !left.is_zero() {
                return Ok((flight.outcome.clone(), left));
            }
        }
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let (landed, outcome) = watch::channel(None);
        let shared = Arc::clone(self);
        let task = runtime.spawn(async move {
            let fetched = shared.fetch().await;
            let mut state = shared.lock();
            landed.send_replace(Some(fetched.map(|token| state.hold(token))));
        });
        let waiting = outcome.clone();
        state.flight = Some(Flight {
            outcome,
            started,
            task: task.abort_handle(),
        });
        Ok((waiting, FLIGHT_LIMIT))
    }

    fn renew_in_background(self: &Arc<Self>, state: &mut State, generation: u64) {
        let now = self.now();
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
        let shared: Weak<Self> = Arc::downgrade(self);
        let task = runtime.spawn(async move {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let fetched = shared.fetch().await;
            let mut state = shared.lock();
            let held = state.held.as_ref();
            // Somebody who could not wait has a newer token: neither outcome matters any more.
            if held.is_none_or(|held| held.generation != generation) {
                return;
            }
            match fetched {
                Ok(token) => {
                    state.hold(token);
                }
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "could not renew the workspace token");
                    state.failed_at = Some(shared.now());
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

    fn drop_refused(&mut self, refused: &Held) {
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.generation == refused.generation)
        {
            self.held = None;
        }
    }
}

impl Drop for TokenCache {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let flight = state.flight.take().map(|flight| flight.task);
        for task in flight.into_iter().chain(state.renewal.take()) {
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
