//! Which liveness checks of a driver the proxy answers itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::credential::clock::Watch;

/// The server has to answer a check within this time.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// State that the liveness checks of all sessions of a proxy share.
pub(super) struct Checks {
    /// A server that has sent something within this time counts as alive.
    alive_for: Duration,
    /// Continues while the machine is suspended.
    clock: Arc<Watch>,
    /// When the proxy sent the last check that a server did not answer, in milliseconds; zero without one.
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

    /// Whether a server that last sent something at `received` counts as alive.
    pub(super) fn is_alive(&self, received: Duration) -> bool {
        self.now().saturating_sub(received) < self.alive_for
    }

    /// Whether the server of another session has left a check unanswered since `received`. Then the network is probably
    /// down, and waiting for each session in turn would add up.
    pub(super) fn is_lost(&self, received: Duration) -> bool {
        received.as_millis() < u128::from(self.unanswered.load(Ordering::Relaxed))
    }

    /// Records that a server has not answered a check within [`ANSWER_LIMIT`].
    pub(super) fn note_unanswered(&self) {
        let sent = self.now().saturating_sub(ANSWER_LIMIT).as_millis();
        let sent = u64::try_from(sent).unwrap_or(u64::MAX);
        self.unanswered.store(sent, Ordering::Relaxed);
    }
}
