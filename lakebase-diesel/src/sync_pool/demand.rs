//! Between those who wait for a connection and r2d2's threads: how many are opened, when a failed login is
//! repeated, and who hears what it ran into.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::ConnectionError;
use diesel::r2d2 as host;
use lakebase_core::Error;
use tokio::time::Instant;

/// After a failure, a login is begun at once for somebody who has come since, and that often for those who
/// go on waiting.
const PAUSE: Duration = Duration::from_millis(500);
/// That often if nobody waits.
const UNWANTED: Duration = Duration::from_secs(30);
/// After so long without a login under way, what was to be opened will not come. A customizer of the
/// application has as long to set a connection up.
const QUIET: Duration = Duration::from_secs(1);

thread_local! {
    /// When the login was begun that r2d2 sets up on this thread of its own.
    static SETTING_UP: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// r2d2 repeats a failed login for ever, and keeps to itself what it ran into.
#[derive(Default)]
pub(super) struct Demand {
    state: Mutex<Wanted>,
    changed: Condvar,
}

struct Wanted {
    waiting: usize,
    /// How many of them are about to be served, perhaps: what they take may have to be asked first.
    taking: usize,
    /// When the last of those who wait, or waited, came.
    came: Instant,
    /// When a login was last let through.
    let_through: Instant,
    /// When the last login was over.
    over: Instant,
    /// Logins that were put off or begun and are not over.
    under_way: usize,
    /// Connections that r2d2 was made to open, and those that logged in.
    ordered: u64,
    opened: u64,
    failure: Option<Failure>,
    closed: bool,
}

struct Failure {
    begun: Instant,
    error: Error,
    /// The login was good and what the application does after it was not.
    in_set_up: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            waiting: 0,
            taking: 0,
            came: now,
            let_through: now,
            over: now,
            under_way: 0,
            ordered: 0,
            opened: 0,
            failure: None,
            closed: false,
        }
    }
}

impl Wanted {
    /// How long a login is to be put off.
    fn put_off(&self) -> Duration {
        if self.closed || self.failure.is_none() {
            return Duration::ZERO;
        }
        let pause = match self.waiting {
            0 => UNWANTED,
            _ if self.came > self.let_through => Duration::ZERO,
            _ => PAUSE,
        };
        pause.saturating_sub(self.let_through.max(self.over).elapsed())
    }

    /// How many connections will still be opened.
    fn coming(&self) -> usize {
        usize::try_from(self.ordered.saturating_sub(self.opened)).unwrap_or(usize::MAX)
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Demand")
    }
}

impl Demand {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) -> Waiting<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        state.came = Instant::now();
        self.changed.notify_all();
        Waiting {
            demand: self,
            is_served: false,
        }
    }

    /// Runs a login when it is time for it, and tells what becomes of it.
    pub(super) fn log_in<C>(&self, open: impl FnOnce() -> Result<C, Error>) -> Result<C, Error> {
        self.wait_for_it();
        let begun = Instant::now();
        let outcome = open();
        self.report(begun, outcome.as_ref().err());
        SETTING_UP.set(outcome.is_ok().then_some(begun));
        outcome
    }

    /// Before a login: after a failure one is enough for all who wait.
    fn wait_for_it(&self) {
        let mut state = self.lock();
        state.under_way += 1;
        loop {
            let put_off = state.put_off();
            if put_off.is_zero() {
                state.let_through = Instant::now();
                return;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, put_off)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A login that was begun then is over.
    fn report(&self, begun: Instant, failure: Option<&Error>) {
        let mut state = self.lock();
        state.under_way -= 1;
        state.over = Instant::now();
        match failure {
            Some(error) => {
                state.failure = Some(Failure {
                    begun,
                    error: error.clone(),
                    in_set_up: false,
                });
            }
            None => {
                state.opened += 1;
                state.failure = state.failure.take().filter(|failure| failure.in_set_up);
            }
        }
        self.changed.notify_all();
    }

    /// What the application does after a login works.
    pub(super) fn is_set_up(&self) {
        let mut state = self.lock();
        if state
            .failure
            .as_ref()
            .is_some_and(|failure| failure.in_set_up)
        {
            state.failure = None;
            self.changed.notify_all();
        }
    }

    /// Whether one more connection is to be opened for those who wait, where there is room for so many.
    pub(super) fn order(&self, room: usize) -> bool {
        let mut state = self.lock();
        let is_wanted = state.coming() < state.waiting.min(room);
        if is_wanted {
            state.ordered = state.ordered.max(state.opened) + 1;
        }
        is_wanted
    }

    /// One that was ordered was not needed.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        state.ordered = state.ordered.saturating_sub(1);
    }

    pub(super) fn nothing_is_coming(&self) {
        let mut state = self.lock();
        state.ordered = state.opened;
    }

    pub(super) fn wait_for_news(&self, at_most: Duration) {
        let _woken = self
            .changed
            .wait_timeout(self.lock(), at_most)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// What a login that was begun since ran into. What older ones did may be over.
    pub(super) fn failure_since(&self, moment: Instant) -> Option<Error> {
        let state = self.lock();
        let failure = state.failure.as_ref();
        let failure = failure.filter(|failure| failure.begun >= moment)?;
        Some(failure.error.clone())
    }
}

/// Hears of what failed after a login: a connection customizer of the application.
#[derive(Debug)]
pub(super) struct Errors(pub(super) Arc<Demand>);

impl host::HandleError<host::Error> for Errors {
    fn handle_error(&self, error: host::Error) {
        // Failed pings are told here as well, by the threads that asked; failed logins are known.
        let Some(begun) = SETTING_UP.take() else {
            return;
        };
        let is_transient = match &error {
            host::Error::QueryError(cause)
            | host::Error::ConnectionError(ConnectionError::CouldntSetupConfiguration(cause)) => {
                crate::is_transient(cause)
            }
            host::Error::ConnectionError(_) => false,
        };
        let text = format!("a new connection could not be set up: {error}");
        tracing::warn!("{text}");
        let mut state = self.0.lock();
        state.failure = Some(Failure {
            begun,
            error: Error::provider(text, is_transient),
            in_set_up: true,
        });
        // r2d2 opens another in its place.
        state.ordered += 1;
        self.0.changed.notify_all();
    }
}

pub(super) struct Waiting<'a> {
    demand: &'a Demand,
    is_served: bool,
}

impl Waiting<'_> {
    /// Tries to get a connection. Nobody sees that it is gone from the pool and its taker still waiting.
    pub(super) fn take<C>(&mut self, try_get: impl FnOnce() -> Option<C>) -> Option<C> {
        let taking = Taking(self);
        taking.0.demand.lock().taking += 1;
        let connection = try_get();
        taking.0.is_served = connection.is_some();
        connection
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_served {
            self.demand.lock().waiting -= 1;
        }
    }
}

struct Taking<'a, 'b>(&'a mut Waiting<'b>);

impl Drop for Taking<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.0.demand.lock();
        state.taking -= 1;
        if self.0.is_served {
            state.waiting -= 1;
        }
    }
}

/// The last pool's end frees r2d2's threads.
pub(super) struct Closing(pub(super) Arc<Demand>);

impl Deref for Closing {
    type Target = Demand;

    fn deref(&self) -> &Demand {
        &self.0
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// A connection that somebody waits for, and how things were when it was ordered.
pub(super) struct Order {
    opened: u64,
    connections: u32,
    /// Since when no login has been under way.
    quiet_since: Option<Instant>,
    /// Since when somebody else seems to have it.
    gone_since: Option<Instant>,
}

impl Order {
    pub(super) fn new(demand: &Demand, connections: u32) -> Self {
        Self {
            opened: demand.lock().opened,
            connections,
            quiet_since: None,
            gone_since: None,
        }
    }

    /// Whether somebody else has the connection, or nobody will. A failed login is no such case: r2d2
    /// repeats it.
    pub(super) fn went_elsewhere(&mut self, demand: &Demand, connections: u32) -> bool {
        let mut state = demand.lock();
        if state.under_way > 0 || state.failure.is_some() {
            self.quiet_since = None;
        } else if self.quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
            state.ordered = state.opened;
            return true;
        }
        let has_changed = state.opened > self.opened && connections != self.connections;
        if !has_changed || state.coming() >= state.waiting {
            self.gone_since = None;
            return false;
        }
        // It may have come just now; the next look is for that.
        let Some(gone_since) = self.gone_since else {
            self.gone_since = Some(Instant::now());
            return false;
        };
        // Whoever has it may be one of those who wait, and then enough are on their way.
        state.taking == 0 || gone_since.elapsed() >= QUIET
    }
}
