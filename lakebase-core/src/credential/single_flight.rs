//! One request at a time fetches a value for all waiting callers: one value, one shared failure, one
//! pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::credential::clock::{Now, Watch};
use crate::credential::refresh::{Age, Backoff};
use crate::error::{Error, Kind};
use crate::telemetry::Outage;

/// Of events.
const TARGET: &str = "lakebase::workspace";

/// A caller restarts a flight that was lost this often.
const MOST_LOST: u32 = 2;
/// A flight that is this much over its limit runs on a runtime that has stopped.
const OVERDUE: Duration = Duration::from_secs(2);
/// How long callers wait for a new value, per flight, while the held one still serves.
const PREFERENCE: Duration = Duration::from_millis(750);
/// The same while only a rejected one is held: a new one usually takes less.
const LAST_RESORT_AFTER: Duration = Duration::from_secs(3);

/// A look-up is not repeated more often than this.
const SUSPICION_FLOOR: Duration = Duration::from_secs(5);

/// What a flight does. Owns what it needs, but not the flight.
pub(crate) type Fetch<T> = BoxFuture<'static, Result<T, Error>>;

/// A value that is held until a newer one replaces it.
pub(crate) trait Aging: Clone + Send + Sync + 'static {
    /// After a failed renewal in the background the next one waits at least this long.
    const RENEWAL_PAUSE: Duration = Duration::ZERO;

    fn age(&self, now: Now) -> Age;

    /// How long it may still be served.
    fn usable_for(&self, now: Now) -> Duration {
        let _ = now;
        Duration::MAX
    }

    /// Pauses after failures scale with it.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// From now on `newer` is held instead.
    fn retire(&self, newer: &Self) {
        let _ = newer;
    }
}

/// Cheap to clone; clones share one state. Dropping the last one aborts the flight.
pub(crate) struct SingleFlight<T: Aging>(Arc<Shared<T>>);

impl<T: Aging> Clone for SingleFlight<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<T: Aging> {
    /// For errors and events.
    what: &'static str,
    clock: Arc<Watch>,
    limit: Duration,
    outage: Arc<Outage>,
    /// Notified of every outcome.
    landed: watch::Sender<u64>,
    state: Mutex<State<T>>,
}

struct State<T> {
    held: Option<T>,
    flights: u64,
    flight: Option<Flight<T>>,
    failure: Option<Failure>,
    /// The flight in whose place a rejected value was served last.
    last_resort: u64,
}

struct Flight<T> {
    number: u64,
    outcome: watch::Receiver<Option<Result<T, Error>>>,
    started: Instant,
    task: AbortHandle,
    /// A flight does not survive a fork.
    process: u32,
}

struct Failure {
    error: Error,
    count: u32,
    backoff: Backoff,
}

/// How a caller is served.
enum Answer<T> {
    Now(Result<T, Error>),
    /// Wait for this outcome, this long; then this value serves, if there is one.
    Wait(
        watch::Receiver<Option<Result<T, Error>>>,
        Duration,
        Option<T>,
    ),
}

impl<T: Aging> SingleFlight<T> {
    /// Fetches `what`; one flight is given `limit`. What shares an outage shares the lines about it.
    pub(crate) fn new(
        what: &'static str,
        clock: Arc<Watch>,
        limit: Duration,
        outage: &Arc<Outage>,
    ) -> Self {
        Self(Arc::new(Shared {
            what,
            clock,
            limit,
            outage: Arc::clone(outage),
            landed: watch::Sender::new(0),
            state: Mutex::new(State {
                held: None,
                flights: 0,
                flight: None,
                failure: None,
                last_resort: 0,
            }),
        }))
    }

    /// The held value, or what `fetch` brings. Waits only where the held one is not good enough.
    ///
    /// Cancel safe: the flight runs on a task of its own.
    pub(crate) async fn get(&self, fetch: impl Fn() -> Fetch<T>) -> Result<T, Error> {
        let mut lost = 0;
        loop {
            let (mut outcome, patience, held) = match self.0.answer(&fetch)? {
                Answer::Now(answer) => return answer,
                Answer::Wait(outcome, patience, held) => (outcome, patience, held),
            };
            // Unless it was rejected meanwhile.
            let held = || held.filter(|held| held.age(self.now()) != Age::LastResort);
            // By our own runtime's clock: the flight's may stand still.
            match timeout(patience, outcome.wait_for(Option::is_some)).await {
                Ok(Ok(landed)) => {
                    let landed = landed.clone();
                    match landed {
                        Some(Ok(value)) => return Ok(value),
                        Some(Err(error)) => {
                            return held().map_or_else(|| self.0.serve_after(error), Ok);
                        }
                        None => {}
                    }
                }
                // Its runtime is gone, or `fetch` panicked.
                Ok(Err(_)) if lost == MOST_LOST => return Err(self.0.lost()),
                Ok(Err(_)) => lost += 1,
                Err(_) => {
                    if let Some(held) = held() {
                        return Ok(held);
                    }
                    // The next answer is a last resort, or a flight in place of one that is overdue.
                }
            }
        }
    }

    /// A new value, whatever is held: what the flight under way brings, or a new one. Cancel safe, like [`get`](Self::get).
    pub(crate) async fn fetch(&self, fetch: impl Fn() -> Fetch<T>) -> Result<T, Error> {
        let (mut outcome, flown) = self.0.join(&mut self.0.lock(), &fetch)?;
        let patience = (self.0.limit + OVERDUE).saturating_sub(flown);
        let landed = timeout(patience, outcome.wait_for(Option::is_some)).await;
        let landed = landed.ok().and_then(|landed| landed.ok()?.clone());
        landed.unwrap_or_else(|| Err(self.0.lost()))
    }

    /// Holds a value that was fetched elsewhere.
    pub(crate) fn put(&self, value: T) {
        let now = self.0.clock.now();
        let before = {
            let mut state = self.0.lock();
            state.land(&Ok(value), None, now);
            state.failure.take()
        };
        // Not under the lock: its cause may be the application's.
        drop(before);
        self.0.landed.send_modify(|landings| *landings += 1);
    }

    /// Fetches in the background if the held value is due. Returns how long nothing is due.
    pub(crate) fn renew(
        &self,
        due: impl Fn(&T, Now) -> Duration,
        fetch: impl Fn() -> Fetch<T>,
    ) -> Option<Duration> {
        let now = self.0.clock.now();
        let mut state = self.0.lock();
        if state.under_way(&self.0).is_some() {
            return None;
        }
        let due = due(state.held.as_ref()?, now);
        let wait = due.max(state.pause_left(now));
        if wait.is_zero() {
            let _ = self.0.join(&mut state, &fetch);
            return None;
        }
        Some(wait)
    }

    /// Looks at the held value and at the last failure since it was fetched.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(Option<&T>, Option<&Error>) -> R) -> R {
        let state = self.0.lock();
        let failure = state.failure.as_ref().map(|failure| &failure.error);
        look(state.held.as_ref(), failure)
    }

    /// The last failure says nothing about the next attempt.
    pub(crate) fn forget_failure(&self) {
        // Not dropped under the lock: its cause may be the application's.
        let failure = self.0.lock().failure.take();
        self.0.leave_outage(failure.as_ref());
    }

    /// Follows the outcomes. Ends (errors) when the last clone is dropped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.landed.subscribe()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.clock.now()
    }
}

impl<T: Aging> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every change leaves the state consistent, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Error {
        let what = self.what;
        let text = format!("no {what}: the task that fetches it stopped without an answer");
        Error::new(Kind::Provider, text)
    }

    fn answer(self: &Arc<Self>, fetch: &impl Fn() -> Fetch<T>) -> Result<Answer<T>, Error> {
        // Before the lock: clocks may be the application's.
        let now = self.clock.now();
        let mut state = self.lock();
        let held = state.held.clone();
        let age = state.age(now);
        let failure = state.recent_failure(now);
        if age == Age::Due && state.pause_left(now).is_zero() {
            let _ = self.join(&mut state, fetch);
        }
        let held = match (age, held) {
            (Age::Fresh | Age::Due, Some(held)) => return Ok(Answer::Now(Ok(held))),
            (Age::NearEnd, held) => held,
            _ => None,
        };
        if let Some(error) = failure {
            return Ok(Answer::Now(match (age, held) {
                (_, Some(held)) => Ok(held),
                (Age::LastResort, _) => state.last_resort(error),
                _ => Err(error),
            }));
        }
        let (outcome, flown) = self.join(&mut state, fetch)?;
        let whole = (self.limit + OVERDUE).saturating_sub(flown);
        let patience = match age {
            // A wait must not outlast what it is a wait with.
            Age::NearEnd => {
                let usable = held.as_ref().map(|held| held.usable_for(now));
                PREFERENCE
                    .saturating_sub(flown)
                    .min(usable.unwrap_or_default())
            }
            Age::LastResort => LAST_RESORT_AFTER.saturating_sub(flown),
            _ => whole,
        };
        if !patience.is_zero() {
            return Ok(Answer::Wait(outcome, patience.min(whole), held));
        }
        let served = match age {
            Age::LastResort => state.take_last_resort(),
            _ => held,
        };
        Ok(match served {
            Some(served) => Answer::Now(Ok(served)),
            None => Answer::Wait(outcome, whole, None),
        })
    }

    /// What a caller gets whose flight failed: never less than it had.
    fn serve_after(&self, error: Error) -> Result<T, Error> {
        let now = self.clock.now();
        let mut state = self.lock();
        match (state.age(now), &state.held) {
            (Age::Fresh | Age::Due | Age::NearEnd, Some(held)) => Ok(held.clone()),
            (Age::LastResort, _) => state.last_resort(error),
            _ => Err(error),
        }
    }

    /// The flight under way, or a new one, and how long it has been under way.
    #[allow(clippy::type_complexity)]
    fn join(
        self: &Arc<Self>,
        state: &mut State<T>,
        fetch: &impl Fn() -> Fetch<T>,
    ) -> Result<(watch::Receiver<Option<Result<T, Error>>>, Duration), Error> {
        if let Some(flight) = state.under_way(self) {
            return Ok((flight.outcome.clone(), flight.started.elapsed()));
        }
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let (landed, outcome) = watch::channel(None);
        state.flights += 1;
        let number = state.flights;
        let (shared, work) = (Arc::downgrade(self), fetch());
        let (what, limit) = (self.what, self.limit);
        let task = runtime.spawn(async move {
            let fetched = timeout(limit, work).await.unwrap_or_else(|_| {
                let text = format!("no {what} within {} s", limit.as_secs());
                Err(Error::new(Kind::Timeout, text))
            });
            if let Some(fetched) = Self::land(&shared, number, fetched) {
                landed.send_replace(Some(fetched));
            }
        });
        state.flight = Some(Flight {
            number,
            outcome: outcome.clone(),
            started: Instant::now(),
            task: task.abort_handle(),
            process: std::process::id(),
        });
        Ok((outcome, Duration::ZERO))
    }

    /// Stores the outcome. `None` if the flight was overdue and another one counts.
    fn land(
        shared: &Weak<Self>,
        number: u64,
        fetched: Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let shared = shared.upgrade()?;
        let now = shared.clock.now();
        let before = {
            let mut state = shared.lock();
            state.flight.take_if(|flight| flight.number == number)?;
            let before = state.failure.take();
            state.land(&fetched, before.as_ref(), now);
            before
        };
        shared.landed.send_modify(|landings| *landings += 1);
        // Neither of these under the lock: a cause may be the application's, and a subscriber may use the same handle.
        shared.report(&fetched, before.as_ref().map(|before| &before.error));
        drop(before);
        Some(fetched)
    }

    /// Nothing is known any more of what failed.
    fn leave_outage(&self, failure: Option<&Failure>) {
        if failure.is_some_and(|failure| failure.error.is_transient()) {
            let _ = self.outage.recovered();
        }
    }

    fn report(&self, fetched: &Result<T, Error>, before: Option<&Error>) {
        let what = self.what;
        let was_out = before.is_some_and(Error::is_transient);
        let is_news = match fetched {
            Err(error) if error.is_transient() => self.outage.failed(error, !was_out),
            Err(_) => before.is_none_or(Error::is_transient) && self.outage.rejected(),
            Ok(_) => false,
        };
        match fetched {
            Ok(_) => {
                tracing::debug!(name: "lakebase.workspace.fetched", target: TARGET, what, "fetched")
            }
            Err(error) if is_news => {
                let error = error.chain();
                tracing::warn!(name: "lakebase.workspace.failed", target: TARGET, what, error, "cannot fetch from the workspace");
            }
            Err(error) => {
                tracing::debug!(name: "lakebase.workspace.failed_again", target: TARGET, what, %error, "cannot fetch");
            }
        }
        if was_out
            && !fetched.as_ref().is_err_and(Error::is_transient)
            && let Some(ended) = self.outage.recovered()
        {
            let (lasted, failures) = (ended.lasted.as_secs_f64(), ended.failures);
            tracing::info!(name: "lakebase.workspace.recovered", target: TARGET, lasted, failures, "the workspace answers again");
        }
    }
}

impl<T: Aging> State<T> {
    fn age(&self, now: Now) -> Age {
        self.held.as_ref().map_or(Age::Dead, |held| held.age(now))
    }

    fn under_way(&self, shared: &Shared<T>) -> Option<&Flight<T>> {
        self.flight.as_ref().filter(|flight| {
            flight.started.elapsed() < shared.limit + OVERDUE
                && flight.process == std::process::id()
                && flight.outcome.has_changed().is_ok()
        })
    }

    /// The failure that callers share for a moment, so that they do not become a storm.
    fn recent_failure(&self, now: Now) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        let left = failure.backoff.left_for_callers(now);
        let asked = failure.error.retry_after().map(|_| left);
        (!left.is_zero()).then(|| failure.error.clone().with_retry_after(asked))
    }

    fn pause_left(&self, now: Now) -> Duration {
        self.failure
            .as_ref()
            .map_or(Duration::ZERO, |failure| failure.backoff.left(now))
    }

    /// The rejected value, once per flight, if the failure passes; else the failure.
    fn last_resort(&mut self, error: Error) -> Result<T, Error> {
        match error
            .is_transient()
            .then(|| self.take_last_resort())
            .flatten()
        {
            Some(held) => Ok(held),
            None => Err(error),
        }
    }

    fn take_last_resort(&mut self) -> Option<T> {
        let is_spent = std::mem::replace(&mut self.last_resort, self.flights) == self.flights;
        self.held.clone().filter(|_| !is_spent)
    }

    fn land(&mut self, fetched: &Result<T, Error>, before: Option<&Failure>, now: Now) {
        match fetched {
            Ok(value) => {
                if let Some(retired) = self.held.replace(value.clone()) {
                    retired.retire(value);
                }
            }
            Err(error) => {
                let count = before.map_or(1, |before| before.count.saturating_add(1));
                let left = |held: &T| Some((held.usable_for(now), held.lifetime()?));
                let left = self.held.as_ref().and_then(left);
                let asked = error.retry_after();
                self.failure = Some(Failure {
                    error: error.clone(),
                    count,
                    backoff: Backoff::new(now.monotonic, count, left, asked, fastrand::f64())
                        .at_least(T::RENEWAL_PAUSE),
                });
            }
        }
    }
}

impl<T: Aging> Drop for Shared<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A task of the parent of a fork is not ours to abort.
        let ours = |flight: &Flight<T>| flight.process == std::process::id();
        if let Some(flight) = state.flight.take().filter(ours) {
            flight.task.abort();
        }
        let failure = state.failure.take();
        self.leave_outage(failure.as_ref());
    }
}

/// What was looked up. It keeps until it is suspected to be out of date; then the next look-up is
/// preferred.
#[derive(Clone)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    at: Instant,
    suspect: Arc<AtomicBool>,
}

impl<T> Found<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value,
            at: Instant::now(),
            suspect: Arc::default(),
        }
    }

    fn suspect(&self) {
        if self.at.elapsed() >= SUSPICION_FLOOR {
            self.suspect.store(true, Ordering::Relaxed);
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Aging for Found<T> {
    fn age(&self, _: Now) -> Age {
        match self.suspect.load(Ordering::Relaxed) {
            true => Age::NearEnd,
            false => Age::Fresh,
        }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<Found<T>> {
    /// What is held may be out of date.
    pub(crate) fn suspect(&self) {
        self.inspect(|held, _| held.map(Found::suspect));
    }
}

pub(crate) fn no_runtime() -> Error {
    Error::config("no tokio runtime is running on this thread")
        .with_hint("Call from async code on tokio, or enter a runtime first")
}
