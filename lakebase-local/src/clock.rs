//! The local platform's own clock, which tests can set wrong.

use std::time::{Duration, SystemTime};

use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct PlatformClock {
    skew_millis: watch::Sender<i64>,
}

impl PlatformClock {
    pub(crate) fn now(&self) -> SystemTime {
        let real = SystemTime::now();
        let skew = self.skew_millis();
        let distance = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 {
            real - distance
        } else {
            real + distance
        }
    }

    pub(crate) fn skew_millis(&self) -> i64 {
        *self.skew_millis.borrow()
    }

    pub(crate) fn set_skew(&self, ahead_millis: i64) {
        self.skew_millis.send_replace(ahead_millis);
    }

    /// Changes when the clock is set.
    pub(crate) fn settings(&self) -> watch::Receiver<i64> {
        self.skew_millis.subscribe()
    }
}
