//! The clock of the local platform. Tests can set it ahead or behind.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

#[derive(Debug, Default)]
pub(crate) struct PlatformClock {
    skew_millis: AtomicI64,
}

impl PlatformClock {
    pub(crate) fn now(&self) -> SystemTime {
        let real = SystemTime::now();
        let skew = self.skew_millis.load(Ordering::Relaxed);
        let distance = Duration::from_millis(skew.unsigned_abs());
        if skew < 0 {
            real - distance
        } else {
            real + distance
        }
    }

    pub(crate) fn skew_millis(&self) -> i64 {
        self.skew_millis.load(Ordering::Relaxed)
    }

    pub(crate) fn set_skew(&self, ahead_millis: i64) {
        self.skew_millis.store(ahead_millis, Ordering::Relaxed);
    }
}
