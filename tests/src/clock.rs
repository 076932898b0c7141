//! A clock that tests set.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lakebase_core::adapter::{Clock, SystemClock};

/// The machine's clocks with an offset of the wall clock.
#[derive(Clone, Debug, Default)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    /// Sets the wall clock ahead of the machine's; a negative number sets it back.
    pub fn set_ahead_millis(&self, ahead: i64) {
        self.0.store(ahead, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> SystemTime {
        let ahead = self.0.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        match ahead {
            0.. => SystemClock.wall() + by,
            _ => SystemClock.wall() - by,
        }
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}
