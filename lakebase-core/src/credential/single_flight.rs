//! Fetches a value for all waiting callers with one request at a time. The callers share the value or the failure.

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

/// Target of the events.
const TARGET: &str = "lakebase::workspace";

/// How often a caller restarts a flight that was lost.
const MOST_LOST: u32 = 2;
/// A flight that exceeds its time limit by this is on a runtime that has stopped.
const OVERDUE: Duration = Duration::from_secs(2);
/// How long a flight lets callers wait for a new value shortly before the held one expires.
const PREFERENCE: Duration = Duration::from_millis(750);
/// How long a flight lets callers wait while only a rejected value is held.
const LAST_RESORT_AFTER: Duration = Duration::from_secs(3);

/// The shortest time between two look-ups of the same value.
pub(crate) const SUSPICION_FLOOR: Duration = Duration::from_secs(5);

/// The request of a flight. It must not own the `SingleFlight`.
pub(crate) type Fetch<T> = BoxFuture<'static, Result<T, Error>>;

/// Resolves to the result of a flight; closed if the flight is lost.
type Outcome<T> = watch::Receiver<Option<Result<T, Error>>>;

/// A value that is held until a newer one replaces it.
pub(crate) trait Aging: Clone + Send + Sync + 'static {
    /// The shortest pause after a failed renewal in the background.
    const RENEWAL_PAUSE: Duration = Duration::ZERO;

    fn age(&self, now: Now) -> Age;

    /// How long the value is still valid.
    fn usable_for(&self, now: Now) -> Duration {
        let _ = now;
        Duration::MAX
    }

    /// Lifetime of the value, with which the pauses after failures scale.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// Called when `newer` replaces the value.
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
    /// Name of the value in errors and events.
    what: &'static str,
    clock: Arc<Watch>,
    limit: Duration,
    outage: Arc<Outage>,
    /// Notified of each outcome.
    landed: watch::Sender<u64>,
    state: Mutex<State<T>>,
}

struct State<T> {
    held: Option<T>,
    flights: u64,
    flight: Option<Flight<T>>,
    failure: Option<Failure>,
    /// Number of the flight during which a rejected value was returned last.
    last_resort: u64,
}

struct Flight<T> {
    number: u64,
    outcome: Outcome<T>,
    started: Instant,
    task: AbortHandle,
    /// A flight does not run in the child of a fork.
    process: u32,
}

struct Failure {
    error: Error,
    count: u32,
    backoff: Backoff,
}

/// The answer to a caller.
enum Answer<T> {
    Now(Result<T, Error>),
    /// Wait this long for this outcome, then return this value if there is one.
    Wait(Outcome<T>, Duration, Option<T>),
}

impl<T: Aging> SingleFlight<T> {
    /// `limit` is the time limit of one flight. Flights that share an outage share the log lines about it.
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

    /// Returns the held value, or the one that `fetch` returns. Waits only if the held one is missing, expired, rejected or near
    /// its end.
    ///
    /// Cancel safe: the flight runs on a separate task.
    pub(crate) async fn get(&self, fetch: impl Fn() -> Fetch<T>) -> Result<T, Error> {
        let mut lost = 0;
        loop {
            let (mut outcome, patience, held) = match self.0.answer(&fetch)? {
                Answer::Now(answer) => return answer,
                Answer::Wait(outcome, patience, held) => (outcome, patience, held),
            };
            // Unless it was rejected meanwhile.
            let held = || held.filter(|held| held.age(self.now()) != Age::LastResort);
            // By the clock of this runtime: that of the flight may have stopped.
            match timeout(patience, outcome.wait_for(Option::is_some)).await {
                Ok(Ok(landed)) => {
                    let landed = landed.clone();
                    match landed {
                        Some(Ok(value)) => return Ok(value),
                        Some(Err(error)) => {
                            return held().map_or_else(|| self.0.answer_after(error), Ok);
                        }
                        None => {}
                    }
                }
                // Its runtime has ended, or `fetch` has panicked.
                Ok(Err(_)) if lost == MOST_LOST => return Err(self.0.lost()),
                Ok(Err(_)) => lost += 1,
                Err(_) => {
                    if let Some(held) = held() {
                        return Ok(held);
                    }
                    // The next answer is a last resort, or a new flight in place of an overdue one.
                }
            }
        }
    }

    /// Returns a new value, from the current flight or a new one, even if a valid one is held. Cancel safe, like
    /// [`get`](Self::get).
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
        // Dropped outside of the lock, because the cause may be a type of the application.
        drop(before);
        self.0.landed.send_modify(|landings| *landings += 1);
    }

    /// Starts a flight if the held value is due. Otherwise returns the time until the next flight, or `None` if nothing is
    /// held or a flight is under way.
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

    /// Reads the held value and the last failure since it was fetched.
    pub(crate) fn inspect<R>(&self, read: impl FnOnce(Option<&T>, Option<&Error>) -> R) -> R {
        let state = self.0.lock();
        let failure = state.failure.as_ref().map(|failure| &failure.error);
        read(state.held.as_ref(), failure)
    }

    /// Drops the last failure, so that no caller gets it.
    pub(crate) fn forget_failure(&self) {
        // Dropped outside of the lock, because the cause may be a type of the application.
        let failure = self.0.lock().failure.take();
        self.0.leave_outage(failure.as_ref());
    }

    /// Is notified of each outcome, and returns an error when the last clone is dropped.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.landed.subscribe()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.clock.now()
    }
}

impl<T: Aging> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> Error {
        let what = self.what;
        let text = format!("no {what}: the task that fetches it stopped without an answer");
        Error::new(Kind::Provider, text)
    }

    fn answer(self: &Arc<Self>, fetch: &impl Fn() -> Fetch<T>) -> Result<Answer<T>, Error> {
        // Before the lock, because the clock may be a type of the application.
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
            // Not longer than the held value is valid.
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
            // The login that tries the rejected value may succeed with it.
            None if age == Age::LastResort => Answer::Wait(outcome, whole.min(PREFERENCE), None),
            None => Answer::Wait(outcome, whole, None),
        })
    }

    /// The answer to a caller whose flight has failed: the held value if it is still valid.
    fn answer_after(&self, error: Error) -> Result<T, Error> {
        let now = self.clock.now();
        let mut state = self.lock();
        match (state.age(now), &state.held) {
            (Age::Fresh | Age::Due | Age::NearEnd, Some(held)) => Ok(held.clone()),
            (Age::LastResort, _) => state.last_resort(error),
            _ => Err(error),
        }
    }

    /// The current flight, or a new one, and its age.
    fn join(
        self: &Arc<Self>,
        state: &mut State<T>,
        fetch: &impl Fn() -> Fetch<T>,
    ) -> Result<(Outcome<T>, Duration), Error> {
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

    /// Stores the outcome. `None` if the flight was overdue and replaced.
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
        // Outside of the lock: a cause may be a type of the application, and a subscriber of events may use the handle.
        shared.report(&fetched, before.as_ref().map(|before| &before.error));
        drop(before);
        Some(fetched)
    }

    /// Ends the outage of a failure that is dropped.
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

    /// The last failure, which callers share for a short time, so that they do not cause a request storm.
    fn recent_failure(&self, now: Now) -> Option<Error> {
        let failure = self.failure.as_ref()?;
        let left = failure.backoff.left_for_callers(now);
        let retry_after = failure.error.retry_after().map(|_| left);
        (!left.is_zero()).then(|| failure.error.clone().with_retry_after(retry_after))
    }

    fn pause_left(&self, now: Now) -> Duration {
        self.failure
            .as_ref()
            .map_or(Duration::ZERO, |failure| failure.backoff.left(now))
    }

    /// The rejected value, once per flight, if the failure is transient; otherwise the failure.
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
                self.failure = Some(Failure {
                    error: error.clone(),
                    count,
                    backoff: Backoff::new(
                        now.passed,
                        count,
                        left,
                        error.retry_after(),
                        fastrand::f64(),
                    )
                    .at_least(T::RENEWAL_PAUSE),
                });
            }
        }
    }
}

impl<T: Aging> Drop for Shared<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The task belongs to the parent in the child of a fork.
        let ours = |flight: &Flight<T>| flight.process == std::process::id();
        if let Some(flight) = state.flight.take().filter(ours) {
            flight.task.abort();
        }
        let failure = state.failure.take();
        self.leave_outage(failure.as_ref());
    }
}

/// The result of a look-up. It is valid until it is suspected to be outdated; then the next caller prefers a new look-up.
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

    fn suspect(&self, floor: Duration) {
        if self.at.elapsed() >= floor {
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
    /// Marks the held value as outdated, unless its look-up is younger than `floor`.
    pub(crate) fn suspect(&self, floor: Duration) {
        self.inspect(|held, _| held.map(|held| held.suspect(floor)));
    }
}

pub(crate) fn no_runtime() -> Error {
    Error::config("no tokio runtime is running on this thread")
        .with_hint("Call from async code on tokio, or enter a runtime first")
}
