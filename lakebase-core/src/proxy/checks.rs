//! What becomes of a driver's check whether its session is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::credential::clock::Watch;

/// A check that is passed on must be answered within this time.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The rule for the checks of all sessions of a proxy.
pub(super) struct Checks {
    /// A server that sent something within this time counts as alive.
    alive_for: Duration,
    /// It goes on while the machine is suspended.
    clock: Arc<Watch>,
    /// When the last check was sent that no server answered, in milliseconds; zero if all were.
    pub(super) unanswered: AtomicU64,
}

impl Checks {
    pub(super) fn new(alive_for: Duration, clock: Arc<Watch>) -> Self {
        Self {
            alive_for,
            clock,
            unanswered: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now().passed
    }

    /// A check of a session whose server sent something last at `heard` needs no answer of that server.
    pub(super) fn is_alive(&self, heard: Duration) -> bool {
        self.now().saturating_sub(heard) < self.alive_for
    }

    /// Another server has not answered since `heard`. This one most likely will not, either: waiting for each would
    /// add up.
    pub(super) fn is_lost(&self, heard: Duration) -> bool {
        heard.as_millis() < u128::from(self.unanswered.load(Ordering::Relaxed))
    }

    /// Notes that a server has not answered a check within [`ANSWER_LIMIT`].
    pub(super) fn note_unanswered(&self) {
        let sent = self.now().saturating_sub(ANSWER_LIMIT).as_millis();
        let sent = u64::try_from(sent).unwrap_or(u64::MAX);
        self.unanswered.store(sent, Ordering::Relaxed);
    }
}
