//! Holds the current credential, renews it ahead of expiry, mints once for all who wait.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::{Now, Watch};
use crate::error::Kind;
use crate::http::Waiters;
use crate::provider::SharedProvider;
use crate::refresh::{Backoff, Refresh, Schedule, Validity};
use crate::{Credential, Error};

/// Upper bound for one mint, so that a provider that never answers cannot block renewal for ever.
const MINT_LIMIT: Duration = Duration::from_secs(40);
/// A mint that is older stands on a runtime that nobody drives any more; it is given up.
const FLIGHT_LIMIT: Duration = Duration::from_secs(45);
/// A caller starts a mint that was lost on the way this often again.
const MOST_LOST: u32 = 2;
/// The refresh task looks at the clocks at least this often: timers stand still while a machine
/// is suspended, wall time does not.
const MAX_NAP: Duration = Duration::from_secs(15);
/// A credential minted because the one before was refused, and refused itself without ever having
/// been accepted, is not the problem. It is replaced at most this often.
const REFUSAL_FLOOR: Duration = Duration::from_secs(60);

type Outcome = Result<Credential, Error>;

/// Cheap to clone; clones share one state. Touches no runtime until a credential is asked for.
#[derive(Clone)]
pub(crate) struct CredentialCache {
    shared: Arc<Shared>,
}

struct Shared {
    provider: SharedProvider,
    clock: Arc<Watch>,
    refresh: Refresh,
    waiters: Waiters,
    /// Generation of the held credential, zero for none: the lock-free look.
    generation: AtomicU64,
    /// Told whenever the held credential or the outcome of a mint changed.
    changed: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    minted: u64,
    flights: u64,
    flight: Option<Flight>,
    failure: Option<Failure>,
    refresher: Option<AbortHandle>,
    /// The next credential replaces a refused one.
    after_refusal: bool,
}

struct Held {
    credential: Credential,
    schedule: Schedule,
    minted_at: Now,
    replaced_refused: bool,
}

struct Flight {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
    started: Now,
}

impl Flight {
    /// How long it may still take; zero once the task is gone without an outcome (its runtime was
    /// dropped, or it panicked) or overdue.
    fn time_left(&self, now: Now) -> Duration {
        if self.outcome.has_changed().is_err() {
            return Duration::ZERO;
        }
        let flown = now
            .monotonic
            .saturating_duration_since(self.started.monotonic);
        FLIGHT_LIMIT.saturating_sub(flown)
    }
}

struct Failure {
    error: Error,
    count: u32,
    backoff: Backoff,
}

impl CredentialCache {
    pub(crate) fn new(
        provider: SharedProvider,
        clock: Arc<Watch>,
        refresh: Refresh,
        waiters: Waiters,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                provider,
                clock,
                refresh,
                waiters,
                generation: AtomicU64::new(0),
                changed: watch::Sender::new(0),
                state: Mutex::default(),
            }),
        }
    }

    /// The current credential; waits only when nothing valid is held (or, lazily, when it is due).
    ///
    /// Cancel safe: the mint runs on a task of its own.
    pub(crate) async fn get(&self) -> Outcome {
        let mut lost = 0;
        loop {
            let (mut outcome, patience) = {
                let mut state = self.shared.lock();
                let now = self.shared.now();
                let runtime = Handle::try_current().map_err(|_| no_runtime())?;
                if self.shared.refresh == Refresh::Ahead {
                    self.shared.ensure_refresher(&mut state, &runtime);
                }
                if let Some(held) = state.usable(now) {
                    let due = state.is_renewal_due(now);
                    if due && self.shared.refresh == Refresh::Ahead {
                        self.shared.join_flight(&mut state, &runtime);
                    }
                    if !due || self.shared.refresh == Refresh::Ahead {
                        return Ok(held);
                    }
                } else if let Some(error) = state.recent_failure(now) {
                    return Err(error);
                }
                self.shared.join_flight(&mut state, &runtime)
            };
            let _waiting = self.shared.waiters.enter();
            // By our own runtime's clock: the mint's may stand still.
            let landed = tokio::time::timeout(patience, outcome.wait_for(Option::is_some)).await;
            match landed.ok().and_then(|landed| landed.ok()?.clone()) {
                Some(Ok(credential)) => return Ok(credential),
                // A failed renewal never takes away a credential that is still valid.
                Some(Err(error)) => {
                    let state = self.shared.lock();
                    return state.usable(self.shared.now()).ok_or(error);
                }
                // The runtime that minted is gone, or the provider panicked: mint on ours.
                None if lost < MOST_LOST => lost += 1,
                None => {
                    return Err(Error::new(
                        Kind::Provider,
                        "the credential provider stopped without an answer",
                    ));
                }
            }
        }
    }

    /// Generation of the held credential, zero for none. One atomic read.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Follows the generations. Ends (errors) when the last handle of the cache is dropped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Still the held credential, still good for a login, and (lazily) not due. Takes no lock.
    pub(crate) fn is_current(&self, credential: &Credential) -> bool {
        let now = self.shared.now();
        let is_due = || {
            credential
                .schedule
                .is_some_and(|schedule| schedule.until_renewal(now).is_zero())
        };
        credential.generation() == self.generation()
            && credential.is_usable(now)
            && !(self.shared.refresh == Refresh::Lazy && is_due())
    }

    /// Still good for a login, newest or not.
    pub(crate) fn is_valid(&self, credential: &Credential) -> bool {
        credential.is_usable(self.shared.now())
    }

    /// Postgres refused a login with `credential`. Returns whether another one is worth trying.
    pub(crate) fn reject(&self, credential: &Credential) -> bool {
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let Some(held) = &state.held else {
            return true;
        };
        if held.credential.generation() != credential.generation() {
            return true;
        }
        let age = now
            .monotonic
            .saturating_duration_since(held.minted_at.monotonic);
        if held.replaced_refused && !held.credential.was_accepted() && age < REFUSAL_FLOOR {
            return false;
        }
        state.held = None;
        state.after_refusal = true;
        self.shared.generation.store(0, Ordering::Release);
        tracing::debug!(
            generation = credential.generation(),
            "dropped a refused credential"
        );
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state consistent, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    /// The mint under way, or a new one.
    fn join_flight(
        self: &Arc<Self>,
        state: &mut State,
        runtime: &Handle,
    ) -> (watch::Receiver<Option<Outcome>>, Duration) {
        let started = self.now();
        if let Some(flight) = state.flight_under_way(started) {
            return (flight.outcome.clone(), flight.time_left(started));
        }
        let (landed, outcome) = watch::channel(None);
        state.flights += 1;
        let number = state.flights;
        let shared = Arc::downgrade(self);
        let provider = Arc::clone(&self.provider);
        let task = runtime.spawn(async move {
            let Some(sent) = shared.upgrade().map(|shared| shared.now()) else {
                return;
            };
            let minted = match tokio::time::timeout(MINT_LIMIT, provider.mint()).await {
                Ok(minted) => minted,
                Err(_) => Err(Error::new(
                    Kind::Timeout,
                    format!("no credential within {} s", MINT_LIMIT.as_secs()),
                )),
            };
            if let Some(shared) = shared.upgrade() {
                landed.send_replace(Some(shared.land(number, minted, sent)));
                shared
                    .changed
                    .send_replace(shared.generation.load(Ordering::Acquire));
            }
        });
        state.flight = Some(Flight {
            number,
            outcome: outcome.clone(),
            task: task.abort_handle(),
            started,
        });
        (outcome, FLIGHT_LIMIT)
    }

    /// Stores the outcome of a mint and hands it on.
    fn land(&self, number: u64, minted: Outcome, sent: Now) -> Outcome {
        let mut state = self.lock();
        let now = self.now();
        if state
            .flight
            .as_ref()
            .is_none_or(|flight| flight.number != number)
        {
            // Given up as overdue, and another one was started: its word counts.
            return state.usable(now).map_or(minted, Ok);
        }
        state.flight = None;
        match minted.and_then(|credential| self.accept_new(&mut state, credential, sent, now)) {
            Ok(credential) => {
                state.failure = None;
                self.generation
                    .store(credential.generation(), Ordering::Release);
                tracing::debug!(
                    generation = credential.generation(),
                    "holds a new credential"
                );
                Ok(credential)
            }
            Err(error) => {
                let count = state
                    .failure
                    .as_ref()
                    .map_or(1, |failure| failure.count.saturating_add(1));
                let lifetime = state.held.as_ref().map(|held| held.schedule.lifetime());
                let random = fastrand::f64();
                // An outage is worth a few lines, not one per attempt.
                if count.is_power_of_two() {
                    tracing::warn!(error = %error.chain(), attempt = count, "could not renew the database credential");
                } else {
                    tracing::debug!(%error, attempt = count, "could not renew the database credential");
                }
                state.failure = Some(Failure {
                    backoff: Backoff::new(
                        now.monotonic,
                        count,
                        lifetime,
                        error.retry_after(),
                        random,
                    ),
                    error: error.clone(),
                    count,
                });
                Err(error)
            }
        }
    }

    fn accept_new(
        &self,
        state: &mut State,
        credential: Credential,
        sent: Now,
        now: Now,
    ) -> Outcome {
        let measured = match (credential.validity, credential.expires_at()) {
            (Some(validity), _) => validity,
            (None, Some(expires_at)) => {
                Validity::measure(expires_at, None, sent, now).ok_or_else(|| {
                    Error::new(
                        Kind::Provider,
                        "the provider returned a credential that has expired",
                    )
                })?
            }
            (None, None) => {
                return Err(Error::new(
                    Kind::Provider,
                    "the provider returned a credential without an expiry",
                ));
            }
        };
        if !measured.is_usable(now) {
            return Err(Error::new(
                Kind::Provider,
                "the provider returned a credential that has expired or is about to",
            ));
        }
        state.minted += 1;
        let schedule = Schedule::new(measured, now, fastrand::f64());
        let credential = credential.held(schedule, state.minted);
        state.held = Some(Held {
            credential: credential.clone(),
            schedule,
            minted_at: now,
            replaced_refused: std::mem::take(&mut state.after_refusal),
        });
        Ok(credential)
    }

    /// Starts the refresh task on the caller's runtime, unless one runs.
    fn ensure_refresher(self: &Arc<Self>, state: &mut State, runtime: &Handle) {
        if state
            .refresher
            .as_ref()
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let task = refresh_ahead(Arc::downgrade(self), self.changed.subscribe());
        state.refresher = Some(runtime.spawn(task).abort_handle());
    }

    /// What the refresh task does at each look: renews if due, says how long to sleep.
    fn renew_or_nap(self: &Arc<Self>) -> Duration {
        let Ok(runtime) = Handle::try_current() else {
            return MAX_NAP;
        };
        let mut state = self.lock();
        let now = self.now();
        let flying = state.flight_under_way(now).is_some();
        let Some(held) = state.held.as_ref().filter(|_| !flying) else {
            return MAX_NAP;
        };
        let due = held.schedule.until_renewal(now);
        let pause = state
            .failure
            .as_ref()
            .map(|failure| failure.backoff.left(now));
        let nap = due.max(pause.unwrap_or_default());
        if nap.is_zero() {
            self.join_flight(&mut state, &runtime);
            return MAX_NAP;
        }
        nap.min(MAX_NAP)
    }
}

impl State {
    fn flight_under_way(&self, now: Now) -> Option<&Flight> {
        let flight = self.flight.as_ref()?;
        (!flight.time_left(now).is_zero()).then_some(flight)
    }

    fn is_renewal_due(&self, now: Now) -> bool {
        let due = |held: &Held| held.schedule.until_renewal(now).is_zero();
        let waiting = |failure: &Failure| !failure.backoff.left(now).is_zero();
        self.held.as_ref().is_none_or(due) && !self.failure.as_ref().is_some_and(waiting)
    }

    /// The failure that callers with nothing valid are answered with for a moment, so that they do
    /// not become a storm.
    fn recent_failure(&self, now: Now) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        let left = failure.backoff.left_for_callers(now);
        if left.is_zero() || self.flight_under_way(now).is_some() {
            return None;
        }
        let error = failure.error.clone();
        Some(match error.retry_after() {
            Some(_) => error.with_retry_after(Some(left)),
            None => error,
        })
    }

    fn usable(&self, now: Now) -> Option<Credential> {
        let held = self
            .held
            .as_ref()
            .filter(|held| held.schedule.is_usable(now))?;
        Some(held.credential.clone())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for task in [
            state.refresher.take(),
            state.flight.take().map(|flight| flight.task),
        ]
        .into_iter()
        .flatten()
        {
            task.abort();
        }
    }
}

impl fmt::Debug for CredentialCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCache")
            .field("provider", &self.shared.provider)
            .field("refresh", &self.shared.refresh)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Renews ahead of expiry until the last handle of the cache is dropped.
async fn refresh_ahead(shared: Weak<Shared>, mut changed: watch::Receiver<u64>) {
    loop {
        let Some(nap) = shared.upgrade().map(|shared| shared.renew_or_nap()) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            alive = changed.changed() => if alive.is_err() { return },
        }
    }
}

pub(crate) fn no_runtime() -> Error {
    Error::config("no tokio runtime is running on this thread")
        .with_hint("Call from async code on tokio, or enter a runtime first")
}
