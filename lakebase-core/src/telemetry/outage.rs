//! Logs one line at the start of an outage, and one at its end.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// Shortest time between two lines. An outage that starts earlier is logged later if it continues.
const FLOOR: Duration = Duration::from_secs(30);

/// Whether the workspace, or Postgres, currently fails. Several kinds of requests can share one outage.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of kinds of requests that currently fail.
    failing: usize,
    since: Option<Instant>,
    failures: u64,
    /// The error type in the last line of this outage.
    logged: Option<String>,
    last_line: Option<Instant>,
}

/// An outage that was logged.
pub(crate) struct Ended {
    pub(crate) lasted: Duration,
    pub(crate) failures: u64,
}

impl Outage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure. `has_worked` is whether the last request of its kind succeeded. Returns whether to log it.
    pub(crate) fn failed(&self, error: &Error, has_worked: bool) -> bool {
        let mut state = self.lock();
        state.failing += usize::from(has_worked || state.failing == 0);
        state.failures += 1;
        state.since.get_or_insert_with(Instant::now);
        let is_new = state.logged.as_deref() != Some(error.error_type());
        let logs = is_new && state.may_log();
        if logs {
            state.logged = Some(error.error_type().to_owned());
        }
        logs
    }

    /// Returns whether to log a rejection, which is not an outage.
    pub(crate) fn rejected(&self) -> bool {
        self.lock().may_log()
    }

    /// Records the first success after failures. Returns the outage if it has ended and was logged.
    pub(crate) fn recovered(&self) -> Option<Ended> {
        let mut state = self.lock();
        state.failing = state.failing.saturating_sub(1);
        if state.failing > 0 {
            return None;
        }
        let failures = std::mem::take(&mut state.failures);
        let since = state.since.take();
        state.logged.take()?;
        Some(Ended {
            lasted: since?.elapsed(),
            failures,
        })
    }
}

impl State {
    fn may_log(&mut self) -> bool {
        let may_log = self.last_line.is_none_or(|last| last.elapsed() >= FLOOR);
        if may_log {
            self.last_line = Some(Instant::now());
        }
        may_log
    }
}
